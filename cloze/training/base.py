"""Declare the attributes of the Trainer that its parts share."""

from collections.abc import Callable
from typing import Any

from torch import nn
from torch.optim import Optimizer
from transformers import EarlyStoppingCallback, PreTrainedModel, PreTrainedTokenizerBase, Trainer

from cloze.config.arguments import TrainingArguments
from cloze.data.mixed_stream import MixedStream
from cloze.data.samplers import EpochDataset, HeldOutSets
from cloze.data.streaming import StreamedExamples
from cloze.training.checkpoints import Fingerprints, Progress
from cloze.training.run_length import RunLength
from cloze.training.stream import PreparedStream, TextStream


class BaseTrainer(Trainer):
    """Declare what the Trainer's subclasses and callbacks use of each other.

    Attributes:
        train_dataset: the training examples, with --do_train.
        eval_dataset: the held-out sets, with --do_eval.
        progress: the progress of the checkpoint, or of a new run.
        length_before: the length of the run that saved the checkpoint, if any.
        fingerprints: of the training and of the validation texts, as ``Progress`` has them.
        stream: the train stream (training.stream).
        num_epochs: the epochs of the run, rounded up.
        hyperparameters: the optimizer's settings by parameter group, before a checkpoint is loaded.
        started: the time at which training started, plus the time of evaluations since.
        early_stopping: the callback of --early_stopping_patience, if any.
    """

    args: TrainingArguments
    model: PreTrainedModel
    model_wrapped: nn.Module
    optimizer: Optimizer
    processing_class: PreTrainedTokenizerBase
    data_collator: Callable[[list[dict]], dict[str, Any]]
    train_dataset: EpochDataset | StreamedExamples | MixedStream
    eval_dataset: HeldOutSets
    progress: Progress
    length_before: RunLength | None
    fingerprints: Fingerprints
    stream: PreparedStream | TextStream
    num_epochs: int
    hyperparameters: list[dict]
    started: float
    early_stopping: EarlyStoppingCallback | None

    @property
    def held_out_names(self) -> list[str]:
        """Return the names of the held-out sets, "" for one without a name, and without --do_eval."""
        return [""] if self.eval_dataset is None else list(self.eval_dataset.sizes)

    @property
    def stopped_early(self) -> bool:
        """Return whether early stopping has run out of patience."""
        stopping = self.early_stopping
        return stopping is not None and stopping.early_stopping_patience_counter >= stopping.early_stopping_patience

    def start_sums(self) -> None:
        """Start the clock and the sums for the next log, from the checkpoint's values if there is one."""
        raise NotImplementedError

    def find_progress(self) -> Progress:
        """Return the progress of the run, for a checkpoint; waits for all processes."""
        raise NotImplementedError

    def count_targets(self, batches: list[dict]) -> Any:
        """Return the number of targets of each objective in the micro-batches of an optimizer step, [objectives]."""
        raise NotImplementedError
