"""The Trainer whose checkpoints are complete or absent, and that reports those it cannot take."""

import logging
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from pickle import UnpicklingError

from accelerate.utils import gather_object
from transformers import Trainer
from transformers.trainer import TRAINING_ARGS_NAME

from cloze.errors import UserError
from cloze.system.signals import exit_code, handling_signals
from cloze.system.storage import RECIPE
from cloze.training import checkpoints
from cloze.training.callbacks import StopCallback
from cloze.training.checkpoints import Progress

logger = logging.getLogger(__name__)


class SavingTrainer(Trainer):
    """Write checkpoints aside, and exit once one is complete where a signal asked for it.

    Args:
        recipe: the settings, which are kept in checkpoints.

    Attributes:
        unwritten: files of output_dir that could not be written beside the model, and why.
        is_loading: whether a checkpoint is being loaded, whose errors are the user's.
    """

    def __init__(self, args, recipe: str = "", callbacks=(), **kwargs):
        self.recipe, self.unwritten, self.is_loading = recipe, {}, False
        self.stop_callback = StopCallback(args.max_train_hours, args.device)
        super().__init__(args=args, callbacks=[*callbacks, self.stop_callback], **kwargs)
        # The Trainer deletes checkpoints at the end, even the newest: ours are used.
        self.save_total_limit, self.args.save_total_limit = self.args.save_total_limit, None

    def train(self, resume_from_checkpoint=None, **kwargs):
        """Train; UserError where a checkpoint does not fit the model or its optimizer, or is more than numbers."""
        self.is_loading = resume_from_checkpoint is not None
        try:
            return super().train(resume_from_checkpoint, **kwargs)
        except (RuntimeError, ValueError, KeyError, AttributeError, UnpicklingError) as error:
            if not self.is_loading:
                raise
            raise UserError(
                f"{resume_from_checkpoint} does not fit this run, or is not of these scripts: {str(error)[:200]}: start"
                " from its weights with --model_name_or_path, or afresh with --overwrite_output_dir"
            ) from error

    # Private: nothing public is called in place of a save (tests/test_contract.py).
    def _save_checkpoint(self, model, trial):
        """Save as the Trainer does, but to a folder that is renamed once it is complete (transformers#35782).

        Pruned by step, and not by time of change (transformers#26961).
        """
        args, step = self.args, self.state.global_step
        self.stop_callback.check_losses(args.output_dir)
        folder = checkpoints.aside(args.output_dir, f"checkpoint-{step}")
        save_only_model = args.save_only_model and not self.stop_callback.signal
        progress = None if save_only_model else self.find_progress()
        save = partial(super()._save_checkpoint, model, trial)
        # One after the other, as a process that fails in one must not leave the others in a collective of the next.
        self._write_together(partial(self.write_state, progress), folder, save_only_model, by_all=False)
        self._write_together(partial(self._write_checkpoint, save, save_only_model), folder, save_only_model)
        self._write_together(self._complete, folder, save_only_model, by_all=False)
        if args.push_to_hub:
            # Private: the push that the Trainer has no part in, as it is of the renamed folder.
            self._push_from_checkpoint(str(checkpoints.final(folder)))
        if self.stop_callback.signal:
            logger.info("Stopped by a signal after step %d, which is saved: run it again to go on", step)
            sys.exit(exit_code(self.stop_callback.signal))

    def _write_checkpoint(self, save: Callable[[], None], save_only_model: bool, folder: Path) -> None:
        state, output_dir = self.state, Path(self.args.output_dir)
        with replaced(self.args, output_dir=str(folder.parent), push_to_hub=False, save_only_model=save_only_model):
            save()
        best = output_dir / f"checkpoint-{state.best_global_step}"
        if state.best_global_step == state.global_step or best.exists():
            state.best_model_checkpoint = str(best)
        if self.args.should_save:
            # Again, as the Trainer takes the folder for the place of the best checkpoint.
            state.save_to_json(str(folder / "trainer_state.json"))

    def write_state(self, progress: Progress | None, folder: Path) -> None:
        """Write what the Trainer does not: the settings, and unless the model alone is saved, how far the run is."""
        if progress is not None:
            progress.write(folder)
        (folder / RECIPE).write_text(self.recipe, encoding="utf-8")

    def _complete(self, folder: Path) -> None:
        state = self.state
        checkpoints.complete(folder)
        checkpoints.prune(self.args.output_dir, self.save_total_limit, state.global_step, state.best_global_step)

    def save_model(self, output_dir=None, _internal_call=False):
        """Save the model as the Trainer does; in ``args.output_dir``, the default, whole or not at all."""
        args = self.args
        folder = checkpoints.aside(args.output_dir, "model") if output_dir is None else Path(output_dir)
        save_only_model = output_dir is None or args.save_only_model
        self._write_together(partial(self._write_model, super().save_model), folder, save_only_model)
        if output_dir is None:
            self._write_together(checkpoints.put_in_place, folder, save_only_model, by_all=False)
            if args.push_to_hub and not _internal_call:
                self.push_to_hub(commit_message="Model save", revision=args.hub_revision)

    def _write_model(self, save: Callable, folder: Path) -> None:
        save(str(folder), _internal_call=True)
        if self.args.should_save:
            # A pickle, which runs code where it is loaded; recipe.yaml has what is in it.
            (folder / TRAINING_ARGS_NAME).unlink(missing_ok=True)

    def _write_together(
        self, write: Callable[[Path], None], folder: Path, save_only_model: bool, by_all: bool = True
    ) -> None:
        """Write one's part of a folder, and continue when all processes have; UserError if one of them cannot.

        Args:
            by_all: whether each process has a part, or only the one that saves.
        """
        problem = None
        size = checkpoints.checkpoint_size(self.model.num_parameters(), save_only_model)
        try:
            with checkpoints.writing(folder, size):
                if by_all or self.args.should_save:
                    folder.mkdir(parents=True, exist_ok=True)
                    write(folder)
        except UserError as error:
            problem = error
        if any(gather_object([problem is not None])):
            raise problem or UserError(f"{folder} cannot be written by another process, which says why")

    def evaluation_loop(self, *args, **kwargs):
        """Evaluate or predict until a signal comes, which ends it after a batch."""
        with handling_signals(self.stop_callback.receive):
            output = super().evaluation_loop(*args, **kwargs)
        if not self.is_in_train:
            # No step follows that would look at it.
            self.stop_callback.end_if_stopped()
        return output

    def create_model_card(self, *args, **kwargs):
        """Write none: the run writes its own, with the metrics, and before anything is pushed."""


@contextmanager
def replaced(target: object, **values) -> Iterator[None]:
    """Give attributes other values for a while."""
    before = {name: getattr(target, name) for name in values}
    vars(target).update(values)
    try:
        yield
    finally:
        vars(target).update(before)
