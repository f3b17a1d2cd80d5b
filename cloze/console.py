"""Start the scripts by the console commands of an installation: cloze-mlm runs run_mlm.py.

Imports nothing heavy: the scripts handle signals and output before anything else.
"""

import sys
from types import ModuleType

from cloze.system.bundled import BUNDLE


def mlm() -> None:
    """Run run_mlm.py."""
    _run("run_mlm.py")


def clm() -> None:
    """Run run_clm.py."""
    _run("run_clm.py")


def nsp() -> None:
    """Run run_nsp.py."""
    _run("run_nsp.py")


def pretraining() -> None:
    """Run run_pretraining.py."""
    _run("run_pretraining.py")


def plm() -> None:
    """Run run_plm.py."""
    _run("run_plm.py")


def classification() -> None:
    """Run run_classification.py."""
    _run("run_classification.py")


def app() -> None:
    """Run app.py."""
    _run("app.py")


def _run(name: str) -> None:
    """Run a script as ``__main__``; unlike runpy, keep the command's name for the line of usage."""
    path = BUNDLE / name
    module = ModuleType("__main__")
    # Data-loader workers that are started by spawn run this file again.
    module.__file__ = str(path)
    sys.modules["__main__"] = module
    exec(compile(path.read_bytes(), path, "exec"), vars(module))
