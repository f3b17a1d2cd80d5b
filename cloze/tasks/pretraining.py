"""Define BERT's own pretraining, masked tokens and next sentences together, the task of run_pretraining.py."""

from collections.abc import Sequence
from typing import ClassVar

from transformers import AutoModelForPreTraining, PretrainedConfig, PreTrainedTokenizerBase, Trainer

from cloze.config.data_arguments import PretrainingDataArguments
from cloze.data.context import DataContext
from cloze.data.nsp import make_pairs
from cloze.data.splits import DatasetSplits
from cloze.objectives.metrics import MASKED_TOKENS, SENTENCE_PAIRS
from cloze.tasks.masked_lm import MaskedLM
from cloze.tasks.next_sentence import NEXT_SENTENCE


class Pretraining(MaskedLM):
    """Predict masked tokens, of pairs of texts, and whether text B follows text A."""

    title = "masked language and next sentence model"
    head = "next-sentence head beside that for masked tokens"
    auto_model = AutoModelForPreTraining
    # Of the models of AutoModelForPreTraining, those whose forward takes labels of both kinds. ALBERT's second head is
    # for the order of sentences, as --pair_objective sop has it; it learns either.
    model_types = (*NEXT_SENTENCE.model_types, "albert", "big_bird")
    instead = f"use one of {', '.join(model_types)}, or run_mlm.py"
    objectives: ClassVar = {"mlm_": MASKED_TOKENS, "nsp_": SENTENCE_PAIRS}

    def check(self, config: PretrainedConfig, tokenizer: PreTrainedTokenizerBase) -> None:
        super().check(config, tokenizer)
        NEXT_SENTENCE.check(config, tokenizer)

    def make_splits(self, context: DataContext) -> DatasetSplits:
        return make_pairs(context)

    def predict_samples(self, trainer: Trainer, samples: Sequence[dict]) -> dict[str, list[str]]:
        return super().predict_samples(trainer, samples) | NEXT_SENTENCE.predict_samples(trainer, samples)

    def describe_settings(self, data_args: PretrainingDataArguments) -> list[str]:
        return super().describe_settings(data_args) + NEXT_SENTENCE.describe_settings(data_args)


PRETRAINING = Pretraining()
