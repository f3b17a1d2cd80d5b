"""The Trainer whose checkpoints are complete or absent, and that says what is wrong with those it cannot take."""

import logging
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from pickle import UnpicklingError

from accelerate.utils import gather_object
from transformers import Trainer
from transformers.trainer_callback import ExportableState

from cloze.errors import UserError
from cloze.system.signals import exit_code, handled
from cloze.system.storage import RECIPE
from cloze.training import checkpoints
from cloze.training.callbacks import StopCallback
from cloze.training.progress import Progress

logger = logging.getLogger(__name__)


@contextmanager
def of_another_run(checkpoint: str | None) -> Iterator[None]:
    """Raise UserError where a checkpoint does not fit the model or its optimizer, or is more than numbers."""
    try:
        yield
    except (RuntimeError, ValueError, KeyError, AttributeError, UnpicklingError) as error:
        raise UserError(
            f"{checkpoint} does not fit this run, or is not of these scripts: {str(error)[:200]}: start from its "
            "weights with --model_name_or_path, or afresh with --overwrite_output_dir"
        ) from error


class SavingTrainer(Trainer):
    """Trainer that writes checkpoints aside and ends, once one is complete, where a signal asked for it.

    Args:
        recipe: the settings, which are kept in checkpoints.

    Attributes:
        unwritten: files of output_dir that could not be written beside the model, and why.
    """

    def __init__(self, args, recipe: str = "", callbacks=(), **kwargs):
        self.recipe, self.unwritten = recipe, {}
        self.stop_callback = StopCallback(
            None if args.max_train_hours is None else 3600 * args.max_train_hours, args.device
        )
        super().__init__(args=args, callbacks=[*callbacks, self.stop_callback], **kwargs)
        # The Trainer deletes checkpoints at the end, even the newest: ours are used.
        self.save_total_limit, self.args.save_total_limit = self.args.save_total_limit, None

    def find_progress(self) -> Progress:
        """How far the run is; all processes have to ask."""
        raise NotImplementedError

    def _save_checkpoint(self, model, trial):
        """In place of the Trainer's, which leaves half a checkpoint where it is broken off (transformers#35782), and
        prunes by time of change (transformers#26961)."""
        args, state = self.args, self.state
        self.stop_callback.check_losses_now(args.output_dir)
        self.store_flos()
        progress = self.find_progress()
        best = Path(args.output_dir) / f"checkpoint-{state.best_global_step}"
        if state.best_global_step == state.global_step or best.exists():
            state.best_model_checkpoint = str(best)
        folder = checkpoints.aside(args.output_dir, state.global_step)
        for part in (self.write_model, partial(self.write_state, progress), self.complete):
            self.write_together(part, folder, save_only_model=not self.saves_state)
        folder = checkpoints.final(folder)
        if args.push_to_hub:
            self._push_from_checkpoint(str(folder))
        if self.stop_callback.signal:
            logger.info("Stopped by a signal after step %d, which is saved: run it again to go on", state.global_step)
            sys.exit(exit_code(self.stop_callback.signal))

    def save_model(self, output_dir=None, _internal_call=False):
        """Save the model as the Trainer does; in ``args.output_dir``, the default, whole or not at all."""
        args = self.args
        if output_dir is not None:
            super().save_model(output_dir, _internal_call)
            return
        folder = checkpoints.aside_of_model(args.output_dir)
        for part in (self.write_model, self.put_in_place):
            self.write_together(part, folder, save_only_model=True)
        if args.push_to_hub and not _internal_call:
            self.push_to_hub(commit_message="Model save", revision=args.hub_revision)

    def put_in_place(self, folder: Path) -> None:
        if self.args.should_save:
            checkpoints.put_in_place(folder)

    @property
    def saves_state(self) -> bool:
        """Return whether a checkpoint has what is needed to resume; one that a signal asked for always has."""
        return bool(self.stop_callback.signal) or not self.args.save_only_model

    def write_together(self, part: Callable[[Path], None], folder: Path, save_only_model: bool) -> None:
        """Write one's part of a folder, and go on when all processes have; UserError if one of them cannot."""
        problem = None
        size = checkpoints.checkpoint_size(self.model.num_parameters(), save_only_model)
        try:
            with checkpoints.writing(folder, size):
                part(folder)
        except UserError as error:
            problem = error
        if any(gather_object([problem is not None])):
            raise problem or UserError(f"{folder} cannot be written by another process, which says why")

    def evaluation_loop(self, *args, **kwargs):
        """Evaluate or predict until a signal comes, which ends it after a batch."""
        with handled(self.stop_callback.receive):
            output = super().evaluation_loop(*args, **kwargs)
        if not self.is_in_train:
            # No step follows that would look at it.
            self.stop_callback.end_if_stopped()
        return output

    def write_model(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.save_model(str(folder), _internal_call=True)

    def write_state(self, progress: Progress, folder: Path) -> None:
        """What is needed to go on."""
        if self.saves_state:
            self._save_optimizer_and_scheduler(str(folder))
            self._save_scaler(str(folder))
            self._save_rng_state(str(folder))
            if self.args.should_save:
                progress.write(folder)
        if self.args.should_save:
            for callback in self.callback_handler.callbacks:
                if isinstance(callback, ExportableState):
                    self.state.stateful_callbacks[type(callback).__name__] = callback.state()
            (folder / RECIPE).write_text(self.recipe, encoding="utf-8")
            self.state.save_to_json(str(folder / "trainer_state.json"))

    def complete(self, folder: Path) -> None:
        if self.args.should_save:
            checkpoints.complete(folder)
            checkpoints.prune(
                self.args.output_dir, self.save_total_limit, self.state.global_step, self.state.best_global_step
            )

    def _load_from_checkpoint(self, checkpoint, *args, **kwargs):
        with of_another_run(checkpoint):
            super()._load_from_checkpoint(checkpoint, *args, **kwargs)

    def _load_optimizer_and_scheduler(self, checkpoint):
        with of_another_run(checkpoint):
            super()._load_optimizer_and_scheduler(checkpoint)

    def _load_scaler(self, checkpoint):
        with of_another_run(checkpoint):
            super()._load_scaler(checkpoint)

    def _load_rng_state(self, checkpoint):
        with of_another_run(checkpoint):
            super()._load_rng_state(checkpoint)
