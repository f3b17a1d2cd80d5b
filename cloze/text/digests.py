"""Digests that identify a text: of samples of its bytes or rows, or of path, size and time of change."""

import hashlib
from collections.abc import Iterable
from pathlib import Path

from cloze.errors import UserError

# Bytes of each sample of a file by which its content is recognised.
SAMPLE_BYTES = 2**16


def digest_file(path: Path) -> list:
    """Return size and digest of a file, the latter of its first, middle and last SAMPLE_BYTES.

    Raises UserError if it cannot be read.
    """
    try:
        size = path.stat().st_size
        with open(path, "rb") as file:
            starts = sample_starts(size, SAMPLE_BYTES)
            return [size, digest_samples(file.read(SAMPLE_BYTES) for start in starts if file.seek(start) == start)]
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror}): put it back, or make it readable") from None


def sample_starts(size: int, length: int) -> tuple[int, int, int]:
    """Return where the first, middle and last ``length`` of ``size`` items begin."""
    return 0, max(size - length, 0) // 2, max(size - length, 0)


def digest_samples(samples: Iterable[bytes]) -> str:
    """Return the BLAKE2 digest of the samples, one after another, as 16 hexadecimal digits."""
    digest = hashlib.blake2b(digest_size=8)
    for sample in samples:
        digest.update(sample)
    return digest.hexdigest()


def file_stats(files: Iterable[Path]) -> list[tuple[str, int, int]]:
    """Return path, size in bytes and mtime in nanoseconds of each file."""
    return [(str(path.resolve()), path.stat().st_size, path.stat().st_mtime_ns) for path in files]
