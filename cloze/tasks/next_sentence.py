"""Define the task of run_nsp.py, next sentence prediction."""

from collections.abc import Sequence
from typing import ClassVar

from transformers import AutoModelForNextSentencePrediction, PretrainedConfig, PreTrainedTokenizerBase
from transformers.models.auto.modeling_auto import MODEL_FOR_NEXT_SENTENCE_PREDICTION_MAPPING_NAMES

from cloze.config.data_arguments import PairArguments
from cloze.data.context import DataContext
from cloze.data.nsp import make_pairs
from cloze.data.splits import DatasetSplits
from cloze.errors import UserError
from cloze.inference.next_sentence import judge_samples
from cloze.inference.predictions import name_samples
from cloze.objectives.metrics import SENTENCE_PAIRS
from cloze.objectives.task import Task
from cloze.training.trainer import PretrainingTrainer


class NextSentence(Task):
    """Predict whether text B follows text A."""

    title = "next sentence model"
    head = "next-sentence head"
    auto_model = AutoModelForNextSentencePrediction
    model_types = tuple(MODEL_FOR_NEXT_SENTENCE_PREDICTION_MAPPING_NAMES)
    instead = f"use one of {', '.join(model_types)}, or run_mlm.py"
    objectives: ClassVar = {"": SENTENCE_PAIRS}

    def check(self, config: PretrainedConfig, tokenizer: PreTrainedTokenizerBase) -> None:
        """Raise UserError for a model without two token types."""
        if getattr(config, "type_vocab_size", 2) < 2:
            raise UserError(
                f"type_vocab_size is {config.type_vocab_size}, but sentence pairs need 2: use run_mlm.py, or a model "
                "with 2, or train from scratch with --config_overrides type_vocab_size=2"
            )

    def make_splits(self, context: DataContext) -> DatasetSplits:
        """Return pairs of texts; log their statistics and a sample."""
        return make_pairs(context)

    def predict_samples(self, trainer: PretrainingTrainer, samples: Sequence[dict]) -> dict[str, list[str]]:
        """Return the most confident correct and wrong predictions for the sample pairs."""
        right, wrong = judge_samples(trainer.model, trainer.processing_class, samples)
        pairs = f"{name_samples(trainer)} pairs"
        return {f"Most confident correct guesses on {pairs}": right, f"Most confident wrong guesses on {pairs}": wrong}

    def describe_settings(self, data_args: PairArguments) -> list[str]:
        """Describe the share of negative pairs."""
        kind = "swapped" if data_args.pair_objective == "sop" else "random"
        return [f"{data_args.nsp_probability:.0%} of the pairs were {kind}."]


NEXT_SENTENCE = NextSentence()
