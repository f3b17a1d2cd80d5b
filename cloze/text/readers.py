"""One file -> documents. A document is a list of lines; a row of a table is a document of one line."""

import csv
import gzip
import io
import json
import os
import re
import shutil
import tempfile
import zlib
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from functools import partial
from itertools import chain, islice
from pathlib import Path
from typing import IO, Any

import pyarrow
import pyarrow.compute
import pyarrow.parquet

from cloze.config.data_arguments import ReaderSettings
from cloze.errors import UserError

FORMATS = (".txt", ".csv", ".tsv", ".json", ".jsonl", ".parquet")
COMPRESSED = (".gz", ".zst")
BYTE_ORDER_MARK = "\ufeff"

# Read at once: characters of a line, or bytes and rows of a .parquet file.
CHUNK_CHARS = 1_000_000
CHUNK_ROWS = 16
# In a JSON array: the signs that may follow one, and whether a value may.
AFTER_SIGN = {"[": ("]", True), ",": ("", True), "]": ("", False)}
JSON_SPACE = re.compile(r"[ \t\n\r]*")

# Of a .csv file, the likeliest first; rows in which they are looked for.
DELIMITERS = ",;\t|"
SAMPLED_ROWS = 100
# A sentence, one of a script without spaces, or a row of several fields, but not "Review text", which names a column.
LOOKS_LIKE_TEXT = re.compile(r"[.!?…。！？।؟۔።။]\W*$|[,;|\t]|\S\s+\S+\s+\S+\s+\S|[\u3040-\u9fff]{10}|.{40}")  # noqa: RUF001


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


def _read_chunks(path: Path) -> Iterator[str]:
    with _open_text(path) as file:
        for chunk in iter(partial(file.read, CHUNK_CHARS), ""):
            yield chunk.replace(BYTE_ORDER_MARK, "")


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


def read_text(path: Path, settings: ReaderSettings) -> Iterator[list[str]]:
    """Documents of a text file: blank lines separate them; where there are none, each line is one."""
    paragraphs = has_blank_lines_between(path, settings)
    document: list[str] = []
    number, length, limit = 0, 0, settings.max_document_chars
    # Not by enumerate, which keeps the line it gave last, and that may be long.
    for line in read_lines(path, settings):
        number += 1  # noqa: SIM113
        line = line.strip()
        if line:
            document.append(line)
            if paragraphs:
                length += len(line)
                if length > limit:
                    raise too_long(path, f"line {number}", settings)
        if document and not (line and paragraphs):
            yield document
            document, length = [], 0
    if document:
        yield document


def has_blank_lines_between(path: Path, settings: ReaderSettings) -> bool:
    text_before = blank_before = False
    for line in read_lines(path, settings):
        if line.isspace() or not line:
            blank_before = text_before
        elif blank_before:
            return True
        else:
            text_before = True
    return False


def read_table(path: Path, text_column: str | None, settings: ReaderSettings) -> Iterator[list[str]]:
    """Documents of a table: the text of each row, rows without text left out."""
    column = None
    if file_format(path) == ".parquet":
        # Chosen beforehand, so that the others need not be read.
        column = next((choose_column(row, text_column, str(path)) for _, row in read_parquet(path, settings)), None)
    for where, row in read_rows(path, settings, column):
        column = column or choose_column(row, text_column, str(path))
        text = text_in(row, column, where).strip()
        if text:
            yield [text]


def read_rows(path: Path, settings: ReaderSettings, column: str | None = None) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield each row, and where it stands; a line of a text file that is not blank is a row with a text.

    Of a .parquet file, only the ``column`` if one is given.
    """
    kind = file_format(path)
    if kind == ".txt":
        return _read_text_rows(path, settings)
    if kind in (".csv", ".tsv"):
        return read_csv(path, settings)
    if kind == ".parquet":
        return read_parquet(path, settings, column)
    if kind == ".json" and starts_with_bracket(path):
        return read_json(path, settings)
    return read_json_lines(path, settings)


def _read_text_rows(path: Path, settings: ReaderSettings) -> Iterator[tuple[str, dict[str, str]]]:
    for number, line in enumerate(read_lines(path, settings), 1):
        if line.strip():
            yield f"{path}, line {number}", {"text": line.strip()}


def read_csv(path: Path, settings: ReaderSettings) -> Iterator[tuple[str, dict[str, Any]]]:
    is_tsv = file_format(path) == ".tsv"
    header = None
    try:
        for first, line, row in _read_csv_rows(path, find_delimiter(path, settings), settings):
            where = f"{path}, line {line}"
            if line > first and is_tsv and settings.quoting is None:
                raise UserError(
                    f"{path}: quotes make one row of lines {first} to {line}: give --csv_quoting none where quotes are "
                    "text, or --csv_quoting minimal if it is one"
                )
            if not row:
                continue
            if header is None:
                header = _check_names(row, path)
                continue
            if len(row) != len(header):
                raise UserError(
                    f"{where}: {len(row)} fields, but the header has {len(header)}: put text in quotes, or give "
                    "--csv_delimiter"
                )
            yield where, dict(zip(header, row, strict=True))
    except csv.Error as error:
        raise UserError(
            f"{error}: check the quotes around the text, or give --csv_quoting none where quotes are text"
        ) from None


def _read_csv_rows(path: Path, delimiter: str, settings: ReaderSettings) -> Iterator[tuple[int, int, list[str]]]:
    """Yield the rows of a table, each with the numbers of its first and last line."""
    before, length, taken = 0, 0, []

    def take(line: str) -> str:
        nonlocal length
        taken.append(line)
        if len(taken) > 1:
            length = (length or len(taken[0])) + len(line)
            if length > settings.max_document_chars + 1:
                raise too_long(path, f"line {before + 1}", settings)
        return line

    lines = map(take, read_lines(path, settings))
    quoting = csv.QUOTE_NONE if settings.quoting == "none" else csv.QUOTE_MINIMAL
    new_reader = partial(csv.reader, lines, delimiter=delimiter, quoting=quoting, strict=True)
    csv.field_size_limit(CHUNK_CHARS)
    reader = new_reader()
    try:
        while True:
            try:
                row = next(reader, None)
            except csv.Error:
                # The library's own reader takes 4 bytes and more for a character of a field.
                if sum(map(len, taken)) <= CHUNK_CHARS:
                    raise
                row, reader = None, new_reader()
                row = _split_long_row(chain(taken.copy(), lines), delimiter, quoting)
            if row is None:
                return
            first, before, length = before + 1, before + len(taken), 0
            taken.clear()
            yield first, before, row
    except csv.Error as error:
        # A quote that is left open is noticed at the end of the file, far behind its row.
        rows = f"line {before + 1}" if len(taken) < 2 else f"lines {before + 1} to {before + len(taken)}"
        raise csv.Error(f"{path}, {rows}: {error}") from None


def _split_long_row(lines: Iterator[str], delimiter: str, quoting: int) -> list[str]:
    """Return the fields of the row that begins with the lines, as csv.reader gives them."""
    row: list[str] = []
    quoted: list[str] | None = None  # what there is of a field in quotes
    for line in lines:
        place = 0
        while True:
            if quoted is None and quoting != csv.QUOTE_NONE and line.startswith('"', place):
                quoted, place = [], place + 1
            if quoted is None:
                end = line.find(delimiter, place)
                end = len(line.removesuffix("\n")) if end < 0 else end
                row.append(line[place:end])
            else:
                end = line.find('"', place)
                quoted.append(line[place:] if end < 0 else line[place:end])
                if end < 0:
                    break
                end += 1
                if line.startswith('"', end):
                    quoted.append('"')
                    place = end + 1
                    continue
                if line[end : end + 1] not in (delimiter, "\n", ""):
                    raise csv.Error(f"'{delimiter}' expected after '\"'")
                row.append("".join(quoted))
                quoted = None
            if not line.startswith(delimiter, end):
                return row
            place = end + 1
    raise csv.Error("unexpected end of data")


def find_delimiter(path: Path, settings: ReaderSettings) -> str:
    """Return the delimiter that is given, a tab of a .tsv, or what divides a .csv.

    That is the one by which the first rows all have as many fields as the header, two or more; else a comma.
    """
    if settings.delimiter is not None or file_format(path) == ".tsv":
        return settings.delimiter or "\t"
    for delimiter in DELIMITERS:
        try:
            rows = (row for _, _, row in _read_csv_rows(path, delimiter, settings))
            counts = set(map(len, islice(filter(None, rows), SAMPLED_ROWS)))
        except csv.Error:
            continue
        if len(counts) == 1 and counts != {1}:
            return delimiter
    return ","


def _check_names(names: Sequence[str], path: Path) -> Sequence[str]:
    """Return the names of columns; UserError if two are the same, unless they are empty."""
    name, count = Counter(filter(None, names)).most_common(1)[0] if any(names) else ("", 0)
    if count > 1:
        raise UserError(f"{path}: {count} columns are called {name}: rename them (columns: {', '.join(names)})")
    return names


def read_json_lines(path: Path, settings: ReaderSettings) -> Iterator[tuple[str, dict[str, Any]]]:
    number = 0
    for line in read_lines(path, settings):
        number += 1  # noqa: SIM113
        if line and not line.isspace():
            where = f"{path}, line {number}"
            try:
                row = json.loads(line)
            except (ValueError, RecursionError) as error:  # or a number too long, a value too deep
                message = getattr(error, "msg", error)
                raise UserError(f"{where}: not JSON ({message}): every line must be an object") from None
            # A long line need not be in memory beside what it holds.
            del line
            yield where, check_row(row, where)


def starts_with_bracket(path: Path) -> bool:
    return next((chunk.lstrip()[0] for chunk in _read_chunks(path) if chunk.strip()), "") == "["


def read_json(path: Path, settings: ReaderSettings) -> Iterator[tuple[str, dict[str, Any]]]:
    for number, row in enumerate(_read_array(path, settings)):
        yield f"{path}, row {number}", check_row(row, f"{path}, row {number}")


def _read_array(path: Path, settings: ReaderSettings) -> Iterator[Any]:
    """Yield the values of a JSON array, decoded one by one while the file is read."""
    decode, limit = json.JSONDecoder().raw_decode, settings.max_document_chars
    text, place, lines = "", 0, 1  # decoded up to the place; the line in which the text begins
    waiting, size = [], 0
    signs, takes_value = "[", False  # what may follow
    for part in chain(_read_chunks(path), [None]):
        if part is not None:
            waiting.append(part)
            size += len(part)
            # As much again as there is of a value, so that a long one is not begun too often.
            if size < max(CHUNK_CHARS, min(len(text) - place, limit - len(text) + place)):
                continue
        lines += text.count("\n", 0, place)
        text, place = "".join([text[place:], *waiting]), 0
        waiting, size = [], 0
        try:
            while (place := JSON_SPACE.match(text, place).end()) < len(text):
                if text[place] in signs:
                    signs, takes_value = AFTER_SIGN[text[place]]
                    place += 1
                elif takes_value:
                    value, end = decode(text, place)
                    if end - place > limit:
                        raise too_long(path, f"line {lines + text.count(chr(10), 0, place)}", settings)
                    place, signs, takes_value = end, ",]", False
                    if place > 2 * CHUNK_CHARS:
                        lines += text.count("\n", 0, place)
                        text, place = text[place:], 0
                    yield value
                else:
                    raise json.JSONDecodeError("Expecting ',' delimiter" if signs else "Extra data", text, place)
            if part is None and (signs or takes_value):
                raise json.JSONDecodeError("Expecting value" if takes_value else "Expecting ',' delimiter", text, place)
        except json.JSONDecodeError as error:
            if part is None or not _is_unfinished(error):
                line = lines + error.lineno - 1
                raise UserError(
                    f"{path}, line {line}: not JSON ({error.msg}): the file must be an array of objects"
                ) from None
            if len(text) - place > limit:
                raise too_long(path, f"line {lines + text.count(chr(10), 0, place)}", settings) from None
        except (ValueError, RecursionError) as error:  # a number too long, a value too deep
            line = lines + text.count("\n", 0, place)
            raise UserError(f"{path}, line {line}: not JSON ({error}): the file must be an array of objects") from None


def _is_unfinished(error: json.JSONDecodeError) -> bool:
    """Whether more text may mend the error: a string without an end, or an error in the last word of the text."""
    return error.msg.startswith("Unterminated string") or error.pos > len(error.doc) - 16


def check_row(row: Any, where: str) -> dict[str, Any]:
    if not isinstance(row, dict):
        raise UserError(f'{where}: not an object such as {{"text": "..."}}')
    return row


def read_parquet(
    path: Path, settings: ReaderSettings, column: str | None = None
) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield each row, or one column of each, and where it stands."""
    number = 0
    try:
        with _open_parquet(path) as file:
            # Buffered, as else a column of a row group, which may be all of the file, is read at once.
            table = pyarrow.parquet.ParquetFile(file, buffer_size=CHUNK_CHARS, pre_buffer=False)
            _check_names(table.schema_arrow.names, path)
            for group in range(table.num_row_groups):
                for rows in _read_row_group(table, group, column, path, number, settings):
                    for row in rows:
                        yield f"{path}, row {number}", row
                        number += 1
    except (OSError, EOFError, zlib.error, UnicodeDecodeError, pyarrow.ArrowException) as error:
        raise UserError(f"{path} cannot be read as parquet: {error}: copy it again") from None


def _read_row_group(
    table: pyarrow.parquet.ParquetFile,
    number: int,
    column: str | None,
    path: Path,
    first: int,
    settings: ReaderSettings,
) -> Iterator[list[dict[str, Any]]]:
    """Yield the rows of a group, a few at a time, of which the ``first`` is that row of the file."""
    group = table.metadata.row_group(number)
    columns = map(group.column, range(group.num_columns))
    size = max([1, *(each.total_uncompressed_size for each in columns if column in (None, each.path_in_schema))])
    average = size / max(1, group.num_rows)
    # Beforehand, by what the file says of itself; pages have headers besides.
    if average > settings.max_document_chars + 10_000:
        raise too_long(path, f"row {first} or after it", settings)
    read = {"columns": None if column is None else [column], "use_threads": False}
    if group.num_rows == 1:
        # While it reads in batches, pyarrow holds all of a page, and its values.
        values = table.read_row_group(number, **read)
        _check_lengths(values, path, first, settings)
        rows = values.to_pylist()
        del values
        pyarrow.default_memory_pool().release_unused()
        yield rows
        return
    for batch in table.iter_batches(max(1, min(CHUNK_ROWS, int(4 * CHUNK_CHARS / average))), [number], **read):
        _check_lengths(batch, path, first, settings)
        first += batch.num_rows
        rows = batch.to_pylist()
        # A long document is in memory twice otherwise.
        del batch
        yield rows


def _check_lengths(rows: pyarrow.RecordBatch | pyarrow.Table, path: Path, first: int, settings: ReaderSettings) -> None:
    if rows.nbytes <= settings.max_document_chars:
        return
    for values in rows.columns:
        if pyarrow.types.is_string(values.type) or pyarrow.types.is_large_string(values.type):
            for number, length in enumerate(pyarrow.compute.binary_length(values).to_pylist(), first):
                if (length or 0) > settings.max_document_chars:
                    raise too_long(path, f"row {number}", settings)


def _open_parquet(path: Path) -> IO[bytes]:
    """Open a parquet file; a compressed one is copied, as it is read from its end, which such a stream cannot do."""
    file = open_binary(path)
    if path.suffix not in COMPRESSED:
        return file
    with file, ExitStack() as stack:
        copy = stack.enter_context(tempfile.TemporaryFile())
        shutil.copyfileobj(file, copy, CHUNK_CHARS)
        stack.pop_all()
    return copy


def choose_column(row: dict[str, Any], text_column: str | None, where: str, labels: Sequence[str] = ()) -> str:
    """Return the column that holds the text: the one asked for, else `text`, else the only one with strings.

    Columns of labels are not considered.
    """
    columns = f"columns: {', '.join(map(str, row))}"
    # An empty value may be a text elsewhere.
    strings = [name for name, value in row.items() if name not in labels and (value is None or isinstance(value, str))]
    if text_column is not None:
        if text_column in labels:
            raise UserError(f"--text_column {text_column} is the column of labels, or of the second text ({columns})")
        if text_column not in row:
            raise UserError(f"--text_column {text_column} is not in {where} ({columns})")
        column = text_column
    elif "text" in row and "text" not in labels:
        column = "text"
    elif len(strings) != 1:
        raise UserError(f"{where}: which column holds the text? give --text_column NAME ({columns})")
    else:
        (column,) = strings
        if len(row) == 1 and LOOKS_LIKE_TEXT.search(column):
            raise UserError(
                f"{where}: its only column is called {column[:80]!r}, which looks like text: put a line with the word "
                "text above it, give --csv_delimiter if it is several columns, or --text_column if it is a name"
            )
    return column


def text_in(row: dict[str, Any], column: str, where: str) -> str:
    """The text of a row, empty where there is none; UserError for what is no text."""
    if column not in row:
        raise UserError(f"{where}: no {column!r} (columns: {', '.join(row)})")
    text = "" if row[column] is None else row[column]
    if not isinstance(text, str):
        raise UserError(f"{where}: {column!r} holds {type(text).__name__}, not text: give --text_column NAME")
    check_unicode(text, where)
    return text.replace(BYTE_ORDER_MARK, "")


def check_unicode(text: str, where: str) -> None:
    """Raise UserError for lone surrogates, which JSON can write, as in texts cut in the middle of an emoji."""
    try:
        # Of plain ASCII nothing has to be looked at, nor copied.
        text.isascii() or text.encode()
    except UnicodeEncodeError:
        raise UserError(
            f"{where}: half a surrogate pair, which is no character: write the text anew as UTF-8"
        ) from None
