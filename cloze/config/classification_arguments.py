"""Hold the settings of run_classification.py as dataclasses: which models, and which labelled texts."""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from transformers.hf_argparser import HfArg

from cloze.config.arguments import ModelArguments, check, optional
from cloze.config.data_arguments import DataArguments
from cloze.errors import UserError


@dataclass
class ClassifierArguments(ModelArguments):
    """Say which models to fine-tune: one, or several to compare."""

    compare_with: list[str] | None = optional(
        help="Models to compare with model_name_or_path, or with the first of them if it is not given: "
        "NAME=PATH, or PATH."
    )
    num_seeds: int = HfArg(default=3, help="With compare_with: train each model so many times, from --seed on.")

    def __post_init__(self):
        self.models = [_named(model) for model in self.compare_with or []]
        if not self.models:
            super().__post_init__()
            return
        # Else the settings of each model's run are checked.
        if self.model_type is not None:
            raise UserError("--compare_with compares checkpoints, --model_type builds a new model: give --config_name")
        if self.model_name_or_path is not None:
            self.models.insert(0, _named(self.model_name_or_path))
        elif self.config_name is not None:
            if self.tokenizer_name is None:
                raise UserError("--config_name builds a model to compare with: give it a --tokenizer_name, too")
            self.models.insert(0, ("scratch", None))
        names = [name for name, _ in self.models]
        if len(names) == 1:
            raise UserError(f"--compare_with {names[0]}: one model cannot be compared: give --model_name_or_path too")
        if len(set(names)) < len(names):
            raise UserError(f"--compare_with: two models are called the same ({', '.join(names)}): give NAME=PATH")
        check(self, ["num_seeds"], lambda n: n >= 1, "is less than 1")


def _named(model: str) -> tuple[str, str]:
    """Return name and path of ``NAME=PATH`` or ``PATH``, which is named by its last part; UserError for others."""
    name, given, path = model.partition("=")
    if given and path and re.fullmatch(r"[\w.-]*\w", name) and not Path(model).exists():
        return name, path
    name = Path(model).name if Path(model).is_dir() else model.rstrip("/").rpartition("/")[2]
    if not re.fullmatch(r"[\w.-]*\w", name):
        raise UserError(f"--compare_with {model}: give it a name, as NAME=PATH, of letters, digits, _ . -")
    return name, model


@dataclass
class ClassificationArguments(DataArguments):
    """Describe the data of run_classification.py."""

    metrics: ClassVar[tuple[str, ...]] = ("loss", "accuracy", "macro_f1")

    train_file: list[str] | None = optional(
        help="Labelled texts: tables, .csv .tsv .json .jsonl .parquet [.gz .zst], or .txt files, a text a line, "
        "that are named after the label."
    )
    validation_file: list[str] | None = optional(
        help="To evaluate on; without it, part of the labelled texts is held out."
    )
    validation_split_percentage: float = HfArg(
        default=20, help="Share of the texts held out if there is no validation_file, in percent."
    )
    max_train_samples: int | None = optional(help="Train on so many texts, drawn at random.")
    max_eval_samples: int | None = optional(help="Evaluate on so many, drawn at random.")
    label_column: str | None = optional(help="Column of the labels, words or whole numbers; `label` by default.")
    text_pair_column: str | None = optional(help="Column of a second text, where two are judged together.")
    test_file: str | None = optional(help="For do_predict: texts to classify, with labels where they are known.")

    def __post_init__(self):
        super().__post_init__()
        if self.streaming:
            raise UserError("--streaming is for pretraining: labelled texts are read as a whole, drop it")
        if self.language != "en":
            raise UserError("--language is for finding sentences: labelled texts are not divided, drop it")
        if self.text_pair_column is not None and self.text_pair_column == (self.text_column or "text"):
            raise UserError(
                f"--text_pair_column {self.text_pair_column} is the column of the first text: name both, as "
                "--text_column A --text_pair_column B"
            )

    @property
    def other_columns(self) -> list[str]:
        """Return the column of labels and, for pairs, the column of the second text."""
        return [self.label_column or "label", *[self.text_pair_column] * (self.text_pair_column is not None)]
