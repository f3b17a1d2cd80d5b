"""Files below folders and behind globs: each once, none that these scripts wrote; and how to know one again."""

import glob
import logging
import os
from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from pathlib import Path

import datasets

from cloze.errors import UserError
from cloze.system.storage import CHECKSUMS, RECIPE
from cloze.text.decoding import FORMATS, file_format

logger = logging.getLogger(__name__)

# Beside a recipe, what tells a folder that a run wrote: a checkpoint, a model, a comparison.
WRITTEN = (CHECKSUMS, "config.json", "comparison.json")


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
    return (folder / RECIPE).is_file() and any((folder / name).is_file() for name in WRITTEN)


def find_files(patterns: Sequence[str], flag: str, own: Mapping[str, Path] | None = None) -> tuple[Path, ...]:
    """Files that the patterns name, in a fixed order, each once. A folder stands for the text and tables below it.

    Args:
        own: folders that the run writes to, by their flags. What is in them, or was written by another run, is left
            out, unless it is named itself.
    """
    try:
        found = [path for pattern in patterns for path in _find_matches(pattern, flag, own or {})]
    except OSError as error:
        raise UserError(
            f"{flag}: {error.filename} cannot be read ({error.strerror}): make it readable, or leave it out"
        ) from None
    for path in found:
        if file_format(path) not in FORMATS:
            raise UserError(f"{flag}: {path} is not of a known format: {' '.join(FORMATS)}, or .gz, .zst of one")
    unique: dict[Path, Path] = {}
    for path in found:
        unique.setdefault(path.resolve(), path)
    return tuple(unique.values())


def _find_matches(pattern: str, flag: str, own: Mapping[str, Path]) -> list[Path]:
    """Return the files that one pattern names, sorted."""
    if not pattern:
        raise UserError(f"{flag}: a name is empty: give a file, a glob or a folder")
    path = Path(os.path.expanduser(pattern))
    if path.is_file():
        return [path]
    problem = f"{pattern} is not there: check the path (seen from {Path.cwd()})"
    if path.is_dir():
        base, folders = path, list(folders_below(path))
        # Hidden files, copies of editors among them, are left out.
        entries = (entry for folder in folders for entry in folder.iterdir() if not entry.name.startswith("."))
        matches = sorted(entry for entry in entries if entry.is_file() and file_format(entry) in FORMATS)
        problem = f"folder {pattern} holds no {' '.join(FORMATS)} file (or .gz, .zst of one)"
    elif path.exists():
        raise UserError(f"{flag}: {pattern} is a pipe or a device, and text is read several times: give a file")
    else:
        base, folders = fixed_part(path), []
        matches = sorted(match for match in expand_glob(path) if match.is_file())
    left_out = below_own([*matches, *folders], base, flag, own)
    matches = [match for match in matches if match not in left_out]
    saved = next((folder for folder in folders if folder not in left_out and is_saved(folder)), None)
    if saved:
        raise UserError(
            f"{flag}: {saved} is a folder of save_to_disk: give it alone, to --dataset_name, --train_file or "
            "--validation_file, or write its rows by to_parquet"
        )
    if not matches:
        raise UserError(f"{flag}: {problem}")
    return matches


def is_saved(folder: Path) -> bool:
    """Whether a folder was made by the save_to_disk of a Dataset or a DatasetDict."""
    names = {datasets.config.DATASET_STATE_JSON_FILENAME, datasets.config.DATASET_INFO_FILENAME}
    # Unlike Path.is_file, False of a text that was given for a path, too long for a name.
    is_file = os.path.isfile
    return is_file(folder / datasets.config.DATASETDICT_JSON_FILENAME) or all(is_file(folder / n) for n in names)
