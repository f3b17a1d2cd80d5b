"""Read lines or chunks of UTF-8 text from plain and compressed files in bounded memory."""

import gzip
import io
import os
import re
import zlib
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path

import pyarrow

from cloze.config.data_arguments import ReaderSettings
from cloze.errors import UserError

FORMATS = (".txt", ".csv", ".tsv", ".json", ".jsonl", ".parquet")
COMPRESSED = (".gz", ".zst")
BYTE_ORDER_MARK = "\ufeff"
# Characters per read; bytes for .parquet files.
CHUNK_CHARS = 1_000_000
# Characters that surrogateescape substitutes for bytes that are not UTF-8.
UNDECODABLE = re.compile("[\udc80-\udcff]")


def file_format(path: Path) -> str:
    """Return a file's suffix in lower case, ignoring a compression suffix."""
    return (Path(path.stem).suffix if path.suffix in COMPRESSED else path.suffix).lower()


def open_binary(path: Path) -> io.BufferedReader | gzip.GzipFile:
    """Open a file to read its decompressed bytes."""
    if path.suffix == ".zst":
        # pyarrow raises an error for a truncated file; the zstandard package would treat it as complete.
        return io.BufferedReader(pyarrow.CompressedInputStream(pyarrow.OSFile(os.fsencode(path)), "zstd"))
    return gzip.open(path) if path.suffix == ".gz" else open(path, "rb")


def too_long(path: Path, where: str, settings: ReaderSettings) -> UserError:
    """Return the UserError for a document longer than ``settings.max_document_chars``."""
    limit = settings.max_document_chars
    return UserError(
        f"{path}, {where}: document longer than {limit:,} characters: check the file, or raise --max_document_chars"
    )


def read_lines(path: Path, settings: ReaderSettings) -> Iterator[str]:
    """Yield the lines of a UTF-8 file, each with a line feed for its LF, CRLF or CR, and without byte-order marks.

    Raises UserError for a line longer than a document may be, before all of it is in memory.
    """
    too_many = settings.max_document_chars + 1
    limit = min(CHUNK_CHARS, too_many)
    with _open_text(path) as file:
        for number, line in enumerate(iter(partial(file.readline, limit), ""), 1):
            if len(line) < limit:
                # Concatenated files have a mark wherever one of them begins.
                yield line.replace(BYTE_ORDER_MARK, "") if BYTE_ORDER_MARK in line else line
                continue
            parts = [line]
            while not line.endswith("\n") and sum(map(len, parts)) < too_many and (line := file.readline(limit)):
                parts.append(line)
            if sum(len(part.removesuffix("\n")) for part in parts) >= too_many:
                raise too_long(path, f"line {number}", settings)
            parts = ["".join(parts).replace(BYTE_ORDER_MARK, "")]
            # No variable refers to the line, so its memory is freed as soon as the caller drops it.
            yield parts.pop()


def read_chunks(path: Path) -> Iterator[str]:
    """Yield the text of a UTF-8 file in chunks of at most CHUNK_CHARS characters, without byte-order marks.

    Raises UserError, with the line, if it cannot be read or decoded.
    """
    with _open_text(path) as file:
        for chunk in iter(partial(file.read, CHUNK_CHARS), ""):
            yield chunk.replace(BYTE_ORDER_MARK, "")


@contextmanager
def _open_text(path: Path) -> Iterator[io.TextIOWrapper]:
    """Open a UTF-8 file; raise UserError, with the line, if it cannot be read or decoded."""
    try:
        with io.TextIOWrapper(open_binary(path), "utf-8") as file:
            yield file
    except UnicodeDecodeError as error:
        byte = error.object[error.start]
        raise UserError(
            f"{path}, line {_count_readable_lines(path) + 1}: byte 0x{byte:02x} is not UTF-8: convert the file, for "
            "example with iconv -t UTF-8"
        ) from None
    except (OSError, EOFError, zlib.error) as error:
        raise UserError(
            f"{path} cannot be read after line {_count_readable_lines(path)}: {error}: copy or compress it again"
        ) from None


def _count_readable_lines(path: Path) -> int:
    """Count the lines before the first that cannot be read or decoded; the errors give only a position in a chunk."""
    number = 0
    with (
        suppress(OSError, EOFError, zlib.error),
        io.TextIOWrapper(open_binary(path), "utf-8", errors="surrogateescape") as file,
    ):
        for part in iter(partial(file.readline, CHUNK_CHARS), ""):
            if UNDECODABLE.search(part):
                break
            number += part.endswith("\n")
    return number
