"""Checkpoints: complete or absent. Finding, completing, pruning and making room for them."""

import logging
import os
import re
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import TextIO

from transformers.utils import SAFE_WEIGHTS_INDEX_NAME, SAFE_WEIGHTS_NAME, WEIGHTS_INDEX_NAME, WEIGHTS_NAME

from cloze.config.arguments import TrainingArguments
from cloze.config.recipes import differences, settings_in
from cloze.errors import UserError
from cloze.system import storage
from cloze.system.locks import unwritable
from cloze.system.storage import CHECKSUMS, RECIPE, delete, delete_as, gigabytes
from cloze.training.progress import FILE as PROGRESS
from cloze.training.run_length import check_length, length_of

logger = logging.getLogger(__name__)

# A folder holds a model if it has one of these: the weights, or the index of shards.
MODEL_FILES = (SAFE_WEIGHTS_NAME, WEIGHTS_NAME, SAFE_WEIGHTS_INDEX_NAME, WEIGHTS_INDEX_NAME)
# What an optimizer is made of; its state, which has these settings as well, fits no other.
OPTIMIZER_SETTINGS = {"optim", "optim_args", "optim_target_modules"}
# Schedulers whose rate follows the evaluations or losses so far, and the settings that it follows from.
STATEFUL_SCHEDULERS = {"greedy", "reduce_lr_on_plateau"}
RATE_SETTINGS = {"learning_rate", "lr_scheduler_type", "lr_scheduler_kwargs"}
# Where checkpoints are written and deleted. The Trainer keeps names with this beginning from the Hub.
STAGING_DIR = "checkpoint-incomplete"

writing = partial(storage.writing, cure="make room and run it again; the checkpoints from before are as they were")


@contextmanager
def without_new_folders(path: str) -> Iterator[None]:
    """Remove again the folders that are made on the way to ``path``, if they are empty."""
    folders = [Path(path).absolute(), *Path(path).absolute().parents]
    new = [folder for folder in folders if not folder.exists()]
    try:
        yield
    finally:
        with suppress(OSError):
            for folder in new:
                folder.rmdir()


def list_checkpoints(output_dir: str) -> dict[int, Path]:
    """Complete checkpoints by step, ascending."""
    found = [path for path in Path(output_dir).glob("checkpoint-*") if re.fullmatch(r"checkpoint-\d+", path.name)]
    with readable():
        complete = {int(path.name.split("-")[1]): path for path in found if (path / CHECKSUMS).is_file()}
    return dict(sorted(complete.items()))


@contextmanager
def readable() -> Iterator[None]:
    """Raise UserError for what one may not read, which is not damaged but another user's."""
    try:
        yield
    except PermissionError as error:
        raise UserError(
            f"{error.filename} cannot be read ({error.strerror}): have its owner make it readable, or give another "
            "--output_dir"
        ) from None


def check_readable(checkpoint: Path) -> None:
    with readable():
        for path in checkpoint.iterdir() if checkpoint.is_dir() else ():
            if path.is_file():
                open(path, "rb").close()


def aside(output_dir: str, step: int) -> Path:
    """The folder to write a checkpoint to: what is broken off there counts for nothing (transformers#35782)."""
    return Path(output_dir) / STAGING_DIR / f"checkpoint-{step}"


def final(folder: Path) -> Path:
    """What a checkpoint that is written aside is called in the end."""
    return folder.parent.parent / folder.name


def complete(folder: Path) -> None:
    """Give the checkpoint written aside its name, once it is on disk for good."""
    storage.seal(folder, CHECKSUMS)
    checkpoint = final(folder)
    if os.path.lexists(checkpoint):  # it could not be read, is of an earlier run, or is a link to nowhere
        remove(checkpoint)
    storage.rename(folder, checkpoint)
    with suppress(OSError):
        folder.parent.rmdir()


def aside_of_model(output_dir: str) -> Path:
    """Return the folder to write the finished model to."""
    return Path(output_dir) / STAGING_DIR / "model"


def put_in_place(folder: Path) -> None:
    """Move a model written aside into output_dir: a reader finds the earlier model, none, or this one.

    The run that is resumed after a kill between two renames saves the model again.
    """
    output_dir = folder.parent.parent
    for path in folder.rglob("*"):
        if path.is_file():
            with open(path, "rb") as file:
                os.fsync(file.fileno())
    for path in [*(output_dir / name for name in MODEL_FILES), *output_dir.glob("model-*-of-*.safetensors")]:
        path.unlink(missing_ok=True)
    for path in sorted(folder.iterdir(), key=lambda path: path.name in MODEL_FILES):
        target = output_dir / path.name
        if target.is_dir():  # as DeepSpeed writes, which no file replaces
            shutil.rmtree(target)
        os.replace(path, target)
    folder.rmdir()
    with suppress(OSError):
        folder.parent.rmdir()


@contextmanager
def replacing(path: Path, errors: str = "strict") -> Iterator[TextIO]:
    """Open a text file that takes the place of ``path`` once it is whole and on disk."""
    aside = path.with_name(f"{path.name}.aside")
    try:
        with open(aside, "w", encoding="utf-8", errors=errors) as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(aside, path)
    finally:
        aside.unlink(missing_ok=True)


def remove(checkpoint: Path) -> None:
    """Delete a checkpoint, of a link the link alone; if that is broken off, what is left of it no longer counts."""
    trash = checkpoint.parent / STAGING_DIR / f"{checkpoint.name}-deleted"
    try:
        trash.parent.mkdir(exist_ok=True)
        delete_as(checkpoint, trash)
    except OSError as error:
        raise UserError(
            f"{checkpoint} cannot be deleted ({error.strerror}): delete it yourself, or have its owner do so, and run "
            "it again; the other checkpoints are as they were"
        ) from error
    finally:
        with suppress(OSError):
            trash.parent.rmdir()


def is_whole(checkpoint: Path) -> bool:
    """Whether every file is as it was written; the user may have added some."""
    return storage.find_damage(checkpoint, CHECKSUMS, needed=[RECIPE]) is None


def newest_whole(output_dir: str) -> Path | None:
    """The newest checkpoint that can be read; warns of those that cannot."""
    for checkpoint in reversed(list_checkpoints(output_dir).values()):
        check_readable(checkpoint)
        if is_whole(checkpoint):
            return checkpoint
        logger.warning("BROKEN: %s is not as it was written, its files do not fit %s: left out", checkpoint, CHECKSUMS)
    return None


def resumable(checkpoint: Path) -> Path:
    """The checkpoint; UserError if it has the model alone."""
    if not (checkpoint / PROGRESS).is_file():
        raise UserError(
            f"{checkpoint} was saved by --save_only_model, without what is needed to go on: start from its weights "
            "with --model_name_or_path and another --output_dir, or afresh with --overwrite_output_dir"
        )
    return checkpoint


def can_resume(training_args: TrainingArguments) -> bool:
    """Return whether the same command would resume from what is saved now."""
    if training_args.compared:  # which goes on with the runs that are not over
        return True
    newest = list(list_checkpoints(training_args.output_dir).values())[-1:]
    return not training_args.overwrite_output_dir and any((path / PROGRESS).is_file() for path in newest)


def prepare_output_dir(training_args: TrainingArguments, keep: str | None, recipe: str) -> Path | None:
    """Check that output_dir can be written to, and find the checkpoint to go on from: what is there is not lost.

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


def remove_all(output_dir: str) -> None:
    """Delete the checkpoints of an earlier run, once all is ready to start afresh."""
    for path in list_checkpoints(output_dir).values():
        remove(path)


def prune(output_dir: str, keep: int | None, newest: int, best: int | None) -> None:
    """Delete the oldest checkpoints of this run but ``keep``; never the newest or the best.

    Ordered by step, not by time of change, which copying alters (huggingface/transformers#26961); checkpoints beyond
    the newest step are of an earlier run, and none of our business (huggingface/transformers#37260).
    """
    if keep is None:
        return
    steps = {step: path for step, path in list_checkpoints(output_dir).items() if step <= newest}
    protected = {newest, best} & set(steps)
    spare = [step for step in steps if step not in protected]
    for step in spare[: max(0, len(steps) - max(keep, len(protected)))]:
        logger.info("Deleting %s, as save_total_limit is %d", steps[step], keep)
        remove(steps[step])


def checkpoint_size(num_parameters: int, save_only_model: bool) -> int:
    """Bytes of a checkpoint: the weights and, for Adam, two more values a weight."""
    return 4 * num_parameters * (1 if save_only_model else 3)


def check_disk(
    training_args: TrainingArguments, keep: int | None, num_parameters: int, free: int | None = None
) -> tuple[int, int]:
    """Compare the free disk with what the run will keep there: an error if not one checkpoint fits, else a warning.

    Gives both, in bytes: what the run will write at most, the finished model counted, and what is free.

    Args:
        keep: checkpoints kept at a time.
        free: bytes to reckon with instead of those that are free in output_dir.
    """
    weights = 4 * num_parameters
    checkpoint = checkpoint_size(num_parameters, training_args.save_only_model)
    if free is None:
        free = shutil.disk_usage(training_args.output_dir).free
        if training_args.overwrite_output_dir:
            old = [path for path in list_checkpoints(training_args.output_dir).values() if not path.is_symlink()]
            free += sum(path.stat().st_size for checkpoint in old for path in checkpoint.rglob("*") if path.is_file())
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
