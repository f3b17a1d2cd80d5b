"""What each script trains: the heads a model needs, the architectures that have them, and what is predicted."""

from dataclasses import dataclass

from transformers import AutoModelForMaskedLM, AutoModelForNextSentencePrediction, AutoModelForPreTraining
from transformers.models.auto.modeling_auto import (
    MODEL_FOR_MASKED_LM_MAPPING_NAMES,
    MODEL_FOR_NEXT_SENTENCE_PREDICTION_MAPPING_NAMES,
)

from cloze.objectives.metrics import MASKED_TOKENS, SENTENCE_PAIRS, Objective


@dataclass(frozen=True)
class Task:
    """A script's task.

    Attributes:
        title: what comes of it, in words.
        head: what a model needs for it, in words.
        auto_model: the class of transformers that finds the model with that head.
        model_types: the architectures that have it.
        instead: what to use where a model has it not.
        objectives: what is predicted, by the prefix of its metrics.
    """

    title: str
    head: str
    auto_model: type
    model_types: tuple[str, ...]
    instead: str
    objectives: dict[str, Objective]

    @property
    def masks(self) -> bool:
        return MASKED_TOKENS in self.objectives.values()

    @property
    def pairs(self) -> bool:
        return SENTENCE_PAIRS in self.objectives.values()

    @property
    def classifies(self) -> bool:
        return not (self.masks or self.pairs)


MASKED_LM = Task(
    title="masked language model",
    head="masked-language-modelling head",
    auto_model=AutoModelForMaskedLM,
    model_types=tuple(MODEL_FOR_MASKED_LM_MAPPING_NAMES),
    instead="use an encoder such as bert, distilbert, roberta, electra, albert, modernbert or deberta-v2",
    objectives={"": MASKED_TOKENS},
)

NEXT_SENTENCE_TYPES = tuple(MODEL_FOR_NEXT_SENTENCE_PREDICTION_MAPPING_NAMES)
NEXT_SENTENCE = Task(
    title="next sentence model",
    head="next-sentence head",
    auto_model=AutoModelForNextSentencePrediction,
    model_types=NEXT_SENTENCE_TYPES,
    instead=f"use one of {', '.join(NEXT_SENTENCE_TYPES)}, or run_mlm.py",
    objectives={"": SENTENCE_PAIRS},
)

# Of the models of AutoModelForPreTraining, those whose forward takes labels of both kinds. ALBERT's second head is for
# the order of sentences, as --pair_objective sop has it; it learns either.
PRETRAINING_TYPES = (*NEXT_SENTENCE_TYPES, "albert", "big_bird")
PRETRAINING = Task(
    title="masked language and next sentence model",
    head="next-sentence head beside that for masked tokens",
    auto_model=AutoModelForPreTraining,
    model_types=PRETRAINING_TYPES,
    instead=f"use one of {', '.join(PRETRAINING_TYPES)}, or run_mlm.py",
    objectives={"mlm_": MASKED_TOKENS, "nsp_": SENTENCE_PAIRS},
)
