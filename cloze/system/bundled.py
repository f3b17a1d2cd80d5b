"""Find the scripts, recipes and sample text that belong to the package: in the wheel, or beside it in a checkout."""

import logging
import os
from pathlib import Path

logger = logging.getLogger(__name__)

PACKAGE = Path(__file__).parent.parent
# A wheel has them in the package; see pyproject.toml.
BUNDLE = PACKAGE / "bundled" if (PACKAGE / "bundled").is_dir() else PACKAGE.parent
FOLDERS = ("recipes", "sample")


def find_bundled(name: str) -> str:
    """Return the path of a bundled recipe or sample that the current folder lacks; else the name, unchanged.

    This lets ``cloze-mlm recipes/quickstart/mlm.yaml`` work in any folder. The path in use is logged.

    Args:
        name: a path as the user wrote it; only relative ones below ``recipes`` and ``sample`` are looked up.
    """
    parts = Path(name).parts
    may_be_bundled = bool(parts) and parts[0] in FOLDERS and ".." not in parts
    path = BUNDLE / name
    # Unlike those of Path, these functions return False for a name that is too long.
    if os.path.lexists(name) or not may_be_bundled or not os.path.exists(path):
        return name
    logger.info("%s is not in the current folder: using the bundled %s", name, path)
    return str(path)
