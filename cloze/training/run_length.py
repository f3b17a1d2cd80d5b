"""Find the length of a run and its position in the schedule; on resuming, the settings given now win.

In transformers, the checkpoint's win (huggingface/transformers#7198).
"""

import json
import logging
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR, LRScheduler
from transformers import SchedulerType

from cloze.config.arguments import TrainingArguments
from cloze.errors import UserError
from cloze.training.checkpoints import Progress

logger = logging.getLogger(__name__)

FLAGS = {"epochs": "num_train_epochs", "steps": "max_steps", "hours": "max_train_hours"}
# Schedulers whose learning rate depends on earlier evaluations or losses.
STATEFUL_SCHEDULERS = {"greedy", "reduce_lr_on_plateau"}
# Settings in the checkpoint's optimizer state, which would replace those given now.
HYPERPARAMETERS = ("initial_lr", "weight_decay", "betas", "eps")


class RunLength(NamedTuple):
    """Hold an ``amount`` of a ``unit``: epochs, steps or hours."""

    amount: float
    unit: str

    def __str__(self) -> str:
        return f"{self.amount:,.6g} {self.unit if self.amount != 1 else self.unit.removesuffix('s')}"


def length_of(settings: Mapping[str, Any]) -> RunLength:
    """Return the length of a run: hours win over steps, steps over epochs; by default 3 epochs."""
    for name in FLAGS.values():
        if not isinstance(settings.get(name), int | float | None):
            raise UserError(f"the checkpoint's recipe.yaml: {name} {settings[name]!r} is not a number")
    if settings.get("max_train_hours") is not None:
        return RunLength(settings["max_train_hours"], "hours")
    if settings.get("max_steps", -1) > 0:
        return RunLength(settings["max_steps"], "steps")
    return RunLength(settings.get("num_train_epochs", 3.0), "epochs")


def check_length(length: RunLength, checkpoint: Path) -> None:
    """Raise UserError if a run of this length ends before the checkpoint."""
    progress = Progress.read(checkpoint)
    if length.unit == "epochs":
        done = json.loads((checkpoint / "trainer_state.json").read_text())["epoch"]
    else:
        done = progress.step if length.unit == "steps" else progress.seconds / 3600
    if done > length.amount + 1e-6:
        raise UserError(
            f"--{FLAGS[length.unit]} {length.amount:g} is less than the {RunLength(done, length.unit)} of "
            f"{checkpoint}: raise it, or resume from an earlier checkpoint"
        )


def find_max_steps(
    args: TrainingArguments,
    progress: Progress,
    length_before: RunLength | None,
    epoch: float | None,
    steps_in_epoch: int,
) -> int:
    """Return the number of steps of the run: as given, or the epochs times the steps of the first epoch.

    Epochs of redrawn pairs differ a little in length: steps decide when training stops.

    Args:
        args: the training arguments.
        progress: the progress of the checkpoint, or of a new run.
        length_before: the length of the run that saved the checkpoint, if any.
        epoch: the epochs done, None for text of unknown length.
        steps_in_epoch: optimizer steps of the first epoch.
    """
    length = length_of(args.resolved)
    changed = length_before not in (None, length)
    if args.max_steps > 0:
        max_steps = args.max_steps
    elif not progress.step:
        max_steps = math.ceil(args.num_train_epochs * steps_in_epoch)
    elif progress.steps_in_epoch == steps_in_epoch and not changed:
        max_steps = progress.max_steps
    else:
        assert epoch is not None, "a stream of unknown length needs --max_steps"
        steps_left = math.ceil(round((args.num_train_epochs - epoch) * steps_in_epoch, 6))
        max_steps = progress.step + max(steps_left, 0)
        if progress.steps_in_epoch != steps_in_epoch:
            logger.warning("%d steps are left: the batch size has changed", max_steps - progress.step)
    if changed:
        left = f"{max_steps - progress.step:,} of {max_steps:,} steps are left"
        if args.max_train_hours is not None:
            left = f"{max(args.max_train_hours - progress.seconds / 3600, 0):.4g} hours are left"
        if SchedulerType(args.lr_scheduler_type).value not in STATEFUL_SCHEDULERS:
            left += ", with the learning rate of the new schedule"
        logger.info("Run length changed: %s before, %s now; %s", length_before, length, left)
    return max_steps


def hyperparameters_of(optimizer: Optimizer) -> list[dict]:
    """Return the settings that a checkpoint would overwrite, by parameter group."""
    groups = optimizer.param_groups
    return [{name: group[name] for name in HYPERPARAMETERS if group.get(name) is not None} for group in groups]


def restore_hyperparameters(
    optimizer: Optimizer, scheduler: LRScheduler, hyperparameters: list[dict], position: int | None
) -> None:
    """Restore the settings given now after a checkpoint was loaded, and move to the position in the new schedule.

    Args:
        optimizer: the optimizer, with the checkpoint's state.
        scheduler: the scheduler, with the checkpoint's state.
        hyperparameters: the settings by parameter group (see ``hyperparameters_of``).
        position: the position in the schedule; None keeps the checkpoint's.
    """
    for group, values in zip(optimizer.param_groups, hyperparameters, strict=True):
        group.update(values)
    # Others (ReduceLROnPlateau, DeepSpeed's) keep the learning rate in their own state.
    if not isinstance(scheduler, LambdaLR):
        return
    if position is not None:
        scheduler.last_epoch = position
    scheduler.base_lrs = [values["initial_lr"] for values in hyperparameters]
    # One step back and forth sets the learning rate of this position.
    scheduler.last_epoch -= 1
    scheduler.step()


def find_position(
    args: TrainingArguments, progress: Progress, length_before: RunLength | None, share_of_time: float
) -> int | None:
    """Return the checkpoint's position in the schedule of a changed length; None if it stays the same.

    Args:
        args: the training arguments.
        progress: the progress of the checkpoint.
        length_before: the length of the run that saved the checkpoint, if any.
        share_of_time: the fraction of --max_train_hours that the checkpoint's training took.
    """
    if length_before is None or length_before == length_of(args.resolved):
        return None
    if args.max_train_hours is not None:
        return math.floor(share_of_time * args.max_steps)
    return progress.step if length_before.unit == "hours" else None
