"""Define the task of run_mlm.py, masked language modelling."""

from collections.abc import Callable, Sequence
from typing import ClassVar

from transformers import AutoModelForMaskedLM, PretrainedConfig, PreTrainedModel, PreTrainedTokenizerBase
from transformers.models.auto.auto_factory import _BaseAutoModelClass
from transformers.models.auto.modeling_auto import MODEL_FOR_MASKED_LM_MAPPING_NAMES

from cloze.config.data_arguments import MaskingArguments
from cloze.data.blocks import make_block_splits
from cloze.data.collators import MaskingCollator, Padding
from cloze.data.context import DataContext
from cloze.data.splits import DatasetSplits
from cloze.errors import UserError
from cloze.inference.guesses import guess_words
from cloze.inference.predictions import name_samples
from cloze.models.sparse_prediction import predict_masked_positions
from cloze.objectives.metrics import MASKED_TOKENS
from cloze.objectives.task import Task
from cloze.training.trainer import PretrainingTrainer


class MaskedLM(Task):
    """Predict masked tokens in blocks or lines of text."""

    title = "masked language model"
    head = "masked-language-modelling head"
    auto_model: type[_BaseAutoModelClass] = AutoModelForMaskedLM
    model_types = tuple(MODEL_FOR_MASKED_LM_MAPPING_NAMES)
    instead = "use an encoder such as bert, distilbert, roberta, electra, albert, modernbert or deberta-v2"
    objectives: ClassVar = {"": MASKED_TOKENS}
    takes_positions = True
    pipeline_tag = "fill-mask"

    def check(self, config: PretrainedConfig, tokenizer: PreTrainedTokenizerBase) -> None:
        """Raise UserError for a tokenizer without a mask token."""
        if tokenizer.mask_token_id is None:
            raise UserError(
                f"the tokenizer ({type(tokenizer).__name__}) has no mask token: set mask_token in its "
                "tokenizer_config.json, or use the tokenizer of a masked language model"
            )

    def prepare_model(self, model: PreTrainedModel, max_seq_length: int) -> None:
        """Make the model compute logits at masked positions only."""
        predict_masked_positions(model, MASKED_TOKENS.logits, max_seq_length)

    def make_splits(self, context: DataContext) -> DatasetSplits:
        """Return blocks or lines; log their statistics and a sample."""
        return make_block_splits(context)

    def make_collator(self, context: DataContext, padding: Padding, seed: int) -> Callable[[list[dict]], dict]:
        """Return a collator that masks tokens and pads."""
        data_args: MaskingArguments = context.data_args
        return MaskingCollator(
            context.tokenizer,
            mlm_probability=data_args.mlm_probability,
            final_mlm_probability=data_args.final_mlm_probability,
            lengths=data_args.lengths,
            eval_mlm_probability=data_args.eval_mlm_probability,
            mask_replace_prob=data_args.mask_replace_prob,
            random_replace_prob=data_args.random_replace_prob,
            whole_words=data_args.whole_word_mask,
            eval_whole_words=data_args.eval_whole_word_mask,
            seed=seed,
            padding=padding,
        )

    def predict_samples(self, trainer: PretrainingTrainer, samples: Sequence[dict]) -> dict[str, list[str]]:
        """Return the most confident correct and wrong guesses of masked words in the samples."""
        right, wrong = guess_words(trainer.model, trainer.processing_class, samples, num_right=5, num_wrong=3)
        words = f"{name_samples(trainer)} words"
        return {f"Most confident correct guesses of {words}": right, f"Most confident wrong guesses of {words}": wrong}

    def describe_settings(self, data_args: MaskingArguments) -> list[str]:
        """Describe the masking probabilities."""
        words = ", whole words" if data_args.eval_whole_word_mask else ""
        rate = f"{data_args.mlm_probability:.0%} of the tokens were masked in training"
        if data_args.final_mlm_probability is not None:
            rate += f" at first and {data_args.final_mlm_probability:.0%} at last"
        described = [f"{rate}, {data_args.eval_mlm_probability:.0%} in evaluations{words}."]
        if data_args.lengths:
            lengths = ", then ".join(map(str, data_args.lengths))
            described.append(f"Blocks were cut into {lengths} tokens, each for an equal part of the steps.")
        return described


MASKED_LM = MaskedLM()
