"""Hold each script's settings of the data as dataclasses: which text to read and what to make of it."""

import re
from dataclasses import dataclass
from typing import ClassVar

from transformers.hf_argparser import HfArg

from cloze.config.arguments import TrainingArguments, check, optional, switch
from cloze.errors import UserError


@dataclass(frozen=True)
class ReaderSettings:
    """Say how files are read.

    Attributes:
        delimiter: of .csv and .tsv files; found in each file if None.
        quoting: of .csv and .tsv files, likewise.
        max_document_chars: characters of the longest document, in .parquet bytes.
    """

    delimiter: str | None = None
    quoting: str | None = None
    max_document_chars: int = 1_000_000_000


@dataclass
class DataArguments:
    """Say which text to read."""

    # What an evaluation measures, for --metric_for_best_model.
    metrics: ClassVar[tuple[str, ...]] = ("loss", "accuracy")

    dataset_name: str | None = optional(help="Data set on the Hub, or a folder of that form or of save_to_disk.")
    dataset_config_name: str | None = optional(help="Configuration of the Hub data set.")
    train_file: list[str] | None = optional(
        help="Training text: files, globs or folders of .txt .csv .tsv .json .jsonl .parquet [.gz .zst]."
    )
    validation_file: list[str] | None = optional(
        help="Validation text; without it, part of the training documents is held out."
    )
    text_column: str | None = optional(help="Column that holds the text, in tables.")
    csv_delimiter: str | None = optional(
        help="Delimiter of .csv and .tsv files: a character, or tab. By default that of a .csv is found in its "
        "first rows."
    )
    csv_quoting: str | None = optional(
        help="minimal: fields in quotes may hold delimiters and line ends; none: quotes are text. By "
        "default minimal, but rows of a .tsv that span lines are an error.",
        metadata={"choices": ["minimal", "none"]},
    )
    max_document_chars: int = HfArg(
        default=ReaderSettings.max_document_chars,
        help="A longer document is an error: no small compressed file fills the memory.",
    )
    language: str = HfArg(
        default="en", help="Language of the text, an ISO 639 code, by whose rules sentences are found."
    )
    validation_split_percentage: float = HfArg(
        default=5, help="Share of the documents held out if there is no validation_file, in percent."
    )
    overwrite_cache: bool = switch(help="Tokenize again though a prepared corpus exists.")
    preprocessing_num_workers: int | None = optional(help="Threads that tokenize; all processors by default.")
    tokenizer_backend: str = HfArg(
        default="auto",
        help="nanotoken: much faster, for WordPiece; auto: that, if installed and fit. The ids are the same.",
        metadata={"choices": ["auto", "tokenizers", "nanotoken"]},
    )
    streaming: bool = switch(help="Read and tokenize while training; needs --max_steps or --max_train_hours.")
    max_seq_length: int | None = optional(
        help="Tokens in an example, special ones included; the model's most by default."
    )
    pad_to_max_length: bool = switch(help="Pad to max_seq_length instead of to the longest example in the batch.")
    max_train_samples: int | None = optional(help="Train on the first so many examples.")
    max_eval_samples: int | None = optional(help="Evaluate on the first so many examples.")

    def __post_init__(self):
        # A library caller may give one file as a string, as upstream's dataclass has it.
        self.train_file = [self.train_file] if isinstance(self.train_file, str) else self.train_file
        self.validation_file = [self.validation_file] if isinstance(self.validation_file, str) else self.validation_file
        if self.dataset_name and (self.train_file or self.validation_file):
            raise UserError("--dataset_name and --train_file/--validation_file exclude each other: give one of them")
        if self.csv_delimiter in ("\\t", "tab"):  # as it is hard to type
            self.csv_delimiter = "\t"
        if self.csv_delimiter is not None and (len(self.csv_delimiter) != 1 or self.csv_delimiter in '"\r\n'):
            raise UserError(
                f"--csv_delimiter {self.csv_delimiter!r} is not one character: give one such as ';', or tab"
            )
        check(self, ["max_document_chars"], lambda n: n >= 1, "is less than 1: give the longest there is")
        is_code = re.compile("[a-z]{2,3}").fullmatch
        check(self, ["language"], is_code, "is not an ISO 639 code: give one such as en, de or uk")
        check(self, ["validation_split_percentage"], lambda share: 0 < share < 100, "is not within 0 and 100")
        check(self, ["max_seq_length"], lambda n: n >= 8, "is too short: give 8 or more; 128 is usual")
        if self.streaming and self.tokenizer_backend == "nanotoken":
            raise UserError("--tokenizer_backend nanotoken is for text that is prepared first: drop it, or --streaming")
        limits = ["max_train_samples", "max_eval_samples", "preprocessing_num_workers"]
        check(self, limits, lambda n: n >= 1, "is less than 1: leave it out to have no limit")

    @property
    def reader_settings(self) -> ReaderSettings:
        """Return how files are read."""
        return ReaderSettings(self.csv_delimiter, self.csv_quoting, self.max_document_chars)

    @property
    def other_columns(self) -> list[str]:
        """Return the columns of a table that do not hold the text."""
        return []


@dataclass
class MaskingArguments(DataArguments):
    """Say what is masked."""

    mlm_probability: float = HfArg(default=0.15, help="Share of the tokens to predict.")
    eval_mlm_probability: float = HfArg(
        default=0.15, help="Share of the tokens to predict in evaluations, 80/10/10, whatever training does."
    )
    mask_replace_prob: float = HfArg(default=0.8, help="Share of those replaced by the mask token.")
    random_replace_prob: float = HfArg(default=0.1, help="Share of those replaced by a random token.")
    whole_word_mask: bool = switch(help="Choose whole words instead of single tokens.")

    def __post_init__(self):
        super().__post_init__()
        masked, replaced = ["mlm_probability", "eval_mlm_probability"], ["mask_replace_prob", "random_replace_prob"]
        check(self, masked, lambda share: 0 < share < 1, "is not within 0 and 1: BERT has 0.15")
        check(self, replaced, lambda share: 0 <= share <= 1, "is not between 0 and 1")
        if self.mask_replace_prob + self.random_replace_prob > 1 + 1e-9:
            raise UserError("--mask_replace_prob and --random_replace_prob add up to more than 1: lower one of them")


@dataclass
class PairArguments(DataArguments):
    """Say how sentences are paired."""

    pair_strategy: str = HfArg(
        default="segment",
        help="segment: runs of sentences that fill max_seq_length; sentence: one sentence each.",
        metadata={"choices": ["segment", "sentence"]},
    )
    pair_objective: str = HfArg(
        default="nsp",
        help="nsp: B follows A or is random; sop: B follows A or the two are swapped.",
        metadata={"choices": ["nsp", "sop"]},
    )
    nsp_probability: float = HfArg(default=0.5, help="Share of pairs with a random B, or swapped.")
    short_seq_probability: float = HfArg(
        default=0.1, help="Share of segment pairs that are shorter than max_seq_length, at random."
    )
    sentence_per_line: bool = switch(help="A line is a sentence; otherwise sentences are found in the text.")

    def __post_init__(self):
        super().__post_init__()
        check(self, ["nsp_probability"], lambda share: 0 < share < 1, "is not within 0 and 1: BERT has 0.5")
        check(self, ["short_seq_probability"], lambda share: 0 <= share <= 1, "is not between 0 and 1")


@dataclass
class DataTrainingArguments(MaskingArguments):
    """Describe the data of run_mlm.py."""

    line_by_line: bool = switch(help="A line is an example, instead of blocks.")
    truncate_long_lines: bool = switch(help="With line_by_line: cut off what exceeds max_seq_length, do not split it.")
    test_file: str | None = optional(
        help="For do_predict: texts with [MASK] for each hidden word; a line, or a row of a table, each."
    )
    top_k: int = HfArg(default=5, help="For do_predict: how many tokens are told for each [MASK].")

    def __post_init__(self):
        super().__post_init__()
        if self.truncate_long_lines and not self.line_by_line:
            raise UserError("--truncate_long_lines goes with --line_by_line: blocks have no long lines")
        check(self, ["top_k"], lambda n: n >= 1, "is less than 1: give how many tokens to tell for each [MASK]")


@dataclass
class NextSentenceArguments(PairArguments):
    """Describe the data of run_nsp.py."""

    metrics: ClassVar[tuple[str, ...]] = ("loss", "accuracy", "f1")

    test_file: str | None = optional(
        help="For do_predict: a table with the columns sentence_a, sentence_b and, if known, label."
    )


@dataclass
class PretrainingDataArguments(PairArguments, MaskingArguments):
    """Describe the data of run_pretraining.py."""

    metrics: ClassVar[tuple[str, ...]] = ("loss", "mlm_loss", "nsp_loss", "mlm_accuracy", "nsp_accuracy", "nsp_f1")


def check_together(data_args: DataArguments, training_args: TrainingArguments) -> None:
    """Raise UserError for settings that are right one by one and wrong together."""
    test_file = getattr(data_args, "test_file", None)
    predicts = training_args.do_predict and hasattr(data_args, "test_file")
    if predicts and not test_file:
        raise UserError("--do_predict without anything to predict: give --test_file FILE")
    if test_file and not predicts:
        raise UserError("--test_file without --do_predict: add it, or drop the file")
    if not (training_args.do_train or training_args.do_eval or predicts):
        raise UserError("nothing to do: add --do_train, --do_eval or both")
    if not data_args.dataset_name and not data_args.train_file:
        if training_args.do_train:
            raise UserError("--do_train without text: give --train_file FILE or --dataset_name NAME")
        if training_args.do_eval and not data_args.validation_file:
            raise UserError("--do_eval without text: give --validation_file FILE or --dataset_name NAME")
    if data_args.streaming and training_args.prepare_only:
        raise UserError("--prepare_only has nothing to prepare of a stream, which is read while training: drop one")
    if data_args.streaming and training_args.do_train and training_args.max_steps < 1:
        raise UserError("--streaming does not know how long the text is: give --max_steps N or --max_train_hours H")
    if data_args.streaming and training_args.do_eval and not (data_args.validation_file or data_args.dataset_name):
        raise UserError("--streaming cannot hold documents out of the stream: give --validation_file FILE")
    metric = training_args.metric_for_best_model
    if metric and metric.removeprefix("eval_") not in data_args.metrics:
        raise UserError(f"--metric_for_best_model {metric} is not one of {', '.join(data_args.metrics)}")
