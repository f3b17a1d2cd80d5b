"""Replace old flags by current ones, with a warning."""

import logging
from collections.abc import Sequence

logger = logging.getLogger(__name__)

# Old names of flags of transformers and of upstream's scripts -> current names.
RENAMED = {
    "evaluation_strategy": "eval_strategy",
    "warmup_ratio": "warmup_steps",
    "use_auth_token": "token",
    "no_cuda": "use_cpu",
    "per_gpu_train_batch_size": "per_device_train_batch_size",
    "per_gpu_eval_batch_size": "per_device_eval_batch_size",
    "torch_dtype": "dtype",
    "push_to_hub_token": "hub_token",
    "push_to_hub_model_id": "hub_model_id",
    "include_tokens_per_second": "include_num_input_tokens_seen",
    "train_data_file": "train_file",
    "eval_data_file": "validation_file",
    "block_size": "max_seq_length",
}
# Old switches -> the flag that replaces it, and its values for on and off.
REPLACED = {
    "group_by_length": ("train_sampling_strategy", "group_by_length", "random"),
    "adafactor": ("optim", "adafactor", "adamw_torch_fused"),
    "evaluate_during_training": ("eval_strategy", "steps", "no"),
}
# Flags without effect -> why they are not needed.
DROPPED = {
    "logging_dir": "set the environment variable TENSORBOARD_LOGGING_DIR",
    "save_safetensors": "weights are always saved as safetensors",
    "low_cpu_mem_usage": "models are always loaded that way",
    "use_mps_device": "the device is detected",
    "mlm": "run_mlm.py has no other objective",
    "keep_linebreaks": "line breaks within a document are kept",
    "past_index": "encoders do not use it",
    "ray_scope": "the scripts do not search hyperparameters",
    "mp_parameters": "it was for one vendor's library",
    "tpu_num_cores": "the launcher sets it",
    "include_inputs_for_metrics": "the metrics here need no inputs",
    "use_ipex": "the package is discontinued",
    "jit_mode_eval": "use --torch_compile",
    "fp16_opt_level": "PyTorch's mixed precision is used",
    "fp16_backend": "PyTorch's mixed precision is used",
    "half_precision_backend": "PyTorch's mixed precision is used",
}


def update_flags(argv: Sequence[str]) -> list[str]:
    """Return the command line with old flags replaced by current ones; log a warning for each."""
    groups: list[list[str]] = []  # each flag with its values
    for argument in argv:
        if argument.startswith("--") or not groups:
            groups.append([argument])
        else:
            groups[-1].append(argument)
    return [argument for group in groups for argument in _update_flag(*group)]


def _update_flag(argument: str, *values: str) -> list[str]:
    flag, equals, value = argument.partition("=")
    name = flag.removeprefix("--").replace("-", "_")
    words = [word.lower() for word in (value, *values) if word]
    if name in DROPPED:
        logger.warning("--%s is ignored: %s", name, DROPPED[name])
        return []
    if name in REPLACED:
        today, on, off = REPLACED[name]
        logger.warning("--%s is now --%s %s", name, today, on)
        return [f"--{today}={off if words in (['false'], ['no'], ['0']) else on}"]
    if name == "use_auth_token" and words in ([], ["true"], ["false"]):
        logger.warning("--use_auth_token is now --token, by default the token of `hf auth login`")
        return []
    if name in RENAMED:
        logger.warning("--%s is now --%s", name, RENAMED[name])
        return [f"--{RENAMED[name]}{equals}{value}", *values]
    return [argument, *values]
