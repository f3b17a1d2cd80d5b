"""Write folders that are complete or absent: staged, with checksums, then renamed. Find damaged folders."""

import hashlib
import logging
import os
import shutil
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, TypeVar

import xxhash
from filelock import AcquireReturnProxy, FileLock
from safetensors import SafetensorError

from cloze.errors import UserError
from cloze.system.locks import acquire

logger = logging.getLogger(__name__)

T = TypeVar("T")

# Files of checksums, written last, for sha256sum -c and xxh128sum -c. XXH128 takes a hundredth of a second per
# gigabyte, fast enough to verify a cache at each start; SHA-256 half a second, or more than two on older processors.
SHA256, XXH128 = "SHA256SUMS", "XXH128SUMS"
HASHES: dict[str, Callable[[], Any]] = {SHA256: hashlib.sha256, XXH128: xxhash.xxh3_128}
# Files beside a model: settings, curves, and checksums. A checkpoint without checksums is incomplete.
RECIPE, CURVES, CHECKSUMS = "recipe.yaml", "curves.png", SHA256


def find_or_write(
    path: Path, write: Callable[[Path], None], read: Callable[[Path], T], *, name: str, size: int, overwrite: bool
) -> T:
    """Return the value of a cache entry; write the entry first if it is absent or damaged.

    A complete entry is read without a lock, so a read-only cache works. To write one, processes wait for a file lock:
    a collective operation would time out on a large corpus (huggingface/transformers#17106).

    Args:
        path: folder of the entry.
        write: writes the entry into a folder.
        read: returns the value from a folder.
        name: of the entry, in messages.
        size: estimated bytes to write; 0 if unknown.
        overwrite: write the entry even if it is complete.

    Raises:
        UserError: if the entry cannot be written.
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
                # At level ERROR, as processes other than the first do not log warnings.
                logger.error("corrupt cache entry %s: %s: preparing it again", path, damage)
            _write_entry(path, write, size, damaged)
        logger.info("%s the %s in %s", "Saved" if stale else "Reusing", name, path)
        return read(path)


def _lock(path: Path, damage: str | None, name: str) -> AcquireReturnProxy:
    """Acquire the lock to write a cache entry; raise UserError if that is impossible."""
    try:
        return acquire(FileLock(f"{path}.lock"), f"the {name}")
    except OSError as error:
        state = f"{path}: {damage}, and it" if damage and path.exists() else path
        raise UserError(
            f"{state} cannot be written ({error.strerror}): give a --cache_dir of your own, or let the owner of this "
            "one run it with --prepare_only"
        ) from None


def _write_entry(path: Path, write: Callable[[Path], None], size: int, damaged: bool) -> None:
    """Write a cache entry to a staging folder and rename it."""
    partial, deleted = Path(f"{path}.partial"), Path(f"{path}.deleted")
    try:
        with writing(partial, size, "free disk space, or give another --cache_dir"):
            shutil.rmtree(partial, ignore_errors=True)
            if damaged:
                delete_as(path, deleted)  # now, as its space is needed
            partial.mkdir()
            write(partial)
            seal(partial, XXH128)
            delete_as(path, deleted)
            rename(partial, path)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def delete_as(path: Path, trash: Path) -> None:
    """Rename a folder, or a link to one, to ``trash`` and delete it, so that no process reads a part of it.

    The folder may be absent. A leftover ``trash`` is deleted, too.
    """
    delete(trash, ignore_errors=True)
    if os.path.lexists(path):
        os.replace(path, trash)
        delete(trash)


def delete(folder: Path, ignore_errors: bool = False) -> None:
    """Delete a folder; of a link to one, only the link."""
    if folder.is_symlink():
        folder.unlink()
    else:
        shutil.rmtree(folder, ignore_errors=ignore_errors)


def seal(folder: Path, sums: str) -> None:
    """Sync the files of a folder to disk, then write their checksums to the file ``sums``."""
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
    """Rename a folder and sync its parent to disk."""
    os.replace(folder, path)
    _sync_folder(path.parent)


def _sync_folder(folder: Path) -> None:
    with suppress(OSError):  # not all file systems support it
        file = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(file)
        finally:
            os.close(file)


def _files_with_sums(folder: Path, sums: str) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file() and path != folder / sums)


def find_damage(folder: Path, sums: str = XXH128, needed: Iterable[str] | None = None) -> str | None:
    """Return how a folder differs from its checksums; None if it does not.

    Args:
        folder: the folder to verify.
        sums: name of the file of checksums.
        needed: files that must have a checksum; if None, all files in the folder.
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
    except ValueError:  # not text, or an invalid file name
        return f"{sums} cannot be read"
    if needed is None:
        needed = [str(path.relative_to(folder)) for path in _files_with_sums(folder, sums)]
    return None if names and names.issuperset(needed) else f"{sums} is incomplete"


@contextmanager
def writing(path: Path, size: int, cure: str) -> Iterator[None]:
    """Turn errors of writing about ``size`` bytes (0: unknown) into a UserError; delete a folder at ``path`` then."""
    try:
        yield
    except Exception as error:
        if not _is_disk_error(error):
            raise
        # Delete first: the written part must not count as used. The path may not exist.
        shutil.rmtree(path, ignore_errors=True)
        free = shutil.disk_usage(next(path for path in path.absolute().parents if path.exists())).free
        needed = f"about {gigabytes(size)} are needed, " if size else ""
        raise UserError(
            f"{path} cannot be written ({str(error)[:150]}): {needed}{gigabytes(free)} are free: {cure}"
        ) from error


def _is_disk_error(error: Exception) -> bool:
    """Return whether an error of a library means that a file could not be written."""
    if isinstance(error, OSError | SafetensorError):
        return True
    if type(error) is Exception:
        return "os error" in str(error)  # tokenizers
    return isinstance(error, RuntimeError) and "inline_container" in str(error)  # torch


def gigabytes(size: float) -> str:
    """Format a number of bytes as GB or MB."""
    return f"{size / 1e9:.2f} GB" if size >= 1e8 else f"{size / 1e6:.1f} MB"
