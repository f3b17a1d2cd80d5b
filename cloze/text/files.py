"""Find the files that names, globs and folders match, each once, except outputs of these scripts."""

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

SUPPORTED = f"{' '.join(FORMATS)} file, plain or compressed (.gz, .zst)"

# A folder that a run wrote has the recipe and one of these: a checkpoint, a model or a comparison.
RUN_FILES = (CHECKSUMS, "config.json", "comparison.json")


def printable(path: Path) -> str:
    """Return a path as text that can be encoded as UTF-8, as file names may contain any bytes."""
    return os.fsencode(path).decode(errors="backslashreplace")


def _folders_below(folder: Path) -> Iterator[Path]:
    """Yield the folder and all folders below it, each once, except hidden ones; follow links, also in loops.

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
        # Sorted, so a folder that several paths lead to is found by the first of them.
        names[:] = sorted(name for name in names if not name.startswith("."))
        yield Path(path)


def _expand_glob(pattern: Path) -> Iterator[Path]:
    """Yield what a glob matches, with each folder below ``**`` once, unlike glob.glob, which follows links in loops."""
    parts = pattern.parts
    if "**" not in parts:
        yield from map(Path, glob.glob(str(pattern)))
        return
    stars = parts.index("**")
    for folder in glob.glob(str(Path(*parts[:stars]))):
        for below in _folders_below(Path(folder)) if os.path.isdir(folder) else ():
            yield from _expand_glob(Path(glob.escape(str(below)), *(parts[stars + 1 :] or ["*"])))


def _glob_root(pattern: Path) -> Path:
    """Return the deepest folder above the first wildcard of a glob."""
    return next(folder for folder in pattern.parents if not glob.has_magic(str(folder)))


def _find_outputs(paths: Sequence[Path], base: Path, flag: str, outputs: Mapping[str, Path]) -> set[Path]:
    """Return the paths in folders below ``base`` that a run wrote or this run will write to; log a warning.

    Raises UserError if this run will write to ``base`` itself, where outputs could not be distinguished from text.
    """
    for name, folder in outputs.items():
        if folder.resolve() == base.resolve():
            raise UserError(
                f"{name} {folder} is also the folder of {flag}, where outputs would be read as text: give another "
                f"folder, or list the files of {flag} one by one"
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
        logger.warning("%s skips %s, an output folder of these scripts: list its files to read them", flag, folder)
    return set(owners)


def _is_written(folder: Path) -> bool:
    """Return whether the files in a folder show that these scripts wrote it."""
    if folder.name == "cloze":
        return any(path.is_dir() for kind in ("corpus", "tokenizer") for path in folder.glob(f"{kind}-*"))
    return (folder / RECIPE).is_file() and any((folder / name).is_file() for name in RUN_FILES)


def find_files(patterns: Sequence[str], flag: str, outputs: Mapping[str, Path] | None = None) -> tuple[Path, ...]:
    """Return the files that the patterns match, in a fixed order, each once.

    A folder matches the text files and tables below it. Files in ``outputs``, the folders that this run writes to by
    their flags, and in folders that another run wrote are skipped unless a pattern names them. Raises UserError for a
    pattern that matches no file, and for a file of an unsupported format; ``flag`` is the flag in errors.
    """
    try:
        found = [path for pattern in patterns for path in _find_matches(pattern, flag, outputs or {})]
    except OSError as error:
        raise UserError(
            f"{flag}: {error.filename} cannot be read ({error.strerror}): make it readable, or exclude it"
        ) from None
    for path in found:
        if file_format(path) not in FORMATS:
            raise UserError(f"{flag}: {path} is not a {SUPPORTED}")
    unique: dict[Path, Path] = {}
    for path in found:
        unique.setdefault(path.resolve(), path)
    return tuple(unique.values())


def _find_matches(pattern: str, flag: str, outputs: Mapping[str, Path]) -> list[Path]:
    """Return the files that one pattern matches, sorted; raise UserError if there are none."""
    if not pattern:
        raise UserError(f"{flag}: empty file name: give a file, a glob or a folder")
    path = Path(os.path.expanduser(pattern))
    if path.is_file():
        return [path]
    problem = f"{pattern} not found: check the path (relative to {Path.cwd()})"
    if path.is_dir():
        base, folders = path, list(_folders_below(path))
        # Hidden files are skipped, as some are backups of editors.
        entries = (entry for folder in folders for entry in folder.iterdir() if not entry.name.startswith("."))
        matches = sorted(entry for entry in entries if entry.is_file() and file_format(entry) in FORMATS)
        problem = f"folder {pattern} holds no {SUPPORTED}"
    elif path.exists():
        raise UserError(f"{flag}: {pattern} is a pipe or a device, but text is read more than once: give a file")
    else:
        base, folders = _glob_root(path), []
        matches = sorted(match for match in _expand_glob(path) if match.is_file())
    left_out = _find_outputs([*matches, *folders], base, flag, outputs)
    matches = [match for match in matches if match not in left_out]
    saved = next((folder for folder in folders if folder not in left_out and is_saved(folder)), None)
    if saved:
        raise UserError(
            f"{flag}: {saved} was written by save_to_disk: give it alone to --dataset_name, --train_file or "
            "--validation_file, or export its rows with to_parquet"
        )
    if not matches:
        raise UserError(f"{flag}: {problem}")
    return matches


def is_saved(folder: Path) -> bool:
    """Return whether Dataset.save_to_disk or DatasetDict.save_to_disk wrote a folder."""
    names = {datasets.config.DATASET_STATE_JSON_FILENAME, datasets.config.DATASET_INFO_FILENAME}
    # Unlike Path.is_file, it returns False, not an error, for a text given as a path that is too long for a name.
    is_file = os.path.isfile
    return is_file(folder / datasets.config.DATASETDICT_JSON_FILENAME) or all(is_file(folder / n) for n in names)
