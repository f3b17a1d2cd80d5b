"""Parse and check the settings of what changes in the course of a training: schedules over its steps."""

import re
from fractions import Fraction
from itertools import pairwise

from cloze.config.arguments import TrainingArguments
from cloze.errors import UserError

# Fewest tokens of an example.
MIN_LENGTH = 8
# Flags of schedules over a known number of steps.
OVER_STEPS = ("final_mlm_probability", "sequence_length_schedule", "batch_size_schedule")


def parse_lengths(schedule: str, max_seq_length: int | None) -> tuple[int, ...]:
    """Return the lengths of ``--sequence_length_schedule``: ``"64:128"`` becomes ``(64, 128)``.

    Raises:
        UserError: if it is not a list of lengths that each divide the next, up to ``max_seq_length``.
    """
    given = f"--sequence_length_schedule {schedule}"
    if not re.fullmatch(r"[0-9]{1,9}(:[0-9]{1,9})+", schedule):
        raise UserError(f"{given} is not a list of lengths: give two or more, such as 64:128")
    lengths = tuple(map(int, schedule.split(":")))
    if lengths[-1] != max_seq_length:
        raise UserError(f"{given} does not end with --max_seq_length: give --max_seq_length {lengths[-1]}")
    if min(lengths) < MIN_LENGTH:
        raise UserError(f"{given}: {min(lengths)} is too short: give {MIN_LENGTH} or more")
    for length, longer in pairwise(lengths):
        if longer % length:
            raise UserError(f"{given}: {length} does not divide {longer}: give lengths such as 64:128:256")
    return lengths


def parse_fractions(schedule: str) -> tuple[Fraction, ...]:
    """Return the fractions of ``--batch_size_schedule``: ``"0.5:1"`` becomes ``(Fraction(1, 2), Fraction(1))``.

    Raises:
        UserError: if it is not a list of fractions above 0, up to 1.
    """
    number = r"(?:[01]|[01]?\.[0-9]{1,6})"
    if re.fullmatch(f"{number}(:{number})+", schedule):
        fractions = tuple(map(Fraction, schedule.split(":")))
        if min(fractions) > 0 and max(fractions) == fractions[-1] == 1:
            return fractions
    raise UserError(
        f"--batch_size_schedule {schedule} is not a list of fractions, above 0 and ending with 1: give two or more, "
        "such as 0.25:0.5:1"
    )


def check_schedules(data_args: object, training_args: TrainingArguments) -> None:
    """Raise UserError for schedules that do not fit the other settings."""
    given = [
        name for name in OVER_STEPS for each in (data_args, training_args) if getattr(each, name, None) is not None
    ]
    if given and training_args.max_train_hours is not None:
        raise UserError(
            f"--{given[0]} and --max_train_hours exclude each other, as the number of steps must be known: give "
            "--max_steps"
        )
    if "sequence_length_schedule" in given and training_args.auto_find_batch_size:
        # Memory may run out only at the longest examples; the Trainer would then start over, with trained weights.
        raise UserError("--sequence_length_schedule and --auto_find_batch_size exclude each other: drop one of them")
    if training_args.batch_size_schedule is not None:
        _check_fractions(data_args, training_args)


def _check_fractions(data_args: object, args: TrainingArguments) -> None:
    if args.max_steps < 1:
        raise UserError("--batch_size_schedule needs a number of steps: add --max_steps N")
    for name, settings in {"streaming": data_args, "auto_find_batch_size": args}.items():
        if getattr(settings, name):
            raise UserError(f"--batch_size_schedule and --{name} exclude each other: drop one of them")
    # A batch of a number of tokens is not divided: its longest example must fit.
    size = 1 if args.max_tokens_per_batch else args.per_device_train_batch_size
    for fraction in parse_fractions(str(args.batch_size_schedule)):
        if {(fraction * args.gradient_accumulation_steps).denominator, (fraction * size).denominator}.isdisjoint({1}):
            divided = "" if args.max_tokens_per_batch else f" of {size} examples"
            raise UserError(
                f"--batch_size_schedule: {float(fraction):g} of {args.gradient_accumulation_steps} batches{divided} is "
                "not a whole number: raise --gradient_accumulation_steps, or change the fraction"
            )
