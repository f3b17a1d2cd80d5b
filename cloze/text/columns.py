"""Choose the text column of a table, and read the text in its rows."""

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from cloze.errors import UserError
from cloze.text.decoding import BYTE_ORDER_MARK

# Matches a sentence, also in scripts without spaces, or a row of several fields, but not a name such as "Review text".
LOOKS_LIKE_TEXT = re.compile(r"[.!?…。！？।؟۔።။]\W*$|[,;|\t]|\S\s+\S+\s+\S+\s+\S|[\u3040-\u9fff]{10}|.{40}")  # noqa: RUF001


def choose_column(row: dict[str, Any], text_column: str | None, where: str, labels: Sequence[str] = ()) -> str:
    """Return the text column: ``text_column`` if given, else `text`, else the only column of strings.

    Columns in ``labels`` are skipped. Raises UserError if no column or more than one qualifies.
    """
    columns = f"columns: {', '.join(map(str, row))}"
    # A value that is empty in this row may be text in others.
    strings = [name for name, value in row.items() if name not in labels and (value is None or isinstance(value, str))]
    if text_column is not None:
        if text_column in labels:
            raise UserError(
                f"--text_column {text_column} holds the labels or the second text: give another column ({columns})"
            )
        if text_column not in row:
            raise UserError(f"--text_column {text_column} is not in {where} ({columns})")
        column = text_column
    elif "text" in row and "text" not in labels:
        column = "text"
    elif len(strings) != 1:
        raise UserError(f"{where}: cannot determine which column holds the text: give --text_column NAME ({columns})")
    else:
        (column,) = strings
        if len(row) == 1 and LOOKS_LIKE_TEXT.search(column):
            raise UserError(
                f"{where}: the only column name, {column[:80]!r}, looks like text: add the header line text, give "
                "--csv_delimiter if there are several columns, or --text_column if this is the name"
            )
    return column


def read_column(rows: Iterable[tuple[str, dict[str, Any]]], text_column: str | None, name: str) -> Iterator[list[str]]:
    """Yield the text of each row as a document of one line; skip empty texts.

    ``rows`` are pairs of location and row; ``name`` is the table's name in errors about the column.
    """
    column = None
    for where, row in rows:
        column = column or choose_column(row, text_column, name)
        text = text_in(row, column, where).strip()
        if text:
            yield [text]


def text_in(row: dict[str, Any], column: str, where: str) -> str:
    """Return the text of a row, empty if it is missing; raise UserError for values that are not text."""
    if column not in row:
        raise UserError(f"{where}: no column {column!r} (columns: {', '.join(row)})")
    text = "" if row[column] is None else row[column]
    if not isinstance(text, str):
        raise UserError(f"{where}: column {column!r} holds {type(text).__name__}, not text: give --text_column NAME")
    check_unicode(text, where)
    return text.replace(BYTE_ORDER_MARK, "")


def check_unicode(text: str, where: str) -> None:
    """Raise UserError for unpaired surrogates, which JSON can contain, for example in text cut inside an emoji."""
    try:
        # ASCII needs no check, and encoding it would copy it.
        text.isascii() or text.encode()
    except UnicodeEncodeError:
        raise UserError(f"{where} contains an unpaired surrogate: save the text again as UTF-8") from None


def check_names(names: Sequence[str], path: Path) -> Sequence[str]:
    """Return the column names; raise UserError for duplicates, except of the empty name."""
    name, count = Counter(filter(None, names)).most_common(1)[0] if any(names) else ("", 0)
    if count > 1:
        raise UserError(f"{path}: {count} columns are named {name}: rename them (columns: {', '.join(names)})")
    return names
