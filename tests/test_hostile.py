"""Recipes and models from strangers take neither the memory nor the time of the machine, and no value out of place."""

import json
import os
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import run_mlm
from cloze import commandline, recipes
from cloze.arguments import UserError
from cloze.recipes import BoundedLoader, RecipeLoader, parse_recipe, read_recipe, recipe_to_argv, settings_in
from cloze.run_length import length_of

LEAST = ["--model_type", "bert", "--train_file", "text.txt", "--do_train", "--output_dir", "out"]
LAUGHS = "a0: &a0 [x, x]\n" + "".join(f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]\n" for n in range(1, 10))


def parse(argv):
    return commandline.parse(argv, commandline.settings_of(run_mlm.main))


# Recipes

HOSTILE = {
    "laughs.yaml": (LAUGHS, "line 3: more than 10 aliases"),
    "itself.yaml": ("lr_scheduler_kwargs: &a {b: *a}\n", "line 1: an alias of what it is in"),
    "deep.yaml": ("a: " + "[" * 100_000, "line 1: a depth of more than 20 lists and dicts"),
    "block.yaml": ("- " * 100_000, "line 1: a depth of more than 20 lists and dicts"),
    "deep.json": ('{"a": ' + "[" * 100_000, "a depth of more than 20 lists and dicts"),
    "flat.json": ('{"a": ' + "[" * 99 + "]" * 99 + "}", "a depth of more than 20 lists and dicts"),
    "large.yaml": ("#" * (recipes.MAX_CHARACTERS + 1), "more than 4,194,304 characters"),
    "digits.json": ('{"seed": ' + "9" * 100_000 + "}", "integer string conversion"),
    "surrogate.yaml": ('run_name: "\\ud83d"', "half a surrogate pair"),
    "surrogate.json": ('{"run_name": "\\ud83d"}', "half a surrogate pair"),
    "key.json": ('{"\\ud83d": 1}', "half a surrogate pair"),
    "nul.yaml": ('run_name: "a\\0b"', "a NUL character"),
    "raw.yaml": ("run_name: a\0b", "unacceptable character #x0000"),
    "twice.yaml": ("seed: 1\nlearning_rate: 1e-4\nseed: 2\n", "line 3: 'seed' is there twice"),
    "inner.yaml": ("lr_scheduler_kwargs: {a: 1, a: 2}\n", "line 1: 'a' is there twice"),
    "twice.json": ('{"seed": 1, "seed": 2}', "'seed' is there twice"),
    "tag.yaml": ("seed: !!int 5", "line 1: a tag, 'tag:yaml.org,2002:int'"),
    "keys.yaml": ("? [a, b]\n: 1\n", "line 1: a list or dict as key"),
    "merge.yaml": ("<<: {seed: 1}\n", "unknown setting '<<'"),
    "latin1.yaml": (b"run_name: d\xe9j\xe0", "latin1.yaml is not UTF-8"),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_recipe_is_refused_at_once(name, tmp_path):
    text, problem = HOSTILE[name]
    path = tmp_path / name
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    start = time.process_time()
    with pytest.raises(UserError) as error:
        parse([str(path), *LEAST])
    assert str(error.value).startswith(str(path))
    assert problem in " ".join(str(error.value).split())
    assert time.process_time() - start < 2


def test_a_recipe_of_too_many_values_is_refused(monkeypatch):
    monkeypatch.setattr(recipes, "MAX_VALUES", 1_000)
    with pytest.raises(UserError, match=r"a.yaml, line 1: more than 1,000 values: cure"):
        parse_recipe("a: [" + "x," * 1_000 + "]", "a.yaml", "cure", RecipeLoader)


def test_a_recipe_is_not_read_beyond_its_bound(tmp_path):
    path = tmp_path / "large.yaml"
    with open(path, "wb") as file:
        file.truncate(2**40)
    with pytest.raises(UserError, match="more than 4,194,304 characters"):
        read_recipe(path)


@pytest.mark.parametrize("kind", ["fifo", "zero"])
def test_a_recipe_is_a_file(kind, tmp_path):
    path = tmp_path / "recipe.yaml"
    os.mkfifo(path) if kind == "fifo" else path.symlink_to("/dev/zero")
    with pytest.raises(UserError, match="is not there"):
        read_recipe(path)


def test_a_list_may_be_used_twice_and_a_recipe_be_long(tmp_path):
    path = tmp_path / "recipe.yaml"
    files = [f"shards/part-{number:05}-of-03000.txt" for number in range(3_000)]
    path.write_text(f"train_file: &files [{', '.join(files)}]\nvalidation_file: *files\n")
    assert read_recipe(path) == {"train_file": files, "validation_file": files}


def test_a_number_of_a_file_name_outside_utf8_is_read_back(tmp_path):
    """As a run writes it for a file whose name is in another encoding."""
    name = os.fsdecode(b"d\xe9j\xe0.txt")
    text = recipes.recipe_of(*parse([*LEAST, "--run_name", name]))
    assert settings_in(text)["run_name"] == name


PIECES = [
    *("a: ", "- ", "? ", ": ", "[", "]", "{", "}", ",", "&a ", "*a", "!!int ", "!!binary ", "!x ", "<<: ", "=", "|\n"),
    *("\n", " ", "  ", '"', "'", "\\ud800", "\\0", "\0", "#", "%YAML 1.1\n", "---\n", "...\n", "null", "~", "0x", "1_"),
    *("1:2:3", "9" * 5000, "1e999", ".nan", "2001-99-99", "\x85", "\u2028", "\ufeff", "seed", "true", "\t", "[" * 99),
]


@settings(max_examples=200, deadline=None, database=None, derandomize=True)
@given(st.lists(st.one_of(st.sampled_from(PIECES), st.text(max_size=3)), max_size=12).map("".join))
def test_any_text_is_a_mapping_or_an_error_in_one_line(text):
    for name, loader in (("a.yaml", RecipeLoader), ("a.yaml", BoundedLoader), ("a.json", RecipeLoader)):
        try:
            mapping = parse_recipe(text, name, "cure", loader)
        except UserError:
            continue
        json.dumps(mapping, default=str)


def test_the_recipe_in_a_checkpoint_is_bounded_too():
    for text in (LAUGHS, "[" * 100_000, "seed: " + "9" * 5000, "seed: 1\nseed: 2", "no mapping"):
        with pytest.raises(UserError, match=r"recipe.yaml of the checkpoint.*start from its weights"):
            settings_in(text)


def test_a_length_in_a_checkpoint_that_is_no_number_is_told():
    with pytest.raises(UserError, match=r"recipe.yaml of the checkpoint: max_steps 'many' is not a number"):
        length_of(settings_in("max_steps: many"))


# Values


@pytest.mark.parametrize(
    ("argv", "problem"),
    [
        (["--seed", "9" * 100_000], "--seed: invalid int value"),
        (["--max_steps", "9" * 4000], "--max_steps 999999999999999999...9999999999999999999 is too large: give less"),
        (["--learning_rate", "nan"], "--learning_rate nan is not a number"),
        (["--logging_steps", "1e999"], "cannot convert float infinity to integer"),
        (["--lr_scheduler_kwargs", '{"a":' * 100_000], "not JSON: maximum recursion depth"),
        (["--lr_scheduler_kwargs", '{"a": ' + "9" * 5000 + "}"], "not JSON: Exceeds the limit"),
        (["--fsdp_config", "/dev/zero"], "--fsdp_config /dev/zero is not a file of JSON"),
        (["--config_overrides", "x=" * 50_000], ""),
    ],
    ids=lambda value: str(value)[:40],
)
def test_absurd_values_end_in_one_short_line(argv, problem, run_mlm_script, tmp_path):
    start = time.process_time()
    code, _, errors = run_mlm_script(*LEAST[:4], "--do_train", "--output_dir", tmp_path / "out", *argv)
    assert code == 2
    assert problem in errors
    assert errors.startswith("error: ")
    assert errors.count("\n") == 1
    assert len(errors) < 3000
    assert time.process_time() - start < 2


def test_a_value_of_a_recipe_is_read_with_its_bounds(tmp_path):
    (tmp_path / "recipe.yaml").write_text("? " + "x" * 1_000_000 + "\n: 1\n")
    with pytest.raises(UserError, match="unknown setting"):
        recipe_to_argv(str(tmp_path / "recipe.yaml"), {"seed": int})
