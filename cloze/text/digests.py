"""Digests by which a text is known again: of a part of each file, or of its path, size and time of change."""

import hashlib
from collections.abc import Iterable
from pathlib import Path

from cloze.errors import UserError

# Bytes of each part of a file by which its content is known again.
PART = 2**16


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


def stats_of(files: Iterable[Path]) -> list[tuple[str, int, int]]:
    """Return path, size and time of change of each file."""
    return [(str(path.resolve()), path.stat().st_size, path.stat().st_mtime_ns) for path in files]
