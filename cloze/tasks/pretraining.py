"""Define the task of run_pretraining.py, BERT's joint masked-language-modelling and next-sentence objective."""

from collections.abc import Sequence
from typing import Any, ClassVar

from transformers import AutoModelForPreTraining, PretrainedConfig, PreTrainedTokenizerBase

from cloze.data.context import DataContext
from cloze.data.nsp import make_pairs
from cloze.data.splits import DatasetSplits
from cloze.objectives.metrics import MASKED_TOKENS, SENTENCE_PAIRS
from cloze.tasks.masked_lm import MaskedLM
from cloze.tasks.next_sentence import NEXT_SENTENCE
from cloze.training.trainer import PretrainingTrainer


class Pretraining(MaskedLM):
    """Predict the masked tokens in pairs of texts, and whether text B follows text A."""

    title = "masked language and next sentence model"
    head = "next-sentence head plus masked-language-modelling head"
    auto_model = AutoModelForPreTraining
    # The models of AutoModelForPreTraining whose forward accepts both kinds of labels. ALBERT's second head was made
    # for sentence order (--pair_objective sop), and also learns next sentences.
    model_types = (*NEXT_SENTENCE.model_types, "albert", "big_bird")
    instead = f"use one of {', '.join(model_types)}, or run_mlm.py"
    objectives: ClassVar = {"mlm_": MASKED_TOKENS, "nsp_": SENTENCE_PAIRS}

    def check(self, config: PretrainedConfig, tokenizer: PreTrainedTokenizerBase) -> None:
        """Raise UserError without a mask token or without two token types."""
        super().check(config, tokenizer)
        NEXT_SENTENCE.check(config, tokenizer)

    def make_splits(self, context: DataContext) -> DatasetSplits:
        """Return pairs of texts; log their statistics and a sample."""
        return make_pairs(context)

    def predict_samples(self, trainer: PretrainingTrainer, samples: Sequence[dict]) -> dict[str, list[str]]:
        """Return the most confident correct and wrong predictions of both objectives."""
        return super().predict_samples(trainer, samples) | NEXT_SENTENCE.predict_samples(trainer, samples)

    def describe_settings(self, data_args: Any) -> list[str]:
        """Describe the settings of both objectives, a PretrainingDataArguments."""
        return super().describe_settings(data_args) + NEXT_SENTENCE.describe_settings(data_args)


PRETRAINING = Pretraining()
