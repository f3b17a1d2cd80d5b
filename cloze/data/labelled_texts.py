"""Read labelled texts, split them, and find their classes."""

import hashlib
import logging
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

import datasets
import numpy as np

from cloze.config.classification_arguments import ClassificationArguments
from cloze.errors import UserError
from cloze.text.columns import choose_column, text_in
from cloze.text.corpus import Corpus, FileCorpus, HubCorpus, split_documents
from cloze.text.decoding import file_format
from cloze.text.files import find_files
from cloze.text.readers import read_rows
from cloze.text.sources import Corpora

logger = logging.getLogger(__name__)

# More classes than this, and more than half the number of texts, cause a warning: no model can learn them.
MANY_CLASSES = 20


@dataclass(frozen=True)
class LabelledText:
    """Hold one text or a pair, the name of its class, None if unknown, and its file and line or row."""

    texts: tuple[str, ...]
    label: str | None
    where: str

    @property
    def is_empty(self) -> bool:
        """Return whether the text, or one text of the pair, is blank."""
        return not all(map(str.strip, self.texts))


# A row of a test file: its text, None if it is empty, and its columns.
Row = tuple[LabelledText | None, dict[str, Any]]


def read_splits(
    corpora: Corpora, data_args: ClassificationArguments, do_eval: bool, seed: int
) -> tuple[list[LabelledText] | None, list[LabelledText] | None, dict[str, list[LabelledText]]]:
    """Return all texts of the training corpus, the texts to train on, and the held-out sets by name.

    Args:
        corpora: the training text, which has no name, and the validation texts.
        data_args: the data settings.
        do_eval: hold out texts if there is no validation text.
        seed: of the held-out texts, and of the subsets by --max_train_samples and --max_eval_samples.
    """
    # A second generator keeps the evaluated texts independent of the number of texts to train on.
    rng, eval_rng = (np.random.default_rng([seed, number]) for number in (0, 1))
    texts = read_labelled(corpora.train[""], data_args) if corpora.train else None
    held_out = {name: read_labelled(corpus, data_args) for name, corpus in corpora.validation.items()}
    training = texts
    if do_eval and not held_out:
        assert texts is not None
        training, held_out[""] = divide(texts, data_args.validation_split_percentage, rng)
    training = None if training is None else sample(training, data_args.max_train_samples, rng)
    return (
        texts,
        training,
        {name: sample(each, data_args.max_eval_samples, eval_rng) for name, each in held_out.items()},
    )


def read_labelled(corpus: Corpus, data_args: ClassificationArguments) -> list[LabelledText]:
    """Return the texts of a corpus except empty ones; raise UserError for a missing label, or if all are empty."""
    texts: list[LabelledText] = []
    empty: list[LabelledText] = []
    for text, _ in labelled_texts(corpus, data_args):
        (empty if text.is_empty else texts).append(text)
    if not texts:
        raise UserError(f"{corpus.name} contains no texts: it has no rows, or the text is blank in all of them")
    if empty:
        logger.warning(
            "skipping %d of %d rows with an empty text, the first in %s",
            len(empty),
            len(empty) + len(texts),
            empty[0].where,
        )
    for text in texts:
        if text.label is None:
            raise UserError(f"{text.where}: no label: add one, or delete the line")
    return texts


def read_test_texts(data_args: ClassificationArguments) -> list[Row]:
    """Return the rows of the test file, with or without labels; raise UserError if no row has a text."""
    assert data_args.test_file is not None
    files = find_files([data_args.test_file], "--test_file")
    corpus = FileCorpus(files, data_args.text_column, data_args.reader_settings)
    label_column = data_args.other_columns[0]
    texts = labelled_texts(corpus, data_args, has_labels=False)
    rows = [(None if text.is_empty else text, row | {label_column: text.label}) for text, row in texts]
    if not any(text for text, _ in rows):
        raise UserError(
            f"--test_file {data_args.test_file} contains no texts: it has no rows, or the text is blank in all of them"
        )
    return rows


def labelled_texts(
    corpus: Corpus, data_args: ClassificationArguments, has_labels: bool = True
) -> Iterator[tuple[LabelledText, dict[str, Any]]]:
    """Yield the text and the row of each table row, and of each line of a .txt file, which is named after its label.

    Args:
        corpus: tables, or .txt files.
        data_args: the data settings.
        has_labels: require a column of labels in tables, and take the label of a .txt file from its name.
    """
    if isinstance(corpus, HubCorpus):
        rows = ((f"{corpus.name}, row {number}", row) for number, row in enumerate(corpus.read_rows(0)))
        feature = corpus.rows.features.get(data_args.other_columns[0])
        names = feature.names if isinstance(feature, datasets.ClassLabel) else None
        yield from _texts_of_table(rows, data_args, has_labels, names)
        return
    for path in corpus.files:
        if file_format(path) != ".txt":
            yield from _texts_of_table(read_rows(path, corpus.settings), data_args, has_labels)
            continue
        if data_args.text_pair_column:
            raise UserError(f"{path}: --text_pair_column needs a table: give .csv, .tsv, .json, .jsonl or .parquet")
        label = path.name.partition(".")[0] if has_labels else None
        for where, row in read_rows(path, corpus.settings):
            yield LabelledText((row["text"],), label, where), row


def _texts_of_table(
    rows: Iterator[tuple[str, dict[str, Any]]],
    data_args: ClassificationArguments,
    has_labels: bool,
    names: Sequence[str] | None = None,
) -> Iterator[tuple[LabelledText, dict[str, Any]]]:
    """Yield the text of each row, and the row; ``names`` are the names of numbered classes."""
    label_column, *pair = data_args.other_columns
    columns: list[str] = []
    for where, row in rows:
        if has_labels and label_column not in row:
            raise UserError(f"{where}: no column {label_column}: give --label_column NAME (columns: {', '.join(row)})")
        if not columns:
            columns = [choose_column(row, data_args.text_column, where, data_args.other_columns), *pair]
        texts = tuple(text_in(row, column, where) for column in columns)
        label = label_in(row.get(label_column), label_column, where, names)
        yield LabelledText(texts, label, where), row


def label_in(value: Any, column: str, where: str, names: Sequence[str] | None = None) -> str | None:
    """Return a label as text, None if unknown: numbered classes by name, other whole numbers without ".0"."""
    value = value.strip() if isinstance(value, str) else value
    if value is None or value == "" or (names is not None and value == -1):
        return None
    if names is not None:
        return names[value]
    # Columns with missing labels hold 1.0 for 1.
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    # Databases export whole numbers to parquet as decimals.
    if isinstance(value, Decimal):
        value = str(value)
    label = re.sub(r"^(-?\d+)\.0*$", r"\1", str(value))
    if not isinstance(value, str | int) or re.fullmatch(r"-?\d*\.\d+(e[-+]\d+)?|-?\d+e-\d+", label):
        raise UserError(f"{where}: {column} {value!r} is not a class: labels must be words or whole numbers")
    # transformers names a class without a name LABEL_<number>.
    return re.sub(r"^LABEL_(?=\d+$)", "", label)


def digest_of(texts: Sequence[LabelledText]) -> str:
    """Return a digest of texts and labels, independent of the tokenizer."""
    return hashlib.sha256(repr([(text.texts, text.label) for text in texts]).encode()).hexdigest()


def divide(
    texts: list[LabelledText], percentage: float, rng: np.random.Generator
) -> tuple[list[LabelledText], list[LabelledText]]:
    """Split texts at random; return the texts to train on, and the held-out texts."""
    training, held_out = split_documents(len(texts), percentage, rng)
    return [texts[number] for number in training], [texts[number] for number in held_out]


def sample(texts: list[LabelledText], count: int | None, rng: np.random.Generator) -> list[LabelledText]:
    """Draw ``count`` texts at random, in their order: the first texts of a table may all have one class."""
    if count is None or count >= len(texts):
        return texts
    return [texts[number] for number in np.sort(rng.choice(len(texts), count, replace=False))]


def find_classes(texts: list[LabelledText], name: str) -> list[str]:
    """Return the labels that occur, sorted, as numbers if they are numbers; raise UserError for a single label."""
    counts = Counter(text.label for text in texts if text.label is not None)
    if len(counts) == 1:
        raise UserError(
            f"{name}: all texts have the label {next(iter(counts))}: give texts of two classes or more, or the right "
            "--label_column"
        )
    if len(counts) > max(MANY_CLASSES, len(texts) / 2):
        logger.warning(
            "%d distinct labels in %d texts: check that --label_column names the column of classes",
            len(counts),
            len(texts),
        )
    return sorted(counts, key=int) if all(re.fullmatch(r"-?\d+", label) for label in counts) else sorted(counts)


def check_labels(texts: list[LabelledText], classes: Sequence[str]) -> None:
    """Raise UserError for a label that is not one of the classes."""
    for text in texts:
        if text.label not in (None, *classes):
            raise UserError(
                f"{text.where}: unknown label {text.label}, the model's classes are {', '.join(classes[:10])}: correct "
                "the label, or train on texts with it"
            )
