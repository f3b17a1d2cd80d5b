"""Files -> lines and chunks of text: UTF-8, plain or compressed, no longer than a document may be."""

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
# Read at once: characters of a line, or bytes and rows of a .parquet file.
CHUNK_CHARS = 1_000_000


def file_format(path: Path) -> str:
    return (Path(path.stem).suffix if path.suffix in COMPRESSED else path.suffix).lower()


def open_binary(path: Path) -> io.BufferedIOBase:
    if path.suffix == ".zst":
        # Raises an error where the file is cut off, which the stream of the zstandard package takes for its end.
        return io.BufferedReader(pyarrow.CompressedInputStream(pyarrow.OSFile(os.fsencode(path)), "zstd"))
    return gzip.open(path) if path.suffix == ".gz" else open(path, "rb")


def too_long(path: Path, where: str, settings: ReaderSettings) -> UserError:
    limit = settings.max_document_chars
    return UserError(
        f"{path}, {where}: a document of more than {limit:,} characters: check the file, or raise --max_document_chars"
    )


def read_lines(path: Path, settings: ReaderSettings) -> Iterator[str]:
    """Yield the lines of a UTF-8 file, ended by LF, CRLF or CR, each with a line feed and without byte-order marks.

    UserError for one that is longer than a document may be, before it is in memory.
    """
    # One more than a document may have: a line that is not shorter goes on, or is too long.
    limit = min(CHUNK_CHARS, settings.max_document_chars + 1)
    with _open_text(path) as file:
        for number, line in enumerate(iter(partial(file.readline, limit), ""), 1):
            if len(line) < limit:
                # Files that were joined have a mark at each one's beginning.
                yield line.replace(BYTE_ORDER_MARK, "") if BYTE_ORDER_MARK in line else line
                continue
            parts, length = [line], len(line.removesuffix("\n"))
            while length <= settings.max_document_chars and not parts[-1].endswith("\n"):
                parts.append(file.readline(limit))
                length += len(parts[-1].removesuffix("\n"))
                if not parts[-1]:
                    break
            if length > settings.max_document_chars:
                raise too_long(path, f"line {number}", settings)
            parts = ["".join(parts).replace(BYTE_ORDER_MARK, "")]
            # Not in a variable, so that it is free as soon as its reader has done with it.
            yield parts.pop()


def read_chunks(path: Path) -> Iterator[str]:
    with _open_text(path) as file:
        for chunk in iter(partial(file.read, CHUNK_CHARS), ""):
            yield chunk.replace(BYTE_ORDER_MARK, "")


@contextmanager
def _open_text(path: Path) -> Iterator[io.TextIOWrapper]:
    """Open a UTF-8 file; UserError for what cannot be read of it."""
    try:
        with io.TextIOWrapper(open_binary(path), "utf-8") as file:
            yield file
    except UnicodeDecodeError as error:
        byte = error.object[error.start]
        raise UserError(
            f"{path}, line {_first_undecodable_line(path)}: byte 0x{byte:02x} is not UTF-8: convert the file, as by "
            "iconv -t UTF-8"
        ) from None
    except (OSError, EOFError, zlib.error) as error:
        raise UserError(
            f"{path} cannot be read after line {_count_readable_lines(path)}: {error}: copy or compress it again"
        ) from None


def _count_readable_lines(path: Path) -> int:
    number = 0
    with suppress(OSError, EOFError, zlib.error), io.TextIOWrapper(open_binary(path), "utf-8") as file:
        for part in iter(partial(file.readline, CHUNK_CHARS), ""):
            number += part.endswith("\n")
    return number


def _first_undecodable_line(path: Path) -> int:
    # The file is decoded in portions, of which an error does not say where the lines begin.
    number = 1
    with io.TextIOWrapper(open_binary(path), "utf-8", errors="surrogateescape") as file:
        for part in iter(partial(file.readline, CHUNK_CHARS), ""):
            if re.search("[\udc80-\udcff]", part):
                break
            number += part.endswith("\n")
    return number
