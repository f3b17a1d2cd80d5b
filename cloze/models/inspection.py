"""Inspect the model of a config without loading weights: whether it can be built, its memory, its positions."""

import inspect
import itertools
from collections.abc import Sequence

import psutil
import torch
from torch import nn
from torch.nn.modules.module import register_module_module_registration_hook
from torch.utils.hooks import RemovableHandle
from transformers import PretrainedConfig, PreTrainedModel

from cloze.errors import UserError
from cloze.objectives.task import Task
from cloze.system.storage import gigabytes

# torch builds some 20,000 modules a second, and a layer has about 15.
MAX_MODULES = 50_000


def build_on_meta(config: PretrainedConfig, task: Task, trust_remote_code: bool = False) -> PreTrainedModel:
    """Build the model without memory for its weights, to inspect it before loading.

    Raises:
        UserError: if the config is invalid.
    """
    try:
        if getattr(config, "num_hidden_layers", 1) < 1:
            raise ValueError(f"{config.num_hidden_layers} layers")
        with torch.device("meta"), _limit_modules():
            return task.auto_model.from_config(config, trust_remote_code=trust_remote_code)
    # torch and the models raise errors of many types for invalid settings.
    except Exception as error:
        # torch appends the place in its C++ code.
        problem = str(error).partition("Exception raised from")[0]
        raise UserError(
            f"cannot build a {config.model_type} model from this config: {problem}: check {settings_source(config)}"
        ) from None


def class_name(config: PretrainedConfig, task: Task, trust_remote_code: bool = False) -> str:
    """Return the name of the model class that has the task's head."""
    return type(build_on_meta(config, task, trust_remote_code)).__name__


def check_class(
    origin: str, saved: Sequence[str] | None, config: PretrainedConfig, task: Task, trust_remote_code: bool, cure: str
) -> None:
    """Raise UserError for a checkpoint of another class, such as an encoder whose weights have seen both sides.

    Args:
        origin: the checkpoint, for the message.
        saved: ``architectures`` in the checkpoint's config; unknown if there are none.
        config: the config of the model to build.
        task: the task that determines the class.
        trust_remote_code: whether the model's own code may run.
        cure: what to do instead, for the message.
    """
    name = class_name(config, task, trust_remote_code)
    if saved and name not in saved:
        raise UserError(f"{origin} was saved as {' or '.join(saved)}, not as {name}: {cure}")


def settings_source(config: PretrainedConfig) -> str:
    """Return where users change the config's settings."""
    return "its config.json" if config.name_or_path else "--config_overrides"


def _limit_modules() -> RemovableHandle:
    """Return a context that raises ValueError while it builds a model of more than MAX_MODULES modules."""
    count = itertools.count(1)

    def refuse_too_many(*_) -> None:
        if next(count) > MAX_MODULES:
            raise ValueError(f"more than {MAX_MODULES:,} modules")

    return register_module_module_registration_hook(refuse_too_many)


def check_memory(model: PreTrainedModel, dtype: str) -> None:
    """Raise UserError if the weights of a model on the meta device exceed the machine's memory.

    Args:
        model: the model.
        dtype: precision of the weights, such as float32, or auto for the config's.
    """
    precision = (model.config.dtype or torch.float32) if dtype == "auto" else getattr(torch, dtype)
    assert isinstance(precision, torch.dtype)
    weights, memory = model.num_parameters(), psutil.virtual_memory().total
    size = weights * precision.itemsize + sum(buffer.nbytes for buffer in model.buffers())
    if size > memory:
        raise UserError(
            f"the model has {weights:,} parameters ({gigabytes(size)}), but this machine has {gigabytes(memory)} of "
            f"memory: check {settings_source(model.config)}, or use a smaller model"
        )


def count_positions(model: PreTrainedModel, config: PretrainedConfig) -> int | None:
    """Return the longest sequence that the model's position embeddings allow, None if there is no limit."""
    embeddings = _position_embeddings(model)
    if embeddings is None:
        positions = getattr(config, "max_position_embeddings", None)
        # XLNet's relative positions have no limit, which its config calls -1.
        return None if positions == -1 else positions
    return embeddings.num_embeddings - first_position(model)


def first_position(model: PreTrainedModel) -> int:
    """Return the number of a text's first position.

    RoBERTa and its relatives number positions from padding_idx + 1: 512 of 514 are usable
    (huggingface/transformers#10832).
    """
    embeddings = _position_embeddings(model)
    return 0 if embeddings is None or embeddings.padding_idx is None else embeddings.padding_idx + 1


def _position_embeddings(model: PreTrainedModel) -> nn.Embedding | None:
    for name, module in model.named_modules():
        if isinstance(module, nn.Embedding) and name.endswith("position_embeddings"):
            return module
    return None


def uses_attention_mask(model: PreTrainedModel) -> bool:
    """Return whether the model takes an attention mask.

    FNet does not: its Fourier transform mixes padding with text. Its loss is independent of the batch only if all
    examples are padded to the same length.
    """
    return "attention_mask" in inspect.signature(model.forward).parameters
