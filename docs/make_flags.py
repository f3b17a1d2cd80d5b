"""Write docs/flags.md from the dataclasses of the scripts: ``python -m docs.make_flags``."""

import dataclasses
import re
from pathlib import Path
from types import ModuleType

import transformers

import run_classification
import run_clm
import run_mlm
import run_nsp
import run_plm
import run_pretraining
from cloze.config.arguments import TrainingArguments
from cloze.config.flag_groups import GROUPS, UPSTREAM_HELP
from cloze.config.flag_help import Flag, flags_of, grouped
from cloze.config.parser import settings_of

SCRIPTS = (run_mlm, run_clm, run_plm, run_nsp, run_pretraining, run_classification)
PAGE = Path(__file__).with_name("flags.md")
HEAD = """# Flags

    python run_mlm.py --help

shows the flags of a script in the groups below, then the other flags of
[transformers.TrainingArguments](https://huggingface.co/docs/transformers/main_classes/trainer#transformers.TrainingArguments).

- A recipe is a YAML or JSON file of these flags, given as the first argument. Flags on the command line override it.
- A flag without a value is a switch, off by default. `--flag` turns it on, `--flag false` turns it off.
- `STR ...` takes one or more values, `JSON` a JSON object or the path of a JSON file.
- `--train-file` and `--train_file` are the same.
- **differs**: the default is not the one of transformers.
- A flag without an entry under "scripts" belongs to all scripts.

This page is generated from the scripts' dataclasses by `python -m docs.make_flags`.
"""


def make_page() -> str:
    """Return the page: a table for each group of flags."""
    flags = {_name(script): flags_of(settings_of(script.main)) for script in SCRIPTS}
    merged = {name: flag for of_script in flags.values() for name, flag in of_script.items()}
    sections = [HEAD]
    for title, group in grouped({name: merged[name] for names in GROUPS.values() for name in names}):
        rows = [_row(variant, scripts) for flag in group for variant, scripts in _variants(flag.name, flags)]
        table = ["| flag | value | default | scripts | |", "|---|---|---|---|---|", *rows]
        sections.append("\n".join([f"## {title}\n", *table, ""]))
    return "\n".join(sections)


def _name(script: ModuleType) -> str:
    return Path(script.__file__).stem


def _variants(name: str, flags: dict[str, dict[str, Flag]]) -> list[tuple[Flag, list[str]]]:
    """Return the different descriptions of a flag, each with its scripts; those of all scripts are left out."""
    variants: dict[str, tuple[Flag, list[str]]] = {}
    for script, of_script in flags.items():
        if name in of_script:
            variants.setdefault(str(of_script[name]), (of_script[name], []))[1].append(script)
    return [(flag, scripts if len(scripts) < len(flags) else []) for flag, scripts in variants.values()]


def _row(flag: Flag, scripts: list[str]) -> str:
    # Choices that transformers declares depend on its version.
    choices = "" if flag.name in UPSTREAM_HELP else ", ".join(f"`{choice}`" for choice in flag.choices)
    default = f"{flag.default or 'off'} **differs**" if _differs(flag.name) else flag.default
    text = re.sub(r"--\w+", r"`\g<0>`", flag.help)
    return f"| `--{flag.name}` | {choices or flag.value} | {default} | {', '.join(scripts)} | {text} |"


def _differs(name: str) -> bool:
    """Return whether the default of a setting of training is not the one of transformers."""
    ours, upstream = (
        {field.name: field.default for field in dataclasses.fields(settings)}
        for settings in (TrainingArguments, transformers.TrainingArguments)
    )
    # A null stands for a default that is chosen later.
    return name in upstream and ours[name] not in (None, upstream[name])


if __name__ == "__main__":
    PAGE.write_text(make_page(), encoding="utf-8")
