"""The scripts' settings as dataclasses, and the checks that need nothing but the settings."""

import sys
from dataclasses import dataclass, field

import torch
import transformers

# What an evaluation measures.
METRICS = ("loss", "accuracy")
SAMPLING = ("random", "sequential", "group_by_length")
DTYPES = ["auto", "float32", "bfloat16", "float16"]


class UserError(Exception):
    """A mistake of the user's: it ends the script with one line that says what, where and the cure, and exit code 2."""


@dataclass
class ModelArguments:
    """Which model to adapt, or to build from scratch."""

    model_name_or_path: str | None = field(
        default=None, metadata={"help": "Checkpoint to adapt: a folder or a Hub name. Leave out to train from scratch."}
    )
    model_type: str | None = field(
        default=None, metadata={"help": "Architecture to train from scratch: bert, distilbert, roberta, electra, ..."}
    )
    config_overrides: str | None = field(
        default=None, metadata={"help": "From scratch only: changes to the default config, as hidden_size=256,..."}
    )
    config_name: str | None = field(default=None, metadata={"help": "Config, if not that of model_name_or_path."})
    tokenizer_name: str | None = field(
        default=None,
        metadata={"help": "Tokenizer, if not that of model_name_or_path. From scratch, one is trained without it."},
    )
    vocab_size: int = field(default=30_522, metadata={"help": "Size of a tokenizer trained from the corpus."})
    do_lower_case: bool = field(
        default=False, metadata={"help": "Lower-case the text in a WordPiece tokenizer trained from the corpus."}
    )
    cache_dir: str | None = field(default=None, metadata={"help": "Where downloads and prepared corpora are kept."})
    use_fast_tokenizer: bool = field(default=True, metadata={"help": "Use a tokenizer of the tokenizers library."})
    model_revision: str = field(default="main", metadata={"help": "Branch, tag or commit of a Hub model."})
    token: str | None = field(default=None, metadata={"help": "Hub token; never written to logs or files."})
    trust_remote_code: bool = field(default=False, metadata={"help": "Run code that a Hub model brings along."})
    dtype: str = field(
        default="float32", metadata={"help": "Precision the weights are loaded and trained in.", "choices": DTYPES}
    )

    def __post_init__(self):
        from_scratch = self.model_name_or_path is None
        if from_scratch and self.model_type is None and self.config_name is None:
            raise UserError("no model: give --model_name_or_path PATH to adapt one, or --model_type bert from scratch")
        if not from_scratch and self.model_type is not None:
            raise UserError("--model_type builds a new model, --model_name_or_path adapts one: give one of the two")
        if self.config_overrides is not None and (not from_scratch or self.config_name is not None):
            raise UserError("--config_overrides changes a model built with --model_type only: drop it, or the path")
        if self.vocab_size < 100:
            raise UserError(f"--vocab_size {self.vocab_size} is too small: give at least 100, 8000 to 50000 is usual")

    @property
    def hub_arguments(self) -> dict:
        """What ``from_pretrained`` of configs, tokenizers and models is told alike."""
        return {
            "cache_dir": self.cache_dir,
            "revision": self.model_revision,
            "token": self.token,
            "trust_remote_code": self.trust_remote_code,
        }


@dataclass
class DataTrainingArguments:
    """Which text to read, how it is cut into examples, and what is masked in them."""

    dataset_name: str | None = field(default=None, metadata={"help": "Data set on the Hub, or a folder of that form."})
    dataset_config_name: str | None = field(default=None, metadata={"help": "Configuration of the Hub data set."})
    train_file: list[str] | None = field(
        default=None,
        metadata={"help": "Training text: files, globs or folders of .txt .csv .tsv .json .jsonl .parquet [.gz .zst]."},
    )
    validation_file: list[str] | None = field(
        default=None, metadata={"help": "Validation text; without it, part of the training documents is held out."}
    )
    text_column: str | None = field(default=None, metadata={"help": "Column that holds the text, in tables."})
    validation_split_percentage: float = field(
        default=5, metadata={"help": "Share of the documents held out if there is no validation_file, in percent."}
    )
    overwrite_cache: bool = field(default=False, metadata={"help": "Tokenize again though a prepared corpus exists."})
    preprocessing_num_workers: int | None = field(
        default=None, metadata={"help": "Threads that tokenize; all processors by default."}
    )
    streaming: bool = field(default=False, metadata={"help": "Read and tokenize while training; needs --max_steps."})
    max_seq_length: int | None = field(
        default=None, metadata={"help": "Tokens in an example, special ones included; the model's most by default."}
    )
    line_by_line: bool = field(default=False, metadata={"help": "A line is an example, instead of blocks."})
    truncate_long_lines: bool = field(
        default=False, metadata={"help": "With line_by_line: cut off what exceeds max_seq_length, do not split it."}
    )
    pad_to_max_length: bool = field(
        default=False, metadata={"help": "Pad to max_seq_length instead of to the longest example in the batch."}
    )
    max_train_samples: int | None = field(default=None, metadata={"help": "Train on the first so many examples."})
    max_eval_samples: int | None = field(default=None, metadata={"help": "Evaluate on the first so many examples."})
    mlm_probability: float = field(default=0.15, metadata={"help": "Share of the tokens to predict."})
    mask_replace_prob: float = field(default=0.8, metadata={"help": "Share of those replaced by the mask token."})
    random_replace_prob: float = field(default=0.1, metadata={"help": "Share of those replaced by a random token."})
    whole_word_mask: bool = field(default=False, metadata={"help": "Choose whole words instead of single tokens."})

    def __post_init__(self):
        # A library caller may give one file as a string, as upstream's dataclass has it.
        self.train_file = [self.train_file] if isinstance(self.train_file, str) else self.train_file
        self.validation_file = [self.validation_file] if isinstance(self.validation_file, str) else self.validation_file
        if self.dataset_name and (self.train_file or self.validation_file):
            raise UserError("--dataset_name and --train_file/--validation_file exclude each other: give one of them")
        if not 0 < self.validation_split_percentage < 100:
            raise UserError(f"--validation_split_percentage {self.validation_split_percentage} is not within 0 and 100")
        if not 0 < self.mlm_probability < 1:
            raise UserError(f"--mlm_probability {self.mlm_probability} is not within 0 and 1: BERT has 0.15")
        for name in ("mask_replace_prob", "random_replace_prob"):
            if not 0 <= getattr(self, name) <= 1:
                raise UserError(f"--{name} {getattr(self, name)} is not between 0 and 1")
        if self.mask_replace_prob + self.random_replace_prob > 1 + 1e-9:
            raise UserError("--mask_replace_prob and --random_replace_prob add up to more than 1: lower one of them")
        if self.max_seq_length is not None and self.max_seq_length < 8:
            raise UserError(f"--max_seq_length {self.max_seq_length} is too short: give 8 or more; 128 is usual")
        for name in ("max_train_samples", "max_eval_samples", "preprocessing_num_workers"):
            if getattr(self, name) is not None and getattr(self, name) < 1:
                raise UserError(f"--{name} {getattr(self, name)} is less than 1: leave it out to have no limit")
        if self.truncate_long_lines and not self.line_by_line:
            raise UserError("--truncate_long_lines goes with --line_by_line: blocks have no long lines")


@dataclass
class TrainingArguments(transformers.TrainingArguments):
    """Those of transformers, with defaults that do not fill the disk or the log file."""

    save_total_limit: int | None = field(
        default=2, metadata={"help": "Checkpoints kept: the newest, and the best if there is one. null keeps all."}
    )
    logging_first_step: bool = field(default=True, metadata={"help": "Log the first step too."})
    overwrite_output_dir: bool = field(
        default=False, metadata={"help": "Start afresh: the checkpoints in output_dir are removed."}
    )
    # The settings before transformers derives others from them, for recipe.yaml.
    resolved: dict = field(default_factory=dict, init=False, repr=False)

    def __post_init__(self):
        if self.disable_tqdm is None:
            self.disable_tqdm = not sys.stderr.isatty()
        if self.report_to is None:
            self.report_to = "none"
        super().__post_init__()
        self.eval_do_concat_batches = True
        # The collator needs the example's number, which no model's forward takes.
        self.remove_unused_columns = False
        # Every process reads its own part of a stream; dispatched from the first one, masks would not differ.
        self.accelerator_config.dispatch_batches = False
        self.dataloader_pin_memory &= torch.accelerator.is_available()
        for name in ("per_device_train_batch_size", "per_device_eval_batch_size", "gradient_accumulation_steps"):
            if getattr(self, name) < 1:
                raise UserError(f"--{name} {getattr(self, name)} is less than 1")
        for name in ("seed", "data_seed", "learning_rate", "weight_decay", "dataloader_num_workers"):
            if (getattr(self, name) or 0) < 0:
                raise UserError(f"--{name} {getattr(self, name)} is negative: give 0 or more")
        for name in ("seed", "data_seed"):
            if (getattr(self, name) or 0) >= 2**32:
                raise UserError(f"--{name} {getattr(self, name)} is too large: give less than 4294967296")
        for name in ("adam_beta1", "adam_beta2"):
            if not 0 <= getattr(self, name) < 1:
                raise UserError(f"--{name} {getattr(self, name)} is not between 0 and 1")
        if self.dataloader_persistent_workers and not self.dataloader_num_workers:
            raise UserError("--dataloader_persistent_workers needs --dataloader_num_workers 1 or more")
        if not 0 <= self.label_smoothing_factor < 1:
            raise UserError(f"--label_smoothing_factor {self.label_smoothing_factor} is not between 0 and 1")
        if (self.metric_for_best_model or "loss").removeprefix("eval_") not in METRICS:
            raise UserError(f"--metric_for_best_model {self.metric_for_best_model} is not one of {', '.join(METRICS)}")
        if self.save_total_limit is not None and self.save_total_limit < 1:
            raise UserError(f"--save_total_limit {self.save_total_limit} is less than 1: use --save_strategy no")
        if self.train_sampling_strategy not in SAMPLING:
            raise UserError(f"--train_sampling_strategy {self.train_sampling_strategy}: give {', '.join(SAMPLING)}")

    @property
    def order_seed(self) -> int:
        """Seed of what is held out and of the order of examples; that of the masks is ``seed``."""
        return self.seed if self.data_seed is None else self.data_seed


def check_together(data_args: DataTrainingArguments, training_args: TrainingArguments) -> None:
    """Raise UserError for settings that are right one by one and wrong together."""
    if not training_args.do_train and not training_args.do_eval:
        raise UserError("nothing to do: add --do_train, --do_eval or both")
    if not data_args.dataset_name and not data_args.train_file:
        if training_args.do_train:
            raise UserError("--do_train without text: give --train_file FILE or --dataset_name NAME")
        if not data_args.validation_file:
            raise UserError("--do_eval without text: give --validation_file FILE or --dataset_name NAME")
    if data_args.streaming and training_args.do_train and training_args.max_steps < 1:
        raise UserError("--streaming does not know how long the text is: give --max_steps N")
    if data_args.streaming and training_args.do_eval and not (data_args.validation_file or data_args.dataset_name):
        raise UserError("--streaming cannot hold documents out of the stream: give --validation_file FILE")
