"""Define the task of run_plm.py, permutation language modelling."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import ClassVar

from transformers import AutoModelForCausalLM, PretrainedConfig, PreTrainedTokenizerBase

from cloze.config.arguments import ModelArguments
from cloze.config.permutation_arguments import PLM_PROBABILITY, PermutationArguments
from cloze.data.blocks import BlockBuilder
from cloze.data.collators import Padding, special_ids
from cloze.data.context import DataContext
from cloze.data.permutation import PermutationCollator
from cloze.data.splits import DatasetSplits, make_splits
from cloze.errors import UserError
from cloze.inference.permutation import guess_spans
from cloze.inference.predictions import name_samples
from cloze.objectives.permutation import PREDICTED_TOKENS
from cloze.objectives.task import BEGINNING, Task, generation_usage
from cloze.tasks.masked_lm import MASKED_LM
from cloze.training.trainer import PretrainingTrainer


class PermutationLM(Task):
    """Predict tokens in a random order, each from its text and the targets before it."""

    title = "permutation language model"
    head = "permutation-language-modelling head"
    # transformers lists XLNetLMHeadModel, which predicts in any order, among the causal models.
    auto_model = AutoModelForCausalLM
    model_types = ("xlnet",)
    instead = "run_plm.py is for xlnet; use run_mlm.py for encoders such as bert"
    objectives: ClassVar = {"": PREDICTED_TOKENS}
    takes_positions = True
    pipeline_tag = "text-generation"

    def configure(self, config: PretrainedConfig, model_args: ModelArguments) -> None:
        """Raise UserError for a causal mask, and for weights in 16 bits, with which transformers' XLNet fails."""
        # A model with code of its own may have another config.
        attention = getattr(config, "attn_type", None)
        if attention != "bi":
            raise UserError(f"attn_type is {attention}, but a permutation needs bi: change it in the config")
        if model_args.dtype != "float32":
            raise UserError(f"--dtype {model_args.dtype}: XLNet needs float32 weights: drop the flag, or give --bf16")

    def check(self, config: PretrainedConfig, tokenizer: PreTrainedTokenizerBase) -> None:
        """Raise UserError for a tokenizer without a mask token."""
        MASKED_LM.check(config, tokenizer)

    def make_splits(self, context: DataContext) -> DatasetSplits:
        """Return blocks or lines; log their statistics."""
        builder = BlockBuilder(context.tokenizer, context.max_seq_length, context.data_args)
        builder.special = special_ids(context.tokenizer)
        return make_splits(context, builder)

    def make_collator(self, context: DataContext, padding: Padding, seed: int) -> Callable[[list[dict]], dict]:
        """Return a collator that draws the tokens to predict and their order, and pads to even lengths."""
        data_args: PermutationArguments = context.data_args
        assert padding.longest is not None, "every run has a length"
        return PermutationCollator(
            context.tokenizer,
            # Even, as upstream's collator needs, to compare batches with its own.
            padding=replace(padding, longest=padding.longest + padding.longest % 2),
            plm_probability=data_args.plm_probability,
            max_span_length=data_args.max_span_length,
            seed=seed,
        )

    def predict_samples(self, trainer: PretrainingTrainer, samples: Sequence[dict]) -> dict[str, list[str]]:
        """Return the predicted and the true tokens of a span in each of a few samples."""
        return {f"Predicted spans of {name_samples(trainer)} texts": guess_spans(trainer, samples)}

    def describe_settings(self, data_args: PermutationArguments) -> list[str]:
        """Describe the share and the spans of predicted tokens."""
        return [
            f"{data_args.plm_probability:.0%} of the tokens were predicted in training, in spans of up to "
            f"{data_args.max_span_length}; {PLM_PROBABILITY:.0%} in evaluations."
        ]

    def usage(self, folder: str, tokenizer: PreTrainedTokenizerBase) -> str:
        """Return two lines of Python that continue a text, without the pipeline's own text before it."""
        return generation_usage(folder, BEGINNING, ', prefix="", add_special_tokens=False')


PERMUTATION_LM = PermutationLM()
