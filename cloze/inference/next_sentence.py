"""Predict whether the second text follows the first in the user's pairs."""

import logging
from collections.abc import Sequence
from itertools import chain
from typing import NamedTuple

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from cloze.config.data_arguments import NextSentenceArguments
from cloze.data.classification import LabelledExamples
from cloze.data.labelled_texts import LabelledText, Row, label_in
from cloze.data.pairs import IS_NEXT, IS_RANDOM
from cloze.errors import UserError
from cloze.inference.predictions import drop_cut_word, predict_scores, save_predictions, surest, within_budget
from cloze.objectives.metrics import SENTENCE_PAIRS
from cloze.text.columns import text_in
from cloze.text.decoding import file_format
from cloze.text.files import find_files
from cloze.text.readers import read_rows
from cloze.tokenization.checks import warn_of_unknown
from cloze.training.trainer import PretrainingTrainer

logger = logging.getLogger(__name__)

# Tokens shown of each text of a pair.
CONTEXT = 24


def read_pairs(data_args: NextSentenceArguments) -> list[Row]:
    """Return each row of ``test_file`` with its pair, None if a text is empty.

    The columns are sentence_a, sentence_b and, optionally, label.

    Raises:
        UserError: for plain text, a missing column, a wrong label, or a table without pairs.
    """
    test_file = data_args.test_file
    assert test_file is not None, "--do_predict needs it"
    files = find_files([test_file], "--test_file")
    if any(file_format(path) == ".txt" for path in files):
        raise UserError(
            f"--test_file {test_file}: pairs need two columns, sentence_a and sentence_b: give a table, .csv .tsv "
            ".json .jsonl .parquet"
        )
    rows = []
    for where, row in chain.from_iterable(read_rows(path, data_args.reader_settings) for path in files):
        pair = pair_of(row, where)
        rows.append((None if pair.is_empty else pair, row | {"label": pair.label and int(pair.label)}))
    if not any(pair for pair, _ in rows):
        raise UserError(f"--test_file {test_file} has no pairs: it is empty, or every row lacks a text")
    return rows


def pair_of(row: dict, where: str) -> LabelledText:
    """Return the pair in a row of a table; its label is "0" if B follows A, "1" if not, None if unknown."""
    for column in ("sentence_a", "sentence_b"):
        if column not in row:
            raise UserError(
                f"{where}: no column {column} (columns: {', '.join(row)}): name the two texts sentence_a and sentence_b"
            )
        if not isinstance(row[column], str | None):
            raise UserError(f"{where}: {column} is not text: each pair needs two texts")
    # True is refused: it could mean that B follows.
    label = label_in(row.get("label"), "label", where)
    if label not in (None, "0", "1"):
        found = row["label"]
        raise UserError(
            f"{where}: label {found!r} is neither 0 (B follows A) nor 1 (B does not): leave unknown labels empty"
        )
    texts = tuple(text_in(row, column, where) for column in ("sentence_a", "sentence_b"))
    return LabelledText(texts, label, where)


def predict_pairs(trainer: PretrainingTrainer, rows: list[Row], max_seq_length: int) -> None:
    """Write predictions.jsonl to output_dir, in the order of the rows; log and save metrics if rows have labels."""
    pairs = [pair for pair, _ in rows if pair]
    examples = encode_pairs(pairs, trainer.processing_class, max_seq_length)
    warn_of_unknown(examples.unknown_share, "--test_file", trainer.processing_class)
    if examples.num_cut:
        logger.warning(
            "%d of %d pairs exceed %d tokens and are truncated", examples.num_cut, len(pairs), max_seq_length
        )
    scores, metrics = predict_scores(trainer, examples)
    predictions = [
        {"is_next_probability": 1 - share, "not_next_probability": share, "prediction": int(share > 0.5)}
        for share in scores["probability"].tolist()
    ]
    save_predictions(trainer, f"Classified {len(pairs):,} pairs", rows, predictions, metrics)


def encode_pairs(
    pairs: list[LabelledText], tokenizer: PreTrainedTokenizerBase, max_seq_length: int
) -> LabelledExamples:
    """Return pairs as examples; raise UserError for a text without tokens."""
    classes = {str(label): label for label in (IS_NEXT, IS_RANDOM)}
    examples = LabelledExamples(pairs, tokenizer, classes, max_seq_length, True, SENTENCE_PAIRS.labels)
    for pair, ids in zip(pairs, examples.ids, strict=True):
        if not all(map(len, ids)):
            raise UserError(f"{pair.where}: the tokenizer finds no token in one of the two texts: write words in both")
    return examples


class PairGuess(NamedTuple):
    """Hold a model's prediction for a pair.

    Attributes:
        probability: of the label that the model gives it.
        truth: its own label.
        is_right: whether the two are the same.
        text: both texts around their border, the probability and the truth, to show.
    """

    probability: float
    truth: int
    is_right: bool
    text: str


@torch.no_grad()
def judge_samples(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, examples: Sequence[dict]
) -> tuple[list[str], list[str]]:
    """Return the pairs that the model judges right and wrong with the highest probability, one of each label."""
    model.eval()
    guesses = []
    for pair in within_budget(examples):
        ids, types = torch.tensor(pair["input_ids"])[None], torch.tensor(pair["token_type_ids"])[None]
        outputs = model(input_ids=ids.to(model.device), token_type_ids=types.to(model.device))
        probability = SENTENCE_PAIRS.logits_of(outputs).float().softmax(-1)[0, IS_NEXT].item()
        a, b = (ids[types == kind] for kind in (0, 1))
        texts = (
            drop_cut_word(str(tokenizer.decode(text, skip_special_tokens=True))) for text in (a[-CONTEXT:], b[:CONTEXT])
        )
        label = int(pair["next_sentence_label"])
        truth = "they are in order" if label == IS_NEXT else "they are not"
        text = f"{' | '.join(texts)}\n    in order: {probability:.0%}   ({truth})"
        is_right = (probability > 0.5) == (label == IS_NEXT)
        guesses.append(PairGuess(max(probability, 1 - probability), label, is_right, text))
    right, wrong = ([guess for guess in guesses if guess.is_right == kind] for kind in (True, False))
    return [guess.text for guess in surest(right, 2)], [guess.text for guess in surest(wrong, 2)]
