"""Read, write and compare recipes: YAML or JSON files of the scripts' own flags."""

import dataclasses
import difflib
import enum
import json
import os
import re
import reprlib
import typing
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import transformers
import yaml
from yaml.composer import Composer
from yaml.constructor import BaseConstructor
from yaml.parser import Parser

from cloze.config.adaptation_arguments import AdaptationArguments
from cloze.config.arguments import ModelArguments, TrainingArguments
from cloze.config.data_arguments import DataArguments, MaskingArguments, PairArguments
from cloze.config.deprecated_flags import DROPPED, RENAMED, REPLACED, update_flags
from cloze.errors import UserError

RECIPE_SUFFIXES = (".yaml", ".yml", ".json")
# Recipes may come from untrusted sources, so their use of memory and time is bounded. A recipe has some kilobytes, or
# as many file names as a command line, which has at most 2 MB.
MAX_CHARACTERS = 4 * 2**20
MAX_VALUES = 100_000
# Of nested dicts, such as accelerator_config; Python fails at some hundreds.
MAX_DEPTH = 20
# Ten lists of ten aliases each expand to 10 billion values.
MAX_ALIASES = 10
# Of a number in a recipe that a run wrote: Python takes seconds for longer ones.
MAX_DIGITS = 100
NEVER_SAVED = ("trust_remote_code", "dry_run", "prepare_only")

# Settings that may not change when a run is resumed: these of upstream's, and all of ours but RESUME_IGNORED.
UPSTREAM_SETTINGS = {field.name for field in dataclasses.fields(transformers.TrainingArguments)}
RESUME_CRITICAL = {
    *("learning_rate", "lr_scheduler_type", "lr_scheduler_kwargs", "warmup_steps", "num_train_epochs", "max_steps"),
    *("optim", "optim_args", "optim_target_modules", "weight_decay", "adam_beta1", "adam_beta2", "adam_epsilon"),
    *("max_grad_norm", "label_smoothing_factor", "neftune_noise_alpha", "seed", "data_seed"),
    *("train_sampling_strategy", "dataloader_drop_last"),
}
RESUME_IGNORED = {
    *("cache_dir", "use_fast_tokenizer", "trust_remote_code", "preprocessing_num_workers", "tokenizer_backend"),
    *("overwrite_cache", "overwrite_output_dir", "max_eval_samples", "max_tokens_per_batch", "test_file"),
    *("top_k", "dry_run", "prepare_only", "compare_with", "num_seeds", "eval_mlm_probability"),
    *("max_document_chars", "max_new_tokens", "do_sample", "temperature", "top_p"),
}


DEFAULTS = {
    field.name: field.default
    for settings in (AdaptationArguments, MaskingArguments, PairArguments, TrainingArguments)
    for field in dataclasses.fields(settings)
    if field.default is not dataclasses.MISSING
}


class _Bounded(Parser, Composer, BaseConstructor):
    """Bound a YAML loader: plain values up to a number and depth, few aliases, no repeated keys, no tags."""

    values = depth = aliases = 0

    def compose_node(self, parent, index):
        """Count a value before it is read, so that refused values are never in memory."""
        event = self.peek_event()
        self.values += 1
        self.depth += 1
        self.aliases += isinstance(event, yaml.AliasEvent)
        for name, bound in {"values": MAX_VALUES, "depth": MAX_DEPTH, "aliases": MAX_ALIASES}.items():
            if getattr(self, name) > bound:
                raise _yaml_error(_too_much(name, bound), event)
        if getattr(event, "tag", None) is not None:
            raise _yaml_error(f"the tag {reprlib.repr(event.tag)} is not allowed", event)
        node = super().compose_node(parent, index)
        assert node is not None
        self.depth -= 1
        # A list or dict gets its end mark once it is complete.
        if node.end_mark is None:
            raise _yaml_error("an alias of the list or dict that contains it", event)
        if node.tag.endswith((":int", ":float")) and len(node.value) > MAX_DIGITS:
            raise _yaml_error(f"a number of more than {MAX_DIGITS} characters", event)
        return node

    def construct_mapping(self, node, deep=False):
        """Return the dict of a node; raise YAMLError for a repeated or nested key."""
        mapping = {}
        for key_node, value_node in node.value:
            key = self.construct_object(key_node, deep=True)
            if not isinstance(key, str | int | float | None):
                raise _yaml_error("a list or dict is not allowed as a key", key_node)
            if key in mapping:
                raise _yaml_error(_given_twice(key), key_node)
            mapping[key] = self.construct_object(value_node, deep=deep)
        return mapping


def _yaml_error(problem: str, place: yaml.Event | yaml.Node) -> yaml.YAMLError:
    # The stubs do not accept the marks of events and nodes.
    return yaml.MarkedYAMLError(problem=problem, problem_mark=place.start_mark)  # type: ignore[arg-type]


class WrittenLoader(_Bounded, yaml.SafeLoader):
    """Load a recipe that a run wrote, with typed values."""


class RecipeLoader(_Bounded, yaml.BaseLoader):
    """Load each value but null as a string, which the parser converts to the setting's type.

    By YAML 1.1, 1e-4 is a string, and no is false.
    """


RecipeLoader.add_implicit_resolver("null", re.compile(r"(~|null|Null|NULL|)\Z"), ["~", "n", "N", ""])
RecipeLoader.add_constructor("null", lambda loader, node: None)


class RecipeDumper(yaml.SafeDumper):
    """Dump enum members as their values."""


RecipeDumper.add_multi_representer(enum.Enum, lambda dumper, member: dumper.represent_data(member.value))


def recipe_to_argv(recipe: str, names: dict[str, type]) -> tuple[list[str], dict[str, None]]:
    """Return a recipe as command-line arguments, and the settings that it sets to null as a dict."""
    settings = read_recipe(Path(recipe))
    argv: list[str] = []
    nulls: dict[str, None] = {}
    for key, value in settings.items():
        key = str(key)
        if key not in [*names, *RENAMED, *REPLACED, *DROPPED]:
            raise UserError(f"{recipe}: unknown setting {key!r}{did_you_mean(key, names)}")
        _check_trust(recipe, key, value)
        if value is None and key in [*REPLACED, *DROPPED]:
            continue
        if value is None:
            key = RENAMED.get(key, key)
            if type(None) not in typing.get_args(names.get(key)):
                raise UserError(f"{recipe}: {key} is empty: give it a value, or remove the line")
            nulls[key] = None
        elif isinstance(value, list):
            argv += [f"--{key}", *map(str, value)]
        else:
            if value in ("on", "off") and bool in (names.get(key), *typing.get_args(names.get(key))):
                value = value == "on"
            argv.append(f"--{key}={json.dumps(typed(value)) if isinstance(value, dict) else value}")
    return update_flags(argv), nulls


def _check_trust(recipe: str, key: str, value: Any) -> None:
    """Raise UserError for settings that would run code: recipes may come from untrusted sources."""
    if key == "trust_remote_code" and str(value).lower() not in ("false", "no", "off", "0"):
        raise UserError(
            f"{recipe}: trust_remote_code runs code from the model's repository: read that code, remove this line, "
            "and give --trust_remote_code on the command line"
        )
    for item in value if isinstance(value, list) else []:
        # The parser would read it as a flag.
        if str(item).startswith("-") and not re.fullmatch(r"-[\d.]+", str(item)):
            raise UserError(
                f"{recipe}: {key} has the value {item}, which looks like a flag: write ./{item} if it is a file"
            )


def typed(value: Any) -> Any:
    """Return a dict with its strings parsed as JSON where possible: the types of its values are not declared."""
    if isinstance(value, dict):
        return {key: typed(item) for key, item in value.items()}
    try:
        return json.loads(value) if isinstance(value, str) else value
    except ValueError:
        return value


def read_recipe(path: Path) -> dict:
    """Return the mapping in a YAML or JSON file, without executing any of it; raise UserError for other files."""
    if path.suffix not in RECIPE_SUFFIXES:
        raise UserError(f"{path} is not a recipe: give a .yaml, .yml or .json file, or a --flag, as first argument")
    if not path.is_file():
        raise UserError(f"recipe {path} does not exist: give the path of a file, such as recipes/quickstart/mlm.yaml")
    with open(path, encoding="utf-8-sig") as file:
        try:
            text = file.read(MAX_CHARACTERS + 1)
        except UnicodeDecodeError as error:
            raise UserError(f"{path} is not UTF-8 ({error}): a recipe has plain `flag: value` lines") from None
    return parse_recipe(text, str(path), "a recipe has plain `flag: value` lines", RecipeLoader)


def parse_recipe(text: str, name: str, cure: str, loader: type[WrittenLoader] | type[RecipeLoader]) -> dict:
    """Return the mapping in a text: JSON if the name ends with .json, else YAML; raise UserError for other text."""
    try:
        if len(text) > MAX_CHARACTERS:
            raise ValueError(_too_much("characters", MAX_CHARACTERS))
        is_json = name.endswith(".json")
        settings = json.loads(text, object_pairs_hook=_unique_keys) if is_json else yaml.load(text, loader)
        _check_value(settings)
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        mark = getattr(error, "problem_mark", None)
        line = mark.line + 1 if mark else getattr(error, "lineno", None)
        problem = getattr(error, "problem", None) or error
        if isinstance(error, RecursionError):
            problem = _too_much("depth", MAX_DEPTH)
        raise UserError(f"{name}{f', line {line}' if line else ''}: {problem}: {cure}") from None
    if not isinstance(settings, dict):
        raise UserError(f"{name} is not a mapping: {cure}")
    return settings


def _too_much(what: str, bound: int) -> str:
    return f"nested more than {bound} levels deep" if what == "depth" else f"more than {bound:,} {what}"


def _given_twice(key: Any) -> str:
    return f"{reprlib.repr(key)} is given twice"


def _unique_keys(pairs: list[tuple[str, Any]]) -> dict:
    """Return a JSON object as a dict; raise ValueError for a repeated key, where json takes the last."""
    settings = {}
    for key, value in pairs:
        if key in settings:
            raise ValueError(_given_twice(key))
        settings[key] = value
    return settings


def _check_value(value: Any, depth: int = 0) -> None:
    """Raise ValueError for values that a command line or file name cannot contain."""
    if depth > MAX_DEPTH:
        raise ValueError(_too_much("depth", MAX_DEPTH))
    if isinstance(value, dict):
        value = [*value.keys(), *value.values()]
    if isinstance(value, list):
        for item in value:
            _check_value(item, depth + 1)
    elif isinstance(value, str):
        try:
            os.fsencode(value)
        except UnicodeEncodeError:
            raise ValueError("it contains an unpaired surrogate") from None
        if "\0" in value:
            raise ValueError("it contains a NUL character")


def did_you_mean(name: str, known: Iterable[str], prefix: str = "") -> str:
    """Return the end of a message about an unknown name: the closest known name, or a hint to --help."""
    name = name.partition("=")[0].lstrip("-").replace("-", "_")
    close = difflib.get_close_matches(name, known, n=1, cutoff=0.6)
    return f": did you mean {prefix}{close[0]}?" if close else ": --help lists the flags"


def recipe_of(model_args: ModelArguments, data_args: DataArguments, training_args: TrainingArguments) -> str:
    """Return the resolved settings as a recipe that runs again.

    It leaves out nulls that are the default, tokens, and NEVER_SAVED.
    """
    blocks = {
        "model": _without_nulls(model_args),
        "data": _without_nulls(data_args),
        "trainer": {"output_dir": training_args.output_dir, **training_args.resolved},
    }
    text = "# This run had --trust_remote_code, which is not allowed in a recipe.\n\n" * model_args.trust_remote_code
    for title, settings in blocks.items():
        settings = {key: value for key, value in settings.items() if key not in NEVER_SAVED and not is_token(key)}
        text += f"# {title}\n{yaml.dump(settings, Dumper=RecipeDumper, sort_keys=False, allow_unicode=True)}\n"
    return text


def differences(recipe: str, other: str, also: Sequence[str] = ()) -> list[str]:
    """Return the differences between two recipes that matter for resuming, as lines of name and values.

    Settings of saving, logging and evaluation do not matter, except those in ``also``.
    """
    one, two = settings_in(recipe), settings_in(other)
    critical = (one.keys() | two.keys()) - UPSTREAM_SETTINGS - RESUME_IGNORED | RESUME_CRITICAL | set(also)
    # A missing setting has its default: it is null, or newer than the recipe.
    pairs = ((name, *(each.get(name, DEFAULTS.get(name)) for each in (one, two))) for name in sorted(critical))
    return [f"{name} {value} (not {other})" for name, value, other in pairs if value != other]


def settings_in(recipe: str) -> dict[str, Any]:
    """Return the settings of a checkpoint's recipe, written by ``recipe_of``; raise UserError for other text."""
    cure = "restore the file, or start from the checkpoint's weights with --model_name_or_path"
    return parse_recipe(recipe, "recipe.yaml of the checkpoint", cure, WrittenLoader)


def is_token(name: str) -> bool:
    """Return whether a setting is a secret."""
    return name == "token" or name.endswith("_token")


def _without_nulls(arguments: ModelArguments | DataArguments) -> dict:
    return {key: value for key, value in dataclasses.asdict(arguments).items() if value is not None}
