"""Files of JSON, an array or a line for each row -> rows, each with the place where it stands."""

import json
import re
from collections.abc import Iterator
from itertools import chain
from pathlib import Path
from typing import Any

from cloze.config.data_arguments import ReaderSettings
from cloze.errors import UserError
from cloze.text import decoding
from cloze.text.decoding import read_chunks, read_lines, too_long

# In a JSON array: the signs that may follow one, and whether a value may.
AFTER_SIGN = {"[": ("]", True), ",": ("", True), "]": ("", False)}
JSON_SPACE = re.compile(r"[ \t\n\r]*")


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
    return next((chunk.lstrip()[0] for chunk in read_chunks(path) if chunk.strip()), "") == "["


def read_json(path: Path, settings: ReaderSettings) -> Iterator[tuple[str, dict[str, Any]]]:
    for number, row in enumerate(_read_array(path, settings)):
        yield f"{path}, row {number}", check_row(row, f"{path}, row {number}")


def _read_array(path: Path, settings: ReaderSettings) -> Iterator[Any]:
    """Yield the values of a JSON array, decoded one by one while the file is read."""
    decode, limit = json.JSONDecoder().raw_decode, settings.max_document_chars
    text, place, lines = "", 0, 1  # decoded up to the place; the line in which the text begins
    waiting, size = [], 0
    signs, takes_value = "[", False  # what may follow
    for part in chain(read_chunks(path), [None]):
        if part is not None:
            waiting.append(part)
            size += len(part)
            # As much again as there is of a value, so that a long one is not begun too often.
            if size < max(decoding.CHUNK_CHARS, min(len(text) - place, limit - len(text) + place)):
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
                    if place > 2 * decoding.CHUNK_CHARS:
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
