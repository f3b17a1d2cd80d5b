"""Define the settings of model and training as dataclasses, and check each alone."""

import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
import transformers
from transformers.hf_argparser import HfArg

from cloze.config.optimizers import OPTIMIZERS, check_optimizer, known_to_transformers
from cloze.config.rate_decay import check_schedule
from cloze.errors import UserError
from cloze.system.processes import waiting_for_processes

SAMPLING = ("random", "sequential", "group_by_length")
# max_steps of a run that ends by time: the schedule's resolution, never reached.
TIMED_STEPS = 10**9
DTYPES = ["auto", "float32", "bfloat16", "float16"]
ATTENTION = ["eager", "sdpa"]
# Settings that need a GPU, with their values for a machine without one.
WITHOUT_GPU = {
    "use_cpu": True,
    "bf16": False,
    "fp16": False,
    "bf16_full_eval": False,
    "fp16_full_eval": False,
    "tf32": None,
    "ddp_backend": None,
    "deepspeed": None,
}


def option(default: Any, help: str, choices: Sequence[str] | None = None) -> Any:
    """Return a dataclass field that the parser turns into a flag with this default and text of --help."""
    return HfArg(default=default, help=help, metadata={} if choices is None else {"choices": choices})


def optional(help: str, choices: Sequence[str] | None = None) -> Any:
    """Return the field of a flag that is null by default."""
    return option(None, help, choices)


def switch(help: str) -> Any:
    """Return the field of a flag that is false by default."""
    return option(False, help)


def check(settings: object, names: list[str], is_valid: Callable[[Any], object], problem: str) -> None:
    """Raise UserError for the first of the named settings that is neither null nor valid."""
    for name in names:
        value = getattr(settings, name)
        if value is not None and not is_valid(value):
            raise UserError(f"--{name} {value} {problem}")


@dataclass
class ModelArguments:
    """Select the model to adapt, or to train from scratch."""

    model_name_or_path: str | None = optional(
        help="Checkpoint to adapt: a folder or a Hub name. Omit it to train from scratch."
    )
    model_type: str | None = optional(
        help="Architecture to train from scratch: bert, distilbert, roberta, electra, ..."
    )
    config_overrides: str | None = optional(
        help="Changes to the default config of --model_type, such as hidden_size=256,num_hidden_layers=4."
    )
    config_name: str | None = optional(help="Folder or Hub name of the config. Default: --model_name_or_path.")
    tokenizer_name: str | None = optional(
        help="Folder or Hub name of the tokenizer. Default: --model_name_or_path; from scratch, a tokenizer is "
        "trained on the corpus."
    )
    vocab_size: int = option(
        30_522, help="Size of a tokenizer trained on the corpus, in tokens. The default is BERT's."
    )
    do_lower_case: bool = switch(help="Lower-case the text in a WordPiece or Unigram tokenizer trained on the corpus.")
    cache_dir: str | None = optional(
        help="Folder for downloads and prepared corpora. Default: the caches of the Hugging Face libraries."
    )
    use_fast_tokenizer: bool = option(True, help="Use the Rust tokenizer of the tokenizers library.")
    model_revision: str = option("main", help="Branch, tag or commit of a Hub model.")
    token: str | None = optional(help="Hub token for downloads; never written to logs or files.")
    trust_remote_code: bool = switch(help="Run Python code from the model's repository. Not allowed in a recipe.")
    dtype: str = option(
        "float32",
        help="Precision of the weights in memory. float32 by default, whatever the checkpoint has, because 16-bit "
        "weights lose small updates; auto takes the checkpoint's, as transformers does.",
        choices=DTYPES,
    )
    attn_implementation: str | None = optional(
        help="Attention kernels: eager is faster than sdpa in bfloat16 on a CPU. Default: transformers' choice.",
        choices=ATTENTION,
    )

    def __post_init__(self):
        from_scratch = self.model_name_or_path is None
        if from_scratch and self.model_type is None and self.config_name is None:
            raise UserError(
                "no model: give --model_name_or_path PATH to adapt one, or --model_type bert to train from scratch"
            )
        if not from_scratch and self.model_type is not None:
            raise UserError("--model_type and --model_name_or_path exclude each other: train from scratch, or adapt")
        if self.config_overrides is not None and (not from_scratch or self.config_name is not None):
            raise UserError(
                "--config_overrides works only with --model_type: drop it, or --model_name_or_path and --config_name"
            )
        check(self, ["vocab_size"], lambda n: n >= 100, "is too small: give at least 100; 8000 to 50000 is usual")

    @property
    def hub_arguments(self) -> dict:
        """Return the arguments common to ``from_pretrained`` of configs, tokenizers and models."""
        return {
            "cache_dir": self.cache_dir,
            "revision": self.model_revision,
            "token": self.token,
            "trust_remote_code": self.trust_remote_code,
        }


@dataclass
class TrainingArguments(transformers.TrainingArguments):
    """Extend the training arguments of transformers by flags, checks and safer defaults."""

    if TYPE_CHECKING:
        # Never null after upstream's __post_init__.
        output_dir: str = ""

    save_total_limit: int | None = option(
        2,
        help="Checkpoints to keep: the newest, and the best if one is tracked. The default saves disk space; "
        "transformers keeps all, and so does null in a recipe.",
    )
    logging_first_step: bool = option(True, help="Log the first step too, so that curves begin there.")
    # The parser takes a single value for upstream's type.
    report_to: list[str] | None = optional(
        help="Trackers: tensorboard, wandb, trackio, mlflow, ..., or all. Default: none."
    )
    overwrite_output_dir: bool = switch(help="Delete the checkpoints in --output_dir and start from the beginning.")
    train_sampling_strategy: str = option(
        "group_by_length",
        help="Order of training examples. group_by_length puts examples of similar length into a batch and shuffles "
        "the batches (of a stream, within a chunk): less padding than random, the default of transformers.",
        choices=SAMPLING,
    )
    max_tokens_per_batch: int | None = optional(
        help="Tokens in a training batch of one device, padding included, in place of "
        "--per_device_train_batch_size: many short examples or few long ones."
    )
    batch_size_schedule: str | None = optional(
        help="Fractions of its examples that an optimizer step has, each for an equal part of the steps: 0.25:0.5:1 "
        "begins with a quarter. Needs --max_steps."
    )
    max_train_hours: float | None = optional(
        help="Hours to train for, evaluations and saves included, in place of epochs or steps; the learning-rate "
        "schedule is stretched over them. Preparation and the final evaluation come on top."
    )
    optim: str = option(
        transformers.TrainingArguments.optim,
        help="Optimizer: muon (Muon for the matrices of the layers, AdamW for the rest), or one of transformers, such "
        "as adamw_torch_fused, adafactor or sgd.",
        choices=OPTIMIZERS,
    )
    muon_learning_rate: float | None = optional(
        help="With --optim muon: peak learning rate of the matrices. Default: --learning_rate."
    )
    embedding_learning_rate: float | None = optional(
        help="Peak learning rate of the embeddings and of the output layer's weight. Default: --learning_rate."
    )
    ema_decay: float | None = optional(
        help="Decay of an exponential moving average of the weights over optimizer steps, such as 0.999. Evaluations "
        "and the saved model use the average. Default: no average."
    )
    early_stopping_patience: int | None = optional(
        help="Stop after this number of evaluations in a row without improvement of --metric_for_best_model."
    )
    early_stopping_threshold: float = option(
        0.0, help="With --early_stopping_patience: smallest change of the metric that counts as an improvement."
    )
    logging_nan_inf_filter: bool = switch(
        help="Has no effect: a NaN or infinite loss ends the run. transformers hides such losses by default."
    )
    dry_run: bool = switch(
        help="Check the whole run without training: try its longest batch, estimate memory, disk and time."
    )
    prepare_only: bool = switch(help="Prepare tokenizer and text in the cache, then exit. Needs no GPU.")
    # The settings for recipe.yaml, before transformers derives others from them.
    resolved: dict = field(default_factory=dict, init=False, repr=False)
    # Whether --compare_with started this run.
    compared: bool = field(default=False, init=False, repr=False)

    def __post_init__(self):
        if self.disable_tqdm is None:
            self.disable_tqdm = not sys.stderr.isatty()
        if self.report_to is None:
            self.report_to = ["none"]
        if self.max_train_hours is not None:
            self._stretch_schedule()
        self._check_early_stopping()
        if self.dry_run and self.prepare_only:
            raise UserError("--dry_run and --prepare_only exclude each other: a dry run prepares the text too")
        if self.prepare_only:
            vars(self).update(WITHOUT_GPU)
        if self.dry_run:
            # The Trainer would create the repository.
            self.push_to_hub = False
        # First, as upstream's checks import half of transformers to find the device.
        self._check_values()
        with waiting_for_processes(), known_to_transformers(self):
            super().__post_init__()
        check_schedule(self)
        self.eval_do_concat_batches = True
        # The collator needs the example's number, which is not an argument of forward.
        self.remove_unused_columns = False
        # Each process reads its own shard of a stream; batches dispatched by the first would repeat its masks.
        # By now, upstream's __post_init__ has built an AcceleratorConfig.
        self.accelerator_config.dispatch_batches = False  # type: ignore[union-attr]
        self.dataloader_pin_memory &= torch.accelerator.is_available()
        if self.dataloader_pin_memory and self.device.type == "cuda":
            # Otherwise, copying a batch waits for all work that is queued on the GPU.
            self.accelerator_config.non_blocking = True  # type: ignore[union-attr]

    def _check_values(self) -> None:
        sizes = ["per_device_train_batch_size", "per_device_eval_batch_size", "gradient_accumulation_steps"]
        amounts = ["seed", "data_seed", "weight_decay", "dataloader_num_workers"]
        rates = ["learning_rate", "muon_learning_rate", "embedding_learning_rate"]
        shares = ["adam_beta1", "adam_beta2", "label_smoothing_factor"]
        check(self, sizes, lambda n: n >= 1, "is less than 1")
        check(self, [*amounts, *rates], lambda n: n >= 0, "is negative: give 0 or more")
        check(self, ["seed", "data_seed"], lambda n: n < 2**32, "is too large: give less than 4294967296")
        check(self, shares, lambda share: 0 <= share < 1, "is not between 0 and 1")
        check(self, ["ema_decay"], lambda decay: 0 < decay < 1, "is not between 0 and 1: give 0.999, or 0.99")
        if self.ema_decay is not None and "schedule_free" in self.optim:
            raise UserError(f"--ema_decay: --optim {self.optim} averages the weights itself: drop one of them")
        check(self, ["save_total_limit"], lambda n: n >= 1, "is less than 1: use --save_strategy no")
        if self.dataloader_persistent_workers and not self.dataloader_num_workers:
            raise UserError("--dataloader_persistent_workers needs --dataloader_num_workers 1 or more")
        if self.train_sampling_strategy not in SAMPLING:
            raise UserError(f"--train_sampling_strategy {self.train_sampling_strategy}: give {', '.join(SAMPLING)}")
        if self.max_tokens_per_batch is not None and self.train_sampling_strategy != "group_by_length":
            raise UserError("--max_tokens_per_batch needs --train_sampling_strategy group_by_length: drop one of them")
        if self.max_tokens_per_batch is not None and self.auto_find_batch_size:
            raise UserError("--auto_find_batch_size and --max_tokens_per_batch exclude each other: drop one of them")
        check_optimizer(self)

    def _stretch_schedule(self) -> None:
        """Stretch the learning-rate schedule over max_train_hours, by a number of steps that is never reached."""
        check(self, ["max_train_hours"], lambda hours: hours > 0, "is not positive: give hours, such as 8 or 0.5")
        if self.max_steps > 0:
            raise UserError("--max_train_hours and --max_steps exclude each other: drop one of them")
        if self.warmup_steps >= 1:
            raise UserError(f"--warmup_steps {self.warmup_steps}: with --max_train_hours give a fraction, such as 0.06")
        for name in ("logging_steps", "eval_steps", "save_steps"):
            if 0 < (getattr(self, name) or 0) < 1:
                raise UserError(f"--{name} {getattr(self, name)}: with --max_train_hours give a number of steps")
        self.max_steps = TIMED_STEPS

    def _check_early_stopping(self) -> None:
        if self.early_stopping_patience is None:
            if self.early_stopping_threshold:
                raise UserError("--early_stopping_threshold needs --early_stopping_patience N: add it")
            return
        check(self, ["early_stopping_patience"], lambda n: n >= 1, "is less than 1")
        check(self, ["early_stopping_threshold"], lambda n: n >= 0, "is negative: give 0 or more")
        if self.eval_strategy == "no":
            raise UserError("--early_stopping_patience needs evaluations: add --eval_strategy epoch, or steps")
        if self.metric_for_best_model is None:
            self.metric_for_best_model = "loss"

    def __getstate__(self) -> dict:
        """Leave out the token, as the Trainer pushes the pickled arguments to the Hub."""
        return vars(self) | {"hub_token": None}

    @property
    def device(self) -> torch.device:
        """Return the device, without an index for the CPU: transformers 5.17 cannot load checkpoints to "cpu:0"."""
        device = super().device
        return torch.device("cpu") if device.type == "cpu" else device

    @property
    def visible_gpus(self) -> int:
        """Return the number of GPUs that the process sees."""
        return super().n_gpu

    @property
    def n_gpu(self) -> int:
        """Return at most 1: with more, the Trainer's DataParallel would scatter flat positions of masked tokens."""
        return min(self.visible_gpus, 1)

    @property
    def shuffle_seed(self) -> int:
        """Return the seed of the held-out split and of the order of examples; ``seed`` draws the masks."""
        return self.seed if self.data_seed is None else self.data_seed
