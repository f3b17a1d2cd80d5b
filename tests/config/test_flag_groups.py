"""Each flag of the scripts' own dataclasses is in one group; each name in a group exists and has a help text."""

import dataclasses
import inspect
from collections import Counter

import pytest
import transformers

import run_classification
import run_clm
import run_mlm
import run_nsp
import run_plm
import run_pretraining
from cloze.config.flag_groups import GROUPS, UPSTREAM_HELP
from cloze.config.parser import settings_of

NAMES = [name for group in GROUPS.values() for name in group]
UPSTREAM = {field.name for field in dataclasses.fields(transformers.TrainingArguments)}


def own_flags(script) -> set[str]:
    """Return the flags that the project's dataclasses declare, not those of transformers alone."""
    flags = set()
    for dtype in settings_of(script.main):
        classes = [cls for cls in dtype.__mro__ if cls.__module__.startswith("cloze")]
        declared = {name for cls in classes for name in inspect.get_annotations(cls)}
        flags |= {field.name for field in dataclasses.fields(dtype) if field.init and field.name in declared}
    return flags


OWN = {
    script: own_flags(script) for script in (run_mlm, run_clm, run_plm, run_nsp, run_pretraining, run_classification)
}


@pytest.mark.parametrize("script", OWN, ids=lambda script: script.__name__)
def test_each_flag_of_ours_is_in_exactly_one_group(script):
    assert {"model_name_or_path", "train_file", "dry_run"} <= OWN[script]
    assert OWN[script] <= set(NAMES)
    assert [name for name, count in Counter(NAMES).items() if count > 1] == []


def test_each_name_in_a_group_exists():
    assert set(NAMES) <= set().union(*OWN.values()) | UPSTREAM


def test_help_replaces_that_of_transformers_alone():
    ours = set().union(*OWN.values())
    assert UPSTREAM_HELP.keys() == set(NAMES) - ours
