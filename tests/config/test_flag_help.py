"""--help shows the flags in groups, each once, with one default; docs/flags.md is the page of today's dataclasses."""

import re

import pytest

import run_classification
import run_clm
import run_mlm
import run_nsp
import run_plm
import run_pretraining
from cloze.config.flag_groups import GROUPS, REST
from cloze.config.flag_help import flags_of, format_flags, grouped
from cloze.config.parser import settings_of
from docs.make_flags import PAGE, make_page

SCRIPTS = pytest.mark.parametrize(
    "script",
    [run_mlm, run_clm, run_plm, run_nsp, run_pretraining, run_classification],
    ids=lambda script: script.__name__,
)


@SCRIPTS
def test_help_has_each_flag_once_and_those_of_transformers_last(script):
    types = settings_of(script.main)
    text = format_flags(types)
    flags = re.findall(r"^  --(\w+)", text, re.M)
    assert sorted(flags) == sorted(flags_of(types))
    titles = re.findall(r"^(\w.*):$", text, re.M)
    assert titles == [title for title in [*GROUPS, REST] if title in titles]
    assert titles[-1] == REST
    # The last group, and no other, has flags that are in none of the groups.
    grouped_names = {name for group in GROUPS.values() for name in group}
    in_rest = re.findall(r"^  --(\w+)", text.partition(f"{REST}:\n")[2], re.M)
    assert set(in_rest) == set(flags) - grouped_names
    assert "adam_beta1" in in_rest


@pytest.mark.parametrize(
    ("script", "title", "is_there"),
    [
        (run_mlm, "Masking", True),
        (run_mlm, "Sentence pairs", False),
        (run_clm, "Masking", False),
        (run_nsp, "Masking", False),
        (run_nsp, "Sentence pairs", True),
        (run_plm, "Permutations", True),
        (run_plm, "Masking", False),
        (run_mlm, "Permutations", False),
        (run_mlm, "Comparison", False),
        (run_classification, "Comparison", True),
        (run_pretraining, "Prediction", True),
    ],
)
def test_script_shows_its_groups(script, title, is_there):
    assert (title in dict(grouped(flags_of(settings_of(script.main))))) is is_there


@pytest.mark.parametrize(
    ("name", "value", "choices", "default"),
    [
        ("model_type", "STR", [], ""),
        ("vocab_size", "INT", [], ""),
        ("mlm_probability", "FLOAT", [], "0.15"),
        ("train_file", "STR ...", [], ""),
        ("line_by_line", "", [], ""),
        ("use_fast_tokenizer", "", [], "on"),
        ("disable_tqdm", "BOOL", [], ""),
        ("csv_quoting", "STR", ["minimal", "none"], ""),
        ("eval_strategy", "STR", ["no", "steps", "epoch"], "no"),
        ("optim", "STR", [], "adamw_torch_fused"),
        ("learning_rate", "FLOAT", [], "5e-05"),
        ("warmup_steps", "FLOAT", [], "0"),
        ("lr_scheduler_kwargs", "JSON", [], ""),
        ("save_total_limit", "INT", [], "2"),
    ],
)
def test_flag_has_the_declared_type_choices_and_default(name, value, choices, default):
    flag = flags_of(settings_of(run_mlm.main))[name]
    assert (flag.value, list(flag.choices), flag.default) == (value, choices, default)


@SCRIPTS
@pytest.mark.parametrize("columns", [60, 80, 100, 200])
def test_lines_fit_the_terminal(script, columns, monkeypatch):
    monkeypatch.setenv("COLUMNS", str(columns))
    lines = format_flags(settings_of(script.main)).splitlines()
    # A long word, such as the address of an issue, is not broken.
    too_long = [line for line in lines if len(line) > min(columns, 120) and " " in line.strip()]
    assert [line for line in too_long if not line.strip().startswith("--")] == []


def test_help_says_a_default_once_and_no_null():
    text = format_flags(settings_of(run_mlm.main)).partition(REST)[0]
    assert "None" not in text
    assert "(default: False)" not in text
    assert len(re.findall(r"\(default: 0\.15\)", text)) == 2


def test_page_of_flags_is_current():
    assert PAGE.read_text(encoding="utf-8") == make_page(), "run python -m docs.make_flags"
