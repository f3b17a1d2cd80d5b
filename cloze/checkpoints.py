"""Finding, pruning and making room for checkpoints."""

import json
import logging
import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from cloze.arguments import TrainingArguments, UserError

logger = logging.getLogger(__name__)

MODEL_FILES = ("config.json", "model.safetensors", "pytorch_model.bin")


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
    """Checkpoints by step, ascending. Those without a trainer_state.json, written last, are incomplete and left out."""
    found = [path for path in Path(output_dir).glob("checkpoint-*") if re.fullmatch(r"checkpoint-\d+", path.name)]
    complete = {int(path.name.split("-")[1]): path for path in found if (path / "trainer_state.json").is_file()}
    return dict(sorted(complete.items()))


def step_of(checkpoint: Path) -> int:
    return json.loads((checkpoint / "trainer_state.json").read_text())["global_step"]


def prepare_output_dir(training_args: TrainingArguments, keep: str | None) -> Path | None:
    """Check that output_dir can be written to, and find the checkpoint to go on from: what is there is not lost.

    Args:
        keep: the model to start from; it may not be overwritten.
    """
    output_dir = Path(training_args.output_dir)
    try:
        output_dir.mkdir(parents=True, exist_ok=True)
        probe = output_dir / ".writable"
        probe.touch()
        probe.unlink(missing_ok=True)  # another process may have been faster
    except OSError as error:
        raise UserError(
            f"--output_dir {output_dir} cannot be written to ({error.strerror}): give a folder of yours"
        ) from None
    if not training_args.do_train:
        return None
    if keep is not None and Path(keep).is_dir() and output_dir.samefile(keep):
        raise UserError(f"--output_dir {output_dir} is the model to start from: give another folder")
    checkpoints = list_checkpoints(training_args.output_dir)
    asked = training_args.resume_from_checkpoint
    if training_args.overwrite_output_dir:
        if asked is not None:
            raise UserError("--resume_from_checkpoint goes on, --overwrite_output_dir starts afresh: give one of them")
        if keep is not None and Path(keep).resolve() in [path.resolve() for path in checkpoints.values()]:
            raise UserError(f"--overwrite_output_dir would remove {keep}, the model to start from: copy it elsewhere")
        return None
    if asked not in (None, "True", "true"):
        if not (Path(asked) / "trainer_state.json").is_file():
            raise UserError(f"--resume_from_checkpoint {asked} is no checkpoint: give the path of a checkpoint-N")
        return Path(asked)
    if checkpoints:
        newest = list(checkpoints.values())[-1]
        logger.info("Going on from %s; --overwrite_output_dir would start afresh", newest)
        return newest
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


def remove_all(output_dir: str) -> None:
    """Delete the checkpoints of an earlier run, once all is ready to start afresh."""
    for path in list_checkpoints(output_dir).values():
        shutil.rmtree(path)


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
        shutil.rmtree(steps[step])


def check_disk(
    training_args: TrainingArguments, keep: int | None, num_parameters: int, free: int | None = None
) -> tuple[int, int]:
    """Compare the free disk with what the run will keep there: an error if not one checkpoint fits, else a warning.

    Gives both, in bytes: what the run will write at most, and what is free.

    A checkpoint has the weights and, for Adam, two more values a weight; the finished model has the weights again.

    Args:
        keep: checkpoints kept at a time.
        free: bytes to reckon with instead of those that are free in output_dir.
    """
    weights = 4 * num_parameters
    checkpoint = weights * (1 if training_args.save_only_model else 3)
    if free is None:
        free = shutil.disk_usage(training_args.output_dir).free
        if training_args.overwrite_output_dir:
            old = list_checkpoints(training_args.output_dir).values()
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


def gigabytes(size: float) -> str:
    return f"{size / 1e9:.2f} GB" if size >= 1e8 else f"{size / 1e6:.1f} MB"
