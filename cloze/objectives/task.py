"""Define the interface of what a script trains: all that differs between scripts once their settings are read."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from functools import partial

from transformers import PretrainedConfig, PreTrainedModel, PreTrainedTokenizerBase, Trainer
from transformers.models.auto.auto_factory import _BaseAutoModelClass

from cloze.config.data_arguments import DataArguments
from cloze.data.collators import Padding, collate
from cloze.data.context import DataContext
from cloze.data.splits import DatasetSplits
from cloze.objectives.metrics import Objective


class Task(ABC):
    """Define what is predicted, and all that depends on it.

    Attributes:
        title: what comes of it, in words.
        head: what a model needs for it, in words.
        auto_model: the class of transformers that finds the model with that head.
        model_types: the architectures that have it.
        instead: what to use where a model has it not.
        objectives: what is predicted, by the prefix of its metrics.
        takes_positions: whether ``prepare_model`` lets the model's forward take ``masked_positions``.
        renews_head: whether a head for other labels is initialized anew instead of refused.
        pipeline_tag: the pipeline of transformers that uses the model, if there is one.
    """

    title: str
    head: str
    auto_model: type[_BaseAutoModelClass]
    model_types: tuple[str, ...]
    instead: str
    objectives: dict[str, Objective]
    takes_positions: bool = False
    renews_head: bool = False
    pipeline_tag: str | None = None

    def check(self, config: PretrainedConfig, tokenizer: PreTrainedTokenizerBase) -> None:  # noqa: B027
        """Raise UserError for a config or a tokenizer that lacks what the task needs."""

    def prepare_model(self, model: PreTrainedModel, max_seq_length: int) -> None:  # noqa: B027
        """Change the model's forward, where the task needs it, before it is trained or evaluated."""

    @abstractmethod
    def make_splits(self, context: DataContext) -> DatasetSplits:
        """Return the examples to train and to evaluate on; log what they are made of, and a sample."""

    def make_collator(self, context: DataContext, padding: Padding, seed: int) -> Callable[[list[dict]], dict]:
        """Return what makes a batch of examples: by default, pads them.

        Args:
            seed: of what is drawn for each example.
        """
        return partial(collate, pad_id=context.tokenizer.pad_token_id, padding=padding)

    @abstractmethod
    def predict_samples(self, trainer: Trainer, samples: Sequence[dict]) -> dict[str, list[str]]:
        """Return what the model makes of a few examples, as lines by title.

        Called in every process: with FSDP, none has the whole model.
        """

    def describe_settings(self, data_args: DataArguments) -> list[str]:
        """Say in sentences, for the model card, what was set of the task."""
        return []

    def usage(self, folder: str) -> str:
        """Return the two lines of Python that load the model; the second is indented by four spaces."""
        if self.pipeline_tag is None:
            name = self.auto_model.__name__
            return f'from transformers import {name}\n    {name}.from_pretrained("{folder}")'
        return f'from transformers import pipeline\n    pipeline("{self.pipeline_tag}", model="{folder}")'
