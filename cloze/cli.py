"""Recipe and command line -> dataclasses: defaults < recipe < command line."""

import argparse
import dataclasses
import inspect
import json
import logging
import math
import multiprocessing
import os
import reprlib
import signal
import sys
import typing
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from itertools import chain

from transformers import HfArgumentParser

from cloze.config.arguments import ModelArguments, TrainingArguments
from cloze.config.data_arguments import DataArguments, check_together
from cloze.config.deprecated_flags import update_flags
from cloze.config.recipes import MAX_CHARACTERS, RECIPE_SUFFIXES, did_you_mean, is_token, recipe_to_argv
from cloze.config.redaction import SecretFormatter, find_secrets, redact
from cloze.errors import UserError
from cloze.system.locks import lock_output_dir
from cloze.system.signals import exit_immediately, handled, ignore_signals
from cloze.training.callbacks import destroying_process_group
from cloze.training.checkpoints import without_new_folders

logger = logging.getLogger(__name__)

# Settings that name files which the scripts open themselves.
TEXT_FILES = ("train_file", "validation_file", "test_file")
# Of an error, on each side of what is left out: it may repeat a value, which can be as long as a recipe.
MAX_MESSAGE_HALF = 1_000
# Whole numbers beyond it fit no tensor, nor what counts steps and bytes.
MAX_NUMBER = 2**63
# What transformers raises for settings that it takes for wrong, or cannot read.
SETTINGS_ERRORS = (
    *(ValueError, TypeError, OverflowError, RecursionError),
    *(OSError, ImportError, NotImplementedError),
)


class Parser(HfArgumentParser):
    """HfArgumentParser that raises UserError, and takes no abbreviations, so that misspelt flags are found."""

    def __init__(self, dataclass_types):
        super().__init__(
            dataclass_types,
            allow_abbrev=False,
            usage="%(prog)s [RECIPE.yaml] [--flag value ...]",
            description="Settings come from the recipe, a YAML or JSON file of the flags below; the command line wins.",
        )

    def error(self, message):
        raise UserError(message.removeprefix("argument "))


def run_script(main: Callable, argv: Sequence[str] | None = None) -> None:
    """Call ``main(model_args, data_args, training_args)`` with settings of the classes that its annotations name.

    A UserError becomes one line on stderr and exit code 2; a signal, that of signals.exit_code.
    """
    argv = sys.argv[1:] if argv is None else argv
    secrets = find_secrets(argv)
    with handled(exit_immediately):
        start_logging(secrets)
        # Trackers send the command line along.
        sys.argv = [redact(argument, secrets) for argument in sys.argv]
        try:
            with errors_in_one_line(secrets):
                settings = parse(argv, settings_of(main))
                check_docstrings()
                model_args, _, args = settings
                # A recipe may have one, too.
                secrets |= {token for token in (model_args.token, args.hub_token) if token}
                leaves_nothing = without_new_folders(args.output_dir) if args.dry_run else nullcontext()
                locked = lock_output_dir(args.output_dir, dry_run=args.dry_run, prepare_only=args.prepare_only)
                with leaves_nothing, locked, destroying_process_group():
                    if args.report_to:
                        # Models and data sets are imported with it.
                        from cloze.training.trackers import check_login

                        check_login(args)
                    main(*settings)
                    # All is done, and the exit code is to say so.
                    ignore_signals()
        finally:
            # Data-loader workers that outlive an epoch: at its exit, Python would send them the signal that they leave
            # to it, and wait for their end. To torch's handler, their death would be an error.
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            for worker in multiprocessing.active_children():
                if worker.daemon:
                    worker.kill()


def check_docstrings() -> None:
    """Raise UserError for python -OO: transformers reads the docstrings of its models, which are left out then."""
    if sys.flags.optimize > 1:
        raise UserError("transformers cannot build a model without docstrings: start python with -O at most, not -OO")


@contextmanager
def errors_in_one_line(secrets: set[str]) -> Iterator[None]:
    """End the process with exit code 2 and one line on stderr where a UserError is raised."""
    try:
        yield
    except UserError as error:
        # From a data-loader worker it comes with a traceback in front.
        message = redact(" ".join(str(error).rpartition("UserError: ")[2].split()), secrets)
        if len(message) > 2 * MAX_MESSAGE_HALF:
            message = f"{message[:MAX_MESSAGE_HALF]} ... {message[-MAX_MESSAGE_HALF:]}"
        print("error:", message, file=sys.stderr)
        sys.exit(2)


def start_logging(secrets: set[str]) -> None:
    handler = logging.StreamHandler(sys.stdout)
    handler.setFormatter(SecretFormatter(secrets))
    log = logging.getLogger("cloze")
    log.setLevel(logging.INFO)
    log.handlers = [handler]


def settings_of(main: Callable) -> list[type]:
    """The dataclasses of a script's settings."""
    hints = typing.get_type_hints(main)
    return [hints[name] for name in inspect.signature(main).parameters]


def parse(argv: Sequence[str], types: Sequence[type]) -> tuple[ModelArguments, DataArguments, TrainingArguments]:
    """Resolve ``[RECIPE] --flag value ...`` into dataclasses of these types, values coerced by the fields' types."""
    parser = Parser(types)
    defaults = vars(parser.parse_args([]))
    argv, recipe_argv = list(argv), []
    if argv and not argv[0].startswith("-"):
        recipe = argv.pop(0)
        recipe_argv, nulls = recipe_to_argv(recipe, known_settings(parser))
        parser.set_defaults(**nulls)
        try:  # alone first, so that an error names the recipe and not the command line
            parser.parse_args(recipe_argv)
        except UserError as error:
            raise UserError(f"{recipe}: {error}") from None
    namespace, unknown = parser.parse_known_args(recipe_argv + update_flags(argv))
    if unknown and unknown[0].endswith(RECIPE_SUFFIXES):
        raise UserError(f"{unknown[0]}: a recipe is the first argument, before the flags")
    if unknown:
        # Without what is behind a =, which may be a secret.
        name = unknown[0].partition("=")[0]
        raise UserError(f"unknown argument {name}{did_you_mean(name, known_settings(parser), prefix='--')}")
    check_numbers(namespace)
    check_dicts(namespace)
    try:
        arguments = parser.parse_dict(vars(namespace))
    except SETTINGS_ERRORS as error:
        # transformers checks its own settings, and says in the message which flag is wrong.
        raise UserError(f"{error}") from None
    model_args, data_args, training_args = arguments
    check_utf8(arguments)
    names = [f.name for f in dataclasses.fields(training_args) if f.init]
    settings = {name: getattr(namespace, name) for name in names}
    given = {k: v for k, v in settings.items() if v != defaults[k] or v not in (None, "", [], {})}
    training_args.resolved = {k: v for k, v in given.items() if not is_token(k)}
    check_reporting(training_args.report_to)
    check_together(data_args, training_args)
    return model_args, data_args, training_args


def check_utf8(arguments: Sequence) -> None:
    """Raise UserError for a setting that is not UTF-8, which libraries cannot write, unless it names a text file."""
    for name, value in chain.from_iterable(vars(settings).items() for settings in arguments):
        for text in value if isinstance(value, list) else [value]:
            if isinstance(text, str) and name not in TEXT_FILES and any("\ud800" <= char <= "\udfff" for char in text):
                raise UserError(f"--{name} {text!a} is not UTF-8: rename what it stands for")


def known_settings(parser: HfArgumentParser) -> dict[str, type]:
    """Every setting's name and declared type."""
    hints = [(dtype, typing.get_type_hints(dtype)) for dtype in parser.dataclass_types]
    return {f.name: types[f.name] for dtype, types in hints for f in dataclasses.fields(dtype) if f.init}


def check_numbers(namespace: argparse.Namespace) -> None:
    """Raise UserError for numbers that nothing can be counted or trained with."""
    for name, value in vars(namespace).items():
        if isinstance(value, int) and abs(value) >= MAX_NUMBER:
            raise UserError(f"--{name} {reprlib.repr(value)} is too large: give less than {MAX_NUMBER}")
        if isinstance(value, float) and math.isnan(value):
            raise UserError(f"--{name} {value} is not a number: give one")


def check_dicts(namespace: argparse.Namespace) -> None:
    """Raise UserError for JSON that transformers could not read; it would not say of which flag."""
    for name in TrainingArguments._VALID_DICT_FIELDS:
        value = getattr(namespace, name)
        # In place of a dict, the path of one.
        is_path = isinstance(value, str) and os.path.exists(value)
        if is_path and not (os.path.isfile(value) and os.path.getsize(value) <= MAX_CHARACTERS):
            raise UserError(f"--{name} {value} is not a file of JSON of at most {MAX_CHARACTERS:,} bytes")
        if isinstance(value, str) and value.startswith("{"):
            try:
                json.loads(value)
            except (ValueError, RecursionError) as error:
                raise UserError(f"--{name} {value}: not JSON: {error}") from None


def check_reporting(report_to: Sequence[str]) -> None:
    """Raise UserError for a tracker that is not installed; transformers would show a traceback, later."""
    if not report_to:
        return
    # Takes as long to import as all that is imported before.
    from transformers.integrations import get_available_reporting_integrations

    for name in report_to:
        if name not in get_available_reporting_integrations():
            raise UserError(f"--report_to {name} is not installed or not known: pip install {name}, or drop the flag")
