"""Tables of labelled texts: read, divided, and the names of their classes."""

import logging
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
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
    """One text, or the two of a pair; the name of its class, None if that is not known; and where it stands.

    Of a test file, also the row, for predictions.jsonl.
    """

    texts: tuple[str, ...]
    label: str | None
    where: str
    row: dict[str, Any] = field(default_factory=dict, compare=False)


def read_labelled(corpus: Corpus, data_args: ClassificationArguments) -> list[LabelledText]:
    """Return the corpus's texts but for empty ones; UserError for one without a label, and if there is not one."""
    rows = list(labelled_texts(corpus, data_args))
    texts = [row for row in rows if all(text.strip() for text in row.texts)]
    if not texts:
        raise UserError(f"{corpus.name} holds no texts: it is empty, or those of all rows are")
    if len(texts) < len(rows):
        empty = next(row for row in rows if not all(text.strip() for text in row.texts))
        logger.warning(
            "EMPTY TEXTS: %d of %d rows have no text and are left out, the first is %s",
            len(rows) - len(texts),
            len(rows),
            empty.where,
        )
    for text in texts:
        if text.label is None:
            raise UserError(f"{text.where}: no label: give it one, or take the line out")
    return texts


def read_test_texts(data_args: ClassificationArguments) -> list[tuple[LabelledText | None, dict[str, Any]]]:
    """Return each row of the test file with its text, None where that is empty. Labels need not be known."""
    files = find_files([data_args.test_file], "--test_file")
    corpus = FileCorpus(files, data_args.text_column, data_args.reader_settings)
    texts = labelled_texts(corpus, data_args, has_labels=False)
    label_column = data_args.other_columns[0]
    rows = [
        (text if all(map(str.strip, text.texts)) else None, text.row | {label_column: text.label}) for text in texts
    ]
    if not any(text for text, _ in rows):
        raise UserError(f"--test_file {data_args.test_file} holds no texts: it is empty, or those of all rows are")
    return rows


def labelled_texts(
    corpus: Corpus, data_args: ClassificationArguments, has_labels: bool = True
) -> Iterator[LabelledText]:
    """Each row of a table, and each line of a .txt file, whose label is the file's name.

    Args:
        has_labels: whether there has to be a column of labels, and whether a .txt file is named after one.
    """
    if not isinstance(corpus, FileCorpus):
        rows = ((f"{corpus.name}, row {number}", row) for number, row in enumerate(corpus.read_rows(0)))
        yield from texts_of_table(rows, data_args, has_labels, names_of_classes(corpus.rows, data_args))
        return
    for path in corpus.files:
        if file_format(path) != ".txt":
            yield from texts_of_table(read_rows(path, corpus.settings), data_args, has_labels)
            continue
        if data_args.text_pair_column:
            raise UserError(f"{path}: --text_pair_column is for tables: give .csv .tsv .json .jsonl or .parquet")
        label = path.name.partition(".")[0] if has_labels else None
        for where, row in read_rows(path, corpus.settings):
            yield LabelledText((row["text"],), label, where, {} if has_labels else row)


def texts_of_table(
    rows: Iterator[tuple[str, dict[str, Any]]],
    data_args: ClassificationArguments,
    has_labels: bool,
    names: Sequence[str] | None = None,
) -> Iterator[LabelledText]:
    """Arguments as those of ``labelled_texts``, and the names of labels that are numbers of classes."""
    label_column, *pair = data_args.other_columns
    columns = []
    for where, row in rows:
        if has_labels and label_column not in row:
            raise UserError(f"{where}: no column {label_column}: give --label_column NAME (columns: {', '.join(row)})")
        if not columns:
            columns = [choose_column(row, data_args.text_column, where, data_args.other_columns), *pair]
        texts = tuple(text_in(row, column, where) for column in columns)
        label = label_in(row.get(label_column), label_column, where, names)
        yield LabelledText(texts, label, where, {} if has_labels else row)


def label_in(value: Any, column: str, where: str, names: Sequence[str] | None = None) -> str | None:
    """A label as a word, None if it is not known: numbers of classes by their names, other whole numbers without .0."""
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


def names_of_classes(rows: datasets.Dataset, data_args: ClassificationArguments) -> Sequence[str] | None:
    feature = rows.features.get(data_args.label_column or "label")
    return feature.names if isinstance(feature, datasets.ClassLabel) else None


def divide(
    texts: list[LabelledText], percentage: float, rng: np.random.Generator
) -> tuple[list[LabelledText], list[LabelledText]]:
    """Those to train on, and those held out."""
    return tuple([texts[number] for number in part] for part in split_documents(len(texts), percentage, rng))


def sample(texts: list[LabelledText], count: int | None, rng: np.random.Generator) -> list[LabelledText]:
    """So many, drawn at random, in their order: the first of a table may all be of one class."""
    if count is None or count >= len(texts):
        return texts
    return [texts[number] for number in np.sort(rng.choice(len(texts), count, replace=False))]


def find_classes(texts: list[LabelledText], name: str) -> list[str]:
    """The labels that occur, in the order of numbers if they are numbers; UserError if there is but one."""
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
