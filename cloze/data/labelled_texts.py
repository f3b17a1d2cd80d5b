"""Read and divide tables of labelled texts, and name their classes."""

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
from cloze.text.corpus import Corpus, FileCorpus, split_documents
from cloze.text.decoding import file_format
from cloze.text.files import find_files
from cloze.text.readers import read_rows

logger = logging.getLogger(__name__)

# Of more classes than this, and more than half as many as there are texts, no model learns a thing.
MANY_CLASSES = 20


@dataclass(frozen=True)
class LabelledText:
    """Hold one text, or the two of a pair; the name of its class, None if that is not known; and where it stands."""

    texts: tuple[str, ...]
    label: str | None
    where: str

    @property
    def is_empty(self) -> bool:
        """Return whether the text, or one of the pair, is blank."""
        return not all(map(str.strip, self.texts))


# A row of a test file: its text, None where that is empty, and its columns.
Row = tuple[LabelledText | None, dict[str, Any]]


def read_splits(
    corpora: tuple[Corpus | None, Corpus | None], data_args: ClassificationArguments, do_eval: bool, seed: int
) -> tuple[list[LabelledText] | None, list[LabelledText] | None, list[LabelledText] | None]:
    """Return all texts of the first corpus, those to train on and those to evaluate on.

    Args:
        seed: of what is held out, and of the texts that are drawn where not all are taken.
    """
    # By a generator of its own, those to evaluate on are the same however many are trained on, or none.
    rng, rng_of_evaluation = (np.random.default_rng([seed, number]) for number in (0, 1))
    texts, evaluation = (None if corpus is None else read_labelled(corpus, data_args) for corpus in corpora)
    training = texts
    if do_eval and evaluation is None:
        training, evaluation = divide(texts, data_args.validation_split_percentage, rng)
    training = sample(training, data_args.max_train_samples, rng)
    return texts, training, sample(evaluation, data_args.max_eval_samples, rng_of_evaluation)


def read_labelled(corpus: Corpus, data_args: ClassificationArguments) -> list[LabelledText]:
    """Return the corpus's texts but for empty ones; UserError for one without a label, and if there is not one."""
    texts, empty = [], []
    for text, _ in labelled_texts(corpus, data_args):
        (empty if text.is_empty else texts).append(text)
    if not texts:
        raise UserError(f"{corpus.name} holds no texts: it is empty, or those of all rows are")
    if empty:
        logger.warning(
            "EMPTY TEXTS: %d of %d rows have no text and are left out, the first is %s",
            len(empty),
            len(empty) + len(texts),
            empty[0].where,
        )
    for text in texts:
        if text.label is None:
            raise UserError(f"{text.where}: no label: give it one, or take the line out")
    return texts


def read_test_texts(data_args: ClassificationArguments) -> list[Row]:
    """Return the rows of the test file. Labels need not be known."""
    files = find_files([data_args.test_file], "--test_file")
    corpus = FileCorpus(files, data_args.text_column, data_args.reader_settings)
    label_column = data_args.other_columns[0]
    texts = labelled_texts(corpus, data_args, has_labels=False)
    rows = [(None if text.is_empty else text, row | {label_column: text.label}) for text, row in texts]
    if not any(text for text, _ in rows):
        raise UserError(f"--test_file {data_args.test_file} holds no texts: it is empty, or those of all rows are")
    return rows


def labelled_texts(
    corpus: Corpus, data_args: ClassificationArguments, has_labels: bool = True
) -> Iterator[tuple[LabelledText, dict[str, Any]]]:
    """Yield text and row of each row of a table, and each line of a .txt file, whose label is the file's name.

    Args:
        has_labels: whether there has to be a column of labels, and whether a .txt file is named after one.
    """
    if not isinstance(corpus, FileCorpus):
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
            raise UserError(f"{path}: --text_pair_column is for tables: give .csv .tsv .json .jsonl or .parquet")
        label = path.name.partition(".")[0] if has_labels else None
        for where, row in read_rows(path, corpus.settings):
            yield LabelledText((row["text"],), label, where), row


def _texts_of_table(
    rows: Iterator[tuple[str, dict[str, Any]]],
    data_args: ClassificationArguments,
    has_labels: bool,
    names: Sequence[str] | None = None,
) -> Iterator[tuple[LabelledText, dict[str, Any]]]:
    """Yield the texts of rows, and the rows; arguments as of ``labelled_texts``, and the names of numbered classes."""
    label_column, *pair = data_args.other_columns
    columns = []
    for where, row in rows:
        if has_labels and label_column not in row:
            raise UserError(f"{where}: no column {label_column}: give --label_column NAME (columns: {', '.join(row)})")
        if not columns:
            columns = [choose_column(row, data_args.text_column, where, data_args.other_columns), *pair]
        texts = tuple(text_in(row, column, where) for column in columns)
        label = label_in(row.get(label_column), label_column, where, names)
        yield LabelledText(texts, label, where), row


def label_in(value: Any, column: str, where: str, names: Sequence[str] | None = None) -> str | None:
    """Return a label as a word, None if it is not known: numbered classes by name, other whole numbers without .0."""
    value = value.strip() if isinstance(value, str) else value
    if value is None or value == "" or (names is not None and value == -1):
        return None
    if names is not None:
        return names[value]
    # A table has 1.0 for 1 where some labels are missing.
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    # As databases export whole numbers to parquet.
    if isinstance(value, Decimal):
        value = str(value)
    label = re.sub(r"^(-?\d+)\.0*$", r"\1", str(value))
    if not isinstance(value, str | int) or re.fullmatch(r"-?\d*\.\d+(e[-+]\d+)?|-?\d+e-\d+", label):
        raise UserError(f"{where}: {column} {value!r} is no class: labels are words or whole numbers")
    # As transformers calls a class that has no name, of which the number is left here.
    return re.sub(r"^LABEL_(?=\d+$)", "", label)


def digest_of(texts: Sequence[LabelledText]) -> str:
    """Return a digest by which texts and labels are known again, whatever the tokenizer makes of them."""
    return hashlib.sha256(repr([(text.texts, text.label) for text in texts]).encode()).hexdigest()


def divide(
    texts: list[LabelledText], percentage: float, rng: np.random.Generator
) -> tuple[list[LabelledText], list[LabelledText]]:
    """Return the texts to train on, and those held out."""
    return tuple([texts[number] for number in part] for part in split_documents(len(texts), percentage, rng))


def sample(texts: list[LabelledText] | None, count: int | None, rng: np.random.Generator) -> list[LabelledText] | None:
    """Draw that many texts at random, and keep their order: the first of a table may all be of one class."""
    if texts is None or count is None or count >= len(texts):
        return texts
    return [texts[number] for number in np.sort(rng.choice(len(texts), count, replace=False))]


def find_classes(texts: list[LabelledText], name: str) -> list[str]:
    """Return the labels that occur, in the order of numbers if they are numbers; UserError if there is but one."""
    counts = Counter(text.label for text in texts)
    if len(counts) == 1:
        raise UserError(f"{name}: all texts have the label {next(iter(counts))}: a classifier needs two classes")
    if len(counts) > max(MANY_CLASSES, len(texts) / 2):
        logger.warning(
            "CLASSES: %d labels of %d texts: see that --label_column names the column of classes",
            len(counts),
            len(texts),
        )
    numbers = all(re.fullmatch(r"-?\d+", label) for label in counts)
    return sorted(counts, key=int if numbers else None)


def check_labels(texts: list[LabelledText], classes: Sequence[str]) -> None:
    """Raise UserError for a label that is none of the classes."""
    for text in texts:
        if text.label not in (None, *classes):
            raise UserError(
                f"{text.where}: the label {text.label} is not one that is trained ({', '.join(classes[:10])}): correct "
                "it, or train on texts that have it"
            )
