"""BERT's own pretraining, masked tokens and next sentences together: the task of run_pretraining.py."""

from collections.abc import Callable, Sequence
from typing import ClassVar

from transformers import (
    AutoModelForPreTraining,
    PretrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    Trainer,
)

from cloze.config.data_arguments import PretrainingDataArguments
from cloze.data.collators import Padding
from cloze.data.context import DataContext
from cloze.data.nsp import MaskedPairBuilder, make_pairs
from cloze.data.splits import DatasetSplits
from cloze.objectives.metrics import MASKED_TOKENS, SENTENCE_PAIRS
from cloze.objectives.task import Task
from cloze.tasks.masked_lm import MASKED_LM
from cloze.tasks.next_sentence import NEXT_SENTENCE


class Pretraining(Task):
    """Predict masked tokens and the order of sentences, from pairs: does what both tasks do."""

    title = "masked language and next sentence model"
    head = "next-sentence head beside that for masked tokens"
    auto_model = AutoModelForPreTraining
    # Of the models of AutoModelForPreTraining, those whose forward takes labels of both kinds. ALBERT's second head is
    # for the order of sentences, as --pair_objective sop has it; it learns either.
    model_types = (*NEXT_SENTENCE.model_types, "albert", "big_bird")
    instead = f"use one of {', '.join(model_types)}, or run_mlm.py"
    objectives: ClassVar = {"mlm_": MASKED_TOKENS, "nsp_": SENTENCE_PAIRS}
    takes_positions = MASKED_LM.takes_positions
    pipeline_tag = MASKED_LM.pipeline_tag

    def check(self, config: PretrainedConfig, tokenizer: PreTrainedTokenizerBase) -> None:
        MASKED_LM.check(config, tokenizer)
        NEXT_SENTENCE.check(config, tokenizer)

    def prepare_model(self, model: PreTrainedModel, max_seq_length: int) -> None:
        MASKED_LM.prepare_model(model, max_seq_length)

    def make_splits(self, context: DataContext) -> DatasetSplits:
        return make_pairs(context, MaskedPairBuilder)

    def make_collator(self, context: DataContext, padding: Padding, seed: int) -> Callable[[list[dict]], dict]:
        return MASKED_LM.make_collator(context, padding, seed)

    def predict_samples(self, trainer: Trainer, samples: Sequence[dict]) -> dict[str, list[str]]:
        return MASKED_LM.predict_samples(trainer, samples) | NEXT_SENTENCE.predict_samples(trainer, samples)

    def describe_settings(self, data_args: PretrainingDataArguments) -> list[str]:
        return MASKED_LM.describe_settings(data_args) + NEXT_SENTENCE.describe_settings(data_args)


PRETRAINING = Pretraining()
