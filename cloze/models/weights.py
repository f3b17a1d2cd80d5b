"""Load a checkpoint's weights as saved by various tools, and report new, unused and missing weights."""

import logging
import os
import pickle
import re
from collections.abc import Collection, Iterable

import torch
from safetensors import SafetensorError
from transformers import PretrainedConfig, PreTrainedModel
from transformers.modeling_utils import load_state_dict
from transformers.utils import (
    SAFE_WEIGHTS_INDEX_NAME,
    SAFE_WEIGHTS_NAME,
    WEIGHTS_INDEX_NAME,
    WEIGHTS_NAME,
)

from cloze.config.arguments import ModelArguments
from cloze.config.model_files import check_shards, find_file, read_json
from cloze.errors import UserError
from cloze.models.trials import quiet
from cloze.objectives.task import Task

logger = logging.getLogger(__name__)

# Corrupt files, and pickles that would run code, raise UnpicklingError; files with other objects AttributeError.
UNREADABLE = (
    *(OSError, ValueError, TypeError, RuntimeError, EOFError),
    *(SafetensorError, pickle.UnpicklingError, AttributeError, LookupError),
)
# In the order in which transformers searches for them.
WEIGHT_FILES = (SAFE_WEIGHTS_NAME, SAFE_WEIGHTS_INDEX_NAME, WEIGHTS_NAME, WEIGHTS_INDEX_NAME)
# Parts of names that torch.compile, FSDP and activation checkpointing add anywhere.
WRAPPERS = ("_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module")
# Prefixes that DistributedDataParallel, DeepSpeed and Lightning add; some models have such names themselves.
OUTER_WRAPPERS = ("module", "model", "_forward_module")
# Keys of the weights in files with other objects, as training loops save them.
NESTED = ("state_dict", "model_state_dict", "model", "module")


def load_weights(
    model_args: ModelArguments, config: PretrainedConfig, task: Task, dtype: torch.dtype | str
) -> tuple[PreTrainedModel, list[str]]:
    """Return the checkpoint's model with the task's head, and the names of the weights that the checkpoint lacks.

    Raises:
        UserError: if the weights cannot be read, or do not belong to the encoder.
    """
    name = model_args.model_name_or_path
    assert name is not None, "a new model has no weights to load"
    # _check_sizes reports mismatched sizes.
    options = {
        "config": config,
        "dtype": dtype,
        "attn_implementation": model_args.attn_implementation,
        "ignore_mismatched_sizes": True,
        "output_loading_info": True,
    }
    random_state = torch.get_rng_state()
    try:
        path = _find_weights(name, model_args)
        if path is not None and path.endswith(".json"):
            check_shards(read_json(path))
        # transformers would log a table of missing and unexpected weights; _report_weights logs a line.
        with quiet():
            model, loading = task.auto_model.from_pretrained(name, **options, **model_args.hub_arguments)
            names = model.state_dict().keys()
            if path is not None and loading["missing_keys"] and _is_wrapped(loading["unexpected_keys"], names):
                # from_pretrained's key_mapping does not work here: save_pretrained would restore the wrapped names.
                weights = _unwrap(_read_weights(path), names, name)
                torch.set_rng_state(random_state)
                model, loading = type(model).from_pretrained(None, state_dict=weights, **options)
                model.config.name_or_path = name
    except UNREADABLE as error:
        reason = str(error)[:300]
        if "weights_only" in str(error):
            # torch's own message advises to run the code.
            reason = "the file is corrupt, or contains more than weights: save the model with save_pretrained()"
        raise UserError(f"--model_name_or_path {name}: the weights cannot be loaded: {reason}") from None
    _check_sizes(model, loading["mismatched_keys"], task, name)
    missing = sorted({*loading["missing_keys"], *(key for key, *_ in loading["mismatched_keys"])})
    _report_weights(model, missing, sorted(loading["unexpected_keys"]), name)
    return model, missing


def _is_wrapped(unused: Iterable[str], names: Collection[str]) -> bool:
    """Return whether any unused weight is nested or has a wrapper in its name."""
    return any(key in NESTED or unwrap_name(key, names)[1] for key in unused)


def unwrap_name(name: str, names: Collection[str]) -> tuple[str, str]:
    """Return a weight's name without the wrappers of its model, and the removed wrappers.

    Args:
        name: the name in the checkpoint.
        names: the model's own names, which stay as they are: ModernBERT's begin with "model.".
    """
    *modules, last = name.split(".")
    kept: list[str] = []
    removed: list[str] = []
    for number, module in enumerate(modules):
        is_outer = module in OUTER_WRAPPERS and not kept and ".".join([*modules[number:], last]) not in names
        (removed if is_outer or module in WRAPPERS else kept).append(module)
    return ".".join([*kept, last]), ".".join(removed)


def _unwrap(weights: dict, names: Collection[str], origin: str) -> dict[str, torch.Tensor]:
    """Return the weights under the model's names, and log what was removed."""
    for nest in NESTED:
        if isinstance(weights.get(nest), dict):
            logger.info("Weights: using the entry %r of %s", nest, origin)
            return _unwrap(weights[nest], names, origin)
    plain: dict[str, torch.Tensor] = {}
    prefixes = set()
    for key, value in weights.items():
        if torch.is_tensor(value):
            name, wrappers = unwrap_name(key, names)
            if name in plain and not torch.equal(plain[name], value):
                raise ValueError(f"the file contains two models: {name} occurs twice, once as {key}")
            plain[name] = value
            prefixes.add(wrappers)
    if any(prefixes):
        logger.info(
            "Weights: removed %s from the names in %s", ", ".join(f"{p}." for p in sorted(prefixes) if p), origin
        )
    return plain


def _read_weights(path: str) -> dict:
    """Return the content of weight files by name, without running code from them.

    Args:
        path: the weight file, or the index of its shards in the same folder.
    """
    folder, file_name = os.path.split(path)
    names = sorted(set(read_json(path)["weight_map"].values())) if path.endswith(".json") else [file_name]
    return {key: value for name in names for key, value in load_state_dict(os.path.join(folder, name)).items()}


def _find_weights(name: str, model_args: ModelArguments) -> str | None:
    """Return the path of the checkpoint's weights, or of the index of their shards."""
    paths = (find_file(name, file_name, model_args) for file_name in WEIGHT_FILES)
    return next(filter(None, paths), None)


def _check_sizes(model: PreTrainedModel, mismatched: Iterable[tuple], task: Task, name: str) -> None:
    """Raise UserError for weights of other sizes than the model's, except in a head that the task may renew."""
    wrong = sorted(each for each in mismatched if not task.renews_head or each[0] in _encoder_weights(model))
    if wrong:
        key, found, expected = wrong[0]
        raise UserError(
            f"--model_name_or_path {name}: the weights do not fit the config: {key} is {list(found)}, not "
            f"{list(expected)}: use the config.json that the model was trained with"
        )


def _encoder_weights(model: PreTrainedModel) -> set[str]:
    encoder = next(place for place, module in model.named_modules() if module is model.base_model)
    return {f"{encoder}.{key}".removeprefix(".") for key in model.base_model.state_dict()}


def _report_weights(model: PreTrainedModel, missing: list[str], unused: list[str], name: str) -> None:
    """Log how much of the model is in the checkpoint; raise UserError if half of the encoder or more is missing."""
    expected = _encoder_weights(model)
    lost = expected & set(missing)
    layers = _layers_of(expected)
    found = f"{len(layers - _layers_of(lost))} of {len(layers)} layers found"
    not_used = f"; unused: {len(unused)} name{'s' * (len(unused) > 1)}, {shorten(unused, 3)}" if unused else ""
    embeddings = next(place for place, module in model.named_modules() if module is model.get_input_embeddings())
    if 2 * len(lost) >= len(expected) or f"{embeddings}.weight" in lost:
        raise UserError(
            f"--model_name_or_path {name}: the encoder's weights are missing: {found}; missing: "
            f"{shorten(sorted(lost), 3)}{not_used}: save the model with save_pretrained()"
        )
    logger.info("Weights of %s: %s%s", name, found, not_used)


def _layers_of(names: Iterable[str]) -> set[str]:
    """Return the outermost numbered modules in the names."""
    return {match[0] for match in map(re.compile(r".*?\.\d+(?=\.)").match, names) if match}


def shorten(names: list[str], count: int) -> str:
    """Return at most ``count`` names; if there are more, return their modules instead."""
    if len(names) > count:
        names = list(dict.fromkeys(re.sub(r"^([^.]+(?:\.[^.]+)?)\..*", r"\1.*", name) for name in names))
    more = f" and {len(names) - count} more" if len(names) > count else ""
    return ", ".join(names[:count]) + more
