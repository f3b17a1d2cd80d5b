"""Predict the classes of the user's texts."""

from collections.abc import Sequence

import numpy as np
import torch

from cloze.data.classification import LabelledExamples, numbers_of_classes
from cloze.data.context import DataContext
from cloze.data.labelled_texts import Row
from cloze.data.samplers import longest_first
from cloze.inference.predictions import predict_scores, save_predictions
from cloze.objectives.classification import classes_of
from cloze.tokenization.checks import warn_of_unknown
from cloze.training.trainer import PretrainingTrainer


def predict_classes(
    trainer: PretrainingTrainer, rows: list[Row], examples: LabelledExamples, context: DataContext
) -> None:
    """Write predictions.jsonl to output_dir, in the order of the rows; log and save metrics if rows have labels."""
    warn_of_unknown(examples.unknown_share, "--test_file", context.tokenizer)
    by_length = longest_first(examples)
    scores, metrics = predict_scores(trainer, by_length)
    scores = {name: values[np.argsort(by_length.indices)] for name, values in scores.items()}
    _, found = classes_of(scores)
    names = list(numbers_of_classes(context.config))
    predictions = [
        {"prediction": names[number], "probabilities": dict(zip(names, probabilities, strict=True))}
        for number, probabilities in zip(found.tolist(), scores["probabilities"].tolist(), strict=True)
    ]
    save_predictions(trainer, f"Classified {len(predictions):,} texts", rows, predictions, metrics)


@torch.no_grad()
def classify_samples(trainer: PretrainingTrainer, examples: Sequence[dict]) -> list[str]:
    """Return texts, each with the model's best two classes and the true one."""
    model, tokenizer = trainer.model.eval(), trainer.processing_class
    names = model.config.id2label
    assert names is not None
    lines = []
    for example in examples:
        batch = {name: values.to(model.device) for name, values in trainer.data_collator([example]).items()}
        label = int(batch.pop("label"))
        best = model(**batch).logits[0].float().softmax(-1).topk(2)
        pairs = zip(best.indices.tolist(), best.values.tolist(), strict=True)
        guesses = ", ".join(f"{names[number]} {share:.0%}" for number, share in pairs)
        text = tokenizer.decode(example["input_ids"], skip_special_tokens=True)
        lines.append(f"{text[:100]}\n    {guesses}   (it is {names[label]})")
    return lines
