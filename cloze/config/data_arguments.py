"""Define each script's data settings as dataclasses: the text to read and the examples to build."""

import re
from dataclasses import dataclass
from typing import ClassVar

from cloze.config.arguments import TrainingArguments, check, option, optional, switch
from cloze.config.named_texts import parse_shares, sources_of
from cloze.config.schedules import MIN_LENGTH, check_schedules, parse_lengths
from cloze.errors import UserError

# Highest default of max_seq_length, as upstream has it.
MAX_DEFAULT_LENGTH = 1024


@dataclass(frozen=True)
class ReaderSettings:
    """Hold the options for reading files.

    Attributes:
        delimiter: separates fields of .csv and .tsv files; detected in each file if None.
        quoting: "minimal" or "none", for .csv and .tsv files; the default of the format if None.
        max_document_chars: length of the longest document, in characters; in bytes for .parquet.
    """

    delimiter: str | None = None
    quoting: str | None = None
    max_document_chars: int = 1_000_000_000


@dataclass
class DataArguments:
    """Select the text to read."""

    # What an evaluation measures, for --metric_for_best_model.
    metrics: ClassVar[tuple[str, ...]] = ("loss", "accuracy")
    # Flags of all scripts that this one does not take, each with the reason or what to use in its place.
    excluded_flags: ClassVar[dict[str, str]] = {}

    dataset_name: str | None = optional(
        help="Data set: a Hub name, a folder in the form of one, or a folder written by save_to_disk."
    )
    dataset_config_name: str | None = optional(help="Configuration of the Hub data set.")
    train_file: list[str] | None = optional(
        help="Training text: files, globs or folders of .txt .csv .tsv .json .jsonl .parquet, also .gz .zst. Several "
        "texts have names: law=law.txt general='wiki/*.txt'."
    )
    validation_file: list[str] | None = optional(
        help="Validation text. Several texts have names, and each is evaluated: law=a.txt general=b.txt. Default: part "
        "of the documents of each training text is held out."
    )
    mixture: list[str] | None = optional(
        help="Share of each training text in the tokens, NAME=SHARE: law=0.8 general=0.2. An epoch is one pass over "
        "the first text of --train_file. Default: one pass over each."
    )
    text_column: str | None = optional(
        help="Column of a table that holds the text. Default: text, else the only column of text."
    )
    csv_delimiter: str | None = optional(
        help="Delimiter of .csv and .tsv files: a character, or tab. Default: tab for .tsv, detected for .csv."
    )
    csv_quoting: str | None = optional(
        help="Quotes in .csv and .tsv files. minimal: a quoted field may contain delimiters and line ends; none: "
        "quotes are text. Default: minimal, but a .tsv row that spans lines is an error.",
        choices=["minimal", "none"],
    )
    max_document_chars: int = option(
        ReaderSettings.max_document_chars,
        help="Characters in a document, above which it is an error, so that a small compressed file cannot fill the "
        "memory.",
    )
    language: str = option("en", help="Language of the text, an ISO 639 code; selects the rules to split sentences.")
    validation_split_percentage: float = option(
        5, help="Percent of the documents to hold out if there is no --validation_file."
    )
    overwrite_cache: bool = switch(help="Prepare the text again even if it is in the cache.")
    preprocessing_num_workers: int | None = optional(help="Threads for tokenization. Default: one per processor.")
    tokenizer_backend: str = option(
        "auto",
        help="Library that tokenizes. nanotoken gives the same ids faster, for WordPiece; auto uses it where it is "
        "installed and supports the tokenizer.",
        choices=["auto", "tokenizers", "nanotoken"],
    )
    streaming: bool = switch(help="Read and tokenize while training. Needs --max_steps or --max_train_hours.")
    max_seq_length: int | None = optional(
        help="Tokens in an example, special tokens included. Default: the model's maximum."
    )
    pad_to_max_length: bool = switch(help="Pad to --max_seq_length instead of to the longest example in the batch.")
    max_train_samples: int | None = optional(help="Largest number of training examples: the first ones are used.")
    max_eval_samples: int | None = optional(help="Largest number of evaluation examples: the first ones are used.")

    def __post_init__(self):
        # Callers from Python may give one file as a string, as in upstream's dataclass.
        self.train_file = [self.train_file] if isinstance(self.train_file, str) else self.train_file
        self.validation_file = [self.validation_file] if isinstance(self.validation_file, str) else self.validation_file
        if self.dataset_name and (self.train_file or self.validation_file):
            raise UserError("--dataset_name and --train_file/--validation_file exclude each other: give one of them")
        self.train_sources = sources_of(self.train_file or [], "--train_file")
        self.validation_sources = sources_of(self.validation_file or [], "--validation_file")
        self.shares = None if self.mixture is None else parse_shares(self.mixture, self.train_sources)
        known = set(self.metrics)
        for name in sorted(filter(None, self.held_out_names), key=len):
            own = {f"{name}_{each}" for each in self.metrics}
            if own & known:
                raise UserError(f"{name} is the name of a metric, not of a text: give {name}-text=PATH")
            known |= own
        if self.csv_delimiter in ("\\t", "tab"):  # because a tab is hard to type
            self.csv_delimiter = "\t"
        if self.csv_delimiter is not None and (len(self.csv_delimiter) != 1 or self.csv_delimiter in '"\r\n'):
            raise UserError(
                f"--csv_delimiter {self.csv_delimiter!r} is not one character: give one, such as ';', or tab"
            )
        check(self, ["max_document_chars"], lambda n: n >= 1, "is less than 1: give the length of the longest document")
        is_code = re.compile("[a-z]{2,3}").fullmatch
        check(self, ["language"], is_code, "is not an ISO 639 code: give one, such as en, de or uk")
        check(self, ["validation_split_percentage"], lambda share: 0 < share < 100, "is not above 0 and below 100")
        check(self, ["max_seq_length"], lambda n: n >= MIN_LENGTH, "is too short: give 8 or more; 128 is usual")
        if self.streaming and self.tokenizer_backend == "nanotoken":
            raise UserError("--tokenizer_backend nanotoken does not work with --streaming: drop one of them")
        limits = ["max_train_samples", "max_eval_samples", "preprocessing_num_workers"]
        check(self, limits, lambda n: n >= 1, "is less than 1: omit it to have no limit")

    @property
    def held_out_names(self) -> list[str]:
        """Return the names of the texts to evaluate on, "" for a text without a name."""
        return list(self.validation_sources or self.train_sources) or [""]

    @property
    def reader_settings(self) -> ReaderSettings:
        """Return the options for reading files."""
        return ReaderSettings(self.csv_delimiter, self.csv_quoting, self.max_document_chars)

    @property
    def other_columns(self) -> list[str]:
        """Return the columns of a table that do not hold the text."""
        return []


@dataclass
class MaskingArguments(DataArguments):
    """Select the tokens to mask."""

    mlm_probability: float = option(0.15, help="Fraction of the tokens to predict in training.")
    final_mlm_probability: float | None = optional(
        help="Fraction of the tokens to predict at the last step, to which it goes linearly from --mlm_probability at "
        "the first step. Default: it stays the same."
    )
    eval_mlm_probability: float = option(
        0.15,
        help="Fraction of the tokens to predict in evaluations: 80 % masked, 10 % random, 10 % unchanged. It does not "
        "follow the training flags, so that runs stay comparable.",
    )
    eval_whole_word_mask: bool = switch(
        help="Mask whole words in evaluations, the same ones whatever the tokenizer, to compare bits per character."
    )
    mask_replace_prob: float = option(0.8, help="Fraction of the tokens to predict that become the mask token.")
    random_replace_prob: float = option(
        0.1, help="Fraction of the tokens to predict that become a random token. The rest stay unchanged."
    )
    whole_word_mask: bool = switch(help="Mask whole words instead of single tokens.")

    def __post_init__(self):
        super().__post_init__()
        # Into which examples are cut in the course of training; empty if they stay whole.
        self.lengths: tuple[int, ...] = ()
        masked = ["mlm_probability", "final_mlm_probability", "eval_mlm_probability"]
        replaced = ["mask_replace_prob", "random_replace_prob"]
        check(self, masked, lambda share: 0 < share < 1, "is not above 0 and below 1: BERT has 0.15")
        check(self, replaced, lambda share: 0 <= share <= 1, "is not between 0 and 1")
        if self.mask_replace_prob + self.random_replace_prob > 1 + 1e-9:
            raise UserError("--mask_replace_prob and --random_replace_prob add up to more than 1: lower one of them")


@dataclass
class PairArguments(DataArguments):
    """Select how sentences are paired."""

    pair_strategy: str = option(
        "segment",
        help="What A and B are. segment: runs of sentences that fill --max_seq_length, as in BERT; sentence: one "
        "sentence each.",
        choices=["segment", "sentence"],
    )
    pair_objective: str = option(
        "nsp",
        help="Task. nsp: B follows A, or is from another document; sop: B follows A, or the two are swapped.",
        choices=["nsp", "sop"],
    )
    nsp_probability: float = option(0.5, help="Fraction of pairs in which B is random, or A and B are swapped.")
    short_seq_probability: float = option(
        0.1, help="Fraction of segment pairs with a random length below --max_seq_length."
    )
    sentence_per_line: bool = switch(help="Treat each line as a sentence instead of splitting the text into sentences.")

    def __post_init__(self):
        super().__post_init__()
        check(self, ["nsp_probability"], lambda share: 0 < share < 1, "is not above 0 and below 1: BERT has 0.5")
        check(self, ["short_seq_probability"], lambda share: 0 <= share <= 1, "is not between 0 and 1")


@dataclass
class BlockArguments(DataArguments):
    """Select how documents are cut into examples."""

    line_by_line: bool = switch(help="Make each line an example, instead of blocks of joined documents.")
    truncate_long_lines: bool = switch(help="With --line_by_line: truncate long lines instead of splitting them.")

    def __post_init__(self):
        super().__post_init__()
        if self.truncate_long_lines and not self.line_by_line:
            raise UserError("--truncate_long_lines needs --line_by_line: add it, blocks have no long lines")


@dataclass
class DataTrainingArguments(BlockArguments, MaskingArguments):
    """Select the data of run_mlm.py."""

    test_file: str | None = optional(
        help="For --do_predict: texts with [MASK] for each token to predict, one per line or table row."
    )
    top_k: int = option(5, help="For --do_predict: number of predicted tokens for each [MASK].")
    sequence_length_schedule: str | None = optional(
        help="Lengths into which blocks are cut in training, each for an equal part of the steps, such as 64:128: "
        "each divides the next, and the last is --max_seq_length. A step keeps its tokens."
    )

    def __post_init__(self):
        super().__post_init__()
        if self.sequence_length_schedule is not None:
            if self.line_by_line:
                raise UserError("--sequence_length_schedule cuts blocks, not lines: drop it, or --line_by_line")
            self.lengths = parse_lengths(self.sequence_length_schedule, self.max_seq_length)
        check(self, ["top_k"], lambda n: n >= 1, "is less than 1: give the number of predicted tokens for each [MASK]")


@dataclass
class CausalArguments(BlockArguments):
    """Select the data of run_clm.py."""


@dataclass
class NextSentenceArguments(PairArguments):
    """Select the data of run_nsp.py."""

    metrics: ClassVar[tuple[str, ...]] = ("loss", "accuracy", "f1")

    test_file: str | None = optional(
        help="For --do_predict: a table with columns sentence_a, sentence_b and, if known, label."
    )


@dataclass
class PretrainingDataArguments(PairArguments, MaskingArguments):
    """Select the data of run_pretraining.py."""

    metrics: ClassVar[tuple[str, ...]] = ("loss", "mlm_loss", "nsp_loss", "mlm_accuracy", "nsp_accuracy", "nsp_f1")


def check_together(data_args: DataArguments, training_args: TrainingArguments) -> None:
    """Raise UserError for settings that are valid alone but not together."""
    for name, reason in data_args.excluded_flags.items():
        if getattr(training_args, name):
            raise UserError(f"--{name} is not for this script: drop it, {reason}")
    test_file = getattr(data_args, "test_file", None)
    predicts = training_args.do_predict and hasattr(data_args, "test_file")
    if predicts and not test_file:
        raise UserError("--do_predict needs a file: give --test_file FILE")
    if test_file and not predicts:
        raise UserError("--test_file needs --do_predict: add it, or drop the file")
    if not (training_args.do_train or training_args.do_eval or predicts):
        raise UserError("nothing to do: add --do_train, --do_eval or --do_predict")
    if not data_args.dataset_name and not data_args.train_file:
        if training_args.do_train:
            raise UserError("--do_train needs text: give --train_file FILE or --dataset_name NAME")
        if training_args.do_eval and not data_args.validation_file:
            raise UserError("--do_eval needs text: give --validation_file FILE or --dataset_name NAME")
    if data_args.streaming and training_args.prepare_only:
        raise UserError("--prepare_only and --streaming exclude each other: a stream is prepared while training")
    if data_args.streaming and training_args.do_train and training_args.max_steps < 1:
        raise UserError("--streaming needs a length, as the text has none: give --max_steps N or --max_train_hours H")
    if data_args.streaming and training_args.do_eval and not (data_args.validation_file or data_args.dataset_name):
        raise UserError("--streaming cannot hold out documents: give --validation_file FILE")
    if data_args.streaming and len(data_args.train_sources) > 1 and data_args.mixture is None:
        raise UserError("--streaming several named texts needs the share of each: add --mixture NAME=SHARE NAME=SHARE")
    if data_args.mixture and training_args.train_sampling_strategy == "sequential" and not data_args.streaming:
        raise UserError("--mixture and --train_sampling_strategy sequential exclude each other: drop one of them")
    check_schedules(data_args, training_args)
    metric, names = training_args.metric_for_best_model, [name for name in data_args.held_out_names if name]
    metrics = [*data_args.metrics, *(f"{name}_{each}" for name in names for each in data_args.metrics)]
    if metric and metric.removeprefix("eval_") not in metrics:
        raise UserError(f"--metric_for_best_model {metric} is not one of {', '.join(metrics)}")
