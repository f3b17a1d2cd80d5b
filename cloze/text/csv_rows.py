"""Read the rows of .csv and .tsv files, each with its location."""

import csv
from collections.abc import Iterator
from functools import partial
from itertools import chain, islice
from pathlib import Path
from typing import Any, Literal

from cloze.config.data_arguments import ReaderSettings
from cloze.errors import UserError
from cloze.text import decoding
from cloze.text.columns import check_names
from cloze.text.decoding import file_format, read_lines, too_long

# Candidates for the delimiter of a .csv file, the likeliest first, and the number of rows to try them on.
DELIMITERS = ",;\t|"
SAMPLED_ROWS = 100


def read_csv(path: Path, settings: ReaderSettings) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield the location of each row below the header, and the row.

    Raises UserError for a row whose number of fields differs from the header's, and for broken quotes.
    """
    is_tsv = file_format(path) == ".tsv"
    header = None
    try:
        for first, line, row in _read_csv_rows(path, find_delimiter(path, settings), settings):
            where = f"{path}, line {line}"
            if line > first and is_tsv and settings.quoting is None:
                raise UserError(
                    f"{path}: quotes join lines {first} to {line} into one row: give --csv_quoting none if quotes are "
                    "text, or --csv_quoting minimal if the row spans lines"
                )
            if not row:
                continue
            if header is None:
                header = check_names(row, path)
                continue
            if len(row) != len(header):
                raise UserError(
                    f"{where}: {len(row)} fields, but the header has {len(header)}: quote the text, or give "
                    "--csv_delimiter"
                )
            yield where, dict(zip(header, row, strict=True))
    except csv.Error as error:
        raise UserError(
            f"{error}: check the quotes around the text, or give --csv_quoting none if quotes are text"
        ) from None


def _read_csv_rows(path: Path, delimiter: str, settings: ReaderSettings) -> Iterator[tuple[int, int, list[str]]]:
    """Yield the first and last line number of each row, and its fields; raise csv.Error with the lines."""
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
    quoting: Literal[0, 3] = csv.QUOTE_NONE if settings.quoting == "none" else csv.QUOTE_MINIMAL
    new_reader = partial(csv.reader, lines, delimiter=delimiter, quoting=quoting, strict=True)
    csv.field_size_limit(decoding.CHUNK_CHARS)
    reader = new_reader()
    try:
        while True:
            try:
                row = next(reader, None)
            except csv.Error:
                # The field is too long for the library's reader, which takes 4 bytes or more per character.
                if sum(map(len, taken)) <= decoding.CHUNK_CHARS:
                    raise
                row, reader = None, new_reader()
                row = _split_long_row(chain(taken.copy(), lines), delimiter, quoting)
            if row is None:
                return
            first, before, length = before + 1, before + len(taken), 0
            taken.clear()
            yield first, before, row
    except csv.Error as error:
        # An unclosed quote is detected only at the end of the file, far behind its row.
        rows = f"line {before + 1}" if len(taken) < 2 else f"lines {before + 1} to {before + len(taken)}"
        raise csv.Error(f"{path}, {rows}: {error}") from None


def _split_long_row(lines: Iterator[str], delimiter: str, quoting: int) -> list[str]:
    """Return the fields of the first row, as csv.reader would, in less memory."""
    row: list[str] = []
    quoted: list[str] | None = None  # the beginning of a field in quotes
    for line in lines:
        position = 0
        while True:
            if quoted is None and quoting != csv.QUOTE_NONE and line.startswith('"', position):
                quoted, position = [], position + 1
            if quoted is None:
                end = line.find(delimiter, position)
                end = len(line.removesuffix("\n")) if end < 0 else end
                row.append(line[position:end])
            else:
                end = line.find('"', position)
                quoted.append(line[position:] if end < 0 else line[position:end])
                if end < 0:
                    break
                end += 1
                if line.startswith('"', end):
                    quoted.append('"')
                    position = end + 1
                    continue
                if line[end : end + 1] not in (delimiter, "\n", ""):
                    raise csv.Error(f"'{delimiter}' expected after '\"'")
                row.append("".join(quoted))
                quoted = None
            if not line.startswith(delimiter, end):
                return row
            position = end + 1
    raise csv.Error("unexpected end of data")


def find_delimiter(path: Path, settings: ReaderSettings) -> str:
    """Return the delimiter from the settings, a tab for a .tsv, or the delimiter detected in a .csv.

    The first of DELIMITERS that splits the header and SAMPLED_ROWS into the same number of fields, two or more, is
    detected; a comma if none does.
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
