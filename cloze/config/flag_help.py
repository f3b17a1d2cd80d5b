"""Describe the flags of a script for --help and docs/flags.md."""

import dataclasses
import enum
import shutil
import textwrap
import typing
from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

from cloze.config.flag_groups import GROUPS, REST, UPSTREAM_HELP

# A longer list of choices, such as the forty optimizers, is left out.
MAX_CHOICES = 12
# Columns of --help: where the text begins, the widest line, and the width without a terminal.
TEXT_COLUMN, MAX_WIDTH, PIPE_WIDTH = 36, 120, 100


class Flag(NamedTuple):
    """Describe a flag.

    Attributes:
        value: the type of its value, as INT or "STR ..."; empty for switches.
        choices: the values it takes; empty if there are others, or many.
        default: as text; empty for null, false and empty values.
    """

    name: str
    value: str
    choices: list[str]
    default: str
    help: str


def flags_of(types: Iterable[type]) -> dict[str, Flag]:
    """Return the flags of dataclasses by name, in the order of their fields."""
    flags = {}
    for dtype in types:
        hints = typing.get_type_hints(dtype)
        for field in dataclasses.fields(dtype):
            if field.init:
                flags[field.name] = _describe(field, hints[field.name])
    return flags


def grouped(flags: dict[str, Flag]) -> Iterator[tuple[str, list[Flag]]]:
    """Yield the title and the flags of each group that has any, the other flags of transformers last."""
    names = [name for group in GROUPS.values() for name in group]
    rest = [name for name in flags if name not in names]
    for title, group in {**GROUPS, REST: rest}.items():
        found = [flags[name] for name in group if name in flags]
        if found:
            yield title, found


def format_flags(types: Iterable[type]) -> str:
    """Return the groups of flags as text, as wide as the terminal."""
    width = min(shutil.get_terminal_size((PIPE_WIDTH, 24)).columns, MAX_WIDTH)
    sections = (
        "\n".join([f"{title}:", *(_format_flag(flag, width) for flag in flags)])
        for title, flags in grouped(flags_of(types))
    )
    return "\n\n".join(sections) + "\n"


def _describe(field: dataclasses.Field, hint: Any) -> Flag:
    kinds = [hint] if typing.get_origin(hint) is list else list(typing.get_args(hint)) or [hint]
    enums = [kind for kind in kinds if isinstance(kind, type) and issubclass(kind, enum.Enum)]
    choices = field.metadata.get("choices") or [member.value for kind in enums for member in kind]
    if len(choices) > MAX_CHOICES:
        choices = []
    text = UPSTREAM_HELP.get(field.name) or field.metadata.get("help", "").replace("%%", "%")
    return Flag(field.name, _value(kinds, field.default), choices, _default(field.default), " ".join(text.split()))


def _value(kinds: list[Any], default: Any) -> str:
    """Return the type of a value as the command line has it: the first that a union allows."""
    if bool in kinds and str not in kinds:
        return "BOOL" if default is None else ""
    if any((typing.get_origin(kind) or kind) is dict for kind in kinds):
        return "JSON"
    if any(typing.get_origin(kind) is list for kind in kinds):
        return "STR ..."
    return next((name for kind, name in {int: "INT", float: "FLOAT"}.items() if kind in kinds), "STR")


def _default(default: Any) -> str:
    if default is True:
        return "on"
    if default in (None, "", dataclasses.MISSING) or default is False:
        return ""
    return str(default.value if isinstance(default, enum.Enum) else default)


def _format_flag(flag: Flag, width: int) -> str:
    notes = []
    if flag.choices:
        notes.append(f"choices: {', '.join(flag.choices)}")
    if flag.default:
        notes.append(f"default: {flag.default}")
    head = f"  --{flag.name} {flag.value}".rstrip()
    text = f"{flag.help} ({'; '.join(notes)})" if notes else flag.help
    lines = textwrap.wrap(text, max(width - TEXT_COLUMN, 20), break_on_hyphens=False)
    if len(head) < TEXT_COLUMN - 1:
        head = f"{head:<{TEXT_COLUMN}}{lines.pop(0)}"
    return "\n".join([head, *(" " * TEXT_COLUMN + line for line in lines)])
