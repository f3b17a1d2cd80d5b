"""Check the arguments of learning-rate schedules; a decay may be a fraction of all steps, as the warmup may."""

import math
from typing import Any

from transformers import SchedulerType

from cloze.errors import UserError

FLAG = "--lr_scheduler_kwargs"


def check_schedule(scheduler: str, kwargs: Any, has_time_limit: bool) -> None:
    """Raise UserError if the arguments of a schedule are not a dictionary, or contradict the schedule.

    Args:
        scheduler: name of the schedule.
        kwargs: arguments of the schedule, as the Trainer has parsed them; None if there are none.
        has_time_limit: whether the run ends by wall-clock time.
    """
    # transformers parses text that begins with a brace, and keeps any other.
    if not isinstance(kwargs, dict | None):
        raise UserError(f"{FLAG} {kwargs} is not a JSON object: write '{{\"num_decay_steps\": 0.2}}'")
    if scheduler == SchedulerType.WARMUP_STABLE_DECAY:
        check_decay(kwargs or {}, has_time_limit)


def check_decay(kwargs: dict[str, Any], has_time_limit: bool) -> None:
    """Raise UserError if the arguments of warmup_stable_decay lack the length of its decay, or it has no meaning."""
    steps = kwargs.get("num_decay_steps")
    if steps is None:
        raise UserError(
            f"--lr_scheduler_type warmup_stable_decay needs {FLAG} '{{\"num_decay_steps\": 0.2}}': a fraction of all "
            "steps, or a number of steps"
        )
    if isinstance(steps, bool) or not isinstance(steps, int | float) or not steps > 0:
        raise UserError(f"{FLAG}: num_decay_steps {steps} is not positive: give a fraction of all steps, or a number")
    if has_time_limit and (steps >= 1 or "num_stable_steps" in kwargs):
        raise UserError(
            f"{FLAG}: with --max_train_hours give num_decay_steps as a fraction, such as 0.2, and no num_stable_steps"
        )


def resolve_decay(kwargs: dict[str, Any], warmup_steps: int, num_steps: int) -> dict[str, Any]:
    """Return the arguments of the schedule with the decay in steps.

    Args:
        kwargs: arguments of the schedule.
        warmup_steps: steps of warmup.
        num_steps: steps of the run.

    Raises:
        UserError: if warmup and decay are longer than the run.
    """
    steps = kwargs["num_decay_steps"]
    if steps < 1:
        # Rounded down, as transformers rounds the warmup up.
        steps = max(math.floor(steps * num_steps), 1)
    if "num_stable_steps" not in kwargs and warmup_steps + steps > num_steps:
        raise UserError(
            f"{FLAG}: {steps} steps of decay (num_decay_steps) and {warmup_steps} of warmup (--warmup_steps) are more "
            f"than the {num_steps} steps of the run: lower them, or give fractions of all steps"
        )
    return kwargs | {"num_decay_steps": steps}
