"""Define the settings of run_classification.py as dataclasses: models and labelled texts."""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from cloze.config.arguments import ModelArguments, check, option, optional
from cloze.config.data_arguments import DataArguments
from cloze.errors import UserError

POOLINGS = ("cls", "mean")


@dataclass
class ClassifierArguments(ModelArguments):
    """Select the model to fine-tune, or several to compare."""

    compare_with: list[str] | None = optional(
        help="Models to fine-tune and compare, each as PATH or NAME=PATH. The baseline is --model_name_or_path, or "
        "the first of them."
    )
    num_seeds: int = option(3, help="With --compare_with: runs of each model, with seeds from --seed upward.")
    classifier_pooling: str | None = optional(
        help="What the classifier of a ModernBERT reads: cls, the first token, or mean, the mean of all tokens. "
        "Default: the model's setting.",
        choices=POOLINGS,
    )

    def __post_init__(self):
        self.models: list[tuple[str, str | None]] = [_named(model) for model in self.compare_with or []]
        if not self.models:
            super().__post_init__()
            return
        if self.model_type is not None:
            raise UserError(
                "--compare_with and --model_type exclude each other: give --config_name to compare with random weights"
            )
        if self.model_name_or_path is not None:
            self.models.insert(0, _named(self.model_name_or_path))
        elif self.config_name is not None:
            if self.tokenizer_name is None:
                raise UserError("--config_name with --compare_with needs a tokenizer: add --tokenizer_name")
            self.models.insert(0, ("scratch", None))
        names = [name for name, _ in self.models]
        if len(names) == 1:
            raise UserError(f"--compare_with {names[0]}: a comparison needs two models: give --model_name_or_path too")
        if len(set(names)) < len(names):
            raise UserError(f"--compare_with: two models have the same name ({', '.join(names)}): give NAME=PATH")
        check(self, ["num_seeds"], lambda n: n >= 1, "is less than 1")


def _named(model: str) -> tuple[str, str]:
    """Return name and path from ``NAME=PATH``, or from ``PATH`` with its last part as name.

    Raises:
        UserError: if the name has characters other than letters, digits, _ . and -.
    """
    name, given, path = model.partition("=")
    if given and path and re.fullmatch(r"[\w.-]*\w", name) and not Path(model).exists():
        return name, path
    name = Path(model).name if Path(model).is_dir() else model.rstrip("/").rpartition("/")[2]
    if not re.fullmatch(r"[\w.-]*\w", name):
        raise UserError(f"--compare_with {model}: give NAME=PATH, with a name of letters, digits, _ . -")
    return name, model


@dataclass
class ClassificationArguments(DataArguments):
    """Describe the data of run_classification.py."""

    metrics: ClassVar[tuple[str, ...]] = ("loss", "accuracy", "macro_f1")

    train_file: list[str] | None = optional(
        help="Labelled texts to train on: tables (.csv .tsv .json .jsonl .parquet, also .gz .zst), or .txt files "
        "named LABEL.txt with one text per line."
    )
    validation_file: list[str] | None = optional(
        help="Labelled texts to evaluate on. Default: part of the training texts is held out."
    )
    validation_split_percentage: float = option(
        20, help="Percent of the texts to hold out if there is no --validation_file."
    )
    max_train_samples: int | None = optional(help="Largest number of training texts, drawn at random.")
    max_eval_samples: int | None = optional(help="Largest number of evaluation texts, drawn at random.")
    label_column: str | None = optional(help="Column of the labels: words or whole numbers. Default: label.")
    text_pair_column: str | None = optional(help="Column of the second text, for tasks on pairs of texts.")
    test_file: str | None = optional(help="For --do_predict: texts to classify, with labels if known.")

    def __post_init__(self):
        if self.mixture is not None:
            raise UserError("--mixture is for pretraining: drop it, each labelled text is trained on once an epoch")
        super().__post_init__()
        if "" not in (self.train_sources or [""]):
            raise UserError("--train_file: texts with names are for pretraining: give labelled texts without names")
        if self.streaming:
            raise UserError("--streaming is for pretraining: drop it, labelled texts are read as a whole")
        if self.language != "en":
            raise UserError("--language is for splitting into sentences: drop it, labelled texts are not split")
        if self.text_pair_column is not None and self.text_pair_column == (self.text_column or "text"):
            raise UserError(
                f"--text_pair_column {self.text_pair_column} is the column of the first text: give both, "
                "--text_column A --text_pair_column B"
            )

    @property
    def other_columns(self) -> list[str]:
        """Return the column of the labels and, for pairs, the column of the second text."""
        columns = [self.label_column or "label"]
        return columns if self.text_pair_column is None else [*columns, self.text_pair_column]
