"""Recipes and models from strangers take neither the memory nor the time of the machine, and no value out of place."""

import json
import os
import shutil
import time
from types import SimpleNamespace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import DebertaV2Config

import run_mlm
from cloze.config import model_files, parser, recipes
from cloze.config.recipes import RecipeLoader, WrittenLoader, parse_recipe, read_recipe, recipe_to_argv, settings_in
from cloze.errors import UserError
from cloze.models import inspection
from cloze.models.inspection import build_on_meta, check_memory
from cloze.tasks.masked_lm import MASKED_LM
from cloze.training.run_length import length_of

LEAST = ["--model_type", "bert", "--train_file", "text.txt", "--do_train", "--output_dir", "out"]
LAUGHS = "a0: &a0 [x, x]\n" + "".join(f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]\n" for n in range(1, 10))


def parse(argv):
    return parser.parse(argv, parser.settings_of(run_mlm.main))


# Recipes

HOSTILE = {
    "laughs.yaml": (LAUGHS, "line 3: more than 10 aliases"),
    "itself.yaml": ("lr_scheduler_kwargs: &a {b: *a}\n", "line 1: an alias of the list or dict that contains it"),
    "deep.yaml": ("a: " + "[" * 100_000, "line 1: nested more than 20 levels deep"),
    "block.yaml": ("- " * 100_000, "line 1: nested more than 20 levels deep"),
    "deep.json": ('{"a": ' + "[" * 100_000, "nested more than 20 levels deep"),
    "flat.json": ('{"a": ' + "[" * 99 + "]" * 99 + "}", "nested more than 20 levels deep"),
    "large.yaml": ("#" * (recipes.MAX_CHARACTERS + 1), "more than 4,194,304 characters"),
    "digits.json": ('{"seed": ' + "9" * 100_000 + "}", "integer string conversion"),
    "surrogate.yaml": ('run_name: "\\ud83d"', "an unpaired surrogate"),
    "surrogate.json": ('{"run_name": "\\ud83d"}', "an unpaired surrogate"),
    "key.json": ('{"\\ud83d": 1}', "an unpaired surrogate"),
    "nul.yaml": ('run_name: "a\\0b"', "a NUL character"),
    "raw.yaml": ("run_name: a\0b", "unacceptable character #x0000"),
    "twice.yaml": ("seed: 1\nlearning_rate: 1e-4\nseed: 2\n", "line 3: 'seed' is given twice"),
    "inner.yaml": ("lr_scheduler_kwargs: {a: 1, a: 2}\n", "line 1: 'a' is given twice"),
    "twice.json": ('{"seed": 1, "seed": 2}', "'seed' is given twice"),
    "tag.yaml": ("seed: !!int 5", "line 1: the tag 'tag:yaml.org,2002:int' is not allowed"),
    "keys.yaml": ("? [a, b]\n: 1\n", "line 1: a list or dict is not allowed as a key"),
    "merge.yaml": ("<<: {seed: 1}\n", "unknown setting '<<'"),
    "latin1.yaml": (b"run_name: d\xe9j\xe0", "latin1.yaml is not UTF-8"),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_recipe_is_refused_at_once(name, tmp_path):
    text, problem = HOSTILE[name]
    path = tmp_path / name
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    start = time.process_time()
    with pytest.raises(UserError) as error:
        parse([str(path), *LEAST])
    assert str(error.value).startswith(str(path))
    assert problem in " ".join(str(error.value).split())
    assert time.process_time() - start < 2


def test_recipe_of_too_many_values_is_refused(monkeypatch):
    monkeypatch.setattr(recipes, "MAX_VALUES", 1_000)
    with pytest.raises(UserError, match=r"a.yaml, line 1: more than 1,000 values: cure"):
        parse_recipe("a: [" + "x," * 1_000 + "]", "a.yaml", "cure", RecipeLoader)


def test_recipe_is_not_read_beyond_its_size_limit(tmp_path):
    path = tmp_path / "large.yaml"
    with open(path, "wb") as file:
        file.truncate(2**40)
    with pytest.raises(UserError, match="more than 4,194,304 characters"):
        read_recipe(path)


@pytest.mark.parametrize("kind", ["fifo", "zero"])
def test_recipe_must_be_a_file(kind, tmp_path):
    path = tmp_path / "recipe.yaml"
    os.mkfifo(path) if kind == "fifo" else path.symlink_to("/dev/zero")
    with pytest.raises(UserError, match=r"recipe .* does not exist"):
        read_recipe(path)


def test_recipe_aliases_and_long_recipes_are_accepted(tmp_path):
    path = tmp_path / "recipe.yaml"
    files = [f"shards/part-{number:05}-of-03000.txt" for number in range(3_000)]
    path.write_text(f"train_file: &files [{', '.join(files)}]\nvalidation_file: *files\n")
    assert read_recipe(path) == {"train_file": files, "validation_file": files}


def test_recipe_reads_back_non_utf8_file_names():
    name = os.fsdecode(b"d\xe9j\xe0.txt")
    text = recipes.recipe_of(*parse([*LEAST, "--train_file", name]))
    assert settings_in(text)["train_file"] == [name]


PIECES = [
    *("a: ", "- ", "? ", ": ", "[", "]", "{", "}", ",", "&a ", "*a", "!!int ", "!!binary ", "!x ", "<<: ", "=", "|\n"),
    *("\n", " ", "  ", '"', "'", "\\ud800", "\\0", "\0", "#", "%YAML 1.1\n", "---\n", "...\n", "null", "~", "0x", "1_"),
    *("1:2:3", "9" * 5000, "1e999", ".nan", "2001-99-99", "\x85", "\u2028", "\ufeff", "seed", "true", "\t", "[" * 99),
]


@settings(max_examples=200, deadline=None, database=None, derandomize=True)
@given(st.lists(st.one_of(st.sampled_from(PIECES), st.text(max_size=3)), max_size=12).map("".join))
def test_recipe_parser_gives_a_mapping_or_one_line_error(text):
    for name, loader in (("a.yaml", RecipeLoader), ("a.yaml", WrittenLoader), ("a.json", RecipeLoader)):
        try:
            mapping = parse_recipe(text, name, "cure", loader)
        except UserError:
            continue
        json.dumps(mapping, default=str)


def test_checkpoint_recipe_has_the_same_limits():
    for text in (LAUGHS, "[" * 100_000, "seed: " + "9" * 5000, "seed: 1\nseed: 2", "no mapping"):
        with pytest.raises(UserError, match=r"recipe.yaml of the checkpoint.*start from the checkpoint's weights"):
            settings_in(text)


def test_checkpoint_with_invalid_length_is_an_error():
    with pytest.raises(UserError, match=r"the checkpoint's recipe.yaml: max_steps 'many' is not a number"):
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
        (["--fsdp_config", "/dev/zero"], "--fsdp_config /dev/zero is not a JSON file of at most 4,194,304 bytes"),
        (["--config_overrides", "x=" * 50_000], ""),
    ],
    ids=lambda value: str(value)[:40],
)
def test_absurd_values_are_one_short_line(argv, problem, run_mlm_script, tmp_path):
    start = time.process_time()
    code, _, errors = run_mlm_script(*LEAST[:4], "--do_train", "--output_dir", tmp_path / "out", *argv)
    assert code == 2
    assert problem in errors
    assert errors.startswith("error: ")
    assert errors.count("\n") == 1
    assert len(errors) < 3000
    assert time.process_time() - start < 2


def test_recipe_with_a_very_long_key_is_one_error(tmp_path):
    (tmp_path / "recipe.yaml").write_text("? " + "x" * 1_000_000 + "\n: 1\n")
    with pytest.raises(UserError, match="unknown setting"):
        recipe_to_argv(str(tmp_path / "recipe.yaml"), {"seed": int})


# Models


@pytest.fixture
def model(checkpoint, tmp_path):
    """``model(file, change)`` is a tiny BERT with changed values in a JSON file, or another text in a file."""
    # Made here, so that a test does not capture what this prints.
    whole = checkpoint("bert")

    def make(file, change):
        folder = tmp_path / "model"
        shutil.copytree(whole, folder)
        if isinstance(change, str):
            (folder / file).write_text(change)
        else:
            settings = json.loads((folder / file).read_text())
            (folder / file).write_text(json.dumps(change(settings) or settings))
        return folder

    return make


@pytest.fixture
def run(run_mlm_script, texts, tmp_path):
    (tmp_path / "text.txt").write_text("\n\n".join(texts[:40]))

    def run_(*argv):
        """Run the script with what is to be refused at once; returns its error."""
        start = time.process_time()
        code, _, errors = run_mlm_script(
            "--train_file", tmp_path / "text.txt", "--do_train", "--max_steps", 1, "--max_seq_length", 32,
            "--output_dir", tmp_path / "out", *argv,
        )  # fmt: skip
        assert code == 2, errors
        assert errors.startswith("error: ")
        assert errors.count("\n") == 1
        assert len(errors) < 3000
        assert time.process_time() - start < 4
        return errors

    return run_


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({"num_hidden_layers": 10**9}, "num_hidden_layers is more than 1,000,000"),
        ({"model_type": "modernbert", "num_hidden_layers": 10**9}, "num_hidden_layers is more than 1,000,000"),
        ({"num_labels": 10**9}, "num_labels is more than 1,000,000"),
        ({"num_hidden_layers": 0}, "cannot build a bert model from this config: 0 layers: check its config.json"),
        ({"num_hidden_layers": -1}, "-1 layers"),
        ({"vocab_size": 2**40}, "the model has 18,691,697,678,064 parameters (74766.79 GB), but this machine has"),
        ({"hidden_size": 2**40}, "cannot build a bert model from this config: "),
        ({"hidden_size": -16}, "negative dimension -16"),
        ({"hidden_size": 10**30}, "cannot build a bert model from this config: "),
        ({"vocab_size": 0}, "cannot build a bert model from this config: "),
        ({"pad_token_id": 10**6}, "cannot build a bert model from this config: "),
        ({"hidden_act": "none"}, "cannot build a bert model from this config: "),
        ({"hidden_size": "many"}, "expected int, got str"),
        ({"layer_norm_eps": float("nan")}, "layer_norm_eps is not a number"),
        ({"model_type": ["bert"]}, "no model: give a folder with a config.json"),
        ({"id2label": 5}, "no model: give a folder with a config.json"),
        ({"inner": json.loads("[" * 99 + "]" * 99)}, "inner is nested more than 20 levels deep"),
    ],
    ids=str,
)
def test_hostile_config_is_refused_at_once(change, problem, model, run):
    assert problem in run("--model_name_or_path", model("config.json", lambda settings: settings.update(change)))


@pytest.mark.parametrize("text", ["[" * 100_000, "[1]", '"bert"', "{", "\0"], ids=lambda text: text[:9])
@pytest.mark.parametrize("file", ["config.json", "tokenizer.json", "tokenizer_config.json"])
def test_hostile_json_of_a_model_is_refused_at_once(file, text, model, run):
    assert "model" in run("--model_name_or_path", model(file, text))


@pytest.mark.parametrize("file", ["config.json", "tokenizer.json", "tokenizer_config.json"])
def test_large_model_files_are_not_read(file, model, run):
    folder = model(file, "")
    with open(folder / file, "wb") as large:
        large.truncate(2**40)
    assert f"{file} has more than " in run("--model_name_or_path", folder)


@pytest.mark.parametrize(
    ("override", "problem"),
    [
        ("num_hidden_layers=1000000000", "num_hidden_layers is more than 1,000,000"),
        ("num_hidden_layers=0", "0 layers: check --config_overrides"),
        ("max_position_embeddings=99999999999", "check --config_overrides, or use a smaller model"),
        ("num_labels=1000000000", "num_labels is more than 1,000,000"),
        ("layer_norm_eps=nan", "layer_norm_eps is not a number"),
        ("hidden_size=" + "9" * 5000, "Exceeds the limit"),
        ("__class__=5", "You can only update int, float, bool or string values"),
    ],
    ids=lambda value: value[:30],
)
def test_hostile_overrides_are_refused_at_once(override, problem, checkpoint, run):
    argv = ("--model_type", "bert", "--tokenizer_name", checkpoint("bert"), "--config_overrides", override)
    assert problem in run(*argv)


def test_token_ids_far_apart_are_refused_at_once(model, run):
    def move_last(settings):
        vocabulary = settings["model"]["vocab"]
        vocabulary[max(vocabulary, key=vocabulary.get)] = 2**31

    folder = model("tokenizer.json", move_last)
    for argv in (("--model_name_or_path", folder), ("--model_type", "bert", "--tokenizer_name", folder)):
        assert "500 tokens but ids up to 2,147,483,648: number the tokens without gaps" in run(*argv)


def test_gaps_between_token_ids_are_accepted():
    model_files.check_vocabulary({"model": {"vocab": {"a": 0, "b": 1, "added": 127}}})
    model_files.check_vocabulary({"a": 0, "model": 1})
    with pytest.raises(ValueError, match="3 tokens but ids up to 500"):
        model_files.check_vocabulary({"a": 0, "b": 1, "c": 500})


@pytest.mark.parametrize("shard", ["../elsewhere.safetensors", "{other}", 5], ids=str)
def test_weight_index_may_only_name_files_beside_it(shard, model, checkpoint, run):
    """Else a model could be of files elsewhere on the machine; links are taken, as the Hub's cache is of links."""
    folder = model("config.json", lambda settings: None)
    (folder / "model.safetensors").rename(folder.parent / "elsewhere.safetensors")
    if isinstance(shard, str):
        shard = shard.format(other=folder.parent / "elsewhere.safetensors")
    index = {"metadata": {}, "weight_map": {"bert.embeddings.LayerNorm.bias": shard}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    problem = "is not a file in the folder of its index" if isinstance(shard, str) else "the weights cannot be loaded"
    assert problem in run("--model_name_or_path", folder)


def test_weights_may_be_a_symlink(model, run_mlm_script, texts, tmp_path):
    folder = model("config.json", lambda settings: None)
    (folder / "model.safetensors").rename(tmp_path / "blob")
    (folder / "model.safetensors").symlink_to(tmp_path / "blob")
    (tmp_path / "text.txt").write_text("\n\n".join(texts[:40]))
    code, _, errors = run_mlm_script(
        "--model_name_or_path", folder, "--train_file", tmp_path / "text.txt", "--do_train", "--max_steps", 1,
        "--max_seq_length", 32, "--output_dir", tmp_path / "out",
    )  # fmt: skip
    assert code == 0, errors


@pytest.mark.parametrize(
    "header",
    [
        (100 * 2**30).to_bytes(8, "little"),
        (2**64 - 1).to_bytes(8, "little"),
        b"\x02\0\0\0\0\0\0\0{}",
        b"",
    ],
    ids=len,
)
def test_weights_with_a_false_header_are_refused_at_once(header, model, run):
    folder = model("config.json", lambda settings: None)
    (folder / "model.safetensors").write_bytes(header + b"[" * 1000)
    assert "weights" in run("--model_name_or_path", folder)


def test_model_of_too_many_modules_is_refused(monkeypatch):
    monkeypatch.setattr(inspection, "MAX_MODULES", 200)
    config = DebertaV2Config(hidden_size=16, num_attention_heads=2, intermediate_size=16, num_hidden_layers=10**6)
    with pytest.raises(UserError, match="more than 200 modules: check --config_overrides"):
        build_on_meta(config, MASKED_LM)
    # The bound goes with the outline.
    config.num_hidden_layers = 1
    assert len(list(build_on_meta(config, MASKED_LM).modules())) < 200
    for _ in range(9):
        build_on_meta(config, MASKED_LM)


def test_largest_encoder_is_limited_by_memory_only(monkeypatch):
    """DeBERTa-v2-xxlarge, of 1.5 billion parameters."""
    model = build_on_meta(
        DebertaV2Config(
            vocab_size=128_100, hidden_size=1536, num_attention_heads=24, intermediate_size=6144, num_hidden_layers=48
        ),
        MASKED_LM,
    )
    assert model.num_parameters() > 1.5e9
    for size, dtype, problem in [(7e9, "float32", None), (4e9, "bfloat16", None), (4e9, "float32", "4.00 GB")]:
        monkeypatch.setattr(inspection.psutil, "virtual_memory", lambda size=size: SimpleNamespace(total=size))
        if problem is None:
            check_memory(model, dtype)
        else:
            with pytest.raises(UserError, match=problem):
                check_memory(model, dtype)
