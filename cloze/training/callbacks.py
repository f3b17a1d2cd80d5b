"""Callbacks of training: what ends it early, agreed on by all processes at the same step, and what resumes it."""

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
from cloze.training.run_length import restore_hyperparameters

logger = logging.getLogger(__name__)


class Stopped(SystemExit):
    """Raised in all processes after the same batch of an evaluation; uncaught, it ends them."""


class StopCallback(TrainerCallback):
    """End training at the end of a step, the same for all processes.

    A signal lets the step end and a checkpoint be saved, with which the Trainer then exits; an evaluation ends after a
    batch. With ``hours``, the time at hand, the schedule is laid over it and training ends with it, as in Geiping and
    Goldstein (2022). A NaN or infinite loss is an error.

    Args:
        hours: of training, evaluation and saving in between included, over all restarts; or None.

    Attributes:
        to_the_end: whether only Ctrl-C stops the run, as it could not be resumed.
    """

    def __init__(self, hours: float | None, device: torch.device):
        self.limit, self.device = hours and 3600 * hours, device
        self.received, self.signal, self.evaluation_due, self.to_the_end = 0, 0, False, False
        self.started, self.seconds_before = None, 0.0
        # The first step whose loss is no number, or 0. Looking at each loss would wait for the device.
        self.bad_step = torch.zeros((), device=device)

    def receive(self, number: int, frame: FrameType | None) -> None:
        """Remember the signal; a second Ctrl-C is meant, and exits."""
        if number == signal.SIGINT == self.received:
            exit_immediately(number, frame)
        self.received = number

    def record_loss(self, loss: torch.Tensor, step: int) -> None:
        """Remember the step if its loss is the first that is no number."""
        bad = (self.bad_step == 0) & ~torch.isfinite(loss.detach())
        self.bad_step = torch.where(bad, float(step), self.bad_step)

    def start_clock(self, seconds_before: float) -> None:
        """Start to count, from the seconds of training before the run was resumed."""
        self.started, self.seconds_before = time.monotonic(), seconds_before

    @property
    def seconds(self) -> float:
        """Return the seconds of training so far, over all restarts."""
        return self.seconds_before + (0.0 if self.started is None else time.monotonic() - self.started)

    def share_of_time(self, seconds: float) -> float:
        """Return which part of the time at hand these seconds are, up to 1; 0 if it is not limited."""
        return 0.0 if self.limit is None else min(seconds / self.limit, 1.0)

    def share_done(self, state: TrainerState) -> float:
        """Return which part of all steps, or of the time at hand, is over."""
        return state.global_step / state.max_steps if self.limit is None else self.share_of_time(self.seconds)

    def ask(self) -> torch.Tensor:
        """Return the largest signal, first bad step and seconds of training of all processes, [3], on the device."""
        # From memory that is not pinned, the copy could wait for all that the device has to do.
        own = torch.tensor([self.received, 0.0, self.seconds], pin_memory=self.device.type == "cuda")
        own = own.to(self.device, non_blocking=True)
        own[1] = self.bad_step
        if dist.is_initialized():
            dist.all_reduce(own, dist.ReduceOp.MAX)
        return own

    def end_if_stopped(self, message: str = "Evaluation stopped by a signal: running again repeats it") -> None:
        """Raise Stopped in all processes if one of them has received a signal; waits for all of them."""
        # One process does not wait for its device.
        number = int(self.ask()[0]) if dist.is_initialized() else self.received
        if number and (number == signal.SIGINT or not self.to_the_end):
            self.signal = number
            logger.info(message)
            raise Stopped(exit_code(number))

    def check_losses(self, output_dir: str, bad_step: float | None = None) -> None:
        """Raise UserError for a NaN or infinite loss; without ``bad_step``, waits for the device and all processes."""
        bad_step = self.ask()[1].item() if bad_step is None else bad_step
        if bad_step:
            raise UserError(
                f"the loss of step {bad_step:.0f} is not a number: lower --learning_rate, raise --warmup_steps, or use "
                f"--bf16 instead of --fp16; the checkpoints in {output_dir} are from before"
            )

    def on_step_begin(self, args, state, control, **kwargs):
        if self.device.type == "cuda":
            # Asked at the end of a step, the device would have to be waited for; the answer is of the step before.
            self.answer = self.ask().to("cpu", non_blocking=True)
            self.answered = torch.cuda.current_stream().record_event()

    def on_optimizer_step(self, args, state, control, lr_scheduler=None, **kwargs):
        if self.device.type == "cuda":
            self.answered.synchronize()
        else:
            self.answer = self.ask()
        number, bad_step, seconds = self.answer.tolist()
        self.check_losses(args.output_dir, bad_step)
        self.signal = int(number)
        if self.limit is not None:
            # The Trainer then steps to this place of the schedule.
            lr_scheduler.last_epoch = math.floor(self.share_of_time(seconds) * args.max_steps) - 1
            if self.share_of_time(seconds) == 1:
                state.max_steps = state.global_step + 1

    def on_step_end(self, args, state, control, **kwargs):
        if self.signal:
            # An evaluation may take longer than there is time.
            self.evaluation_due, control.should_evaluate, control.should_save = control.should_evaluate, False, True

    def on_prediction_step(self, args, state, control, **kwargs):
        self.end_if_stopped()


class ResumeCallback(TrainerCallback):
    """Resume a run at its checkpoint, and let the train stream say where epochs end.

    For the Trainer, a run is one epoch (see ``ResumableTrainer.set_initial_training_values``).
    """

    def __init__(self, trainer: Trainer):
        self.trainer, self.ended = trainer, True

    def on_train_begin(self, args, state, control, optimizer=None, lr_scheduler=None, **kwargs):
        trainer, progress = self.trainer, self.trainer.progress
        state.num_train_epochs = trainer.num_epochs
        # A checkpoint's state brings its own intervals, and the Trainer keeps those.
        state.compute_steps(args, state.max_steps)
        trainer.start_sums()
        self.ended = True
        if not progress.step:
            return
        for callback in trainer.callback_handler.callbacks:
            if isinstance(callback, ExportableState):
                # The Trainer saves the states of those alone that the checkpoint knows.
                state.stateful_callbacks.setdefault(type(callback).__name__, callback.state())
        self._restore_best_evaluation(args, state)
        restore_hyperparameters(optimizer, lr_scheduler, trainer)
        if progress.evaluation_due:
            self._make_up_evaluation(state, control)
        time_is_up = trainer.stop_callback.share_of_time(progress.seconds) == 1
        if state.global_step >= state.max_steps or trainer.stopped_early or time_is_up:
            control.should_training_stop = True
        else:
            # Beside the logs, for those who read them: trackers count their own steps.
            state.log_history.append({"step": progress.step, "epoch": state.epoch, "resumed": True})

    def on_epoch_begin(self, args, state, control, **kwargs):
        self.trainer.started = time.monotonic()

    def on_step_end(self, args, state, control, **kwargs):
        stream, is_last = self.trainer.stream, state.global_step >= state.max_steps
        state.epoch = self.trainer.stop_callback.share_done(state) if stream.epoch is None else stream.epoch
        self.ended = stream.ends_epoch or is_last
        if self.ended:
            # A run ends with its loss, whatever the logging steps.
            control.should_log |= is_last or args.logging_strategy == IntervalStrategy.EPOCH
            control.should_evaluate |= args.eval_strategy == IntervalStrategy.EPOCH and args.eval_delay <= state.epoch
            control.should_save |= args.save_strategy == IntervalStrategy.EPOCH

    def on_epoch_end(self, args, state, control, **kwargs):
        logging.getLogger(Trainer.__module__).disabled = False
        if self.ended:
            # The Trainer's own epoch is the run, whose last step has seen to all.
            control.should_log = control.should_evaluate = control.should_save = False

    def _restore_best_evaluation(self, args, state) -> None:
        """Restore early stopping, or forget the best evaluation so far where later ones cannot be compared with it."""
        early_stopping = self.trainer.early_stopping
        saved = state.stateful_callbacks.get(type(early_stopping).__name__)
        if not self._is_comparable(args, state):
            logger.warning(
                "CHANGED: the best evaluation before is not by %s of the same text: left out",
                args.metric_for_best_model,
            )
            state.best_metric = state.best_global_step = state.best_model_checkpoint = None
        elif early_stopping is not None:
            # Not by restore_callback_states_from_checkpoint, which would bring the patience of before, too.
            vars(early_stopping).update(saved["attributes"])

    def _is_comparable(self, args, state) -> bool:
        """Return whether the checkpoint's best value, if any, is of the same text, and one that the metric has had."""
        metric, best = args.metric_for_best_model, state.best_metric
        before, now = self.trainer.progress.texts[1], self.trainer.texts[1]
        if best is not None and None not in (before, now) and before != now:
            return False
        if best is None or metric is None:
            return True
        return any(entry.get(f"eval_{metric.removeprefix('eval_')}") == best for entry in state.log_history)

    def _make_up_evaluation(self, state, control) -> None:
        """Evaluate as the Trainer does after a step, for the best model and the learning rate."""
        args = self.trainer.args
        control.should_evaluate, save_strategy = True, args.save_strategy
        if save_strategy == SaveStrategy.BEST:
            # The checkpoint is there; saved anew, it would have random numbers that are not yet its own.
            args.save_strategy = SaveStrategy.STEPS
        # Private: public hooks evaluate after a step, and none is taken.
        self.trainer._maybe_log_save_evaluate(None, None, self.trainer.model, None, state.epoch, None, None)
        args.save_strategy = save_strategy
        if state.best_global_step == state.global_step:
            state.best_model_checkpoint = str(Path(args.output_dir) / f"checkpoint-{state.global_step}")
