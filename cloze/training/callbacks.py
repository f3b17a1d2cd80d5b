"""Stop training at the same step in all processes, and resume it: callbacks of the Trainer."""

import logging
import math
import signal
import time
from pathlib import Path
from types import FrameType

import torch
import torch.distributed as dist
from transformers import Trainer, TrainerCallback, TrainerState
from transformers.trainer_callback import ExportableState
from transformers.trainer_utils import IntervalStrategy, SaveStrategy

from cloze.errors import UserError
from cloze.system.signals import exit_code, exit_immediately
from cloze.training.base import BaseTrainer
from cloze.training.run_length import find_position, restore_hyperparameters

logger = logging.getLogger(__name__)


class Stopped(SystemExit):
    """Exit from an evaluation, raised in all processes after the same batch."""


class StopCallback(TrainerCallback):
    """Stop training at the end of the same step in all processes.

    Signals take effect at the end of a step: a checkpoint is saved, and the run exits; in an evaluation, after a batch.
    ``hours`` ends training by wall-clock time and stretches the learning-rate schedule over it, as in Geiping and
    Goldstein (2022). A NaN or infinite loss is an error.

    Args:
        hours: limit of the time of training, with evaluations and saving, over all restarts; or None.
        device: the device of this process, where losses are checked.

    Attributes:
        to_the_end: whether only Ctrl-C stops the run, because it could not be resumed.
    """

    def __init__(self, hours: float | None, device: torch.device):
        self.limit, self.device = hours and 3600 * hours, device
        self.received, self.signal, self.evaluation_due, self.to_the_end = 0, 0, False, False
        self.started: float | None = None
        self.seconds_before = 0.0
        # The first step with a NaN or infinite loss, or 0; kept on the device, so that no step has to wait for it.
        self.bad_step = torch.zeros((), device=device)

    def receive(self, number: int, frame: FrameType | None) -> None:
        """Record the signal; a second Ctrl-C exits immediately."""
        if number == signal.SIGINT == self.received:
            exit_immediately(number, frame)
        self.received = number

    def record_loss(self, loss: torch.Tensor, step: int) -> None:
        """Record the step if its loss is the first NaN or infinite one."""
        bad = (self.bad_step == 0) & ~torch.isfinite(loss.detach())
        self.bad_step = torch.where(bad, float(step), self.bad_step)

    def start_clock(self, seconds_before: float) -> None:
        """Start the clock at the seconds of training that earlier starts took."""
        self.started, self.seconds_before = time.monotonic(), seconds_before

    @property
    def seconds(self) -> float:
        """Return the seconds of training so far, over all restarts."""
        return self.seconds_before + (0.0 if self.started is None else time.monotonic() - self.started)

    def share_of_time(self, seconds: float) -> float:
        """Return these seconds as a fraction of the time limit, at most 1; 0 without a limit."""
        return 0.0 if self.limit is None else min(seconds / self.limit, 1.0)

    def share_done(self, state: TrainerState) -> float:
        """Return the fraction done of the time limit, or of all steps if there is no limit."""
        return state.global_step / state.max_steps if self.limit is None else self.share_of_time(self.seconds)

    def reduce_state(self) -> torch.Tensor:
        """Return the maximum over processes of signal, first bad step and seconds of training, [3], on the device."""
        # From unpinned memory, the copy could wait for all work queued on the device.
        own = torch.tensor([self.received, 0.0, self.seconds], pin_memory=self.device.type == "cuda")
        own = own.to(self.device, non_blocking=True)
        own[1] = self.bad_step
        if dist.is_initialized():
            dist.all_reduce(own, dist.ReduceOp.MAX)
        return own

    def end_if_stopped(
        self, message: str = "Evaluation stopped by a signal: run the same command again to repeat it"
    ) -> None:
        """Raise Stopped in all processes if one of them has received a signal; waits for all of them."""
        # A single process need not wait for its device.
        number = int(self.reduce_state()[0]) if dist.is_initialized() else self.received
        if number and (number == signal.SIGINT or not self.to_the_end):
            self.signal = number
            logger.info(message)
            raise Stopped(exit_code(number))

    def check_losses(self, output_dir: str, bad_step: float | None = None) -> None:
        """Raise UserError for a NaN or infinite loss; without ``bad_step``, waits for the device and all processes."""
        bad_step = self.reduce_state()[1].item() if bad_step is None else bad_step
        if bad_step:
            raise UserError(
                f"NaN or infinite loss at step {bad_step:.0f}: lower --learning_rate, raise --warmup_steps, or use "
                f"--bf16 instead of --fp16; the checkpoints in {output_dir} are from earlier steps"
            )

    def on_step_begin(self, args, state, control, **kwargs):
        """On a GPU, start to collect what happened up to the previous step."""
        if self.device.type == "cuda":
            # At the end of the step, this would wait for the device.
            self.reduced_state = self.reduce_state().to("cpu", non_blocking=True)
            self.state_copied = torch.cuda.current_stream().record_event()

    def on_optimizer_step(self, args, state, control, lr_scheduler=None, **kwargs):
        """Check losses, handle a signal, and move the schedule to the time that has passed."""
        if self.device.type == "cuda":
            self.state_copied.synchronize()
        else:
            self.reduced_state = self.reduce_state()
        number, bad_step, seconds = self.reduced_state.tolist()
        self.check_losses(args.output_dir, bad_step)
        self.signal = int(number)
        if self.limit is not None:
            # The scheduler's own step then moves it to this position.
            lr_scheduler.last_epoch = math.floor(self.share_of_time(seconds) * args.max_steps) - 1
            if self.share_of_time(seconds) == 1:
                state.max_steps = state.global_step + 1

    def on_step_end(self, args, state, control, **kwargs):
        """After a signal, request a checkpoint and postpone the evaluation."""
        if self.signal:
            # A batch system may kill the process before an evaluation ends.
            self.evaluation_due, control.should_evaluate, control.should_save = control.should_evaluate, False, True

    def on_prediction_step(self, args, state, control, **kwargs):
        """End an evaluation after this batch if a signal came."""
        self.end_if_stopped()


class ResumeCallback(TrainerCallback):
    """Resume a run from its checkpoint, and end epochs where the train stream does.

    The Trainer takes the whole run for one epoch (see ``ResumableTrainer.set_initial_training_values``).
    """

    def __init__(self, trainer: BaseTrainer, stop_callback: StopCallback):
        self.trainer, self.stop_callback, self.ended = trainer, stop_callback, True

    def on_train_begin(self, args, state, control, optimizer=None, lr_scheduler=None, **kwargs):
        """Restore what the Trainer does not, and stop at once if the run is already complete."""
        trainer, progress = self.trainer, self.trainer.progress
        state.num_train_epochs = trainer.num_epochs
        # The Trainer would keep the checkpoint's logging, evaluation and saving intervals.
        state.compute_steps(args, state.max_steps)
        trainer.start_sums()
        self.ended = True
        if not progress.step:
            return
        for callback in trainer.callback_handler.callbacks:
            if isinstance(callback, ExportableState):
                # The Trainer saves the state of a callback only if the checkpoint has one.
                state.stateful_callbacks.setdefault(type(callback).__name__, callback.state())
        self._restore_best_evaluation(args, state)
        share_of_time = self.stop_callback.share_of_time(progress.seconds)
        position = find_position(args, progress, trainer.length_before, share_of_time)
        restore_hyperparameters(optimizer, lr_scheduler, trainer.hyperparameters, position)
        if progress.evaluation_due:
            self._run_postponed_evaluation(state, control)
        if state.global_step >= state.max_steps or trainer.stopped_early or share_of_time == 1:
            control.should_training_stop = True
        else:
            # For readers of trainer_state.json; trackers count their own steps.
            state.log_history.append({"step": progress.step, "epoch": state.epoch, "resumed": True})

    def on_epoch_begin(self, args, state, control, **kwargs):
        """Start the clock of the throughput."""
        self.trainer.started = time.monotonic()

    def on_step_end(self, args, state, control, **kwargs):
        """Set the epoch, and at its end request what the strategies ask for."""
        stream, is_last = self.trainer.stream, state.global_step >= state.max_steps
        state.epoch = self.stop_callback.share_done(state) if stream.epoch is None else stream.epoch
        self.ended = stream.ends_epoch or is_last
        if self.ended:
            # The last step is always logged.
            control.should_log |= is_last or args.logging_strategy == IntervalStrategy.EPOCH
            control.should_evaluate |= args.eval_strategy == IntervalStrategy.EPOCH and args.eval_delay <= state.epoch
            control.should_save |= args.save_strategy == IntervalStrategy.EPOCH

    def on_epoch_end(self, args, state, control, **kwargs):
        """Undo the Trainer's requests at the end of what it takes for an epoch."""
        logging.getLogger(Trainer.__module__).disabled = False
        if self.ended:
            # on_step_end has requested them at the last step.
            control.should_log = control.should_evaluate = control.should_save = False

    def _restore_best_evaluation(self, args, state) -> None:
        """Restore early stopping, or drop the best evaluation so far if later ones are not comparable."""
        early_stopping = self.trainer.early_stopping
        saved = state.stateful_callbacks.get(type(early_stopping).__name__)
        if not self._is_comparable(args, state):
            logger.warning(
                "ignoring the best evaluation so far: not %s (--metric_for_best_model) on the same validation text",
                args.metric_for_best_model,
            )
            state.best_metric = state.best_global_step = state.best_model_checkpoint = None
        elif early_stopping is not None:
            # restore_callback_states_from_checkpoint would restore the old patience, too.
            vars(early_stopping).update(saved["attributes"])

    def _is_comparable(self, args, state) -> bool:
        """Return whether the checkpoint's best value, if any, is by the same metric on the same validation text."""
        metric, best = args.metric_for_best_model, state.best_metric
        before, now = (
            each.get("validation") for each in (self.trainer.progress.fingerprints, self.trainer.fingerprints)
        )
        if best is not None and before and now and before != now:
            return False
        if best is None or metric is None:
            return True
        return any(entry.get(f"eval_{metric.removeprefix('eval_')}") == best for entry in state.log_history)

    def _run_postponed_evaluation(self, state, control) -> None:
        """Run the evaluation that a signal postponed, as the Trainer does after a step."""
        args = self.trainer.args
        control.should_evaluate, save_strategy = True, args.save_strategy
        if save_strategy == SaveStrategy.BEST:
            # The checkpoint exists; saved again now, it would have the wrong random-number states.
            args.save_strategy = SaveStrategy.STEPS
        # Private: public hooks evaluate only after a step.
        model, no_loss = self.trainer.model, torch.zeros(())
        self.trainer._maybe_log_save_evaluate(no_loss, None, model, None, state.epoch, None, 0.0)
        args.save_strategy = save_strategy
        if state.best_global_step == state.global_step:
            state.best_model_checkpoint = str(Path(args.output_dir) / f"checkpoint-{state.global_step}")
