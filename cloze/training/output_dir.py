"""Check output_dir: find the checkpoint to resume from, protect what is there, and compare the free disk space."""

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
    find_damage,
    list_checkpoints,
    newest_intact,
)
from cloze.training.run_length import STATEFUL_SCHEDULERS, check_length, length_of

logger = logging.getLogger(__name__)

# The checkpoint's optimizer state fits no other values of these.
OPTIMIZER_SETTINGS = {"optim", "optim_args", "optim_target_modules"}
# The checkpoint's tokenizer and weights fit no other values of these.
VOCABULARY_SETTINGS = {"new_tokenizer", "add_vocabulary", "vocabulary_file"}
# Settings, besides the optimizer, that no flag lets a resumed run change.
UNCHANGEABLE = VOCABULARY_SETTINGS | {"mixture"}
# The settings of the learning rate.
RATE_SETTINGS = {
    *("learning_rate", "muon_learning_rate", "embedding_learning_rate", "lr_scheduler_type", "lr_scheduler_kwargs"),
}


def prepare_output_dir(training_args: TrainingArguments, keep: str | None, recipe: str) -> Path | None:
    """Check that the run can write to output_dir without losing what is there.

    Args:
        training_args: the training arguments.
        keep: the model to start from, which must not be overwritten.
        recipe: the settings, which must equal the checkpoint's.

    Returns:
        The checkpoint to resume from, if any.

    Raises:
        UserError: if output_dir is not writable, is in use for another run, or its checkpoint cannot be resumed.
    """
    output_dir = Path(training_args.output_dir)
    try:
        output_dir.mkdir(parents=True, exist_ok=True)
        probe = output_dir / ".writable"
        probe.touch()
        probe.unlink(missing_ok=True)  # another process may have deleted it
    except OSError as error:
        raise unwritable(output_dir, error) from None
    if not training_args.do_train:
        return None
    if keep is not None and Path(keep).is_dir() and output_dir.samefile(keep):
        raise UserError(f"--output_dir {output_dir} is the model to start from: give another folder")
    if not training_args.dry_run:
        # Left by a process that was killed while it saved or deleted a checkpoint.
        delete(output_dir / STAGING_DIR, ignore_errors=True)
    checkpoints = list_checkpoints(training_args.output_dir)
    asked = training_args.resume_from_checkpoint
    if training_args.overwrite_output_dir:
        if asked is not None:
            raise UserError("--resume_from_checkpoint and --overwrite_output_dir exclude each other: drop one of them")
        if keep is not None and Path(keep).resolve() in [path.resolve() for path in checkpoints.values()]:
            raise UserError(f"--overwrite_output_dir would delete {keep}, the model to start from: copy it elsewhere")
        return None
    if asked not in (None, "True", "true"):
        check_readable(Path(asked))
        damage = find_damage(Path(asked))
        if damage is not None:
            raise UserError(
                f"--resume_from_checkpoint {asked} is corrupt or not a checkpoint of these scripts ({damage}): give "
                "the path of a checkpoint-N, or start from its weights with --model_name_or_path"
            )
        checkpoint, earlier = resumable(Path(asked)), (Path(asked) / RECIPE).read_text(encoding="utf-8")
        length = length_of(settings_in(recipe))
        if length != length_of(settings_in(earlier)):
            check_length(length, checkpoint)
        changes = differences(recipe, earlier)
        check_states(
            changes, {settings_in(each).get("lr_scheduler_type", "linear") for each in (recipe, earlier)}, asked
        )
        for change in changes:
            logger.warning("setting changed since %s: %s", checkpoint, change)
        return checkpoint
    newest = newest_intact(training_args.output_dir)
    if newest is not None:
        changes = differences(recipe, (newest / RECIPE).read_text(encoding="utf-8"))
        if changes:
            accept = f"--resume_from_checkpoint {newest} to accept the change, "
            if any(changes_optimizer(change) or change.partition(" ")[0] in UNCHANGEABLE for change in changes):
                accept = ""
            raise UserError(
                f"{newest} was created with different settings (now {', '.join(changes)}): restore them, or pass "
                f"{accept}--overwrite_output_dir to start over, or another --output_dir"
            )
        logger.info("Resuming from %s; --overwrite_output_dir would start over", newest)
        return resumable(newest)
    if checkpoints:
        raise UserError(
            f"--output_dir {output_dir}: all checkpoints are corrupt: restore one, or start over with "
            "--overwrite_output_dir"
        )
    if asked is not None:
        raise UserError(f"--resume_from_checkpoint: {output_dir} contains no checkpoint-*: drop the flag")
    if any((output_dir / name).exists() for name in MODEL_FILES):
        raise UserError(
            f"--output_dir {output_dir} already contains a model, and no checkpoint to resume from: give another "
            "folder, or pass --overwrite_output_dir"
        )
    if (output_dir / "README.md").exists():
        raise UserError(
            f"--output_dir {output_dir} contains a README.md, which the model card would overwrite: give another "
            "folder, or pass --overwrite_output_dir"
        )
    return None


def resumable(checkpoint: Path) -> Path:
    """Return the checkpoint; raise UserError if it contains the model alone."""
    if not (checkpoint / PROGRESS).is_file():
        raise UserError(
            f"{checkpoint} was saved with --save_only_model and cannot be resumed: start from its weights with "
            "--model_name_or_path and another --output_dir, or start over with --overwrite_output_dir"
        )
    return checkpoint


def changes_optimizer(change: str) -> bool:
    """Return whether the checkpoint's optimizer state fits no run with the change, as ``differences`` describes it."""
    name = change.partition(" ")[0]
    # The embeddings have a group only if there is a rate for them.
    return name in OPTIMIZER_SETTINGS or (name == "embedding_learning_rate" and "None" in change)


def check_states(changes: Sequence[str], schedulers: set[str], checkpoint: str) -> None:
    """Raise UserError for changed settings that contradict the checkpoint's vocabulary or states."""
    stateful = schedulers & STATEFUL_SCHEDULERS
    for change in changes:
        name = change.partition(" ")[0]
        if changes_optimizer(change):
            raise UserError(
                f"--resume_from_checkpoint {checkpoint} has the state of another optimizer: {change}: drop the change"
            )
        if name == "mixture":
            raise UserError(
                f"--resume_from_checkpoint {checkpoint}: its position in the texts does not fit {change}: restore the "
                "setting, or start from the checkpoint's weights with --model_name_or_path and another --output_dir"
            )
        if name in VOCABULARY_SETTINGS:
            raise UserError(
                f"--resume_from_checkpoint {checkpoint} has another vocabulary: {change}: drop the change, or start "
                "from the checkpoint's weights with --model_name_or_path and another --output_dir"
            )
        if name in RATE_SETTINGS and stateful:
            raise UserError(
                f"--resume_from_checkpoint {checkpoint}: the state of the {', '.join(stateful)} schedule cannot be "
                f"resumed with {change}: restore the setting, or start from the checkpoint's weights with "
                "--model_name_or_path and another --output_dir"
            )


def can_resume(training_args: TrainingArguments) -> bool:
    """Return whether the same command, run again, would resume from a checkpoint."""
    if training_args.compared:  # --compare_with repeats only runs that are incomplete
        return True
    newest = list(list_checkpoints(training_args.output_dir).values())[-1:]
    return not training_args.overwrite_output_dir and any((path / PROGRESS).is_file() for path in newest)


def check_disk(training_args: TrainingArguments, keep: int | None, num_parameters: int) -> tuple[int, int]:
    """Compare the free disk space with what the run will write; warn if it is less.

    Args:
        training_args: the training arguments.
        keep: the number of checkpoints to keep, None for all.
        num_parameters: the number of weights of the model.

    Returns:
        The most that checkpoints and model will take, and the free space, in bytes.

    Raises:
        UserError: if the free space does not suffice for one checkpoint and the model.
    """
    weights = 4 * num_parameters
    has_average = training_args.ema_decay is not None
    checkpoint = checkpoint_size(num_parameters, training_args.save_only_model, has_average)
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
            f"--output_dir {training_args.output_dir}: {gigabytes(free)} of disk space are free, a checkpoint and the "
            f"model take about {gigabytes(checkpoint + weights)}: free disk space, or use another disk"
        )
    if free < kept * checkpoint + weights:
        logger.warning(
            "low disk space: %s will be written to %s (%d checkpoints, model), %s are free: lower --save_total_limit",
            gigabytes(kept * checkpoint + weights),
            os.path.abspath(training_args.output_dir),
            kept,
            gigabytes(free),
        )
    return kept * checkpoint + weights, free
