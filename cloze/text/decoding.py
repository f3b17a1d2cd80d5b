"""Read lines or chunks of UTF-8 text from plain and compressed files, with bounded memory."""

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
# Characters, or bytes of a .parquet file, that are read at once.
CHUNK_CHARS = 1_000_000
# What surrogateescape makes of bytes that are not UTF-8.
UNDECODABLE = re.compile("[\udc80-\udcff]")


def file_format(path: Path) -> str:
    """Return a file's suffix in lower case, without the suffix of its compression."""
    return (Path(path.stem).suffix if path.suffix in COMPRESSED else path.suffix).lower()


def open_binary(path: Path) -> io.BufferedIOBase:
    """Open a file to read its bytes, decompressed."""
    if path.suffix == ".zst":
        # Raises an error where the file is cut off, which the stream of the zstandard package takes for its end.
        return io.BufferedReader(pyarrow.CompressedInputStream(pyarrow.OSFile(os.fsencode(path)), "zstd"))
    return gzip.open(path) if path.suffix == ".gz" else open(path, "rb")


def too_long(path: Path, where: str, settings: ReaderSettings) -> UserError:
    """Return the error for a document that is longer than the settings allow."""
    limit = settings.max_document_chars
    return UserError(
        f"{path}, {where}: a document of more than {limit:,} characters: check the file, or raise --max_document_chars"
    )


def read_lines(path: Path, settings: ReaderSettings) -> Iterator[str]:
    """Yield the lines of a UTF-8 file, ended by LF, CRLF or CR, each with a line feed and without byte-order marks.

    Raises UserError for a line that is longer than a document may be, before it is in memory.
    """
    # Characters of a line that is too long; one with as many as are read at once may go on.
    too_many = settings.max_document_chars + 1
    limit = min(CHUNK_CHARS, too_many)
    with _open_text(path) as file:
        for number, line in enumerate(iter(partial(file.readline, limit), ""), 1):
            if len(line) < limit:
                # Files that were joined have a mark at each one's beginning.
                yield line.replace(BYTE_ORDER_MARK, "") if BYTE_ORDER_MARK in line else line
                continue
            parts = [line]
            while not line.endswith("\n") and sum(map(len, parts)) < too_many and (line := file.readline(limit)):
                parts.append(line)
            if sum(len(part.removesuffix("\n")) for part in parts) >= too_many:
                raise too_long(path, f"line {number}", settings)
            parts = ["".join(parts).replace(BYTE_ORDER_MARK, "")]
            # Not in a variable, so that its memory is free as soon as the reader has done with it.
            yield parts.pop()


def read_chunks(path: Path) -> Iterator[str]:
    """Yield the text of a UTF-8 file in chunks of at most CHUNK_CHARS characters, without byte-order marks."""
    with _open_text(path) as file:
        for chunk in iter(partial(file.read, CHUNK_CHARS), ""):
            yield chunk.replace(BYTE_ORDER_MARK, "")


@contextmanager
def _open_text(path: Path) -> Iterator[io.TextIOWrapper]:
    """Open a UTF-8 file; raise UserError, with the line, where it cannot be read or decoded."""
    try:
        with io.TextIOWrapper(open_binary(path), "utf-8") as file:
            yield file
    except UnicodeDecodeError as error:
        byte = error.object[error.start]
        raise UserError(
            f"{path}, line {_count_readable_lines(path) + 1}: byte 0x{byte:02x} is not UTF-8: convert the file, as by "
            "iconv -t UTF-8"
        ) from None
    except (OSError, EOFError, zlib.error) as error:
        raise UserError(
            f"{path} cannot be read after line {_count_readable_lines(path)}: {error}: copy or compress it again"
        ) from None


def _count_readable_lines(path: Path) -> int:
    """Count the lines before the first that cannot be read or decoded; the errors themselves say where a chunk is."""
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
