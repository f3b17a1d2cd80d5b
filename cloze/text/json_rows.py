"""Read the rows of .json and .jsonl files, each with its location."""

import json
import re
from collections.abc import Iterator
from itertools import chain
from pathlib import Path
from typing import Any

from cloze.config.data_arguments import ReaderSettings
from cloze.errors import UserError
from cloze.text import decoding
from cloze.text.decoding import file_format, read_chunks, read_lines, too_long

# In a JSON array, by the previous sign: the signs that may follow, and whether a value may follow.
AFTER_SIGN = {"[": ("]", True), ",": ("", True), "]": ("", False)}
JSON_SPACE = re.compile(r"[ \t\n\r]*")


def read_json(path: Path, settings: ReaderSettings) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield the location of each row and the row: an object in an array, or one object per line.

    Raises UserError, with the line or row, for invalid JSON, values that are not objects, and values that are too long.
    """
    if file_format(path) == ".json" and _starts_with_bracket(path):
        for number, row in enumerate(_read_array(path, settings)):
            yield f"{path}, row {number}", _check_row(row, f"{path}, row {number}")
    else:
        yield from _read_lines_of_json(path, settings)


def _starts_with_bracket(path: Path) -> bool:
    return next((chunk.lstrip()[0] for chunk in read_chunks(path) if chunk.strip()), "") == "["


def _read_lines_of_json(path: Path, settings: ReaderSettings) -> Iterator[tuple[str, dict[str, Any]]]:
    number = 0
    for line in read_lines(path, settings):
        number += 1  # noqa: SIM113
        if line and not line.isspace():
            where = f"{path}, line {number}"
            try:
                row = json.loads(line)
            except (ValueError, RecursionError) as error:  # also for a number too long or a value too deep
                message = getattr(error, "msg", error)
                raise UserError(f"{where}: not JSON ({message}): every line must be an object") from None
            # Free a long line before its row is used.
            del line
            yield where, _check_row(row, where)


def _read_array(path: Path, settings: ReaderSettings) -> Iterator[Any]:
    """Yield the values of a JSON array, decoding them one by one while the file is read."""
    decode, limit = json.JSONDecoder().raw_decode, settings.max_document_chars
    text, position, lines = "", 0, 1  # the text is decoded up to the position, and begins in this line
    waiting, size = [], 0
    signs, takes_value = "[", False  # what may follow

    def line_at(position: int) -> int:
        return lines + text.count("\n", 0, position)

    for part in chain(read_chunks(path), [None]):
        if part is not None:
            waiting.append(part)
            size += len(part)
            # Wait until an unfinished value has doubled, because decoding it starts again from its beginning.
            if size < max(decoding.CHUNK_CHARS, min(len(text) - position, limit - len(text) + position)):
                continue
        lines = line_at(position)
        text, position = "".join([text[position:], *waiting]), 0
        waiting, size = [], 0
        try:
            while (position := _skip_space(text, position)) < len(text):
                if text[position] in signs:
                    signs, takes_value = AFTER_SIGN[text[position]]
                    position += 1
                elif takes_value:
                    value, end = decode(text, position)
                    if end - position > limit:
                        raise too_long(path, f"line {line_at(position)}", settings)
                    position, signs, takes_value = end, ",]", False
                    if position > 2 * decoding.CHUNK_CHARS:
                        lines = line_at(position)
                        text, position = text[position:], 0
                    yield value
                else:
                    raise json.JSONDecodeError("Expecting ',' delimiter" if signs else "Extra data", text, position)
            if part is None and (signs or takes_value):
                raise json.JSONDecodeError(
                    "Expecting value" if takes_value else "Expecting ',' delimiter", text, position
                )
        except (ValueError, RecursionError) as error:  # also for a number too long or a value too deep
            if part is None or not _is_unfinished(error):
                line, message = line_at(getattr(error, "pos", position)), getattr(error, "msg", error)
                raise UserError(
                    f"{path}, line {line}: not JSON ({message}): the file must be an array of objects"
                ) from None
            if len(text) - position > limit:
                raise too_long(path, f"line {line_at(position)}", settings) from None


def _skip_space(text: str, position: int) -> int:
    found = JSON_SPACE.match(text, position)
    assert found is not None, "the pattern matches the empty string"
    return found.end()


def _is_unfinished(error: ValueError | RecursionError) -> bool:
    """Return whether more text may resolve the error: an unterminated string, or an error in the last characters."""
    return isinstance(error, json.JSONDecodeError) and (
        error.msg.startswith("Unterminated string") or error.pos > len(error.doc) - 16
    )


def _check_row(row: Any, where: str) -> dict[str, Any]:
    """Return the row; raise UserError if it is not an object."""
    if not isinstance(row, dict):
        raise UserError(f'{where}: not an object such as {{"text": "..."}}')
    return row
