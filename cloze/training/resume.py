"""The Trainer that goes on exactly where a run was broken off."""

import logging
import math
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

import torch
from accelerate.data_loader import DataLoaderShard
from accelerate.utils import gather_object
from torch.optim.lr_scheduler import LambdaLR
from transformers import EarlyStoppingCallback, TrainerCallback
from transformers.trainer_utils import IntervalStrategy

from cloze.data.collators import Padding
from cloze.data.samplers import BatchSettings, ResumableBatchSampler
from cloze.data.streaming import StreamedBatches, StreamedExamples
from cloze.errors import UserError
from cloze.system.signals import ignore_signals_in_worker
from cloze.training.callbacks import Stopped
from cloze.training.checkpoints import STATEFUL_SCHEDULERS
from cloze.training.progress import Progress
from cloze.training.run_length import RunLength, length_of
from cloze.training.saving import SavingTrainer

logger = logging.getLogger(__name__)

# What a checkpoint's optimizer holds of the settings. Loaded, it would win over those given now.
HYPERPARAMETERS = ("initial_lr", "weight_decay", "betas", "eps")


def collate_item(collator: Callable[[list[dict]], dict], item: tuple[list[dict], tuple]) -> dict:
    """A batch of a stream, with the worker it is from and where that goes on."""
    examples, place = item
    return collator(examples) | {"stream": place}


class LogLastStep(TrainerCallback):
    """Logs the last step, whatever the logging steps, so that a run ends with its loss."""

    def on_step_end(self, args, state, control, **kwargs):
        if state.global_step >= state.max_steps:
            control.should_log = True


class ResumableTrainer(SavingTrainer):
    """Trainer with batches that are reached by index.

    Args:
        padding: how long batches are.
        progress: of the checkpoint to go on from, if any.
        length_before: the length of the run that saved that checkpoint.
        texts: the content of the training and of the validation text, for checkpoints.

    Attributes:
        running: what is summed up for the next log, of any shape, beside the Trainer's loss.
    """

    def __init__(
        self,
        args,
        padding: Padding,
        progress: Progress | None = None,
        length_before: RunLength | None = None,
        texts: list[list[list] | None] | None = None,
        **kwargs,
    ):
        self.padding, self.progress, self.length_before, self.texts = padding, progress, length_before, texts
        self.running = torch.zeros(0, device=args.device)
        callbacks, self.early_stopping = [LogLastStep()], None
        if args.early_stopping_patience is not None:
            self.early_stopping = EarlyStoppingCallback(args.early_stopping_patience, args.early_stopping_threshold)
            callbacks.append(self.early_stopping)
        super().__init__(args=args, callbacks=callbacks, **kwargs)
        self.begun, self.evaluation_seconds = None, 0.0

    @property
    def stopped_early(self) -> bool:
        """Whether the metric has not improved for as many evaluations as --early_stopping_patience allows."""
        stopping = self.early_stopping
        return stopping is not None and stopping.early_stopping_patience_counter >= stopping.early_stopping_patience

    @property
    def length_changed(self) -> bool:
        """Whether the run is resumed with another length than before."""
        return self.length_before is not None and self.length_before != length_of(self.args.resolved)

    def get_train_dataloader(self):
        """Batches of our own, which know the processes and where to go on."""
        args, data = self.args, self.train_dataset
        if self.progress is not None and self.progress.data != data.size:
            raise UserError(
                f"the text is not what the checkpoint was trained on: {self.progress.data} examples and tokens (of a "
                f"stream: files and bytes) then, {data.size} now: put it back, or start afresh with "
                "--overwrite_output_dir"
            )
        self.begun, self.batches, self.stream = None, None, None
        return DataLoaderShard(
            **(self.streamed_batches() if isinstance(data, StreamedExamples) else self.prepared_batches()),
            device=args.device,
            # Of its own, lest the order of random numbers, as for dropout, depend on when a loader is made.
            generator=torch.Generator(),
            worker_init_fn=ignore_signals_in_worker,
            num_workers=args.dataloader_num_workers,
            pin_memory=args.dataloader_pin_memory,
            persistent_workers=args.dataloader_persistent_workers,
            prefetch_factor=args.dataloader_prefetch_factor,
            multiprocessing_context=args.dataloader_multiprocessing_context,
        )

    def batch_settings(self) -> BatchSettings:
        args = self.args
        return BatchSettings(
            args.train_sampling_strategy,
            self._train_batch_size,
            args.gradient_accumulation_steps,
            args.world_size,
            args.dataloader_drop_last,
            args.max_tokens_per_batch,
        )

    def prepared_batches(self) -> dict:
        """What a data loader takes from a prepared corpus."""
        args, data = self.args, self.train_dataset
        if len(data) < args.world_size:
            raise UserError(f"{len(data)} examples for {args.world_size} processes: give more text, or use fewer")
        self.batches = ResumableBatchSampler(
            data, self.batch_settings(), self.padding.widths, args.shuffle_seed, args.process_index
        )
        return {"dataset": data, "batch_sampler": self.batches, "collate_fn": self.data_collator}

    def streamed_batches(self) -> dict:
        """What a data loader takes from a stream."""
        args = self.args
        self.stream = StreamedBatches(
            self.train_dataset,
            replace(self.batch_settings(), accumulation=1, processes=1, drop_last=False),
            self.padding.widths,
            args.shuffle_seed,
            args.process_index,
            args.world_size,
            args.dataloader_num_workers,
            None if self.progress is None else self.progress.streams,
        )
        self.states, self.batches_taken = list(self.stream.states), 0
        return {"dataset": self.stream, "batch_size": None, "collate_fn": partial(collate_item, self.data_collator)}

    def get_batch_samples(self, *args, **kwargs):
        batches, counts = super().get_batch_samples(*args, **kwargs)
        if self.stream is not None:
            for batch in batches:
                worker, state = batch.pop("stream")
                self.states[worker] = state
            self.batches_taken += len(batches)
        return batches, counts

    def get_eval_dataloader(self, *args, **kwargs):
        loader = super().get_eval_dataloader(*args, **kwargs)
        # The one that makes the workers, below accelerate's.
        base = getattr(loader, "base_dataloader", loader)
        base.worker_init_fn = ignore_signals_in_worker
        # Of its own, lest the dropout that follows depend on whether there was an evaluation.
        base.generator = torch.Generator()
        return loader

    def set_initial_training_values(self, args, dataloader):
        self.num_epochs, self.steps_in_epoch, *values, max_steps = super().set_initial_training_values(args, dataloader)
        progress = self.progress
        if progress is not None and args.max_steps < 1:
            same_batches = progress.steps_in_epoch == self.steps_in_epoch
            max_steps = progress.max_steps
            if self.length_changed or not same_batches:
                max_steps = progress.step + self._steps_left(args.num_train_epochs)
            if not same_batches:
                logger.warning(
                    "STEPS: %d are left, as batches have another size than before", max_steps - progress.step
                )
        if self.length_changed:
            left = f"{max_steps - progress.step:,} of {max_steps:,} steps are left"
            if args.max_train_hours is not None:
                left = f"{max(args.max_train_hours - progress.seconds / 3600, 0):.4g} hours are left"
            if args.lr_scheduler_type.value not in STATEFUL_SCHEDULERS:
                left += ", with the learning rate of the new schedule"
            logger.info("Length: %s before, %s now: %s", self.length_before, length_of(args.resolved), left)
        # Epochs of pairs drawn anew differ a little in length: steps decide when to stop, as counted in the first.
        return sys.maxsize, self.steps_in_epoch, *values, max_steps

    def _steps_left(self, epochs: float) -> int:
        """Return the steps from the checkpoint to the end of these epochs, by the steps of the first one."""
        self.batches.set_epoch(self.progress.epoch, self.progress.past)
        left = (epochs - self.progress.epoch - self.batches.fraction_done(0)) * self.steps_in_epoch
        return max(math.ceil(round(left, 6)), 0)

    def _init_training_state(self, max_steps, *args, **kwargs):
        super()._init_training_state(max_steps, *args, **kwargs)
        self.state.num_train_epochs = self.num_epochs
        # The checkpoint's state brings its own intervals, and the Trainer keeps those.
        self.state.compute_steps(self.args, max_steps)
        saved = self.state.stateful_callbacks.get(EarlyStoppingCallback.__name__)
        if self._metric_changed() or self._validation_changed():
            logger.warning(
                "CHANGED: the best evaluation before is not by %s of the same text: left out",
                self.args.metric_for_best_model,
            )
            self.state.best_metric = self.state.best_global_step = self.state.best_model_checkpoint = None
        elif self.early_stopping is not None and self.progress is not None and saved:
            # Not by restore_callback_states_from_checkpoint, which would bring the patience of before, too.
            vars(self.early_stopping).update(saved["attributes"])
        # The batches go on by index: there is nothing to skip.
        return (0, 0) if self.progress is None else (self.progress.epoch, 0)

    def _metric_changed(self) -> bool:
        """Return whether the checkpoint's best value is none that the metric had in an evaluation before."""
        metric, best = self.args.metric_for_best_model, self.state.best_metric
        if metric is None or best is None:
            return False
        return all(entry.get(f"eval_{metric.removeprefix('eval_')}") != best for entry in self.state.log_history)

    def _validation_changed(self) -> bool:
        """Return whether the checkpoint's best value is of another validation text."""
        if self.state.best_metric is None or None in (self.progress.texts, self.texts):
            return False
        return None not in (before := self.progress.texts[1], now := self.texts[1]) and before != now

    def _load_optimizer_and_scheduler(self, checkpoint):
        given = [{name: group.get(name) for name in HYPERPARAMETERS} for group in self.optimizer.param_groups]
        super()._load_optimizer_and_scheduler(checkpoint)
        scheduler = self.lr_scheduler
        if checkpoint is None:
            return
        for group, values in zip(self.optimizer.param_groups, given, strict=True):
            group.update({name: value for name, value in values.items() if value is not None})
        # Others, as ReduceLROnPlateau and those of DeepSpeed, have the rate as a state of their own.
        if not isinstance(scheduler, LambdaLR):
            return
        if self.length_changed:
            scheduler.last_epoch = self._schedule_position(scheduler.last_epoch)
        scheduler.base_lrs = [values["initial_lr"] for values in given]
        # Back and forth, to have the rate of this position in the schedule set.
        scheduler.last_epoch -= 1
        scheduler.step()

    def _schedule_position(self, position: int) -> int:
        """Return where the checkpoint stands in the schedule of the new length; ``position`` is that in the old one."""
        if self.args.max_train_hours is not None:
            share = self.progress.seconds / (3600 * self.args.max_train_hours)
            return math.floor(min(share, 1.0) * self.args.max_steps)
        return self.progress.step if self.length_before.unit == "hours" else position

    def _evaluate(self, *args, skip_scheduler=False, **kwargs):
        if not skip_scheduler:
            try:
                return super()._evaluate(*args, **kwargs)
            except Stopped:
                self.stop_callback.evaluation_due = True
                self._save_checkpoint(self.model, None)  # and exits
        if self.progress is None:
            return super()._evaluate(*args, skip_scheduler=True, **kwargs)
        # The one on start is that which was put off: all is to come of it that does in its place.
        metrics = super()._evaluate(*args, **kwargs)
        if self._determine_best_metric(metrics, None) and self.state.best_global_step is not None:
            self.state.best_model_checkpoint = str(
                Path(self.args.output_dir) / f"checkpoint-{self.state.best_global_step}"
            )
        return metrics

    def _run_epoch(self, **kwargs):
        progress, first = self.progress, self.begun is None
        if first:
            self.begun, self.evaluation_seconds = time.monotonic(), 0.0
            if progress is not None:
                self.restore(progress)
        is_over = self.state.global_step >= self.state.max_steps or (
            progress and self.stop_callback.time_is_up(progress.seconds)
        )
        if is_over or (first and self.stopped_early):
            # Gone on from the last step; the Trainer would take one more.
            self.control.should_training_stop = True
            return
        if progress and first:
            # Beside the logs, for those who read them: trackers are told by their own steps.
            self.state.log_history.append({"step": progress.step, "epoch": self.state.epoch, "resumed": True})
        # The Trainer is given what is left of the epoch; a stream has but one.
        self.stretch_begun = self.state.global_step
        if self.stream is None:
            self.batches.set_epoch(kwargs["epoch"], progress.past if progress and first else ())
            steps, batches = self.batches.num_steps - self.batches.steps_done, len(self.batches)
        else:
            steps = self.state.max_steps - self.state.global_step
            batches = steps * self.args.gradient_accumulation_steps
        super()._run_epoch(**kwargs | {"num_update_steps_per_epoch": steps, "steps_in_epoch": batches})

    def _maybe_log_save_evaluate(self, *args, **kwargs):
        if self.stream is not None:
            self.state.epoch = self.stop_callback.share(self.state)
        elif self.state.global_step > self.stretch_begun:
            steps = self.state.global_step - self.stretch_begun
            self.state.epoch = self.batches.epoch + self.batches.fraction_done(steps)
            if self.args.logging_strategy == IntervalStrategy.EPOCH and not self.batches.position_after(steps)[1]:
                # Before the epoch's last step is saved: resumed from there, its log would be missed.
                self.control.should_log = True
        super()._maybe_log_save_evaluate(*args, **kwargs)

    def restore(self, progress: Progress) -> None:
        """Take up what is summed up for the next log."""
        loss, *running = progress.sums_of(self.args.process_index, self.args.world_size)
        self._tr_loss.fill_(loss)
        self.running.copy_(torch.tensor(running).view_as(self.running))
        self._globalstep_last_logged, self._total_loss_scalar = progress.logged, progress.total_loss
        self.stop_callback.seconds_before = progress.seconds

    def log(self, logs, *args, **kwargs):
        if "train_loss" in logs:
            # Of the whole run: the Trainer divides it by the steps since it went on.
            logs["train_loss"] = self._total_loss_scalar / self.state.global_step
        super().log(logs, *args, **kwargs)

    def find_progress(self) -> Progress:
        """How far the run is; all processes have to ask."""
        sums = torch.cat([self._tr_loss.view(1), self.running.flatten()])
        epoch, past, streams = 0, [], None
        if self.stream is None:
            epoch, past = self.batches.position_after(self.state.global_step - self.stretch_begun)
        else:
            turn = self.batches_taken % len(self.states)
            streams = gather_object([self.states[turn:] + self.states[:turn]])
        # That at the end of an epoch comes after the save of its last step.
        ends = self.state.global_step >= self.state.max_steps or (self.stream is None and epoch > self.batches.epoch)
        evaluates = self.args.eval_strategy == IntervalStrategy.EPOCH and self.args.eval_delay <= self.state.epoch
        return Progress(
            step=self.state.global_step,
            max_steps=self.state.max_steps,
            steps_in_epoch=self.steps_in_epoch,
            epoch=epoch,
            past=past,
            streams=streams,
            data=self.train_dataset.size,
            sums=self.accelerator.gather(sums[None]).tolist(),
            logged=self._globalstep_last_logged,
            total_loss=self._total_loss_scalar,
            seconds=self.stop_callback.seconds,
            evaluation_due=self.stop_callback.evaluation_due or (ends and evaluates and not self.is_evaluated()),
            texts=self.texts,
        )

    def is_evaluated(self) -> bool:
        """Whether the weights of now are."""
        return any("eval_loss" in entry and entry["step"] == self.state.global_step for entry in self.state.log_history)
