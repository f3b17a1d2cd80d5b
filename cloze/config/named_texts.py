"""Read NAME=PATH of the texts, and NAME=SHARE of --mixture."""

import glob
import math
import re
from collections.abc import Collection, Sequence

from cloze.errors import UserError


def split_name(value: str) -> tuple[str, str]:
    """Return name and path of ``NAME=PATH``; the name is "" for a path alone, such as that of a file ``a=b.txt``."""
    name, given, path = value.partition("=")
    is_named = given and path and re.fullmatch(r"[\w-]+", name) and not glob.glob(value)
    return (name, path) if is_named else ("", value)


def sources_of(values: Sequence[str], flag: str) -> dict[str, list[str]]:
    """Return the paths by the name of their text; the only name is "" if no path has a name.

    Raises:
        UserError: if only some of the paths have names.
    """
    sources: dict[str, list[str]] = {}
    for name, path in map(split_name, values):
        sources.setdefault(name, []).append(path)
    if "" in sources and len(sources) > 1:
        raise UserError(
            f"{flag} {sources[''][0]} has no name, but other files do: give NAME=PATH for all or for none, "
            "with letters, digits, _ and - in names"
        )
    return sources


def parse_shares(mixture: Sequence[str], sources: Collection[str]) -> dict[str, float]:
    """Return the share of each source, in the order of the sources; they add up to 1.

    Args:
        mixture: ``NAME=SHARE`` for each source; the shares add up to 1, or to 100.
        sources: the names of --train_file.

    Raises:
        UserError: for other shares and other names.
    """
    pairs = [_parse_share(item) for item in mixture]
    shares = dict(pairs)
    names = ", ".join(sources)
    if "" in sources or len(sources) < 2:
        raise UserError("--mixture needs two or more named texts: give --train_file NAME=PATH NAME=PATH")
    if len(shares) < len(pairs):
        raise UserError(f"--mixture {' '.join(mixture)}: a name is given twice: give each of {names} once")
    if shares.keys() != set(sources):
        raise UserError(
            f"--mixture has the names {', '.join(shares)}, but --train_file {names}: give a share for each of these"
        )
    total = sum(shares.values())
    if not any(math.isclose(total, whole, rel_tol=1e-6) for whole in (1, 100)):
        raise UserError(
            f"--mixture {' '.join(mixture)}: the shares add up to {total:.6g}: give shares that add up to 1, or "
            "percentages that add up to 100"
        )
    return {name: shares[name] / total for name in sources}


def _parse_share(item: str) -> tuple[str, float]:
    """Return name and share from ``NAME=SHARE``; raise UserError if they cannot be read."""
    name, _, text = item.partition("=")
    try:
        share = float(text)
    except ValueError:
        raise UserError(
            f"--mixture {item} is not NAME=SHARE: give a share for each text, such as law=0.8 general=0.2"
        ) from None
    if not (share > 0 and math.isfinite(share)):
        raise UserError(f"--mixture {item}: a share is a number above 0: raise it, or drop the text from --train_file")
    return name, share
