"""Read the user's texts to predict for, and write predictions to a file."""

import json
import logging
import math
import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from cloze.config.data_arguments import DataArguments
from cloze.errors import UserError
from cloze.objectives.metrics import finite
from cloze.text.columns import choose_column, text_in
from cloze.text.decoding import file_format
from cloze.text.files import find_files
from cloze.text.readers import read_rows
from cloze.training.checkpoints import replacing
from cloze.training.run import going_on_without, save_metrics
from cloze.training.trainer import PretrainingTrainer

logger = logging.getLogger(__name__)

# Most tokens of the examples to predict and show: seconds on a CPU, however large the held-out set.
MAX_SAMPLE_TOKENS = 8_192


def read_test_texts(test_file: str, data_args: DataArguments, wanted: str) -> list[tuple[str, str, dict[str, Any]]]:
    """Return each row of ``test_file``: where it is, its text, which may be empty, and its columns.

    Raises:
        UserError: for a file without text; the message asks for ``wanted``.
    """
    rows = []
    for path in find_files([test_file], "--test_file"):
        column = "text" if file_format(path) == ".txt" else None
        for where, row in read_rows(path, data_args.reader_settings):
            column = column or choose_column(row, data_args.text_column, str(path))
            rows.append((where, text_in(row, column, where).strip(), row))
    if not any(text for _, text, _ in rows):
        raise UserError(f"--test_file {test_file} has no text: give {wanted}")
    return rows


def within_budget(examples: Sequence[dict]) -> Sequence[dict]:
    """Return every n-th example: about ``MAX_SAMPLE_TOKENS`` tokens together, and at least one example."""
    tokens = sum(len(example["input_ids"]) for example in examples)
    return examples[:: max(1, math.ceil(tokens / MAX_SAMPLE_TOKENS))]


def surest(guesses: Iterable[Any], count: int) -> list[Any]:
    """Return the guesses with the highest ``probability``, one for each ``truth``."""
    by_truth: dict[Any, Any] = {}
    for guess in sorted(guesses, key=lambda guess: -guess.probability):
        by_truth.setdefault(guess.truth, guess)
    return list(by_truth.values())[:count]


def drop_cut_word(text: str) -> str:
    """Drop the part of a word, of a WordPiece tokenizer, that a decoded text begins with."""
    return re.sub(r"^##\S* ?", "", text)


def name_samples(trainer: PretrainingTrainer) -> str:
    """Return the name of the set that the samples come from."""
    return "training" if trainer.eval_dataset is None else "held-out"


def predict_scores(trainer: PretrainingTrainer, examples: Any) -> tuple[dict[str, np.ndarray], dict[str, float]]:
    """Return the scores of the trainer's only objective, [examples] each, and the metrics of examples with labels."""
    # Any: transformers declares arrays, but the Trainer passes the dictionaries of prediction_step through.
    output: Any = trainer.predict(examples, metric_key_prefix="predict")
    (scores,) = output.predictions.values()
    return scores, output.metrics


def save_predictions(
    trainer: PretrainingTrainer,
    title: str,
    rows: list[tuple[Any, dict[str, Any]]],
    predictions: list[dict[str, Any]],
    metrics: dict[str, float],
) -> None:
    """Write predictions.jsonl, one line per row; log and save the metrics if rows have labels.

    Args:
        trainer: the Trainer that has made the predictions.
        title: beginning of the line to log.
        rows: each row's input, None if there is nothing to predict, and its columns.
        predictions: predictions for the inputs that are not None, in order.
        metrics: metrics of the rows with labels; empty if there are none.
    """
    if not trainer.is_world_process_zero():
        return
    path = Path(trainer.args.output_dir) / "predictions.jsonl"
    found, nothing = iter(predictions), dict.fromkeys(predictions[0])
    # An unpaired surrogate in another column is escaped, as JSON allows.
    with going_on_without(trainer, path.name), replacing(path, errors="backslashreplace") as file:
        for number, (item, row) in enumerate(rows):
            line = row | {"row": number} | (nothing if item is None else next(found))
            # str: for dates and other types that JSON lacks.
            file.write(json.dumps(finite(line), ensure_ascii=False, default=str) + "\n")
    without = f"; rows without text: {len(rows) - len(predictions):,}" if len(rows) > len(predictions) else ""
    logger.info("%s%s: %s", title, without, path)
    if "predict_accuracy" in metrics:
        save_metrics(trainer, "predict", metrics)
        figures = {name: metrics.get(f"predict_{name}") for name in ("accuracy", "f1", "macro_f1", "loss", "is_next")}
        reported = (f"{name} {value:.4f}" for name, value in figures.items() if value is not None)
        logger.info("Rows with a label: %s", ", ".join(reported))
