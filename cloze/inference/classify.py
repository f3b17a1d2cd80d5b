"""The classes that a model gives to texts of the user's own."""

from typing import Any

import numpy as np
from torch.utils.data import Subset

from cloze.data.classification import LabelledExamples, numbers_of_classes
from cloze.data.labelled_texts import LabelledText
from cloze.inference.next_sentence import save_predictions
from cloze.objectives.classification import classes_of
from cloze.tokenization.checks import warn_of_unknown
from cloze.training.context import RunContext
from cloze.training.trainer import PretrainingTrainer


def predict_classes(
    trainer: PretrainingTrainer,
    rows: list[tuple[LabelledText | None, dict[str, Any]]],
    examples: LabelledExamples,
    context: RunContext,
) -> None:
    """Write predictions.jsonl to output_dir, in the order of the rows; log and save metrics where labels are known."""
    warn_of_unknown(examples.unknown_share, "--test_file", context.tokenizer)
    # By length, so that a batch has little padding.
    order = np.argsort(-examples.lengths, kind="stable")
    output = trainer.predict(Subset(examples, order), metric_key_prefix="predict")
    scores = output.predictions[0][np.argsort(order)]
    _, found = classes_of(scores)
    names = list(numbers_of_classes(context.config))
    predictions = [
        {"prediction": names[number], "probabilities": dict(zip(names, probabilities, strict=True))}
        for number, probabilities in zip(found.tolist(), scores[:, 4:].tolist(), strict=True)
    ]
    save_predictions(trainer, f"Classified {len(predictions):,} texts", rows, predictions, output.metrics)
