"""Files below folders and behind globs: each once, none that these scripts wrote; and how to know one again."""

import glob
import hashlib
import logging
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import cache
from pathlib import Path

from cloze.errors import UserError
from cloze.training import checkpoints

logger = logging.getLogger(__name__)

# Bytes of each part of a file by which its content is known again.
PART = 2**16
# Beside a recipe, what tells a folder that a run wrote: a checkpoint, a model, a comparison.
WRITTEN = (checkpoints.CHECKSUMS, "config.json", "comparison.json")


def content_of(path: Path) -> list:
    """Return size and digest of a file, the latter of its first, middle and last part."""
    try:
        size = path.stat().st_size
        with open(path, "rb") as file:
            starts = starts_of_parts(size, PART)
            return [size, digest_of_parts(file.read(PART) for start in starts if file.seek(start) == start)]
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror}): put it back, or make it readable") from None


def starts_of_parts(size: int, part: int) -> tuple[int, int, int]:
    """Return where the first, middle and last ``part`` items of ``size`` begin."""
    return 0, max(size - part, 0) // 2, max(size - part, 0)


def digest_of_parts(parts: Iterable[bytes]) -> str:
    digest = hashlib.blake2b(digest_size=8)
    for part in parts:
        digest.update(part)
    return digest.hexdigest()


def printable(path: Path) -> str:
    """Return a path as text that can be written as UTF-8, which a file's name need not be."""
    return os.fsencode(path).decode(errors="backslashreplace")


def folders_below(folder: Path) -> Iterator[Path]:
    """Yield the folder and all below it but hidden ones, each once, though links lead there in a loop.

    Raises OSError for one that cannot be read.
    """

    def fail(error: OSError) -> None:
        raise error

    seen = set()
    for path, names, _ in os.walk(folder, followlinks=True, onerror=fail):
        real = os.path.realpath(path)
        if real in seen:
            names.clear()
            continue
        seen.add(real)
        # In the order of paths, so that a folder with several goes by its first.
        names[:] = sorted(name for name in names if not name.startswith("."))
        yield Path(path)


def expand_glob(pattern: Path) -> Iterator[Path]:
    """Yield what a glob names, each folder that ``**`` stands for once, where glob.glob follows links in a loop."""
    parts = pattern.parts
    if "**" not in parts:
        yield from map(Path, glob.glob(str(pattern)))
        return
    stars = parts.index("**")
    for folder in glob.glob(str(Path(*parts[:stars]))):
        for below in folders_below(Path(folder)) if os.path.isdir(folder) else ():
            yield from expand_glob(Path(glob.escape(str(below)), *(parts[stars + 1 :] or ["*"])))


def fixed_part(pattern: Path) -> Path:
    """Return the folder above the first part of a glob that is not a plain name."""
    return next(folder for folder in pattern.parents if not glob.has_magic(str(folder)))


def below_own(paths: Sequence[Path], base: Path, flag: str, own: Mapping[str, Path]) -> set[Path]:
    """Return and log which paths lie in a folder below ``base`` that these scripts wrote or will write to.

    UserError if they will write to ``base`` itself, where their files could not be told from text.
    """
    for name, folder in own.items():
        if folder.resolve() == base.resolve():
            raise UserError(
                f"{name} {folder} is where {flag} finds the text, among which its files would be read: give another "
                f"folder, or name the files of {flag} one by one"
            )
    real = {folder.resolve() for folder in own.values()}
    is_own = cache(lambda folder: folder.resolve() in real or _is_written(folder))
    owners = {}
    for path in paths:
        between = [folder for folder in (path, *path.parents) if base in folder.parents]
        owner = next((folder for folder in reversed(between) if is_own(folder)), None)
        if owner is not None:
            owners[path] = owner
    for folder in sorted(set(owners.values())):
        logger.warning("LEFT OUT: %s does not read %s, a folder that these scripts write to", flag, folder)
    return set(owners)


def _is_written(folder: Path) -> bool:
    """Return whether these scripts wrote a folder, by what is in it."""
    if folder.name == "cloze":
        return any(path.is_dir() for kind in ("corpus", "tokenizer") for path in folder.glob(f"{kind}-*"))
    return (folder / checkpoints.RECIPE).is_file() and any((folder / name).is_file() for name in WRITTEN)
