"""Checkpoints: complete or absent. Find, complete and prune them; what they say of how far a run is."""

import json
import logging
import os
import re
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any, TextIO

from transformers.utils import SAFE_WEIGHTS_INDEX_NAME, SAFE_WEIGHTS_NAME, WEIGHTS_INDEX_NAME, WEIGHTS_NAME

from cloze.errors import UserError
from cloze.system import storage
from cloze.system.storage import CHECKSUMS, RECIPE, delete_as

logger = logging.getLogger(__name__)

# Says how far a run is; a checkpoint of the model alone has none.
PROGRESS = "progress.json"
# A folder holds a model if it has one of these: the weights, or the index of shards.
MODEL_FILES = (SAFE_WEIGHTS_NAME, WEIGHTS_NAME, SAFE_WEIGHTS_INDEX_NAME, WEIGHTS_INDEX_NAME)
# Where checkpoints are written and deleted. The Trainer keeps names with this beginning from the Hub.
STAGING_DIR = "checkpoint-incomplete"

writing = partial(storage.writing, cure="make room and run it again; the checkpoints from before are as they were")


def list_checkpoints(output_dir: str) -> dict[int, Path]:
    """Return the complete checkpoints by step, ascending."""
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


def aside(output_dir: str, name: str) -> Path:
    """Return the folder to write a checkpoint or the finished model to: what is broken off there counts for nothing.

    See transformers#35782.
    """
    return Path(output_dir) / STAGING_DIR / name


def final(folder: Path) -> Path:
    """Return what a checkpoint that is written aside is called in the end."""
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
    """Return whether every file is as it was written; the user may have added some."""
    return storage.find_damage(checkpoint, CHECKSUMS, needed=[RECIPE]) is None


def newest_whole(output_dir: str) -> Path | None:
    """Return the newest checkpoint that can be read; warn of those that cannot."""
    for checkpoint in reversed(list_checkpoints(output_dir).values()):
        check_readable(checkpoint)
        if is_whole(checkpoint):
            return checkpoint
        logger.warning("BROKEN: %s is not as it was written, its files do not fit %s: left out", checkpoint, CHECKSUMS)
    return None


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
    """Return the bytes of a checkpoint: the weights and, for Adam, two more values a weight."""
    return 4 * num_parameters * (1 if save_only_model else 3)


@dataclass(frozen=True)
class Progress:
    """Say how far a run is, beside the state of the Trainer, so that it is resumed exactly; by default, that it begins.

    Attributes:
        step: optimizer steps taken, of ``max_steps``.
        steps_in_epoch: those in the first epoch, with the settings of the last batches.
        stream: the state of the train stream (training.stream).
        data: examples and tokens of the first epoch, to tell whether the text is still the same; or None for streams.
        sums: of each process, what is summed up for the next log.
        logged: the step of the last log; and ``total_loss``, the sum of the losses of all steps until then.
        seconds: time of training.
        evaluation_due: whether an evaluation was put off by the end that came early.
        texts: the content of the training and of the validation text, each None if there is none.
    """

    step: int = 0
    max_steps: int = 0
    steps_in_epoch: int = 0
    stream: dict[str, Any] | None = None
    data: list[int] | None = None
    sums: Sequence[list[float]] = ()
    logged: int = 0
    total_loss: float = 0.0
    seconds: float = 0.0
    evaluation_due: bool = False
    texts: Sequence[list[list] | None] = (None, None)

    def write(self, checkpoint: Path) -> None:
        (checkpoint / PROGRESS).write_text(json.dumps(asdict(self), indent=1))

    @classmethod
    def read(cls, checkpoint: Path) -> "Progress":
        try:
            return cls(**json.loads((checkpoint / PROGRESS).read_text()))
        except TypeError:
            raise UserError(
                f"{checkpoint} is of another version of these scripts: resume it with that one, or start from its "
                "weights with --model_name_or_path and another --output_dir, or afresh with --overwrite_output_dir"
            ) from None

    def sums_of(self, process: int, processes: int) -> list[float]:
        """Return those of a process; the mean of all, if they are of another number of processes; none at the start."""
        if len(self.sums) == processes:
            return self.sums[process]
        return [sum(column) / len(self.sums) for column in zip(*self.sums, strict=True)]
