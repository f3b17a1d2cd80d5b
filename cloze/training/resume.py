"""Resume a run exactly: its train stream, running sums, evaluations and early stopping."""

import logging
import math
import time
from pathlib import Path
from typing import Any

import torch
from torch.utils.data import DataLoader
from transformers import EarlyStoppingCallback, SchedulerType, Trainer, TrainerCallback

from cloze.config.arguments import TrainingArguments
from cloze.config.rate_decay import check_rates, resolve_decay
from cloze.config.recipes import settings_in
from cloze.data.collators import Padding
from cloze.data.samplers import BatchSettings
from cloze.errors import UserError
from cloze.system.storage import RECIPE
from cloze.training.averaging import AveragingTrainer
from cloze.training.callbacks import ResumeCallback, StopCallback, Stopped
from cloze.training.checkpoints import Fingerprints, Progress
from cloze.training.run_length import find_max_steps, hyperparameters_of, length_of
from cloze.training.saving import replaced
from cloze.training.stream import loader_settings, open_stream


class ResumableTrainer(AveragingTrainer):
    """Train on a train stream, and resume it bit for bit.

    Args:
        args: the training arguments.
        padding: how batches are padded.
        checkpoint: the checkpoint to resume from, if any.
        fingerprints: of the training and of the validation texts, for checkpoints.
        **kwargs: further arguments of the Trainer.

    Attributes:
        loss_sum: the sum of the losses since the last log, on the device.
        running: other sums since the last log, on the device.
        last_logged: the step of the last log.
        total_loss: the sum of the losses of all steps up to the last log.
    """

    def __init__(
        self,
        args: TrainingArguments,
        padding: Padding,
        checkpoint: Path | None = None,
        fingerprints: Fingerprints | None = None,
        **kwargs,
    ):
        self.padding, self.progress, self.length_before = padding, Progress(), None
        self.fingerprints = fingerprints or {}
        if checkpoint is not None:
            self.progress = Progress.read(checkpoint)
            self.length_before = length_of(settings_in((checkpoint / RECIPE).read_text(encoding="utf-8")))
        self.loss_sum, self.running = torch.zeros((), device=args.device), torch.zeros(0, device=args.device)
        self.started = 0.0
        stop_callback = StopCallback(args.max_train_hours, args.device)
        callbacks: list[TrainerCallback] = [ResumeCallback(self, stop_callback)]
        self.early_stopping = None
        if args.early_stopping_patience is not None:
            self.early_stopping = EarlyStoppingCallback(args.early_stopping_patience, args.early_stopping_threshold)
            callbacks.append(self.early_stopping)
        # A stream resumes from its state: there are no batches to skip.
        args.ignore_data_skip = True
        super().__init__(args=args, stop_callback=stop_callback, callbacks=callbacks, **kwargs)

    def batch_settings(self) -> BatchSettings:
        """Return the batch settings of the arguments."""
        args = self.args
        return BatchSettings(
            args.train_sampling_strategy,
            # Private: the batch size after --auto_find_batch_size.
            self._train_batch_size,
            args.gradient_accumulation_steps,
            args.world_size,
            args.dataloader_drop_last,
            args.max_tokens_per_batch,
        )

    def get_train_dataloader(self) -> Any:
        """Return the train stream, which the Trainer uses as a data loader.

        Raises:
            UserError: if the training text has changed since the checkpoint.
        """
        data, progress = self.train_dataset, self.progress
        if progress.step and progress.data != data.size:
            raise UserError(
                f"the training text has changed since the checkpoint: {progress.data} examples and tokens (of a "
                f"stream: files and bytes) then, {data.size} now: restore it, or start over with "
                "--overwrite_output_dir"
            )
        how = self.batch_settings(), self.padding, self.data_collator, self.args
        self.stream = open_stream(data, *how, progress.stream)
        return self.stream

    def get_eval_dataloader(self, eval_dataset=None) -> DataLoader:
        """Return a loader that keeps the order of the dataset; the Trainer's would group by length."""
        args, dataset = self.args, self.eval_dataset if eval_dataset is None else eval_dataset
        settings = loader_settings(args) | {"collate_fn": self.data_collator, "drop_last": args.dataloader_drop_last}
        return self.accelerator.prepare(DataLoader(dataset, args.eval_batch_size, **settings))

    def get_test_dataloader(self, test_dataset) -> DataLoader:
        """Return a loader as for evaluations."""
        return self.get_eval_dataloader(test_dataset)

    def set_initial_training_values(self, args, dataloader):
        """Let the Trainer take the whole run for one epoch, so that it neither ends an epoch nor skips batches."""
        self.steps_in_epoch = dataloader.steps_in_epoch or args.max_steps
        max_steps = find_max_steps(args, self.progress, self.length_before, self.stream.epoch, self.steps_in_epoch)
        self.stream.counter.first, self.stream.counter.total = self.progress.step, max_steps
        self.num_epochs = math.ceil(max_steps / self.steps_in_epoch if args.max_steps > 0 else args.num_train_epochs)
        batch_size = self.get_total_train_batch_size(args)
        samples, batches = max_steps * batch_size, max_steps * args.gradient_accumulation_steps
        return 1, max_steps, samples, samples, batch_size, batches, max_steps

    def get_batch_samples(self, epoch_iterator, num_batches, device):
        """Return the micro-batches of the next step, and their number of targets, [objectives].

        If an epoch ends with fewer micro-batches, empty ones come first: the Trainer steps after the last one.
        """
        self.is_loading = False
        if self.control.should_training_stop:
            # Resumed at its end: the Trainer would warn of an empty data loader.
            logging.getLogger(Trainer.__module__).disabled = True
            return [], None
        batches = next(epoch_iterator)
        # The Trainer counts the tokens of input_ids.
        empty = {"input_ids": torch.zeros(0, dtype=torch.int64, device=device)}
        return [empty] * (num_batches - len(batches)) + batches, self.count_targets(batches)

    def training_step(self, model, inputs, num_items_in_batch=None):
        """Return the loss after a backward pass, and add it to the sum for the next log; skip empty micro-batches."""
        if not inputs["input_ids"].numel():
            return torch.zeros((), device=self.args.device)
        loss = super().training_step(model, inputs, num_items_in_batch)
        self.loss_sum += loss
        return loss

    def create_scheduler(self, num_training_steps, optimizer=None):
        """Create the scheduler, and record the optimizer's settings before a checkpoint is loaded."""
        args = self.args
        kwargs: Any = args.lr_scheduler_kwargs
        warmup_steps = args.get_warmup_steps(num_training_steps)
        if args.lr_scheduler_type == SchedulerType.WARMUP_STABLE_DECAY:
            kwargs = resolve_decay(kwargs, warmup_steps, num_training_steps)
        with replaced(args, lr_scheduler_kwargs=kwargs):
            scheduler = super().create_scheduler(num_training_steps, optimizer)
        check_rates(scheduler, warmup_steps, num_training_steps)
        self.hyperparameters = hyperparameters_of(self.optimizer if optimizer is None else optimizer)
        return scheduler

    def start_sums(self) -> None:
        """Start the clock and the sums for the next log, from the checkpoint's values if there is one."""
        progress = self.progress
        sums = progress.sums_of(self.args.process_index, self.args.world_size) or [0.0] * (1 + self.running.numel())
        self.last_logged, self.total_loss = progress.logged, progress.total_loss
        self.stop_callback.start_clock(progress.seconds)
        self.loss_sum.fill_(sums[0])
        self.running.copy_(torch.tensor(sums[1:]).view_as(self.running))

    def drain_loss(self) -> float:
        """Return the mean loss over the steps since the last log and all processes, and reset the sum."""
        loss = self.accelerator.gather(self.loss_sum[None]).mean().item()
        steps = self.state.global_step - self.last_logged
        self.total_loss, self.last_logged = self.total_loss + loss, self.state.global_step
        self.loss_sum.zero_()
        return loss / steps

    def log(self, logs, *args, **kwargs):
        """Log, with the training loss of the whole run."""
        if "train_loss" in logs:
            # The Trainer's covers only the steps since the run was resumed.
            logs["train_loss"] = (self.total_loss + self.loss_sum.item()) / self.state.global_step
        super().log(logs, *args, **kwargs)

    def evaluate(self, *args, **kwargs):
        """Evaluate; if a signal stops that during training, save a checkpoint that repeats the evaluation."""
        start, self.is_loading = time.monotonic(), False
        try:
            metrics = super().evaluate(*args, **kwargs)
        except Stopped:
            if self.is_in_train and self.state.global_step > self.progress.step:
                self.stop_callback.evaluation_due = True
                self._save_checkpoint(self.model, None)  # and exits
            raise
        self.started += time.monotonic() - start
        return metrics

    def find_progress(self) -> Progress:
        """Return the progress of the run, for a checkpoint; waits for all processes."""
        sums = torch.cat([self.loss_sum.view(1), self.running.flatten()])
        return Progress(
            step=self.state.global_step,
            max_steps=self.state.max_steps,
            steps_in_epoch=self.steps_in_epoch,
            stream=self.stream.state_dict(),
            data=self.train_dataset.size,
            sums=self.accelerator.gather(sums[None]).tolist(),
            logged=self.last_logged,
            total_loss=self.total_loss,
            seconds=self.stop_callback.seconds,
            evaluation_due=self.stop_callback.evaluation_due,
            fingerprints=self.fingerprints,
        )
