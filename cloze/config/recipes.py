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

from cloze.config.arguments import ModelArguments, TrainingArguments
from cloze.config.data_arguments import DataArguments, MaskingArguments, PairArguments
from cloze.config.deprecated_flags import DROPPED, RENAMED, REPLACED, update_flags
from cloze.errors import UserError

RECIPE_SUFFIXES = (".yaml", ".yml", ".json")
# Recipes are copied from strangers. Theirs may not take the memory or the time of this machine; one's own are of a few
# kilobytes, or hold as many file names as a command line does, which is 2 MB long at most.
MAX_CHARACTERS = 4 * 2**20
MAX_VALUES = 100_000
# Of dicts in dicts, as accelerator_config has them; Python gives up at some hundreds.
MAX_DEPTH = 20
# A list that is used twice is an alias of the first one; ten lists of ten aliases each are 10 billion values.
MAX_ALIASES = 10
# Of a number in a recipe that a run wrote: longer ones take Python seconds.
MAX_DIGITS = 100
NEVER_SAVED = ("trust_remote_code", "dry_run", "prepare_only")

# A resumed run keeps the settings that decide what is trained: of upstream's these, of ours all but RESUME_IGNORED.
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
    "max_document_chars",
}


DEFAULTS = {
    field.name: field.default
    for settings in (ModelArguments, MaskingArguments, PairArguments, TrainingArguments)
    for field in dataclasses.fields(settings)
    if field.default is not dataclasses.MISSING
}


class _Bounded:
    """Bound what a loader of YAML takes: plain values, no more of them than a recipe has, no key twice, no tags."""

    values = depth = aliases = 0

    def compose_node(self, parent, index):
        """Count the value before it is read: what the bounds refuse is never in memory."""
        event = self.peek_event()
        self.values += 1
        self.depth += 1
        self.aliases += isinstance(event, yaml.AliasEvent)
        for name, bound in {"values": MAX_VALUES, "depth": MAX_DEPTH, "aliases": MAX_ALIASES}.items():
            if getattr(self, name) > bound:
                raise _yaml_error(_too_much(name, bound), event)
        if getattr(event, "tag", None) is not None:
            raise _yaml_error(f"a tag, {reprlib.repr(event.tag)}", event)
        node = super().compose_node(parent, index)
        self.depth -= 1
        # A list or dict has its end when all in it is read.
        if node.end_mark is None:
            raise _yaml_error("an alias of what it is in", event)
        if node.tag.endswith((":int", ":float")) and len(node.value) > MAX_DIGITS:
            raise _yaml_error(f"a number of more than {MAX_DIGITS} characters", event)
        return node

    def construct_mapping(self, node, deep=False):
        mapping = {}
        for key_node, value_node in node.value:
            key = self.construct_object(key_node, deep=True)
            if not isinstance(key, str | int | float | None):
                raise _yaml_error("a list or dict as key", key_node)
            if key in mapping:
                raise _yaml_error(_is_twice(key), key_node)
            mapping[key] = self.construct_object(value_node, deep=deep)
        return mapping


def _yaml_error(problem: str, place: yaml.Event | yaml.Node) -> yaml.YAMLError:
    return yaml.MarkedYAMLError(problem=problem, problem_mark=place.start_mark)


class WrittenLoader(_Bounded, yaml.SafeLoader):
    """Load a recipe that a run wrote, whose values have their types."""


class RecipeLoader(_Bounded, yaml.BaseLoader):
    """Load each value as the string that is written, but for null: the settings have types of their own.

    Else 1e-4 were a string, as YAML 1.1 has it, and no were false.
    """


RecipeLoader.add_implicit_resolver("null", re.compile(r"(~|null|Null|NULL|)\Z"), ["~", "n", "N", ""])
RecipeLoader.add_constructor("null", lambda loader, node: None)


class RecipeDumper(yaml.SafeDumper):
    """Write the members of enumerations as their values."""


RecipeDumper.add_multi_representer(enum.Enum, lambda dumper, member: dumper.represent_data(member.value))


def recipe_to_argv(recipe: str, names: dict[str, type]) -> tuple[list[str], dict[str, None]]:
    """Return a recipe as command-line arguments, and the settings that it sets to null."""
    settings = read_recipe(Path(recipe))
    argv, nulls = [], {}
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
                raise UserError(f"{recipe}: {key} is empty: give it a value, or leave the line out")
            nulls[key] = None
        elif isinstance(value, list):
            argv += [f"--{key}", *map(str, value)]
        else:
            if value in ("on", "off") and bool in (names.get(key), *typing.get_args(names.get(key))):
                value = value == "on"
            argv.append(f"--{key}={json.dumps(typed(value)) if isinstance(value, dict) else value}")
    return update_flags(argv), nulls


def _check_trust(recipe: str, key: str, value: Any) -> None:
    """Raise UserError for a setting that would run code: recipes are copied from strangers."""
    if key == "trust_remote_code" and str(value).lower() not in ("false", "no", "off", "0"):
        raise UserError(
            f"{recipe}: trust_remote_code runs code that the model brings along: read that code, take the line out, "
            "and give --trust_remote_code on the command line"
        )
    for item in value if isinstance(value, list) else []:
        # On a command line, which a recipe becomes, it would be a flag.
        if str(item).startswith("-") and not re.fullmatch(r"-[\d.]+", str(item)):
            raise UserError(f"{recipe}: {key} has the value {item}: write ./{item} if it is a file")


def typed(value: Any) -> Any:
    """Return the strings in a dict as the JSON values that they look like: their types are declared nowhere."""
    if isinstance(value, dict):
        return {key: typed(item) for key, item in value.items()}
    try:
        return json.loads(value) if isinstance(value, str) else value
    except ValueError:
        return value


def read_recipe(path: Path) -> dict:
    """Return the mapping in a YAML or JSON file, none of which is executed; raise UserError for another file."""
    if path.suffix not in RECIPE_SUFFIXES:
        raise UserError(f"{path} is not a recipe: the first argument is a .yaml, .yml or .json file, or a --flag")
    if not path.is_file():
        raise UserError(f"recipe {path} is not there: give the path of a file, such as recipes/quickstart/mlm.yaml")
    with open(path, encoding="utf-8-sig") as file:
        try:
            text = file.read(MAX_CHARACTERS + 1)
        except UnicodeDecodeError as error:
            raise UserError(f"{path} is not UTF-8: {error}: a recipe has plain `flag: value` lines") from None
    return parse_recipe(text, str(path), "a recipe has plain `flag: value` lines", RecipeLoader)


def parse_recipe(text: str, name: str, cure: str, loader: type[_Bounded]) -> dict:
    """Return the mapping in a text of JSON, if that is how the name ends, or YAML; raise UserError for other text."""
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
        raise UserError(f"{name} holds no mapping: {cure}")
    return settings


def _too_much(what: str, bound: int) -> str:
    return f"a depth of more than {bound} lists and dicts" if what == "depth" else f"more than {bound:,} {what}"


def _is_twice(key: Any) -> str:
    return f"{reprlib.repr(key)} is there twice"


def _unique_keys(pairs: list[tuple[str, Any]]) -> dict:
    """Return an object of JSON; raise ValueError for a key that is there twice, of which json would take the last."""
    settings = {}
    for key, value in pairs:
        if key in settings:
            raise ValueError(_is_twice(key))
        settings[key] = value
    return settings


def _check_value(value: Any, depth: int = 0) -> None:
    """Raise ValueError for what YAML and JSON can write, and no command line or file name can hold."""
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
            raise ValueError("a NUL character")


def did_you_mean(name: str, known: Iterable[str], prefix: str = "") -> str:
    """Return the end of a message about an unknown name: the closest known one, or where all are listed."""
    name = name.partition("=")[0].lstrip("-").replace("-", "_")
    close = difflib.get_close_matches(name, known, n=1, cutoff=0.6)
    return f": did you mean {prefix}{close[0]}?" if close else ": --help lists the flags"


def recipe_of(model_args: ModelArguments, data_args: DataArguments, training_args: TrainingArguments) -> str:
    """Return the resolved settings as a recipe that runs again; those that are empty by default are left out.

    So are tokens, and what a recipe may not have or is for one run only.
    """
    blocks = {
        "model": _without_nulls(model_args),
        "data": _without_nulls(data_args),
        "trainer": {"output_dir": training_args.output_dir, **training_args.resolved},
    }
    text = "# It was run with --trust_remote_code, which a recipe may not have.\n\n" * model_args.trust_remote_code
    for title, settings in blocks.items():
        settings = {key: value for key, value in settings.items() if key not in NEVER_SAVED and not is_token(key)}
        text += f"# {title}\n{yaml.dump(settings, Dumper=RecipeDumper, sort_keys=False, allow_unicode=True)}\n"
    return text


def differences(recipe: str, other: str, also: Sequence[str] = ()) -> list[str]:
    """Return what one recipe trains otherwise than the other, as lines of name and values.

    Settings of saving, logging and evaluation do not count, but those in ``also``.
    """
    one, two = settings_in(recipe), settings_in(other)
    critical = (one.keys() | two.keys()) - UPSTREAM_SETTINGS - RESUME_IGNORED | RESUME_CRITICAL | set(also)
    # A setting that one of them lacks is one that is null, or younger than the recipe: it has its default there.
    pairs = ((name, *(each.get(name, DEFAULTS.get(name)) for each in (one, two))) for name in sorted(critical))
    return [f"{name} {value} (not {other})" for name, value, other in pairs if value != other]


def settings_in(recipe: str) -> dict[str, Any]:
    """Return the settings of a recipe written by ``recipe_of``; raise UserError if a checkpoint's is no such recipe."""
    cure = "put back the one that its run wrote, or start from its weights with --model_name_or_path"
    return parse_recipe(recipe, "recipe.yaml of the checkpoint", cure, WrittenLoader)


def is_token(name: str) -> bool:
    """Return whether a setting holds a secret."""
    return name == "token" or name.endswith("_token")


def _without_nulls(arguments: ModelArguments | DataArguments) -> dict:
    return {key: value for key, value in dataclasses.asdict(arguments).items() if value is not None}
