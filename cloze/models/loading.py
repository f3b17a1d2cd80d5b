"""Load config and model, or create new ones, with checks in place of device-side asserts."""

import copy
import difflib
import logging
import textwrap
from pathlib import Path

import torch
from huggingface_hub.errors import StrictDataclassError
from transformers import (
    CONFIG_MAPPING,
    AutoConfig,
    PretrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    set_seed,
)
from transformers.utils import CONFIG_NAME

from cloze.config.arguments import ModelArguments
from cloze.config.data_arguments import MAX_DEFAULT_LENGTH
from cloze.config.model_files import check_settings, find_file, read_json
from cloze.config.recipes import typed
from cloze.config.schedules import MIN_LENGTH
from cloze.errors import UserError
from cloze.models.attention import check_attention
from cloze.models.inspection import build_on_meta, check_class, check_memory, count_positions, settings_source
from cloze.models.resizing import resize_vocabulary
from cloze.models.trials import quiet
from cloze.models.vocabulary import Rows
from cloze.models.weights import load_weights, shorten
from cloze.objectives.task import Task
from cloze.tokenization.properties import required_vocab_size

logger = logging.getLogger(__name__)


def load_config(model_args: ModelArguments, task: Task, trains: bool = True) -> PretrainedConfig:
    """Return the checkpoint's config, or the default config of ``model_type`` with ``config_overrides``.

    Args:
        model_args: the model settings.
        task: the task to train or predict.
        trains: whether the model will be trained; otherwise, a causal mask that is removed is a warning.

    Raises:
        UserError: if there is no config, if it is invalid, or if its model cannot have the task's head.
    """
    name = model_args.config_name or model_args.model_name_or_path
    if name is None:
        config = _new_config(model_args)
    else:
        flag = "--config_name" if model_args.config_name else "--model_name_or_path"
        try:
            path = name if Path(name).is_file() else find_file(name, CONFIG_NAME, model_args)
            if path is not None:
                check_settings(read_json(path))
            config = AutoConfig.from_pretrained(name, **model_args.hub_arguments)
        # transformers raises errors of many types for settings of a wrong type.
        except Exception as error:
            if "trust_remote_code" in str(error):
                raise UserError(
                    f"{flag} {name} needs custom Python code, which is not run by default: review it, and give "
                    "--trust_remote_code"
                ) from None
            raise UserError(
                f"{flag} {name}: no model: give a folder with a config.json, or a Hub name "
                f"({textwrap.shorten(str(error), 150, placeholder=' ...')})"
            ) from None
    own_code = getattr(config, "auto_map", {})
    if config.model_type not in task.model_types and task.auto_model.__name__ not in own_code:
        raise UserError(f"{name or '--model_type'}: {config.model_type} has no {task.head}: {task.instead}")
    origin = name or config.model_type
    if not hasattr(config, "vocab_size"):
        raise UserError(
            f"{origin}: the config of {config.model_type} has no vocab_size of its own, as with models of text and "
            "images: give a model of text only"
        )
    if getattr(config, "is_decoder", False) and not task.is_causal:
        if trains:
            logger.info("Model: %s was trained with a causal mask; it attends in both directions again", origin)
        else:
            logger.warning(
                "%s was last trained with a causal mask, and now attends in both directions: continue its training "
                "with run_mlm.py --do_train first",
                origin,
            )
        config.is_decoder = False
    task.configure(config, model_args)
    return config


def _new_config(model_args: ModelArguments) -> PretrainedConfig:
    model_type = model_args.model_type
    assert model_type is not None, "ModelArguments needs a type if there is no checkpoint"
    if model_type not in CONFIG_MAPPING:
        close = difflib.get_close_matches(model_type, CONFIG_MAPPING.keys(), n=1)
        hint = f"did you mean {close[0]}?" if close else "give bert, distilbert, roberta, electra, ..."
        raise UserError(f"--model_type {model_type} is unknown: {hint}")
    config = CONFIG_MAPPING[model_type]()
    if model_args.config_overrides:
        overrides = dict(pair.partition("=")[::2] for pair in model_args.config_overrides.split(","))
        for name in overrides:
            if not hasattr(config, name):
                close = difflib.get_close_matches(name, config.to_dict(), n=1)
                hint = f": did you mean {close[0]}?" if close else ""
                raise UserError(f"--config_overrides: {model_type} has no setting {name!r}{hint}")
        try:
            check_settings(typed(overrides))
            config.update_from_string(model_args.config_overrides)
            # A new config: some settings depend on others, such as ModernBERT's layer types on the number of layers.
            settings = {config.attribute_map.get(name, name): getattr(config, name) for name in overrides}
            config = CONFIG_MAPPING[model_type](**settings)
            check_settings(config.to_dict())
        except (ValueError, TypeError, AttributeError, NotImplementedError, StrictDataclassError) as error:
            raise UserError(
                f"--config_overrides {model_args.config_overrides}: {error}: write name=value,..."
            ) from None
    return config


def sync_config_with_tokenizer(
    config: PretrainedConfig, tokenizer: PreTrainedTokenizerBase, overrides: str | None = None
) -> None:
    """Set the tokenizer's vocabulary size, unless ``overrides`` sets it, and special tokens in a new config."""
    if "vocab_size" not in [pair.partition("=")[0] for pair in (overrides or "").split(",")]:
        config.vocab_size = required_vocab_size(tokenizer)
    for name in ("pad", "bos", "eos", "cls", "sep", "mask"):
        if hasattr(config, f"{name}_token_id"):
            try:
                setattr(config, f"{name}_token_id", getattr(tokenizer, f"{name}_token_id"))
            except StrictDataclassError:
                raise UserError(
                    f"{config.model_type} needs a tokenizer with a {name} token: set {name}_token in its "
                    "tokenizer_config.json"
                ) from None


def check_model(
    config: PretrainedConfig,
    tokenizer: PreTrainedTokenizerBase,
    task: Task,
    max_seq_length: int | None,
    trust_remote_code: bool,
    dtype: str | None = None,
    attn_implementation: str | None = None,
) -> int:
    """Check that config, tokenizer and task fit together, and return the sequence length to use.

    Args:
        config: the model's config.
        tokenizer: the model's tokenizer.
        task: the task to train or predict.
        max_seq_length: requested length in tokens; None for the default, at most ``MAX_DEFAULT_LENGTH``.
        trust_remote_code: whether the model's own code may run.
        dtype: precision of the weights, to check that they fit into memory; None if they are not loaded.
        attn_implementation: requested implementation of attention; None for the model's default.

    Raises:
        UserError: if something would fail inside the model.
    """
    task.check(config, tokenizer)
    if task.padding_id(tokenizer) is None:
        name = type(tokenizer).__name__
        raise UserError(
            f"the tokenizer ({name}) has no padding token: set pad_token in its tokenizer_config.json, or use a masked "
            "language model's tokenizer"
        )
    # A checkpoint gets weights for additional tokens (models.vocabulary).
    if required_vocab_size(tokenizer) > config.vocab_size and not config.name_or_path:
        raise UserError(
            f"the tokenizer has {required_vocab_size(tokenizer):,} tokens, but the model's vocabulary only "
            f"{config.vocab_size:,}: leave vocab_size out of --config_overrides"
        )
    model = build_on_meta(config, task, trust_remote_code)
    if dtype is not None:
        check_memory(model, dtype)
    if attn_implementation is not None:
        check_attention(model, attn_implementation)
    positions = count_positions(model, config)
    if max_seq_length is None:
        length = min(positions or MAX_DEFAULT_LENGTH, tokenizer.model_max_length, MAX_DEFAULT_LENGTH)
        if length < MIN_LENGTH:
            raise UserError(
                f"the model's input has at most {length} tokens, too few for text: raise max_position_embeddings in "
                f"{settings_source(config)}, or model_max_length in tokenizer_config.json"
            )
        return length
    if positions and max_seq_length > positions:
        raise UserError(
            f"--max_seq_length {max_seq_length} is more than the model's {positions} positions: lower it"
            + (", or raise max_position_embeddings in --config_overrides" if not config.name_or_path else "")
        )
    return max_seq_length


def check_checkpoint(checkpoint: Path, config: PretrainedConfig, task: Task, trust_remote_code: bool) -> None:
    """Raise UserError for a checkpoint of another task, whose weights and steps the run would take for its own."""
    path = checkpoint / CONFIG_NAME
    saved = read_json(str(path)).get("architectures") if path.is_file() else None
    cure = (
        "resume it with the script that wrote it, or give another --output_dir, or --overwrite_output_dir to start over"
    )
    check_class(str(checkpoint), saved, config, task, trust_remote_code, cure)


def load_model(
    model_args: ModelArguments,
    config: PretrainedConfig,
    task: Task,
    seed: int,
    rows: Rows | None = None,
    only_predicts: bool = False,
) -> PreTrainedModel:
    """Return the checkpoint's model with the task's head, or a new model; log which weights are new.

    Args:
        model_args: the model settings.
        config: the model's config.
        task: the task that determines the head.
        seed: seed of new weights.
        rows: how the checkpoint's vocabulary becomes the tokenizer's, if it differs.
        only_predicts: whether the model predicts without training.

    Raises:
        UserError: if the weights cannot be loaded, or if a model that ``only_predicts`` is not trained.
    """
    # Seed again: the state depends on whether the corpus was prepared or read from a cache.
    set_seed(seed)
    dtype = model_args.dtype if model_args.dtype == "auto" else getattr(torch, model_args.dtype)
    name = model_args.model_name_or_path
    if name is None:
        if only_predicts:
            raise UserError("--do_predict needs a trained model: give --model_name_or_path PATH, or add --do_train")
        model = task.auto_model.from_config(
            config,
            dtype=None if dtype == "auto" else dtype,
            attn_implementation=model_args.attn_implementation,
            trust_remote_code=model_args.trust_remote_code,
        )
    else:
        model, missing = load_weights(model_args, config, task, dtype)
        if missing and only_predicts:
            raise UserError(
                f"--model_name_or_path {name}: weights of the {task.title} are missing ({shorten(missing, 4)}): add "
                "--do_train, or give a model that was trained with this script"
            )
        if task.renews_head:
            missing = _renew_head(model, missing, name, model_args, task)
        if missing:
            logger.warning(
                "new weights, not loaded from %s, start from random values and must be trained: %s",
                name,
                shorten(missing, 10),
            )
        resize_vocabulary(model, rows)
    logger.info("Model: %s", describe_model(model, model_args))
    return model


def _renew_head(
    model: PreTrainedModel, missing: list[str], name: str, model_args: ModelArguments, task: Task
) -> list[str]:
    """Initialize the head if the checkpoint has other classes, and return the names of all new weights."""
    checkpoint = AutoConfig.from_pretrained(name, **model_args.hub_arguments)
    if checkpoint.id2label == model.config.id2label:
        return missing
    # For another number of classes, the loader has already initialized the weights.
    names = set(_class_weights(model.config, task, model_args.trust_remote_code)).difference(missing)
    if names:
        kept = {key: weights for key, weights in model.state_dict().items() if key not in names}
        with quiet():
            new = type(model).from_pretrained(None, config=copy.deepcopy(model.config), state_dict=kept)
        model.load_state_dict({key: new.state_dict()[key] for key in names}, strict=False)
    return sorted({*missing, *names})


def _class_weights(config: PretrainedConfig, task: Task, trust_remote_code: bool) -> list[str]:
    """Return the names of the weights whose size depends on the number of classes."""
    larger = copy.deepcopy(config)
    assert config.num_labels is not None, "the data builder has set the classes"
    larger.num_labels = config.num_labels + 1
    shapes, others = (
        {name: weights.shape for name, weights in build_on_meta(each, task, trust_remote_code).state_dict().items()}
        for each in (config, larger)
    )
    return [name for name, shape in shapes.items() if shape != others[name]]


def describe_model(model: PreTrainedModel, model_args: ModelArguments) -> str:
    """Return the model's class, size and origin in one line."""
    origin = model_args.model_name_or_path or "scratch"
    return f"{type(model).__name__}, {model.num_parameters() / 1e6:.1f} million parameters, from {origin}"


def code_sources(model_args: ModelArguments) -> list[str]:
    """Return the models and tokenizers whose code may run with --trust_remote_code."""
    names = (model_args.model_name_or_path, model_args.config_name, model_args.tokenizer_name)
    return [name for name in dict.fromkeys(names) if name] or ["the model"]
