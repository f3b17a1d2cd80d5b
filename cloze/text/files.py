"""Find the files that names, globs and folders stand for, each once, and none that these scripts wrote."""

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

# Files one of which stands beside the recipe in a folder that a run wrote: a checkpoint, a model or a comparison.
RUN_FILES = (CHECKSUMS, "config.json", "comparison.json")


def printable(path: Path) -> str:
    """Return a path as text that can be written as UTF-8, which a file's name need not be."""
    return os.fsencode(path).decode(errors="backslashreplace")


def _folders_below(folder: Path) -> Iterator[Path]:
    """Yield the folder and all below it but hidden ones, each once, also where links make a loop.

    Raises OSError for a folder that cannot be read.
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


def _expand_glob(pattern: Path) -> Iterator[Path]:
    """Yield what a glob matches, with each folder below ``**`` once: glob.glob follows loops of links."""
    parts = pattern.parts
    if "**" not in parts:
        yield from map(Path, glob.glob(str(pattern)))
        return
    stars = parts.index("**")
    for folder in glob.glob(str(Path(*parts[:stars]))):
        for below in _folders_below(Path(folder)) if os.path.isdir(folder) else ():
            yield from _expand_glob(Path(glob.escape(str(below)), *(parts[stars + 1 :] or ["*"])))


def _glob_root(pattern: Path) -> Path:
    """Return the folder above the first wildcard of a glob."""
    return next(folder for folder in pattern.parents if not glob.has_magic(str(folder)))


def _find_outputs(paths: Sequence[Path], base: Path, flag: str, outputs: Mapping[str, Path]) -> set[Path]:
    """Return and log which paths lie in a folder below ``base`` that these scripts wrote or will write to.

    Raises UserError if they will write to ``base`` itself, where their files could not be distinguished from text.
    """
    for name, folder in outputs.items():
        if folder.resolve() == base.resolve():
            raise UserError(
                f"{name} {folder} is where {flag} finds the text, among which its files would be read: give another "
                f"folder, or name the files of {flag} one by one"
            )
    real = {folder.resolve() for folder in outputs.values()}
    is_output = cache(lambda folder: folder.resolve() in real or _is_written(folder))
    owners = {}
    for path in paths:
        between = [folder for folder in (path, *path.parents) if base in folder.parents]
        owner = next((folder for folder in reversed(between) if is_output(folder)), None)
        if owner is not None:
            owners[path] = owner
    for folder in sorted(set(owners.values())):
        logger.warning("LEFT OUT: %s does not read %s, a folder that these scripts write to", flag, folder)
    return set(owners)


def _is_written(folder: Path) -> bool:
    """Return whether these scripts wrote a folder, by what is in it."""
    if folder.name == "cloze":
        return any(path.is_dir() for kind in ("corpus", "tokenizer") for path in folder.glob(f"{kind}-*"))
    return (folder / RECIPE).is_file() and any((folder / name).is_file() for name in RUN_FILES)


def find_files(patterns: Sequence[str], flag: str, outputs: Mapping[str, Path] | None = None) -> tuple[Path, ...]:
    """Return the files that the patterns match, in a fixed order, each once.

    A folder stands for the text and tables below it. Raises UserError for a pattern that matches none, and for files of
    unknown formats.

    Args:
        outputs: folders that the run writes to, by their flags. What is in them, or was written by another run, is left
            out, unless it is named itself.
    """
    try:
        found = [path for pattern in patterns for path in _find_matches(pattern, flag, outputs or {})]
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


def _find_matches(pattern: str, flag: str, outputs: Mapping[str, Path]) -> list[Path]:
    """Return the files that one pattern matches, sorted."""
    if not pattern:
        raise UserError(f"{flag}: a name is empty: give a file, a glob or a folder")
    path = Path(os.path.expanduser(pattern))
    if path.is_file():
        return [path]
    problem = f"{pattern} is not there: check the path (seen from {Path.cwd()})"
    if path.is_dir():
        base, folders = path, list(_folders_below(path))
        # Hidden files, copies of editors among them, are left out.
        entries = (entry for folder in folders for entry in folder.iterdir() if not entry.name.startswith("."))
        matches = sorted(entry for entry in entries if entry.is_file() and file_format(entry) in FORMATS)
        problem = f"folder {pattern} holds no {' '.join(FORMATS)} file (or .gz, .zst of one)"
    elif path.exists():
        raise UserError(f"{flag}: {pattern} is a pipe or a device, and text is read several times: give a file")
    else:
        base, folders = _glob_root(path), []
        matches = sorted(match for match in _expand_glob(path) if match.is_file())
    left_out = _find_outputs([*matches, *folders], base, flag, outputs)
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
    """Return whether a folder was made by the save_to_disk of a Dataset or a DatasetDict."""
    names = {datasets.config.DATASET_STATE_JSON_FILENAME, datasets.config.DATASET_INFO_FILENAME}
    # Unlike Path.is_file, False for a text that was given instead of a path and is too long for a name.
    is_file = os.path.isfile
    return is_file(folder / datasets.config.DATASETDICT_JSON_FILENAME) or all(is_file(folder / n) for n in names)
