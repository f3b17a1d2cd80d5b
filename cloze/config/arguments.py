"""Hold the settings of model and training as dataclasses, with the checks that need nothing else."""

import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
import transformers
from transformers.hf_argparser import HfArg

from cloze.errors import UserError
from cloze.system.processes import waiting_for_processes

SAMPLING = ("random", "sequential", "group_by_length")
# max_steps of a run that ends by time: never reached, it is the resolution of the schedule.
TIMED_STEPS = 10**9
DTYPES = ["auto", "float32", "bfloat16", "float16"]
# Fields of settings that are null or false by default.
optional, switch = partial(HfArg, default=None), partial(HfArg, default=False)
# Settings that ask for a GPU, with their values where there is none.
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


def check(settings: object, names: list[str], is_valid: Callable[[Any], bool], problem: str) -> None:
    """Raise UserError for the first of these settings that is neither null nor valid."""
    for name in names:
        value = getattr(settings, name)
        if value is not None and not is_valid(value):
            raise UserError(f"--{name} {value} {problem}")


@dataclass
class ModelArguments:
    """Say which model to adapt, or to build from scratch."""

    model_name_or_path: str | None = optional(
        help="Checkpoint to adapt: a folder or a Hub name. Leave out to train from scratch."
    )
    model_type: str | None = optional(
        help="Architecture to train from scratch: bert, distilbert, roberta, electra, ..."
    )
    config_overrides: str | None = optional(
        help="From scratch only: changes to the default config, as hidden_size=256,..."
    )
    config_name: str | None = optional(help="Config, if not that of model_name_or_path.")
    tokenizer_name: str | None = optional(
        help="Tokenizer, if not that of model_name_or_path. From scratch, one is trained without it."
    )
    vocab_size: int = HfArg(default=30_522, help="Size of a tokenizer trained from the corpus.")
    do_lower_case: bool = switch(help="Lower-case the text in a WordPiece tokenizer trained from the corpus.")
    cache_dir: str | None = optional(help="Where downloads and prepared corpora are kept.")
    use_fast_tokenizer: bool = HfArg(default=True, help="Use a tokenizer of the tokenizers library.")
    model_revision: str = HfArg(default="main", help="Branch, tag or commit of a Hub model.")
    token: str | None = optional(help="Hub token; never written to logs or files.")
    trust_remote_code: bool = switch(help="Run code that a Hub model brings along.")
    dtype: str = HfArg(
        default="float32", help="Precision the weights are loaded and trained in.", metadata={"choices": DTYPES}
    )

    def __post_init__(self):
        from_scratch = self.model_name_or_path is None
        if from_scratch and self.model_type is None and self.config_name is None:
            raise UserError("no model: give --model_name_or_path PATH to adapt one, or --model_type bert from scratch")
        if not from_scratch and self.model_type is not None:
            raise UserError("--model_type builds a new model, --model_name_or_path adapts one: give one of the two")
        if self.config_overrides is not None and (not from_scratch or self.config_name is not None):
            raise UserError("--config_overrides changes a model built with --model_type only: drop it, or the path")
        check(self, ["vocab_size"], lambda n: n >= 100, "is too small: give at least 100, 8000 to 50000 is usual")

    @property
    def hub_arguments(self) -> dict:
        """Return the arguments of ``from_pretrained`` that configs, tokenizers and models share."""
        return {
            "cache_dir": self.cache_dir,
            "revision": self.model_revision,
            "token": self.token,
            "trust_remote_code": self.trust_remote_code,
        }


@dataclass
class TrainingArguments(transformers.TrainingArguments):
    """Extend those of transformers, with defaults that do not fill the disk or the log file."""

    save_total_limit: int | None = HfArg(
        default=2, help="Checkpoints kept: the newest, and the best if there is one. null keeps all."
    )
    logging_first_step: bool = HfArg(default=True, help="Log the first step too.")
    # Upstream's type lets the parser take but one.
    report_to: list[str] | None = HfArg(
        default=None, help="Trackers to report to: tensorboard, wandb, trackio, mlflow, ..., or all."
    )
    overwrite_output_dir: bool = switch(help="Start afresh: the checkpoints in output_dir are removed.")
    train_sampling_strategy: str = HfArg(
        default="group_by_length",
        help="group_by_length: examples of similar length share a batch, and steps are shuffled; random; or "
        "sequential. Of a stream, within a chunk of its text.",
        metadata={"choices": list(SAMPLING)},
    )
    max_tokens_per_batch: int | None = optional(
        help="Tokens in a batch of a device, padding included, in place of per_device_train_batch_size: many "
        "short examples or few long ones."
    )
    max_train_hours: float | None = optional(
        help="Train for so many hours, evaluations and saves included, whatever the epochs, with the schedule "
        "laid over that time; preparation, and the last evaluation, come on top."
    )
    early_stopping_patience: int | None = optional(
        help="Stop after N evaluations in a row without improvement of metric_for_best_model (default: loss)."
    )
    early_stopping_threshold: float = HfArg(
        default=0.0, help="With early_stopping_patience: how much better counts as an improvement."
    )
    logging_nan_inf_filter: bool = switch(help="Has no effect: a NaN or infinite loss ends the run.")
    dry_run: bool = switch(
        help="Check all that the run needs, try its longest batch, estimate its time; train nothing."
    )
    prepare_only: bool = switch(help="Prepare tokenizer and text in the cache, and stop; needs no GPU.")
    # The settings before transformers derives others from them, for recipe.yaml.
    resolved: dict = field(default_factory=dict, init=False, repr=False)
    # Whether this is a run of --compare_with.
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
            # The Trainer would make the repository.
            self.push_to_hub = False
        # Before upstream's, which imports half of transformers to find the device.
        self._check_values()
        with waiting_for_processes():
            super().__post_init__()
        self.eval_do_concat_batches = True
        # The collator needs the example's number, which no model's forward takes.
        self.remove_unused_columns = False
        # Every process reads its own part of a stream; dispatched from the first one, masks would not differ.
        self.accelerator_config.dispatch_batches = False
        self.dataloader_pin_memory &= torch.accelerator.is_available()

    def _check_values(self) -> None:
        sizes = ["per_device_train_batch_size", "per_device_eval_batch_size", "gradient_accumulation_steps"]
        amounts = ["seed", "data_seed", "learning_rate", "weight_decay", "dataloader_num_workers"]
        shares = ["adam_beta1", "adam_beta2", "label_smoothing_factor"]
        check(self, sizes, lambda n: n >= 1, "is less than 1")
        check(self, amounts, lambda n: n >= 0, "is negative: give 0 or more")
        check(self, ["seed", "data_seed"], lambda n: n < 2**32, "is too large: give less than 4294967296")
        check(self, shares, lambda share: 0 <= share < 1, "is not between 0 and 1")
        check(self, ["save_total_limit"], lambda n: n >= 1, "is less than 1: use --save_strategy no")
        if self.dataloader_persistent_workers and not self.dataloader_num_workers:
            raise UserError("--dataloader_persistent_workers needs --dataloader_num_workers 1 or more")
        if self.train_sampling_strategy not in SAMPLING:
            raise UserError(f"--train_sampling_strategy {self.train_sampling_strategy}: give {', '.join(SAMPLING)}")
        if self.max_tokens_per_batch is not None and self.train_sampling_strategy != "group_by_length":
            raise UserError("--max_tokens_per_batch needs --train_sampling_strategy group_by_length: drop one of them")
        if self.max_tokens_per_batch is not None and self.auto_find_batch_size:
            raise UserError("--auto_find_batch_size lowers the batch size, --max_tokens_per_batch has none: drop one")

    def _stretch_schedule(self) -> None:
        """Stretch the learning-rate schedule over max_train_hours, by a number of steps that is never reached."""
        check(self, ["max_train_hours"], lambda hours: hours > 0, "is no time: give a number above 0")
        if self.max_steps > 0:
            raise UserError("--max_train_hours ends training by time, --max_steps by steps: give one of them")
        if self.warmup_steps >= 1:
            raise UserError(f"--warmup_steps {self.warmup_steps}: with --max_train_hours give a share of it, as 0.06")
        for name in ("logging_steps", "eval_steps", "save_steps"):
            if 0 < (getattr(self, name) or 0) < 1:
                raise UserError(f"--{name} {getattr(self, name)}: with --max_train_hours give a number of steps")
        self.max_steps = TIMED_STEPS

    def _check_early_stopping(self) -> None:
        if self.early_stopping_patience is None:
            if self.early_stopping_threshold:
                raise UserError("--early_stopping_threshold goes with --early_stopping_patience N: add it")
            return
        check(self, ["early_stopping_patience"], lambda n: n >= 1, "is less than 1")
        check(self, ["early_stopping_threshold"], lambda n: n >= 0, "is negative: give 0 or more")
        if self.eval_strategy == "no":
            raise UserError("--early_stopping_patience counts evaluations: add --eval_strategy epoch, or steps")
        if self.metric_for_best_model is None:
            self.metric_for_best_model = "loss"

    def __getstate__(self) -> dict:
        """Leave out the token: the Trainer pickles its arguments into what it pushes to the Hub."""
        return vars(self) | {"hub_token": None}

    @property
    def device(self) -> torch.device:
        """Leave out the number of the CPU: transformers 5.17 asks torch to load checkpoints to "cpu:0"."""
        device = super().device
        return torch.device("cpu") if device.type == "cpu" else device

    @property
    def visible_gpus(self) -> int:
        """Return how many GPUs the process could use."""
        return super().n_gpu

    @property
    def n_gpu(self) -> int:
        """Return 1 at most: DataParallel, the Trainer's use of more, would scatter flat positions of masked tokens."""
        return min(self.visible_gpus, 1)

    @property
    def shuffle_seed(self) -> int:
        """Return the seed of the held-out split and of the order of examples; masks are drawn by ``seed``."""
        return self.seed if self.data_seed is None else self.data_seed
