"""The judgement of a next sentence model on pairs of the user's own."""

import json
import logging
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from cloze.arguments import UserError
from cloze.corpus import find_files
from cloze.encoding import encode
from cloze.masking import IGNORED, collate
from cloze.metrics import SENTENCE_PAIRS
from cloze.pairs import IS_RANDOM, PairTemplate, fit
from cloze.readers import check_unicode, file_format, read_rows
from cloze.setup import padding_for
from cloze.tokenization import count_unknown, pair_template_of, unknown_id, warn_of_unknown
from cloze.trainer import PretrainingTrainer

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class SentencePair:
    """Two texts, and 0 if the second follows the first, 1 if not, None if that is not known."""

    sentence_a: str
    sentence_b: str
    label: int | None
    where: str


def read_pairs(test_file: str) -> list[SentencePair]:
    """The pairs in a table with the columns sentence_a, sentence_b and, if known, label."""
    files = find_files([test_file], "--test_file")
    if any(file_format(path) == ".txt" for path in files):
        raise UserError(f"--test_file {test_file}: give a table, .csv .tsv .json .jsonl .parquet, with a column a text")
    pairs = [pair_of(row, where) for path in files for where, row in read_rows(path)]
    if not pairs:
        raise UserError(f"--test_file {test_file} holds no pairs: it is empty, or has a header alone")
    return pairs


def pair_of(row: dict, where: str) -> SentencePair:
    for column in ("sentence_a", "sentence_b"):
        if column not in row:
            raise UserError(f"{where}: no column {column} (columns: {', '.join(row)}): rename those of the two texts")
        if not isinstance(row[column], str) or not row[column].strip():
            raise UserError(f"{where}: {column} is no text: every pair needs two")
        check_unicode(row[column], where)
    label = row.get("label")
    # True equals 1 in Python, and could mean the opposite: that B follows.
    if label not in (None, "", 0, 1, "0", "1") or isinstance(label, bool):
        raise UserError(f"{where}: label {label!r} is neither 0 (B follows A) nor 1 (not): leave unknown ones empty")
    return SentencePair(row["sentence_a"], row["sentence_b"], None if label in (None, "") else int(label), where)


def predict(trainer: PretrainingTrainer, pairs: list[SentencePair], max_seq_length: int) -> None:
    """Write predictions.jsonl to output_dir, in the order of the pairs; log and save metrics where labels are known."""
    examples, too_long = encode_pairs(pairs, trainer.processing_class, max_seq_length)
    warn_of_unknown_texts(
        trainer.processing_class, [text for pair in pairs for text in (pair.sentence_a, pair.sentence_b)]
    )
    if too_long:
        logger.warning("%d of %d pairs exceed %d tokens: their ends are cut off", too_long, len(pairs), max_seq_length)
    output = trainer.predict(examples, metric_key_prefix="predict")
    probabilities = output.predictions[0][:, -1].tolist()
    save_predictions(trainer, f"Judged {len(pairs):,} pairs", map(prediction, pairs, probabilities), output.metrics)


def warn_of_unknown_texts(tokenizer: PreTrainedTokenizerBase, texts: list[str]) -> None:
    (encoded,) = encode([texts], tokenizer, with_words=False)
    ids = np.concatenate([ids for ids, _ in encoded])
    warn_of_unknown(count_unknown(ids, unknown_id(tokenizer)) / max(1, len(ids)), "--test_file", tokenizer)


def save_predictions(
    trainer: PretrainingTrainer, title: str, predictions: Iterable[dict], metrics: dict[str, float]
) -> None:
    """Write predictions.jsonl, a line each; log and save the metrics of those whose labels are known, if any."""
    if not trainer.is_world_process_zero():
        return
    path = Path(trainer.args.output_dir) / "predictions.jsonl"
    with open(path, "w", encoding="utf-8") as file:
        for one in predictions:
            file.write(json.dumps(one, ensure_ascii=False) + "\n")
    logger.info("%s: %s", title, path)
    if "predict_accuracy" in metrics:
        trainer.save_metrics("predict", metrics)
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


def prediction(pair: SentencePair, probability: float) -> dict:
    """A line of predictions.jsonl."""
    return {
        "sentence_a": pair.sentence_a,
        "sentence_b": pair.sentence_b,
        "is_next_probability": 1 - probability,
        "not_next_probability": probability,
        "prediction": int(probability > 0.5),
        "label": pair.label,
    }
