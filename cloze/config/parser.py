"""Parse recipe and command line into dataclasses: defaults < recipe < command line."""

import argparse
import dataclasses
import inspect
import json
import math
import os
import reprlib
import typing
from collections.abc import Callable, Sequence
from typing import NoReturn

from transformers import HfArgumentParser

from cloze.config.adaptation_arguments import AdaptationArguments
from cloze.config.arguments import ModelArguments, TrainingArguments
from cloze.config.data_arguments import DataArguments, check_together
from cloze.config.deprecated_flags import update_flags
from cloze.config.flag_help import format_flags
from cloze.config.named_texts import split_name
from cloze.config.recipes import MAX_CHARACTERS, RECIPE_SUFFIXES, did_you_mean, is_token, recipe_to_argv
from cloze.errors import UserError
from cloze.system.bundled import find_bundled

# Flags of files that the scripts open themselves.
TEXT_FILES = ("train_file", "validation_file", "test_file")
# Larger integers do not fit into tensors and counters.
MAX_NUMBER = 2**63
# What transformers raises for invalid settings.
SETTINGS_ERRORS = (ValueError, TypeError, OverflowError, RecursionError, OSError, ImportError, NotImplementedError)


DESCRIPTION = """
RECIPE.yaml is a YAML or JSON file of the flags below. Flags on the command line override it.
A flag without a type is a switch, off by default: --flag turns it on, --flag false turns it off.
"""


class Parser(HfArgumentParser):
    """Raise UserError for what cannot be parsed, and show the flags in groups."""

    def error(self, message: str) -> NoReturn:
        """Raise UserError in place of printing the usage."""
        raise UserError(message.removeprefix("argument "))

    def format_help(self) -> str:
        """Return the text of --help."""
        return f"{self.format_usage()}{DESCRIPTION}\n{format_flags(self.dataclass_types)}"


def settings_of(main: Callable) -> list[type]:
    """Return the dataclasses of a script's settings: the annotations of its main()."""
    hints = typing.get_type_hints(main)
    return [hints[name] for name in inspect.signature(main).parameters]


def parse(argv: Sequence[str], types: Sequence[type]) -> tuple[ModelArguments, DataArguments, TrainingArguments]:
    """Parse ``[RECIPE] --flag value ...`` into dataclasses of these types, with values of the fields' types.

    Raises:
        UserError: for unknown flags, and for invalid values, alone or together.
    """
    parser = Parser(
        types,  # type: ignore[arg-type]  # no class fits the declared NewType
        allow_abbrev=False,  # misspelt flags are errors
        usage="%(prog)s [RECIPE.yaml] [--flag value ...]",
    )
    known = _known_settings(types)
    defaults = vars(parser.parse_args([]))
    namespace = _parse_recipe_and_flags(parser, list(argv), known)
    _check_values(namespace)
    _check_dicts(namespace, known)
    namespace.train_file = namespace.train_file and [_find_text(value) for value in namespace.train_file]
    try:
        model_args, data_args, training_args = parser.parse_dict(vars(namespace))
    except SETTINGS_ERRORS as error:
        # The message names the flag.
        raise UserError(f"{error}") from None
    names = [field.name for field in dataclasses.fields(training_args) if field.init and not is_token(field.name)]
    settings = {name: getattr(namespace, name) for name in names}
    training_args.resolved = {k: v for k, v in settings.items() if v != defaults[k] or v not in (None, "", [], {})}
    _check_reporting(training_args.report_to)
    check_together(data_args, training_args)
    if isinstance(model_args, AdaptationArguments):
        model_args.check_run(training_args)
    return model_args, data_args, training_args


def _find_text(value: str) -> str:
    """Return PATH or NAME=PATH with the path of a bundled text, if it names one."""
    name, path = split_name(value)
    return f"{name}={find_bundled(path)}" if name else find_bundled(path)


def _known_settings(types: Sequence[type]) -> dict[str, type]:
    """Return the name and declared type of every setting; the parser changes the types in the fields."""
    known: dict[str, type] = {}
    for dtype in types:
        hints = typing.get_type_hints(dtype)
        known |= {field.name: hints[field.name] for field in dataclasses.fields(dtype) if field.init}
    return known


def _parse_recipe_and_flags(parser: Parser, argv: list[str], known: dict[str, type]) -> argparse.Namespace:
    recipe_argv: list[str] = []
    if argv and not argv[0].startswith("-"):
        recipe = find_bundled(argv.pop(0))
        recipe_argv, nulls = recipe_to_argv(recipe, known)
        parser.set_defaults(**nulls)
        try:  # alone first: errors name the recipe, not the command line
            parser.parse_args(recipe_argv)
        except UserError as error:
            raise UserError(f"{recipe}: {error}") from None
    namespace, unknown = parser.parse_known_args(recipe_argv + update_flags(argv))
    if unknown and unknown[0].endswith(RECIPE_SUFFIXES):
        raise UserError(f"{unknown[0]}: a recipe is the first argument, before the flags")
    if unknown:
        # Without the value, which may be a secret.
        name = unknown[0].partition("=")[0]
        raise UserError(f"unknown argument {name}{did_you_mean(name, known, prefix='--')}")
    return namespace


def _check_values(namespace: argparse.Namespace) -> None:
    """Raise UserError for huge numbers, NaN, and text that is not UTF-8.

    Libraries cannot write such text. Names of text files may contain it.
    """
    for name, value in vars(namespace).items():
        if isinstance(value, int) and abs(value) >= MAX_NUMBER:
            raise UserError(f"--{name} {reprlib.repr(value)} is too large: give less than {MAX_NUMBER}")
        if isinstance(value, float) and math.isnan(value):
            raise UserError(f"--{name} {value} is not a number: give one")
        for text in value if isinstance(value, list) else [value]:
            if isinstance(text, str) and name not in TEXT_FILES and any("\ud800" <= char <= "\udfff" for char in text):
                raise UserError(f"--{name} {text!a} is not UTF-8: rename the file, folder or model")


def _check_dicts(namespace: argparse.Namespace, known: dict[str, type]) -> None:
    """Raise UserError with the flag for JSON that transformers cannot read."""
    for name, value in vars(namespace).items():
        kinds = {typing.get_origin(kind) or kind for kind in typing.get_args(known[name])}
        if not (isinstance(value, str) and {dict, str} <= kinds):
            continue
        # The value may be the path of a JSON file.
        if os.path.exists(value) and not (os.path.isfile(value) and os.path.getsize(value) <= MAX_CHARACTERS):
            raise UserError(f"--{name} {value} is not a JSON file of at most {MAX_CHARACTERS:,} bytes")
        if value.startswith("{"):
            try:
                json.loads(value)
            except (ValueError, RecursionError) as error:
                raise UserError(f"--{name} {value}: not JSON: {error}") from None


def _check_reporting(report_to: Sequence[str]) -> None:
    """Raise UserError for a tracker that is not installed, before transformers shows a traceback."""
    if not report_to:
        return
    # This import takes as long as all others so far.
    from transformers.integrations import get_available_reporting_integrations

    for name in report_to:
        if name not in get_available_reporting_integrations():
            raise UserError(f"--report_to {name} is not installed or unknown: pip install {name}, or drop the flag")
