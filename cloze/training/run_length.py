"""How long a run is, and where in its schedule: the settings given now decide, also when it is resumed.

In transformers, those of the checkpoint win (huggingface/transformers#7198).
"""

import json
import logging
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR, LRScheduler
from transformers import Trainer

from cloze.errors import UserError
from cloze.training.checkpoints import Progress

logger = logging.getLogger(__name__)

FLAGS = {"epochs": "num_train_epochs", "steps": "max_steps", "hours": "max_train_hours"}
# Schedulers whose rate follows the evaluations or losses so far.
STATEFUL_SCHEDULERS = {"greedy", "reduce_lr_on_plateau"}
# Settings that a checkpoint's optimizer holds. Loaded, they would win over those given now.
HYPERPARAMETERS = ("initial_lr", "weight_decay", "betas", "eps")


class RunLength(NamedTuple):
    """Hold an ``amount`` of a ``unit``: epochs, steps or hours."""

    amount: float
    unit: str

    def __str__(self) -> str:
        return f"{self.amount:,.6g} {self.unit if self.amount != 1 else self.unit.removesuffix('s')}"


def length_of(settings: Mapping[str, Any]) -> RunLength:
    """Return the length that settings ask for: hours win over steps, steps over epochs, of which 3 are the default."""
    for name in FLAGS.values():
        if not isinstance(settings.get(name), int | float | None):
            raise UserError(f"recipe.yaml of the checkpoint: {name} {settings[name]!r} is not a number")
    if settings.get("max_train_hours") is not None:
        return RunLength(settings["max_train_hours"], "hours")
    if settings.get("max_steps", -1) > 0:
        return RunLength(settings["max_steps"], "steps")
    return RunLength(settings.get("num_train_epochs", 3.0), "epochs")


def check_length(length: RunLength, checkpoint: Path) -> None:
    """Raise UserError if a run of this length is over before the checkpoint."""
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


def find_max_steps(trainer: Trainer, steps_in_epoch: int) -> int:
    """Return the steps of the run: as given, or of its epochs, by the steps of the first one.

    Epochs of pairs drawn anew differ a little in length: steps decide when to stop.
    """
    args, progress = trainer.args, trainer.progress
    if args.max_steps > 0:
        max_steps = args.max_steps
    elif not progress.step:
        max_steps = math.ceil(args.num_train_epochs * steps_in_epoch)
    elif progress.steps_in_epoch == steps_in_epoch and not trainer.length_changed:
        max_steps = progress.max_steps
    else:
        left = (args.num_train_epochs - trainer.stream.epoch) * steps_in_epoch
        max_steps = progress.step + max(math.ceil(round(left, 6)), 0)
        if progress.steps_in_epoch != steps_in_epoch:
            logger.warning("STEPS: %d are left, as batches have another size than before", max_steps - progress.step)
    if trainer.length_changed:
        left = f"{max_steps - progress.step:,} of {max_steps:,} steps are left"
        if args.max_train_hours is not None:
            left = f"{max(args.max_train_hours - progress.seconds / 3600, 0):.4g} hours are left"
        if args.lr_scheduler_type.value not in STATEFUL_SCHEDULERS:
            left += ", with the learning rate of the new schedule"
        logger.info("Length: %s before, %s now: %s", trainer.length_before, length_of(args.resolved), left)
    return max_steps


def hyperparameters_of(optimizer: Optimizer) -> list[dict]:
    """Return the settings of each parameter group that a checkpoint would overwrite."""
    groups = optimizer.param_groups
    return [{name: group[name] for name in HYPERPARAMETERS if group.get(name) is not None} for group in groups]


def restore_hyperparameters(optimizer: Optimizer, scheduler: LRScheduler, trainer: Trainer) -> None:
    """Let the settings given now win over those of the checkpoint that was loaded, and follow the schedule of now."""
    for group, values in zip(optimizer.param_groups, trainer.hyperparameters, strict=True):
        group.update(values)
    # Others, as ReduceLROnPlateau and those of DeepSpeed, have the rate as a state of their own.
    if not isinstance(scheduler, LambdaLR):
        return
    if trainer.length_changed:
        scheduler.last_epoch = _schedule_position(trainer, scheduler.last_epoch)
    scheduler.base_lrs = [values["initial_lr"] for values in trainer.hyperparameters]
    # Back and forth, to have the rate of this position in the schedule set.
    scheduler.last_epoch -= 1
    scheduler.step()


def _schedule_position(trainer: Trainer, position: int) -> int:
    """Return where the checkpoint stands in the schedule of the new length; ``position`` is that in the old one."""
    args, progress = trainer.args, trainer.progress
    if args.max_train_hours is not None:
        return math.floor(trainer.stop_callback.share_of_time(progress.seconds) * args.max_steps)
    return progress.step if trainer.length_before.unit == "hours" else position
