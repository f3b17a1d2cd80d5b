"""Read the documents or rows of one file of any format.

A document is a list of lines; a row of a table is a document of one line.
"""

from collections.abc import Iterator
from itertools import groupby, islice
from pathlib import Path
from typing import Any

from cloze.config.data_arguments import ReaderSettings
from cloze.text.columns import choose_column, read_column
from cloze.text.csv_rows import read_csv
from cloze.text.decoding import file_format, read_lines, too_long
from cloze.text.json_rows import read_json
from cloze.text.parquet_rows import read_parquet


def read_text(path: Path, settings: ReaderSettings) -> Iterator[list[str]]:
    """Yield the documents of a text file: separated by blank lines or, if there are none, one per line.

    Raises UserError for a document longer than ``settings.max_document_chars``, and for a file that cannot be read.
    """
    paragraphs = _has_blank_lines_between(path, settings)
    document: list[str] = []
    number, length, limit = 0, 0, settings.max_document_chars
    # enumerate would keep a reference to the previous line, which may be long.
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


def _has_blank_lines_between(path: Path, settings: ReaderSettings) -> bool:
    """Return whether a blank line has text before and after it."""
    has_text = (line != "" and not line.isspace() for line in read_lines(path, settings))
    paragraphs = filter(None, (key for key, _ in groupby(has_text)))
    return len(list(islice(paragraphs, 2))) == 2


def read_table(path: Path, text_column: str | None, settings: ReaderSettings) -> Iterator[list[str]]:
    """Yield the documents of a table: the text of each row; skip empty texts.

    Raises UserError for a file that cannot be read, and if ``choose_column`` finds no text column.
    """
    column = None
    if file_format(path) == ".parquet":
        # Choose the column first, to read only this one.
        column = next((choose_column(row, text_column, str(path)) for _, row in read_parquet(path, settings)), None)
    yield from read_column(read_rows(path, settings, column), column or text_column, str(path))


def read_rows(path: Path, settings: ReaderSettings, column: str | None = None) -> Iterator[tuple[str, dict[str, Any]]]:
    """Return an iterator of locations, such as "FILE, line 3", and rows.

    A non-blank line of a text file is a row ``{"text": line}``. ``column``, if given, is the only one read from a
    .parquet file. The iterator raises UserError for a file that cannot be read.
    """
    kind = file_format(path)
    if kind == ".parquet":
        return read_parquet(path, settings, column)
    readers = {".txt": _read_text_rows, ".csv": read_csv, ".tsv": read_csv}
    return readers.get(kind, read_json)(path, settings)


def _read_text_rows(path: Path, settings: ReaderSettings) -> Iterator[tuple[str, dict[str, str]]]:
    for number, line in enumerate(read_lines(path, settings), 1):
        if line.strip():
            yield f"{path}, line {number}", {"text": line.strip()}
