"""Write folders that are complete or absent: aside, with checksums, then renamed; find those that are damaged."""

import hashlib
import logging
import os
import shutil
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TypeVar

import xxhash
from filelock import AcquireReturnProxy, FileLock
from safetensors import SafetensorError

from cloze.errors import UserError
from cloze.system.locks import acquire

logger = logging.getLogger(__name__)

T = TypeVar("T")

# Files of checksums, written last, which sha256sum -c and xxh128sum -c read. XXH128 takes a hundredth of a second a
# gigabyte, so that a cache is verified at each start; SHA-256 half a second, or more than two on older processors.
SHA256, XXH128 = "SHA256SUMS", "XXH128SUMS"
HASHES = {SHA256: hashlib.sha256, XXH128: xxhash.xxh3_128}
# What a run writes beside a model: its settings, the figure of its curves, and checksums, without which a checkpoint
# does not count.
RECIPE, CURVES, CHECKSUMS = "recipe.yaml", "curves.png", SHA256


def find_or_write(
    path: Path, write: Callable[[Path], None], read: Callable[[Path], T], *, name: str, size: int, overwrite: bool
) -> T:
    """Return ``read(path)`` of a cache entry, which ``write(folder)`` makes if it is absent, damaged or to overwrite.

    A complete entry is read without a lock, which a read-only cache would not have. To write one, processes wait for
    each other at a file lock, not in a collective, which would time out on a large corpus
    (huggingface/transformers#17106).

    Args:
        size: about the bytes that are written, 0 if unknown.

    Raises:
        UserError: if it cannot be written.
    """
    damage = find_damage(path)
    if damage is None and not overwrite:
        with suppress(OSError):  # another process is replacing it
            result = read(path)
            logger.info("Reusing the %s in %s", name, path)
            return result
    with _lock(path, damage, name):
        # Another process may have written it meanwhile.
        damage = find_damage(path)
        stale = overwrite or damage is not None
        if stale:
            damaged = damage is not None and path.exists()
            if damaged:
                # No warning, as only the first process logs those, and any may be the one that finds it.
                logger.error("BROKEN: %s: %s: prepared again", path, damage)
            _write_entry(path, write, size, damaged)
        logger.info("%s the %s in %s", "Saved" if stale else "Reusing", name, path)
        return read(path)


def _lock(path: Path, damage: str | None, name: str) -> AcquireReturnProxy:
    """Acquire the lock to write a cache entry; raise UserError where it cannot be written."""
    try:
        return acquire(FileLock(f"{path}.lock"), f"the {name}")
    except OSError as error:
        state = f"{path}: {damage}, and it" if damage and path.exists() else path
        raise UserError(
            f"{state} cannot be written ({error.strerror}): give a --cache_dir of your own, or let the owner of this "
            "one run it with --prepare_only"
        ) from None


def _write_entry(path: Path, write: Callable[[Path], None], size: int, damaged: bool) -> None:
    """Write a cache entry aside, after what a killed process left there, and rename it."""
    partial, deleted = Path(f"{path}.partial"), Path(f"{path}.deleted")
    try:
        with writing(partial, size, "make room, or give another --cache_dir"):
            shutil.rmtree(partial, ignore_errors=True)
            if damaged:
                delete_as(path, deleted)  # now, as its room is needed
            partial.mkdir()
            write(partial)
            seal(partial, XXH128)
            delete_as(path, deleted)
            rename(partial, path)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def delete_as(path: Path, trash: Path) -> None:
    """Delete a folder, or the link to one, under another name, so that no part of it counts or is read meanwhile.

    It may be absent; what a killed process left under the other name is deleted, too.
    """
    delete(trash, ignore_errors=True)
    if os.path.lexists(path):
        os.replace(path, trash)
        delete(trash)


def delete(folder: Path, ignore_errors: bool = False) -> None:
    """Delete a folder, or the link to one."""
    if folder.is_symlink():
        folder.unlink()
    else:
        shutil.rmtree(folder, ignore_errors=ignore_errors)


def seal(folder: Path, sums: str) -> None:
    """Write the checksums of a folder's files, once these are on disk for good."""
    paths = _files_with_sums(folder, sums)
    lines = ""
    for path in paths:
        with open(path, "rb") as file:
            os.fsync(file.fileno())
            lines += f"{hashlib.file_digest(file, HASHES[sums]).hexdigest()}  {path.relative_to(folder)}\n"
    with open(folder / sums, "w", encoding="utf-8") as file:
        file.write(lines)
        file.flush()
        os.fsync(file.fileno())
    for parent in {folder, *(path.parent for path in paths)}:
        _sync_folder(parent)


def rename(folder: Path, path: Path) -> None:
    """Give a folder its name for good."""
    os.replace(folder, path)
    _sync_folder(path.parent)


def _sync_folder(folder: Path) -> None:
    with suppress(OSError):  # not every file system can
        file = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(file)
        finally:
            os.close(file)


def _files_with_sums(folder: Path, sums: str) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file() and path != folder / sums)


def find_damage(folder: Path, sums: str = XXH128, needed: Iterable[str] | None = None) -> str | None:
    """Return what of a folder is not as it was written; None if all of it is.

    Args:
        needed: files that must have a checksum, else those were cut off; if None, all that are there.
    """
    name, names = sums, set()
    try:
        for line in (folder / sums).read_text(encoding="utf-8").splitlines():
            digest, _, name = line.partition("  ")
            names.add(name)
            with open(folder / name, "rb") as file:
                if hashlib.file_digest(file, HASHES[sums]).hexdigest() != digest:
                    return f"checksum mismatch in {name}"
    except OSError as error:
        return f"{name[:80]} cannot be read ({error.strerror})"
    except ValueError:  # no text, or a name that cannot be one
        return f"{sums} cannot be read"
    if needed is None:
        needed = [str(path.relative_to(folder)) for path in _files_with_sums(folder, sums)]
    return None if names and names.issuperset(needed) else f"{sums} is cut off"


@contextmanager
def writing(path: Path, size: int, cure: str) -> Iterator[None]:
    """Raise UserError where about ``size`` bytes (0: unknown) cannot be written; a folder of them is deleted."""
    try:
        yield
    except Exception as error:
        if not _is_of_disk(error):
            raise
        # The nearest folder that is there; what was written does not count as used.
        shutil.rmtree(path, ignore_errors=True)
        free = shutil.disk_usage(next(path for path in path.absolute().parents if path.exists())).free
        needed = f"about {gigabytes(size)} are needed, " if size else ""
        raise UserError(
            f"{path} cannot be written ({str(error)[:150]}): {needed}{gigabytes(free)} are free: {cure}"
        ) from error


def _is_of_disk(error: Exception) -> bool:
    """Return whether an error says that a file could not be written, as the libraries say it."""
    if isinstance(error, OSError | SafetensorError):
        return True
    if type(error) is Exception:
        return "os error" in str(error)  # tokenizers
    return isinstance(error, RuntimeError) and "inline_container" in str(error)  # torch


def gigabytes(size: float) -> str:
    """Format a number of bytes as GB or MB."""
    return f"{size / 1e9:.2f} GB" if size >= 1e8 else f"{size / 1e6:.1f} MB"
