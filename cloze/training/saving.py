"""Save checkpoints that are complete or absent, and report those that cannot be loaded."""

import logging
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from pickle import UnpicklingError

from accelerate.utils import gather_object
from transformers import TrainerCallback
from transformers.trainer import TRAINING_ARGS_NAME

from cloze.config.arguments import TrainingArguments
from cloze.errors import UserError
from cloze.system.signals import exit_code, handling_signals
from cloze.system.storage import RECIPE
from cloze.training import checkpoints
from cloze.training.base import BaseTrainer
from cloze.training.callbacks import StopCallback
from cloze.training.checkpoints import Progress

logger = logging.getLogger(__name__)


class SavingTrainer(BaseTrainer):
    """Write checkpoints to a staging folder, move complete ones into place, and then exit if a signal came.

    Args:
        args: the training arguments.
        stop_callback: the callback that ends training, added last.
        recipe: the settings as a recipe, saved in checkpoints.
        callbacks: callbacks to add.
        **kwargs: further arguments of the Trainer.

    Attributes:
        unwritten: files of output_dir that could not be written beside the model, with the reasons.
        is_loading: whether a checkpoint is being loaded; errors are then reported as user errors.
    """

    def __init__(
        self,
        args: TrainingArguments,
        stop_callback: StopCallback,
        recipe: str = "",
        callbacks: Sequence[TrainerCallback] = (),
        **kwargs,
    ):
        self.recipe, self.stop_callback, self.is_loading = recipe, stop_callback, False
        self.unwritten: dict[str, str] = {}
        super().__init__(args=args, callbacks=[*callbacks, stop_callback], **kwargs)
        # At the end, the Trainer would delete checkpoints, even the newest.
        self.save_total_limit, self.args.save_total_limit = self.args.save_total_limit, None

    def train(self, resume_from_checkpoint=None, *args, **kwargs):
        """Train.

        Raises:
            UserError: if the checkpoint does not fit the model or its optimizer, or contains more than numbers.
        """
        self.is_loading = resume_from_checkpoint is not None
        try:
            return super().train(resume_from_checkpoint, *args, **kwargs)
        except (RuntimeError, ValueError, KeyError, AttributeError, UnpicklingError) as error:
            if not self.is_loading:
                raise
            raise UserError(
                f"{resume_from_checkpoint} does not fit this run, or was not saved by these scripts: "
                f"{str(error)[:200]}: start from its weights with --model_name_or_path, or start over with "
                "--overwrite_output_dir"
            ) from error

    # Private: no public method replaces a save (tests/test_contract.py).
    def _save_checkpoint(self, model, trial):
        """Save to a folder that is renamed when complete (transformers#35782); prune by step (transformers#26961)."""
        args, step = self.args, self.state.global_step
        self.stop_callback.check_losses(args.output_dir)
        folder = checkpoints.staging_folder(args.output_dir, f"checkpoint-{step}")
        save_only_model = args.save_only_model and not self.stop_callback.signal
        progress = None if save_only_model else self.find_progress()
        save = partial(super()._save_checkpoint, model, trial)
        # One by one: a process that fails in one must not leave the others waiting in a collective of the next.
        self._write_together(partial(self.write_state, progress), folder, save_only_model, by_all=False)
        self._write_together(partial(self._write_checkpoint, save, save_only_model), folder, save_only_model)
        self._write_together(self._complete, folder, save_only_model, by_all=False)
        if args.push_to_hub:
            # Private: the Trainer would have pushed the staging folder.
            self._push_from_checkpoint(str(checkpoints.final_path(folder)))
        if self.stop_callback.signal:
            logger.info("Stopped by a signal after step %d: checkpoint saved; run the same command to resume", step)
            sys.exit(exit_code(self.stop_callback.signal))

    def _write_checkpoint(self, save: Callable[[], None], save_only_model: bool, folder: Path) -> None:
        state, output_dir = self.state, Path(self.args.output_dir)
        with replaced(self.args, output_dir=str(folder.parent), push_to_hub=False, save_only_model=save_only_model):
            save()
        best = output_dir / f"checkpoint-{state.best_global_step}"
        if state.best_global_step == state.global_step or best.exists():
            state.best_model_checkpoint = str(best)
        if self.args.should_save:
            # Again, because the Trainer recorded the staging folder as the best checkpoint's.
            state.save_to_json(str(folder / "trainer_state.json"))

    def write_state(self, progress: Progress | None, folder: Path) -> None:
        """Write what the Trainer does not: the settings, and the progress unless the model alone is saved."""
        if progress is not None:
            progress.write(folder)
        (folder / RECIPE).write_text(self.recipe, encoding="utf-8")

    def _complete(self, folder: Path) -> None:
        state = self.state
        checkpoints.complete(folder)
        checkpoints.prune(self.args.output_dir, self.save_total_limit, state.global_step, state.best_global_step)

    def save_model(self, output_dir=None, _internal_call=False):
        """Save the model; in ``args.output_dir``, the default, it is complete or absent."""
        args = self.args
        folder = checkpoints.staging_folder(args.output_dir, "model") if output_dir is None else Path(output_dir)
        save_only_model = output_dir is None or args.save_only_model
        self._write_together(partial(self._write_model, super().save_model), folder, save_only_model)
        if output_dir is None:
            self._write_together(checkpoints.put_in_place, folder, save_only_model, by_all=False)
            if args.push_to_hub and not _internal_call:
                self.push_to_hub(commit_message="Model save", revision=args.hub_revision)

    def _write_model(self, save: Callable, folder: Path) -> None:
        save(str(folder), _internal_call=True)
        if self.args.should_save:
            # A pickle can run code when it is loaded; recipe.yaml has the same settings.
            (folder / TRAINING_ARGS_NAME).unlink(missing_ok=True)

    def _write_together(
        self, write: Callable[[Path], None], folder: Path, save_only_model: bool, by_all: bool = True
    ) -> None:
        """Write the process's part of a folder, and wait for the other processes.

        Args:
            write: writes the part.
            folder: the folder, made if absent.
            save_only_model: whether the model alone is written, for the size in the error.
            by_all: whether every process has a part, or only the one that saves.

        Raises:
            UserError: if any process cannot write.
        """
        problem = None
        has_average = self.args.ema_decay is not None
        size = checkpoints.checkpoint_size(self.model.num_parameters(), save_only_model, has_average)
        try:
            with checkpoints.writing(folder, size):
                if by_all or self.args.should_save:
                    folder.mkdir(parents=True, exist_ok=True)
                    write(folder)
        except UserError as error:
            problem = error
        if any(gather_object([problem is not None])):
            raise problem or UserError(f"{folder} cannot be written by another process: see its error")

    def evaluation_loop(self, *args, **kwargs):
        """Evaluate or predict; end after a batch if a signal comes."""
        with handling_signals(self.stop_callback.receive):
            output = super().evaluation_loop(*args, **kwargs)
        if not self.is_in_train:
            # No training step follows to check it.
            self.stop_callback.end_if_stopped()
        return output

    def create_model_card(self, *args, **kwargs):
        """Write no model card: the run writes its own, with the metrics, before it pushes."""


@contextmanager
def replaced(target: object, **values) -> Iterator[None]:
    """Replace the values of attributes temporarily."""
    before = {name: getattr(target, name) for name in values}
    vars(target).update(values)
    try:
        yield
    finally:
        vars(target).update(before)
