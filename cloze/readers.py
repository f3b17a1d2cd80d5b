"""One file -> documents. A document is a list of lines; a row of a table is a document of one line."""

import csv
import gzip
import io
import json
import os
import re
import sys
import zlib
from collections import Counter
from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet

from cloze.arguments import UserError
from cloze.data_arguments import CsvDialect

FORMATS = (".txt", ".csv", ".tsv", ".json", ".jsonl", ".parquet")
COMPRESSED = (".gz", ".zst")
BYTE_ORDER_MARK = "\ufeff"

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


def read_lines(path: Path) -> Iterator[str]:
    """Yield the lines of a UTF-8 file, ended by LF, CRLF or CR, each with a line feed and without byte-order marks."""
    number = 0
    try:
        with io.TextIOWrapper(open_binary(path), "utf-8") as file:
            for line in file:
                number += 1
                # Files that were joined have a mark at each one's beginning.
                yield line.replace(BYTE_ORDER_MARK, "") if BYTE_ORDER_MARK in line else line
    except UnicodeDecodeError as error:
        byte = error.object[error.start]
        raise UserError(
            f"{path}, line {_first_undecodable_line(path)}: byte 0x{byte:02x} is not UTF-8: convert the file, as by "
            "iconv -t UTF-8"
        ) from None
    except (OSError, EOFError, zlib.error) as error:
        raise UserError(f"{path} cannot be read after line {number}: {error}: copy or compress it again") from None


def _first_undecodable_line(path: Path) -> int:
    # The file is decoded in portions, of which an error does not say where the lines begin.
    with io.TextIOWrapper(open_binary(path), "utf-8", errors="surrogateescape") as file:
        return next(number for number, line in enumerate(file, 1) if re.search("[\udc80-\udcff]", line))


def read_text(path: Path) -> Iterator[list[str]]:
    """Documents of a text file: blank lines separate them; where there are none, each line is one."""
    paragraphs = has_blank_lines_between(path)
    document: list[str] = []
    for line in read_lines(path):
        line = line.strip()
        if line:
            document.append(line)
        if document and not (line and paragraphs):
            yield document
            document = []
    if document:
        yield document


def has_blank_lines_between(path: Path) -> bool:
    text_before = blank_before = False
    for line in read_lines(path):
        if not line.strip():
            blank_before = text_before
        elif blank_before:
            return True
        else:
            text_before = True
    return False


def read_table(path: Path, text_column: str | None, dialect: CsvDialect) -> Iterator[list[str]]:
    """Documents of a table: the text of each row, rows without text left out."""
    column = None
    for where, row in read_rows(path, dialect):
        column = column or choose_column(row, text_column, str(path))
        text = text_in(row, column, where).strip()
        if text:
            yield [text]


def read_rows(path: Path, dialect: CsvDialect) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield each row, and where it stands; a line of a text file that is not blank is a row with a text."""
    kind = file_format(path)
    if kind == ".txt":
        return _read_text_rows(path)
    if kind in (".csv", ".tsv"):
        return read_csv(path, dialect)
    if kind == ".parquet":
        return read_parquet(path)
    if kind == ".json" and starts_with_bracket(path):
        return read_json(path)
    return read_json_lines(path)


def _read_text_rows(path: Path) -> Iterator[tuple[str, dict[str, str]]]:
    for number, line in enumerate(read_lines(path), 1):
        if line.strip():
            yield f"{path}, line {number}", {"text": line.strip()}


def read_csv(path: Path, dialect: CsvDialect) -> Iterator[tuple[str, dict[str, Any]]]:
    is_tsv = file_format(path) == ".tsv"
    reader = _csv_reader(path, find_delimiter(path, dialect), dialect)
    header, line = None, 0
    try:
        for row in reader:
            first, line = line + 1, reader.line_num
            where = f"{path}, line {line}"
            if line > first and is_tsv and dialect.quoting is None:
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
        # A quote that is left open is noticed at the end of the file, far behind its row.
        lines = f"line {line + 1}" if reader.line_num == line + 1 else f"lines {line + 1} to {reader.line_num}"
        raise UserError(
            f"{path}, {lines}: {error}: check the quotes around the text, or give --csv_quoting none where quotes are "
            "text"
        ) from None


def _csv_reader(path: Path, delimiter: str, dialect: CsvDialect):
    csv.field_size_limit(sys.maxsize)
    quoting = csv.QUOTE_NONE if dialect.quoting == "none" else csv.QUOTE_MINIMAL
    return csv.reader(read_lines(path), delimiter=delimiter, quoting=quoting, strict=True)


def find_delimiter(path: Path, dialect: CsvDialect) -> str:
    """Return the delimiter that is given, a tab of a .tsv, or what divides a .csv.

    That is the one by which the first rows all have as many fields as the header, two or more; else a comma.
    """
    if dialect.delimiter is not None or file_format(path) == ".tsv":
        return dialect.delimiter or "\t"
    for delimiter in DELIMITERS:
        try:
            counts = set(map(len, islice(filter(None, _csv_reader(path, delimiter, dialect)), SAMPLED_ROWS)))
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


def read_json_lines(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    for number, line in enumerate(read_lines(path), 1):
        if line.strip():
            where = f"{path}, line {number}"
            try:
                row = json.loads(line)
            except json.JSONDecodeError as error:
                raise UserError(f"{where}: not JSON ({error.msg}): every line must be an object") from None
            yield where, check_row(row, where)


def starts_with_bracket(path: Path) -> bool:
    return next((line.lstrip()[0] for line in read_lines(path) if line.strip()), "") == "["


def read_json(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    try:
        rows = json.loads("".join(read_lines(path)))
    except json.JSONDecodeError as error:
        raise UserError(
            f"{path}, line {error.lineno}: not JSON ({error.msg}): the file must be an array of objects"
        ) from None
    for number, row in enumerate(rows):
        yield f"{path}, row {number}", check_row(row, f"{path}, row {number}")


def check_row(row: Any, where: str) -> dict[str, Any]:
    if not isinstance(row, dict):
        raise UserError(f'{where}: not an object such as {{"text": "..."}}')
    return row


def read_parquet(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    number = 0
    try:
        with open_binary(path) as file:
            # A parquet file is read from its end, which a compressed stream cannot do.
            source = io.BytesIO(file.read()) if path.suffix in COMPRESSED else file
            table = pyarrow.parquet.ParquetFile(source)
            _check_names(table.schema_arrow.names, path)
            for batch in table.iter_batches():
                for row in batch.to_pylist():
                    yield f"{path}, row {number}", row
                    number += 1
    except (OSError, EOFError, zlib.error, UnicodeDecodeError, pyarrow.ArrowException) as error:
        raise UserError(f"{path} cannot be read as parquet: {error}: copy it again") from None


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
        text.encode()
    except UnicodeEncodeError:
        raise UserError(
            f"{where}: half a surrogate pair, which is no character: write the text anew as UTF-8"
        ) from None
