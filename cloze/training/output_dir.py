"""The folder of a run: whether it can be written to, which checkpoint to resume from, and whether the disk suffices."""

import logging
import os
import shutil
from collections.abc import Sequence
from pathlib import Path

from cloze.config.arguments import TrainingArguments
from cloze.config.recipes import differences, settings_in
from cloze.errors import UserError
from cloze.system.locks import unwritable
from cloze.system.storage import RECIPE, delete, gigabytes
from cloze.training.checkpoints import (
    MODEL_FILES,
    PROGRESS,
    STAGING_DIR,
    check_readable,
    checkpoint_size,
    is_whole,
    list_checkpoints,
    newest_whole,
)
from cloze.training.run_length import STATEFUL_SCHEDULERS, check_length, length_of

logger = logging.getLogger(__name__)

# What an optimizer is made of; its state, which has these settings as well, fits no other.
OPTIMIZER_SETTINGS = {"optim", "optim_args", "optim_target_modules"}
# Settings that the learning rate follows from.
RATE_SETTINGS = {"learning_rate", "lr_scheduler_type", "lr_scheduler_kwargs"}


def prepare_output_dir(training_args: TrainingArguments, keep: str | None, recipe: str) -> Path | None:
    """Check that output_dir can be written to, and find the checkpoint to resume from: what is there is not lost.

    Args:
        keep: the model to start from; it may not be overwritten.
        recipe: the settings, which have to be those of the checkpoint.
    """
    output_dir = Path(training_args.output_dir)
    try:
        output_dir.mkdir(parents=True, exist_ok=True)
        probe = output_dir / ".writable"
        probe.touch()
        probe.unlink(missing_ok=True)  # another process may have been faster
    except OSError as error:
        raise unwritable(output_dir, error) from None
    if not training_args.do_train:
        return None
    if keep is not None and Path(keep).is_dir() and output_dir.samefile(keep):
        raise UserError(f"--output_dir {output_dir} is the model to start from: give another folder")
    if not training_args.dry_run:
        # What an earlier run left when it was broken off while saving or deleting.
        delete(output_dir / STAGING_DIR, ignore_errors=True)
    checkpoints = list_checkpoints(training_args.output_dir)
    asked = training_args.resume_from_checkpoint
    if training_args.overwrite_output_dir:
        if asked is not None:
            raise UserError("--resume_from_checkpoint goes on, --overwrite_output_dir starts afresh: give one of them")
        if keep is not None and Path(keep).resolve() in [path.resolve() for path in checkpoints.values()]:
            raise UserError(f"--overwrite_output_dir would remove {keep}, the model to start from: copy it elsewhere")
        return None
    if asked not in (None, "True", "true"):
        check_readable(Path(asked))
        if not is_whole(Path(asked)):
            raise UserError(
                f"--resume_from_checkpoint {asked} is no checkpoint of these scripts, or not whole: give the path of a "
                "checkpoint-N, or start from its weights with --model_name_or_path"
            )
        checkpoint, earlier = resumable(Path(asked)), (Path(asked) / RECIPE).read_text(encoding="utf-8")
        length = length_of(settings_in(recipe))
        if length != length_of(settings_in(earlier)):
            check_length(length, checkpoint)
        changes = differences(recipe, earlier)
        check_states(changes, {settings_in(each).get("lr_scheduler_type") for each in (recipe, earlier)}, asked)
        for change in changes:
            logger.warning("CHANGED: %s", change)
        return checkpoint
    newest = newest_whole(training_args.output_dir)
    if newest is not None:
        changes = differences(recipe, (newest / RECIPE).read_text(encoding="utf-8"))
        if changes:
            raise UserError(
                f"{newest} is of another recipe, here changed to {', '.join(changes)}: give what it has, or another "
                "--output_dir, or --overwrite_output_dir to start afresh, or, if it is meant, --resume_from_checkpoint "
                f"{newest}"
            )
        logger.info("Going on from %s; --overwrite_output_dir would start afresh", newest)
        return resumable(newest)
    if checkpoints:
        raise UserError(
            f"--output_dir {output_dir}: none of its checkpoints can be read: put one back, or --overwrite_output_dir"
        )
    if asked is not None:
        raise UserError(f"--resume_from_checkpoint: {output_dir} holds no checkpoint-*: leave the flag out")
    if any((output_dir / name).exists() for name in MODEL_FILES):
        raise UserError(
            f"--output_dir {output_dir} holds a model already and no checkpoint to go on from: "
            "give another folder, or --overwrite_output_dir"
        )
    if (output_dir / "README.md").exists():
        raise UserError(
            f"--output_dir {output_dir} holds a README.md, in whose place the model card would be written: "
            "give another folder, or --overwrite_output_dir"
        )
    return None


def resumable(checkpoint: Path) -> Path:
    """Return the checkpoint; UserError if it has the model alone."""
    if not (checkpoint / PROGRESS).is_file():
        raise UserError(
            f"{checkpoint} was saved by --save_only_model, without what is needed to go on: start from its weights "
            "with --model_name_or_path and another --output_dir, or afresh with --overwrite_output_dir"
        )
    return checkpoint


def check_states(changes: Sequence[str], schedulers: set[str], checkpoint: str) -> None:
    """Raise UserError for a change that the states of optimizer and scheduler in the checkpoint would undo."""
    stateful = schedulers & STATEFUL_SCHEDULERS
    for change in changes:
        name = change.partition(" ")[0]
        if name in OPTIMIZER_SETTINGS:
            raise UserError(f"--resume_from_checkpoint {checkpoint} has the state of another optimizer: {change}")
        if name in RATE_SETTINGS and stateful:
            raise UserError(
                f"--resume_from_checkpoint {checkpoint}: the learning rate of {', '.join(stateful)} is a state "
                f"that cannot be resumed with {change}: give what it has, or start from its weights with "
                "--model_name_or_path and another --output_dir"
            )


def can_resume(training_args: TrainingArguments) -> bool:
    """Return whether the same command would resume from what is saved now."""
    if training_args.compared:  # which goes on with the runs that are not over
        return True
    newest = list(list_checkpoints(training_args.output_dir).values())[-1:]
    return not training_args.overwrite_output_dir and any((path / PROGRESS).is_file() for path in newest)


def check_disk(training_args: TrainingArguments, keep: int | None, num_parameters: int) -> tuple[int, int]:
    """Compare the free disk with what the run will keep there: an error if not one checkpoint fits, else a warning.

    Return both, in bytes: what the run will write at most, the finished model counted, and what is free.

    Args:
        keep: checkpoints kept at a time.
    """
    weights = 4 * num_parameters
    checkpoint = checkpoint_size(num_parameters, training_args.save_only_model)
    free = shutil.disk_usage(training_args.output_dir).free
    if training_args.overwrite_output_dir:
        old = [path for path in list_checkpoints(training_args.output_dir).values() if not path.is_symlink()]
        free += sum(path.stat().st_size for folder in old for path in folder.rglob("*") if path.is_file())
    if training_args.save_strategy == "no":
        checkpoint = kept = 0
    else:
        # A new checkpoint is written before the oldest is deleted.
        kept = (keep or 1) + 1
    if free < checkpoint + weights:
        raise UserError(
            f"--output_dir {training_args.output_dir}: {gigabytes(free)} of disk are free, a checkpoint and the model "
            f"take about {gigabytes(checkpoint + weights)}: make room, or use another disk"
        )
    if free < kept * checkpoint + weights:
        logger.warning(
            "DISK: about %s will be written to %s (%d checkpoints, model), %s are free: lower --save_total_limit",
            gigabytes(kept * checkpoint + weights),
            os.path.abspath(training_args.output_dir),
            kept,
            gigabytes(free),
        )
    return kept * checkpoint + weights, free
