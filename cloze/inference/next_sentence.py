"""The judgement of a next sentence model on pairs of the user's own."""

import json
import logging
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from cloze.config.data_arguments import NextSentenceArguments
from cloze.data.collators import IGNORED, collate
from cloze.data.labelled_texts import label_in
from cloze.data.pairs import IS_RANDOM, fit
from cloze.errors import UserError
from cloze.objectives.metrics import SENTENCE_PAIRS, finite
from cloze.text.columns import text_in
from cloze.text.decoding import file_format
from cloze.text.files import find_files
from cloze.text.readers import read_rows
from cloze.tokenization.checks import count_unknown, warn_of_unknown
from cloze.tokenization.encoding import encode
from cloze.tokenization.properties import unknown_id
from cloze.tokenization.templates import PairTemplate, pair_template_of
from cloze.training.checkpoints import replacing
from cloze.training.context import padding_for
from cloze.training.run import going_on_without, save_metrics
from cloze.training.trainer import PretrainingTrainer

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class SentencePair:
    """Two texts, and 0 if the second follows the first, 1 if not, None if that is not known."""

    sentence_a: str
    sentence_b: str
    label: int | None
    where: str


def read_pairs(data_args: NextSentenceArguments) -> list[tuple[SentencePair | None, dict[str, Any]]]:
    """Return each row of a table with its pair, None where a text is empty.

    The columns are sentence_a, sentence_b and, if known, label.
    """
    test_file = data_args.test_file
    files = find_files([test_file], "--test_file")
    if any(file_format(path) == ".txt" for path in files):
        raise UserError(f"--test_file {test_file}: give a table, .csv .tsv .json .jsonl .parquet, with a column a text")
    rows = []
    for where, row in chain.from_iterable(read_rows(path, data_args.reader_settings) for path in files):
        pair = pair_of(row, where)
        is_whole = pair.sentence_a.strip() and pair.sentence_b.strip()
        rows.append((pair if is_whole else None, row | {"label": pair.label}))
    if not any(pair for pair, _ in rows):
        raise UserError(f"--test_file {test_file} holds no pairs: it is empty, or each row lacks a text")
    return rows


def pair_of(row: dict, where: str) -> SentencePair:
    for column in ("sentence_a", "sentence_b"):
        if column not in row:
            raise UserError(f"{where}: no column {column} (columns: {', '.join(row)}): rename those of the two texts")
        if not isinstance(row[column], str | None):
            raise UserError(f"{where}: {column} is no text: every pair needs two")
    # Not True or "true", which could mean the opposite: that B follows.
    label = label_in(row.get("label"), "label", where)
    if label not in (None, "0", "1"):
        found = row["label"]
        raise UserError(f"{where}: label {found!r} is neither 0 (B follows A) nor 1 (not): leave unknown ones empty")
    texts = (text_in(row, column, where) for column in ("sentence_a", "sentence_b"))
    return SentencePair(*texts, None if label is None else int(label), where)


def predict(
    trainer: PretrainingTrainer, rows: list[tuple[SentencePair | None, dict[str, Any]]], max_seq_length: int
) -> None:
    """Write predictions.jsonl to output_dir, in the order of the rows; log and save metrics where labels are known."""
    pairs = [pair for pair, _ in rows if pair]
    examples, too_long = encode_pairs(pairs, trainer.processing_class, max_seq_length)
    warn_of_unknown_texts(
        trainer.processing_class, [text for pair in pairs for text in (pair.sentence_a, pair.sentence_b)]
    )
    if too_long:
        logger.warning("%d of %d pairs exceed %d tokens: their ends are cut off", too_long, len(pairs), max_seq_length)
    output = trainer.predict(examples, metric_key_prefix="predict")
    predictions = [
        {
            "is_next_probability": 1 - probability,
            "not_next_probability": probability,
            "prediction": int(probability > 0.5),
        }
        for probability in output.predictions[0][:, -1].tolist()
    ]
    save_predictions(trainer, f"Judged {len(pairs):,} pairs", rows, predictions, output.metrics)


def warn_of_unknown_texts(tokenizer: PreTrainedTokenizerBase, texts: list[str]) -> None:
    (encoded,) = encode([texts], tokenizer, with_words=False)
    ids = np.concatenate([ids for ids, _ in encoded])
    warn_of_unknown(count_unknown(ids, unknown_id(tokenizer)) / max(1, len(ids)), "--test_file", tokenizer)


def save_predictions(
    trainer: PretrainingTrainer,
    title: str,
    rows: list[tuple[Any, dict[str, Any]]],
    predictions: list[dict[str, Any]],
    metrics: dict[str, float],
) -> None:
    """Write predictions.jsonl, a line for each row; log and save the metrics of those whose labels are known, if any.

    Args:
        rows: what there is to predict of each row, None if nothing, and its columns.
        predictions: of those that are not None.
    """
    if not trainer.is_world_process_zero():
        return
    path = Path(trainer.args.output_dir) / "predictions.jsonl"
    found, nothing = iter(predictions), dict.fromkeys(predictions[0])
    # Half a surrogate pair in a column that is not read is written as JSON can have it, escaped.
    with going_on_without(trainer, path.name), replacing(path, errors="backslashreplace") as file:
        for number, (item, row) in enumerate(rows):
            line = row | {"row": number} | (nothing if item is None else next(found))
            # Dates and the like, which JSON lacks, as strings.
            file.write(json.dumps(finite(line), ensure_ascii=False, default=str) + "\n")
    without = f"; rows without text: {len(rows) - len(predictions):,}" if len(rows) > len(predictions) else ""
    logger.info("%s%s: %s", title, without, path)
    if "predict_accuracy" in metrics:
        save_metrics(trainer, "predict", metrics)
        figures = {name: metrics.get(f"predict_{name}") for name in ("accuracy", "f1", "macro_f1", "loss", "is_next")}
        told = (f"{name} {value:.4f}" for name, value in figures.items() if value is not None)
        logger.info("Those with a label: %s", ", ".join(told))


@torch.no_grad()
def judge_pair(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, pair: SentencePair, max_seq_length: int
) -> tuple[float, bool]:
    """The probability that the second text does not follow the first, and whether the pair had to be cut."""
    model.eval()
    examples, too_long = encode_pairs([pair], tokenizer, max_seq_length)
    batch = collate(examples, tokenizer.pad_token_id, padding_for(model, max_seq_length))
    del batch["next_sentence_label"]
    logits = SENTENCE_PAIRS.logits_of(model(**batch)).float()
    return logits.softmax(-1)[0, IS_RANDOM].item(), too_long > 0


def encode_pairs(
    pairs: list[SentencePair], tokenizer: PreTrainedTokenizerBase, max_seq_length: int
) -> tuple[list[dict], int]:
    """The pairs as examples, and how many are too long: of these, the ends are cut off."""
    template = pair_template_of(tokenizer)
    texts = [[pair.sentence_a, pair.sentence_b] for pair in pairs]
    encoded = [[ids for ids, _ in document] for document in encode(texts, tokenizer, with_words=False)]
    for pair, ids in zip(pairs, encoded, strict=True):
        if not all(map(len, ids)):
            raise UserError(f"{pair.where}: the tokenizer finds no token in one of the texts: every pair needs two")
    room = max_seq_length - template.num_special
    too_long = sum(len(a) + len(b) > room for a, b in encoded)
    examples = [
        cut_example(*ids, pair.label, number, template, room)
        for number, (ids, pair) in enumerate(zip(encoded, pairs, strict=True))
    ]
    return examples, too_long


def cut_example(
    a: np.ndarray, b: np.ndarray, label: int | None, number: int, template: PairTemplate, room: int
) -> dict:
    kept_a, kept_b = fit(np.array([[len(a), len(b)]]), room)[0]
    return template.example(a[:kept_a], b[:kept_b], IGNORED if label is None else label, number)
