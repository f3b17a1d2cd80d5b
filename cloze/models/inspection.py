"""Inspect a config's model without its weights: whether it can be built, its memory, its positions."""

import inspect
import itertools

import psutil
import torch
from torch import nn
from torch.nn.modules.module import register_module_module_registration_hook
from torch.utils.hooks import RemovableHandle
from transformers import PretrainedConfig, PreTrainedModel

from cloze.errors import UserError
from cloze.objectives.task import Task
from cloze.system.storage import gigabytes

# Limit of a model built on the meta device: torch makes some 20,000 modules a second. A layer has about 15.
MAX_MODULES = 50_000


def build_on_meta(config: PretrainedConfig, task: Task, trust_remote_code: bool = False) -> PreTrainedModel:
    """Build the model without memory for its weights, to inspect it before anything is loaded; or raise UserError."""
    try:
        if getattr(config, "num_hidden_layers", 1) < 1:
            raise ValueError(f"{config.num_hidden_layers} layers")
        with torch.device("meta"), _limit_modules():
            return task.auto_model.from_config(config, trust_remote_code=trust_remote_code)
    # torch and the models raise IndexError, AssertionError and more for values out of place.
    except Exception as error:
        # Of torch's, what follows is where in torch it is.
        problem = str(error).partition("Exception raised from")[0]
        raise UserError(
            f"the config builds no {config.model_type} model: {problem}: check {_settings_place(config)}"
        ) from None


def _settings_place(config: PretrainedConfig) -> str:
    """Return where the settings of a config are the user's to change."""
    return "its config.json" if config.name_or_path else "--config_overrides"


def _limit_modules() -> RemovableHandle:
    """Return a context in which ValueError is raised when a model of more than MAX_MODULES modules is built."""
    count = itertools.count(1)

    def refuse_too_many(*_) -> None:
        if next(count) > MAX_MODULES:
            raise ValueError(f"more than {MAX_MODULES:,} modules")

    return register_module_module_registration_hook(refuse_too_many)


def check_memory(model: PreTrainedModel, dtype: str) -> None:
    """Raise UserError if the weights of a model on the meta device are larger than the machine's memory."""
    precision = (model.config.dtype or torch.float32) if dtype == "auto" else getattr(torch, dtype)
    weights, memory = model.num_parameters(), psutil.virtual_memory().total
    size = weights * precision.itemsize + sum(buffer.nbytes for buffer in model.buffers())
    if size > memory:
        raise UserError(
            f"the config asks for {weights:,} parameters ({gigabytes(size)}), this machine has {gigabytes(memory)} of "
            f"memory: check {_settings_place(model.config)}, or take a smaller model"
        )


def count_positions(model: PreTrainedModel, config: PretrainedConfig) -> int | None:
    """Return how many tokens the model can tell apart by position, or None where it sets no limit.

    RoBERTa and its kin number positions from padding_idx + 1, so that of 514 only 512 are of use
    (huggingface/transformers#10832); it shows in the padding_idx of the embedding.
    """
    for name, module in model.named_modules():
        if isinstance(module, nn.Embedding) and name.endswith("position_embeddings"):
            unused = 0 if module.padding_idx is None else module.padding_idx + 1
            return module.num_embeddings - unused
    return getattr(config, "max_position_embeddings", None)


def uses_attention_mask(model: PreTrainedModel) -> bool:
    """Return whether the model tells padding from text.

    FNet has no attention mask, its Fourier transform mixes padding in: only with padding of equal length does its loss
    not depend on which examples share a batch.
    """
    return "attention_mask" in inspect.signature(model.forward).parameters
