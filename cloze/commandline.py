"""Recipe and command line -> dataclasses: defaults < recipe < command line."""

import argparse
import dataclasses
import difflib
import enum
import json
import logging
import sys
import typing
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import yaml
from transformers import HfArgumentParser
from transformers.integrations import get_available_reporting_integrations

from cloze.arguments import DataTrainingArguments, ModelArguments, TrainingArguments, UserError, check_together

logger = logging.getLogger(__name__)

RECIPE_SUFFIXES = (".yaml", ".yml", ".json")

# Flags of earlier versions of transformers and of upstream's scripts, and what they are called today.
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
# Switches of old that are a value of another flag today: its name, and the values for on and off.
REPLACED = {
    "group_by_length": ("train_sampling_strategy", "group_by_length", "random"),
    "adafactor": ("optim", "adafactor", "adamw_torch_fused"),
    "evaluate_during_training": ("eval_strategy", "steps", "no"),
}
# Flags that do nothing any more, and why that is no loss.
DROPPED = {
    "logging_dir": "set the variable TENSORBOARD_LOGGING_DIR",
    "save_safetensors": "weights are always saved as safetensors",
    "low_cpu_mem_usage": "loading always does that",
    "use_mps_device": "the device is found by itself",
    "mlm": "run_mlm.py does nothing else",
    "use_ipex": "the package has come to its end",
    "jit_mode_eval": "use --torch_compile",
    "fp16_opt_level": "torch's own half precision is used",
    "fp16_backend": "torch's own is used",
    "half_precision_backend": "torch's own is used",
}


class RecipeLoader(yaml.SafeLoader):
    """Safe YAML that leaves what it reads as it is written, but for null: the settings have types of their own.

    Else 1e-4 were a string, as YAML 1.1 has it, and no were false.
    """

    yaml_implicit_resolvers: typing.ClassVar = {
        first: [(tag, pattern) for tag, pattern in resolvers if tag == "tag:yaml.org,2002:null"]
        for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }


class RecipeDumper(yaml.SafeDumper):
    """Writes the members of enumerations as their values."""


RecipeDumper.add_multi_representer(enum.Enum, lambda dumper, member: dumper.represent_data(member.value))


class Parser(HfArgumentParser):
    """HfArgumentParser that raises UserError, and takes no abbreviations, so that misspelt flags are found."""

    def __init__(self, dataclass_types):
        super().__init__(
            dataclass_types,
            allow_abbrev=False,
            usage="%(prog)s [RECIPE.yaml] [--flag value ...]",
            description="Settings come from the recipe, a YAML or JSON file of the flags below; the command line wins.",
        )

    def error(self, message):
        raise UserError(message.removeprefix("argument "))


def run_script(main: Callable, argv: Sequence[str] | None = None) -> None:
    """Call ``main(model_args, data_args, training_args)``; a UserError becomes one line on stderr and exit code 2."""
    log = logging.getLogger("cloze")
    log.setLevel(logging.INFO)
    log.handlers = [logging.StreamHandler(sys.stdout)]
    try:
        main(*parse(sys.argv[1:] if argv is None else argv))
    except UserError as error:
        print("error:", " ".join(str(error).split()), file=sys.stderr)
        sys.exit(2)


def parse(argv: Sequence[str]) -> tuple[ModelArguments, DataTrainingArguments, TrainingArguments]:
    """Resolve ``[RECIPE] --flag value ...`` into dataclasses, values coerced by the fields' types."""
    parser = Parser((ModelArguments, DataTrainingArguments, TrainingArguments))
    defaults = vars(parser.parse_args([]))
    argv, recipe_argv = list(argv), []
    if argv and not argv[0].startswith("-"):
        recipe = argv.pop(0)
        recipe_argv, nulls = recipe_to_argv(recipe, known_settings(parser))
        parser.set_defaults(**nulls)
        try:  # alone first, so that an error names the recipe and not the command line
            parser.parse_args(recipe_argv)
        except UserError as error:
            raise UserError(f"{recipe}: {error}") from None
    namespace, unknown = parser.parse_known_args(recipe_argv + update_flags(argv))
    if unknown and unknown[0].endswith(RECIPE_SUFFIXES):
        raise UserError(f"{unknown[0]}: a recipe is the first argument, before the flags")
    if unknown:
        raise UserError(f"unknown argument {unknown[0]}{did_you_mean(unknown[0], known_settings(parser), prefix='--')}")
    check_dicts(namespace)
    try:
        arguments = parser.parse_dict(vars(namespace))
    except (ValueError, OSError, ImportError, NotImplementedError) as error:
        # transformers checks its own settings, and says in the message which flag is wrong.
        raise UserError(f"{error}") from None
    model_args, data_args, training_args = arguments
    names = [f.name for f in dataclasses.fields(training_args) if f.init]
    asked = {name: getattr(namespace, name) for name in names}
    training_args.asked = {name: value for name, value in asked.items() if value != defaults[name]}
    check_reporting(training_args.report_to)
    check_together(data_args, training_args)
    return model_args, data_args, training_args


def recipe_to_argv(recipe: str, names: dict[str, type]) -> tuple[list[str], dict[str, None]]:
    """A recipe as command-line arguments, and the settings that it sets to null."""
    settings = read_recipe(Path(recipe))
    argv, nulls = [], {}
    for key, value in settings.items():
        key = str(key)
        if key not in [*names, *RENAMED, *REPLACED, *DROPPED]:
            raise UserError(f"{recipe}: unknown setting {key!r}{did_you_mean(key, names)}")
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
            if bool in (names.get(key), *typing.get_args(names.get(key))):
                value = {"on": True, "off": False}.get(value, value)
            argv.append(f"--{key}={json.dumps(typed(value)) if isinstance(value, dict) else value}")
    return update_flags(argv), nulls


def typed(value: Any) -> Any:
    """The values in a dict, whose types are declared nowhere, by their looks."""
    if isinstance(value, dict):
        return {key: typed(item) for key, item in value.items()}
    try:
        return json.loads(value) if isinstance(value, str) else value
    except ValueError:
        return value


def read_recipe(path: Path) -> dict:
    """The mapping in a YAML or JSON file; nothing in it is executed."""
    if path.suffix not in RECIPE_SUFFIXES:
        raise UserError(f"{path} is not a recipe: the first argument is a .yaml, .yml or .json file, or a --flag")
    if not path.is_file():
        raise UserError(f"recipe {path} is not there: give the path of a file, such as recipes/quickstart/mlm.yaml")
    try:
        text = path.read_text(encoding="utf-8-sig")
        settings = json.loads(text) if path.suffix == ".json" else yaml.load(text, RecipeLoader)
    except (yaml.YAMLError, ValueError) as error:
        mark = getattr(error, "problem_mark", None)
        line = mark.line + 1 if mark else getattr(error, "lineno", "?")
        problem = getattr(error, "problem", None) or error
        raise UserError(f"{path}, line {line}: {problem}: a recipe has plain `flag: value` lines") from None
    if not isinstance(settings, dict):
        raise UserError(f"{path} holds no mapping: a recipe has plain `flag: value` lines")
    return settings


def update_flags(argv: Sequence[str]) -> list[str]:
    """Old flags replaced by today's, with a warning each."""
    groups: list[list[str]] = []  # each flag with the values behind it
    for argument in argv:
        if argument.startswith("--") or not groups:
            groups.append([argument])
        else:
            groups[-1].append(argument)
    return [argument for group in groups for argument in update_flag(*group)]


def update_flag(argument: str, *values: str) -> list[str]:
    flag, equals, value = argument.partition("=")
    name = flag.removeprefix("--").replace("-", "_")
    words = [word.lower() for word in (value, *values) if word]
    if name in DROPPED:
        logger.warning("--%s is no longer needed and ignored: %s", name, DROPPED[name])
        return []
    if name in REPLACED:
        today, on, off = REPLACED[name]
        logger.warning("--%s is now --%s %s", name, today, on)
        return [f"--{today}={off if words in (['false'], ['no'], ['0']) else on}"]
    if name == "use_auth_token" and words in ([], ["true"], ["false"]):
        logger.warning("--use_auth_token is now --token; without one, that of `hf auth login` is used")
        return []
    if name in RENAMED:
        logger.warning("--%s is now --%s", name, RENAMED[name])
        return [f"--{RENAMED[name]}{equals}{value}", *values]
    if name == "overwrite_output_dir":
        logger.warning("--overwrite_output_dir is gone from transformers; here it removes old checkpoints")
    return [argument, *values]


def known_settings(parser: HfArgumentParser) -> dict[str, type]:
    """Every setting's name and declared type."""
    hints = [(dtype, typing.get_type_hints(dtype)) for dtype in parser.dataclass_types]
    return {f.name: types[f.name] for dtype, types in hints for f in dataclasses.fields(dtype) if f.init}


def did_you_mean(name: str, known: Iterable[str], prefix: str = "") -> str:
    name = name.partition("=")[0].lstrip("-").replace("-", "_")
    close = difflib.get_close_matches(name, known, n=1, cutoff=0.6)
    return f": did you mean {prefix}{close[0]}?" if close else ": --help lists the flags"


def check_dicts(namespace: argparse.Namespace) -> None:
    """Raise UserError for JSON that transformers could not read; it would not say of which flag."""
    for name in TrainingArguments._VALID_DICT_FIELDS:
        value = getattr(namespace, name)
        if isinstance(value, str) and value.startswith("{"):
            try:
                json.loads(value)
            except json.JSONDecodeError as error:
                raise UserError(f"--{name} {value}: not JSON: {error}") from None


def check_reporting(report_to: Sequence[str]) -> None:
    """Raise UserError for a tracker that is not installed; transformers would show a traceback, later."""
    for name in report_to:
        if name not in get_available_reporting_integrations():
            raise UserError(f"--report_to {name} is not installed or not known: pip install {name}, or drop the flag")


def write_recipe(
    path: Path, model_args: ModelArguments, data_args: DataTrainingArguments, training_args: TrainingArguments
) -> None:
    """Write the resolved settings as a recipe that runs again: our own all, of the trainer's those that were changed.

    Tokens are left out.
    """
    blocks = {
        "model": without_nulls(model_args),
        "data": without_nulls(data_args),
        "trainer; what is not listed has its default": {"output_dir": training_args.output_dir, **training_args.asked},
    }
    with open(path, "w", encoding="utf-8") as file:
        for title, settings in blocks.items():
            settings = {key: value for key, value in settings.items() if key != "token" and not key.endswith("_token")}
            file.write(f"# {title}\n{yaml.dump(settings, Dumper=RecipeDumper, sort_keys=False, allow_unicode=True)}\n")


def without_nulls(arguments: ModelArguments | DataTrainingArguments) -> dict:
    return {key: value for key, value in dataclasses.asdict(arguments).items() if value is not None}
