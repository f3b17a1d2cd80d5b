"""Define the interface of a task: everything that differs between the training scripts after their flags are read."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, ClassVar

from transformers import PretrainedConfig, PreTrainedModel, PreTrainedTokenizerBase
from transformers.models.auto.auto_factory import _BaseAutoModelClass

from cloze.data.collators import Padding, collate
from cloze.data.context import DataContext
from cloze.data.splits import DatasetSplits
from cloze.objectives.metrics import Objective
from cloze.tokenization.templates import ensure_template

# A text to continue, to show how a model is used.
BEGINNING = "The moon"


class Task(ABC):
    """Define the examples, objectives and predictions of a training script.

    Attributes:
        title: name of the trained model, for reports.
        head: name of the head that the model needs, for messages.
        auto_model: class of transformers that loads the model with that head.
        model_types: architectures that have the head.
        instead: advice for a model without the head, for messages.
        objectives: by the prefix of their metrics.
        takes_positions: whether the model's forward takes the positions to predict, ``masked_positions`` by
            ``prepare_model`` or XLNet's ``target_mapping``, and computes logits for these only.
        is_causal: whether an encoder with a causal mask keeps it; otherwise it attends in both directions again.
        renews_head: whether a head for other labels is initialized again; otherwise it is an error.
        pipeline_tag: the pipeline of transformers that uses the model, None if there is none.
    """

    title: str
    head: str
    auto_model: type[_BaseAutoModelClass]
    model_types: tuple[str, ...]
    instead: str
    objectives: ClassVar[dict[str, Objective]]
    takes_positions: bool = False
    is_causal: bool = False
    renews_head: bool = False
    pipeline_tag: str | None = None

    def configure(self, config: PretrainedConfig, model_args: Any) -> None:  # noqa: B027
        """Apply the settings of the task's head, in a ModelArguments, to the config."""

    def check(self, config: PretrainedConfig, tokenizer: PreTrainedTokenizerBase) -> None:  # noqa: B027
        """Raise UserError for a config or a tokenizer that does not fit the task."""

    def prepare_tokenizer(self, tokenizer: PreTrainedTokenizerBase, config: PretrainedConfig) -> None:
        """Change the tokenizer, also for when it is saved: by default, it gets special tokens if it adds none."""
        ensure_template(tokenizer, config.model_type)

    def padding_id(self, tokenizer: PreTrainedTokenizerBase) -> int | None:
        """Return the id to pad with, None if the tokenizer has none."""
        return tokenizer.pad_token_id

    def prepare_model(self, model: PreTrainedModel, max_seq_length: int) -> None:  # noqa: B027
        """Change the model's forward before training or evaluation, if the task needs it."""

    @abstractmethod
    def make_splits(self, context: DataContext) -> DatasetSplits:
        """Return the examples to train and to evaluate on; log their statistics and a sample."""

    def make_collator(self, context: DataContext, padding: Padding, seed: int) -> Callable[[list[dict]], dict]:
        """Return the function that turns examples into a batch; by default it pads them.

        Args:
            context: inputs of the example builders.
            padding: of the batches.
            seed: of what is drawn for each example, such as masks.
        """
        pad_id = self.padding_id(context.tokenizer)
        assert pad_id is not None, "check_model has checked it"
        return partial(collate, pad_id=pad_id, padding=padding)

    @abstractmethod
    def predict_samples(self, trainer: Any, samples: Sequence[dict]) -> dict[str, list[str]]:
        """Return the predictions of a PretrainingTrainer's model for a few examples, as lines of text by title.

        Every process calls it, because with FSDP no process has the whole model.
        """

    def describe_settings(self, data_args: Any) -> list[str]:
        """Describe the settings of the task, a DataArguments, in sentences for the model card."""
        return []

    def usage(self, folder: str, tokenizer: PreTrainedTokenizerBase) -> str:
        """Return two lines of Python that load the model; the second is indented by four spaces."""
        if self.pipeline_tag is None:
            name = self.auto_model.__name__
            return f'from transformers import {name}\n    {name}.from_pretrained("{folder}")'
        return f'from transformers import pipeline\n    pipeline("{self.pipeline_tag}", model="{folder}")'


def generation_usage(folder: str, beginning: str, settings: str = "") -> str:
    """Return two lines of Python that continue a text, as ``Task.usage`` does, given further settings of the pipeline.

    The default of the pipeline, 256 new tokens, is more than the positions of a small model.
    """
    made = f'pipeline("text-generation", model="{folder}"{settings})'
    return f'from transformers import pipeline\n    {made}("{beginning}", max_new_tokens=20)'
