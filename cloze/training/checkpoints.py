"""Find, complete and prune checkpoints, which are complete or absent; record the progress of a run in them."""

import json
import logging
import os
import re
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, TextIO

from transformers.utils import SAFE_WEIGHTS_INDEX_NAME, SAFE_WEIGHTS_NAME, WEIGHTS_INDEX_NAME, WEIGHTS_NAME

from cloze.errors import UserError
from cloze.system import storage
from cloze.system.storage import CHECKSUMS, RECIPE, delete_as

logger = logging.getLogger(__name__)

# The Progress of the run; checkpoints of the model alone lack it.
PROGRESS = "progress.json"
# A folder holds a model if it has one of these: weights, or the index of their shards.
MODEL_FILES = (SAFE_WEIGHTS_NAME, WEIGHTS_NAME, SAFE_WEIGHTS_INDEX_NAME, WEIGHTS_INDEX_NAME)
# Where checkpoints are written and deleted. The Trainer does not push checkpoint-* to the Hub.
STAGING_DIR = "checkpoint-incomplete"

# The content of each text (``Corpus.content``) by name, by use.
Fingerprints = dict[str, dict[str, list[list]]]

writing = partial(storage.writing, cure="free disk space and run again; earlier checkpoints are intact")


def list_checkpoints(output_dir: str) -> dict[int, Path]:
    """Return the complete checkpoints by step, in ascending order."""
    found = [path for path in Path(output_dir).glob("checkpoint-*") if re.fullmatch(r"checkpoint-\d+", path.name)]
    with readable():
        complete = {int(path.name.split("-")[1]): path for path in found if (path / CHECKSUMS).is_file()}
    return dict(sorted(complete.items()))


@contextmanager
def readable() -> Iterator[None]:
    """Turn a PermissionError into a UserError: such a checkpoint is another user's, not corrupt."""
    try:
        yield
    except PermissionError as error:
        raise UserError(
            f"{error.filename} cannot be read ({error.strerror}): ask its owner for read permission, or give another "
            "--output_dir"
        ) from None


def check_readable(checkpoint: Path) -> None:
    """Raise UserError if a file of a checkpoint may not be read."""
    with readable():
        for path in checkpoint.iterdir() if checkpoint.is_dir() else ():
            if path.is_file():
                open(path, "rb").close()


def staging_folder(output_dir: str, name: str) -> Path:
    """Return the staging folder of a checkpoint or of the final model; nothing in it counts (transformers#35782)."""
    return Path(output_dir) / STAGING_DIR / name


def final_path(folder: Path) -> Path:
    """Return the final path of a staged checkpoint."""
    return folder.parent.parent / folder.name


def complete(folder: Path) -> None:
    """Sync a staged checkpoint to disk and move it to its final path."""
    storage.seal(folder, CHECKSUMS)
    checkpoint = final_path(folder)
    if os.path.lexists(checkpoint):  # corrupt, of an earlier run, or a dangling link
        remove(checkpoint)
    storage.rename(folder, checkpoint)
    with suppress(OSError):
        folder.parent.rmdir()


def put_in_place(folder: Path) -> None:
    """Move a staged model into output_dir: a reader finds the earlier model, none, or this one.

    If the process is killed between two renames, the resumed run saves the model again.
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
        if target.is_dir():  # written by DeepSpeed; os.replace fails on it
            shutil.rmtree(target)
        os.replace(path, target)
    folder.rmdir()
    with suppress(OSError):
        folder.parent.rmdir()


@contextmanager
def replacing(path: Path, errors: str = "strict") -> Iterator[TextIO]:
    """Open a text file that replaces ``path`` once it is complete and on disk."""
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
    """Delete a checkpoint, or only the link to one; if this is interrupted, the remaining files do not count as one."""
    trash = checkpoint.parent / STAGING_DIR / f"{checkpoint.name}-deleted"
    try:
        trash.parent.mkdir(exist_ok=True)
        delete_as(checkpoint, trash)
    except OSError as error:
        raise UserError(
            f"{checkpoint} cannot be deleted ({error.strerror}): delete it, or ask its owner to, and run again; the "
            "other checkpoints are intact"
        ) from error
    finally:
        with suppress(OSError):
            trash.parent.rmdir()


def find_damage(checkpoint: Path) -> str | None:
    """Return what is wrong with a checkpoint, None if every file has its checksum; users may have added files."""
    return storage.find_damage(checkpoint, CHECKSUMS, needed=[RECIPE])


def newest_intact(output_dir: str) -> Path | None:
    """Return the newest checkpoint that is not corrupt; warn of those that are."""
    for checkpoint in reversed(list_checkpoints(output_dir).values()):
        check_readable(checkpoint)
        damage = find_damage(checkpoint)
        if damage is None:
            return checkpoint
        logger.warning("skipping corrupt %s: %s", checkpoint, damage)
    return None


def remove_all(output_dir: str) -> None:
    """Delete the checkpoints of an earlier run."""
    for path in list_checkpoints(output_dir).values():
        remove(path)


def prune(output_dir: str, keep: int | None, newest: int, best: int | None) -> None:
    """Delete the oldest checkpoints of this run beyond ``keep``, but never the newest or the best.

    Age is by step, not by modification time, which copying changes (huggingface/transformers#26961). Checkpoints beyond
    the newest step are of an earlier run and stay (huggingface/transformers#37260).
    """
    if keep is None:
        return
    steps = {step: path for step, path in list_checkpoints(output_dir).items() if step <= newest}
    protected = {newest, best} & set(steps)
    spare = [step for step in steps if step not in protected]
    for step in spare[: max(0, len(steps) - max(keep, len(protected)))]:
        logger.info("Deleting %s: --save_total_limit is %d", steps[step], keep)
        remove(steps[step])


def checkpoint_size(num_parameters: int, save_only_model: bool, has_average: bool) -> int:
    """Return the approximate size of a checkpoint in bytes: float32 weights, their average, and two values for Adam."""
    return 4 * num_parameters * (1 if save_only_model else 3 + has_average)


@dataclass(frozen=True)
class Progress:
    """Hold the progress of a run that the Trainer's state lacks, for exact resumption; the default is a new run.

    Attributes:
        step: optimizer steps taken, of ``max_steps``.
        steps_in_epoch: optimizer steps in the first epoch, with the latest batch settings.
        stream: the state of the train stream (training.stream).
        data: examples and tokens of the first epoch (of a stream: files and bytes), to detect changed text.
        sums: the running sums for the next log, [processes, sums].
        logged: the step of the last log.
        total_loss: the sum of the losses of all steps up to the last log.
        seconds: time of training, in seconds.
        evaluation_due: whether a signal postponed an evaluation.
        fingerprints: of the training texts (``train``) and of the validation texts (``validation``), by name.
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
    fingerprints: Fingerprints = field(default_factory=dict)

    def write(self, checkpoint: Path) -> None:
        """Write the progress to a checkpoint."""
        (checkpoint / PROGRESS).write_text(json.dumps(asdict(self), indent=1))

    @classmethod
    def read(cls, checkpoint: Path) -> "Progress":
        """Read the progress of a checkpoint; raise UserError if another version of the scripts wrote it."""
        try:
            return cls(**json.loads((checkpoint / PROGRESS).read_text()))
        except TypeError:
            raise UserError(
                f"{checkpoint} was saved by another version of these scripts: resume it with that version, start from "
                "its weights with --model_name_or_path and another --output_dir, or start over with "
                "--overwrite_output_dir"
            ) from None

    def sums_of(self, process: int, processes: int) -> list[float]:
        """Return the sums of a process, or their mean if the number of processes has changed; none in a new run."""
        if len(self.sums) == processes:
            return self.sums[process]
        return [sum(column) / len(self.sums) for column in zip(*self.sums, strict=True)]
