"""Parse and check the settings of what changes in the course of a training: schedules over its steps."""

import re
from itertools import pairwise

from cloze.config.arguments import TrainingArguments
from cloze.errors import UserError

# Flags of schedules over a known number of steps.
OVER_STEPS = ("final_mlm_probability", "sequence_length_schedule")


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
    if min(lengths) < 8:
        raise UserError(f"{given}: {min(lengths)} is too short: give 8 or more")
    for length, longer in pairwise(lengths):
        if longer % length:
            raise UserError(f"{given}: {length} does not divide {longer}: give lengths such as 64:128:256")
    return lengths


def check_schedules(settings: object, training_args: TrainingArguments) -> None:
    """Raise UserError for a schedule over steps in a run that ends by time."""
    for name in OVER_STEPS:
        if getattr(settings, name, None) is not None and training_args.max_train_hours is not None:
            raise UserError(
                f"--{name} and --max_train_hours exclude each other, as the number of steps must be known: give "
                "--max_steps"
            )
