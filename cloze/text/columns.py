"""Choose the column of a table that holds the text, and read the text in its rows."""

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from cloze.errors import UserError
from cloze.text.decoding import BYTE_ORDER_MARK

# A sentence, one of a script without spaces, or a row of several fields, but not "Review text", which names a column.
LOOKS_LIKE_TEXT = re.compile(r"[.!?…。！？।؟۔።။]\W*$|[,;|\t]|\S\s+\S+\s+\S+\s+\S|[\u3040-\u9fff]{10}|.{40}")  # noqa: RUF001


def choose_column(row: dict[str, Any], text_column: str | None, where: str, labels: Sequence[str] = ()) -> str:
    """Return the column that holds the text: ``text_column`` if given, else `text`, else the only one with strings.

    Columns of ``labels`` are not considered. Raises UserError where no column, or more than one, could hold the text.
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


def read_column(rows: Iterable[tuple[str, dict[str, Any]]], text_column: str | None, name: str) -> Iterator[list[str]]:
    """Yield the text of each row that has one, as a document of one line.

    Args:
        rows: each with where it stands.
        name: where they all stand, for errors about the column.
    """
    column = None
    for where, row in rows:
        column = column or choose_column(row, text_column, name)
        text = text_in(row, column, where).strip()
        if text:
            yield [text]


def text_in(row: dict[str, Any], column: str, where: str) -> str:
    """Return the text of a row, empty where there is none; raise UserError for other values."""
    if column not in row:
        raise UserError(f"{where}: no {column!r} (columns: {', '.join(row)})")
    text = "" if row[column] is None else row[column]
    if not isinstance(text, str):
        raise UserError(f"{where}: {column!r} holds {type(text).__name__}, not text: give --text_column NAME")
    check_unicode(text, where)
    return text.replace(BYTE_ORDER_MARK, "")


def check_unicode(text: str, where: str) -> None:
    """Raise UserError for unpaired surrogates, which JSON can write, as in texts cut in the middle of an emoji."""
    try:
        # ASCII needs no check, and no copy.
        text.isascii() or text.encode()
    except UnicodeEncodeError:
        raise UserError(
            f"{where}: half a surrogate pair, which is no character: write the text anew as UTF-8"
        ) from None


def check_names(names: Sequence[str], path: Path) -> Sequence[str]:
    """Return the names of columns; raise UserError if two are the same, unless they are empty."""
    name, count = Counter(filter(None, names)).most_common(1)[0] if any(names) else ("", 0)
    if count > 1:
        raise UserError(f"{path}: {count} columns are called {name}: rename them (columns: {', '.join(names)})")
    return names
