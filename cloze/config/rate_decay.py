"""Check the arguments of learning-rate schedules; a decay may be a fraction of all steps, as the warmup may."""

import math
from typing import Any

import torch
from torch.optim.lr_scheduler import LambdaLR, LRScheduler
from transformers import SchedulerType

from cloze.errors import UserError

FLAG = "--lr_scheduler_kwargs"
# Steps at which a schedule is checked.
CHECKED = 1000


def check_schedule(args: Any) -> None:
    """Raise UserError if the arguments of the learning-rate schedule are no dictionary, or lack the decay's length."""
    kwargs = args.lr_scheduler_kwargs
    # transformers parses text that begins with a brace, and keeps any other.
    if not isinstance(kwargs, dict | None):
        raise UserError(f"{FLAG} {kwargs} is not a JSON object: write '{{\"num_decay_steps\": 0.2}}'")
    if args.lr_scheduler_type == SchedulerType.WARMUP_STABLE_DECAY:
        check_decay(kwargs or {}, args.max_train_hours is not None)


def try_schedule(args: Any) -> None:
    """Raise UserError if the learning-rate schedule does not accept its arguments."""
    # Takes seconds, for which --help need not wait.
    from transformers import get_scheduler

    kwargs = args.lr_scheduler_kwargs
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=args.learning_rate)
    try:
        get_scheduler(args.lr_scheduler_type, optimizer, 0, 1, scheduler_specific_kwargs=kwargs)
    except (TypeError, ValueError, ArithmeticError) as error:
        name = SchedulerType(args.lr_scheduler_type).value
        raise UserError(f"--lr_scheduler_type {name} with {FLAG} {kwargs or {}}: {error}") from None


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
    if steps >= 1 and not float(steps).is_integer():
        raise UserError(f"{FLAG}: num_decay_steps {steps} is not a number of steps: give a whole number, or a fraction")
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


def check_rates(scheduler: LRScheduler, warmup_steps: int, num_steps: int) -> None:
    """Raise UserError if the learning rate would be negative, NaN or infinite, or 0 at the end of the warmup.

    Args:
        scheduler: the schedule; one that depends on the loss is not checked.
        warmup_steps: steps of warmup.
        num_steps: steps of the run.
    """
    if not isinstance(scheduler, LambdaLR):
        return
    factor = scheduler.lr_lambdas[0]
    for step in (*range(0, num_steps, max(num_steps // CHECKED, 1)), num_steps - 1):
        if not 0 <= factor(step) < math.inf:
            raise UserError(
                f"{FLAG}: the learning rate would be {factor(step):g} times its peak at step {step + 1}: change the "
                "arguments"
            )
    if warmup_steps < num_steps and not factor(warmup_steps):
        raise UserError(f"{FLAG}: the learning rate would be 0 after the warmup: change the arguments")
