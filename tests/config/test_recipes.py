"""Test that every recipe is parsed, documented, and runs for two steps with a tiny model of its family."""

import json
import math
import re
import shlex
import shutil
from pathlib import Path

import pytest
import torch
import yaml
from transformers import XLMRobertaConfig, XLMRobertaForMaskedLM, XLMRobertaTokenizer

import run_classification
import run_clm
import run_mlm
import run_nsp
import run_plm
import run_pretraining
from cloze.config.parser import parse, settings_of
from cloze.config.recipes import differences
from cloze.models.loading import sync_config_with_tokenizer
from tests.utils import BERT_LIKE, CAUSAL_FAMILIES, FAMILIES, PAIR_FAMILIES, ROOT, SAMPLE, driver

RECIPES = ROOT / "recipes"
# The files for accelerate and clusters are not settings of scripts; test_cluster.py tests them.
FILES = sorted(path.relative_to(RECIPES) for path in RECIPES.glob("*/*"))
ALL = [path for path in FILES if path.parent.name not in ("accelerate", "cluster")]
# A recipe's name begins with the name of its script, or of its data set.
SCRIPTS = {
    "mlm": run_mlm,
    "clm": run_clm,
    "nsp": run_nsp,
    "plm": run_plm,
    "pretraining": run_pretraining,
    "classification": run_classification,
    "ag": run_classification,
    "detour": run_clm,
    "from": run_mlm,
}
COMPARISONS = [recipe for recipe in ALL if recipe.stem in ("classification", "ag-news")]
SMALL_GPT2 = "n_embd=16,n_layer=2,n_head=2,n_positions=66"
SMALL = "hidden_size=16,num_hidden_layers=2,num_attention_heads=2"
BERT_SMALL = f"{SMALL},intermediate_size=32,max_position_embeddings=66"
# Families whose checkpoints have other names.
FAMILY_OF = {"deberta-v3-base": "deberta-v2"}


@pytest.fixture(autouse=True)
def at_the_root(monkeypatch):
    monkeypatch.chdir(RECIPES.parent)


def script_of(recipe):
    return SCRIPTS[recipe.stem.partition("-")[0]]


@pytest.fixture(scope="session")
def xlm_roberta(tokenizers, tmp_path_factory):
    """A tiny model and a Unigram tokenizer with the special tokens of its class, the mask last."""
    pieces = sorted(tokenizers["unigram"].get_vocab().keys() - set(tokenizers["unigram"].all_special_tokens))
    special = [(token, 0.0) for token in ("<s>", "<pad>", "</s>", "<unk>")]
    tokenizer = XLMRobertaTokenizer(vocab=[*special, *((piece, -6.0) for piece in pieces), ("<mask>", 0.0)])
    config = XLMRobertaConfig(**BERT_LIKE)
    sync_config_with_tokenizer(config, tokenizer)
    path = tmp_path_factory.mktemp("xlm-roberta")
    torch.manual_seed(0)
    XLMRobertaForMaskedLM(config).save_pretrained(path)
    tokenizer.save_pretrained(path)
    return str(path)


@pytest.fixture
def tiny(request, checkpoint, causal_checkpoint, pair_checkpoint, xlnet_checkpoint):
    """``tiny(script, name)`` is a tiny checkpoint of the family of a named one, with the script's head."""

    def make(script, name: str) -> str:
        # The family's name begins the checkpoint's, also where another recipe has saved it.
        name = FAMILY_OF.get(Path(name).name, Path(name).name.lower())
        if name.startswith("xlm-roberta"):
            return request.getfixturevalue("xlm_roberta")
        if script is run_plm:
            return xlnet_checkpoint("xlnet")
        # run_clm.py also takes encoders.
        heads = {
            run_mlm: [(FAMILIES, checkpoint)],
            run_clm: [(CAUSAL_FAMILIES, causal_checkpoint), (FAMILIES, checkpoint)],
        }
        makers = heads.get(script, [(PAIR_FAMILIES, pair_checkpoint)])
        return next(make(family) for families, make in makers for family in sorted(families) if name.startswith(family))

    return make


@pytest.mark.parametrize("recipe", [recipe for recipe in ALL if recipe not in COMPARISONS], ids=str)
def test_recipe_trains_a_tiny_model_of_its_family(recipe, tiny, capsys, tmp_path):
    script = script_of(recipe)
    model_args, _, _ = parse([f"recipes/{recipe}"], settings_of(script.main))
    if model_args.model_type:
        small = {run_clm: SMALL_GPT2, run_plm: SMALL}.get(script, BERT_SMALL)
        model = ("--config_overrides", small, "--vocab_size", 300)
    else:
        model = ("--model_name_or_path", tiny(script, model_args.model_name_or_path))
    argv = (
        f"recipes/{recipe}", *model, "--train_file", SAMPLE, "--max_seq_length", 32, "--max_steps", 2,
        "--gradient_accumulation_steps", 2, "--dataloader_num_workers", 0, "--output_dir", tmp_path / "out",
    )  # fmt: skip
    code, printed, errors = driver(script.main, capsys)(*argv, "--dry_run")
    assert code == 0, errors
    assert re.search(r"Memory +about [\d.]+ MB per device", printed)
    assert not (tmp_path / "out").exists()
    code, _, errors = driver(script.main, capsys)(*argv)
    assert code == 0, errors
    assert (tmp_path / "out" / "model.safetensors").is_file()


@pytest.mark.parametrize("recipe", COMPARISONS, ids=str)
def test_recipe_compares_two_models(recipe, checkpoint, capsys, monkeypatch, tmp_path):
    """Tiny models and a data set on disk replace those of the Hub, under the same names."""
    settings = yaml.safe_load((RECIPES / recipe).read_text())
    names = [model.rpartition("=")[2] for model in settings["compare_with"]]
    assert names[-1].startswith("results/")
    shutil.copytree(SAMPLE, tmp_path / "sample")
    for name in names:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).symlink_to(checkpoint("bert"))
    rows = [{"text": f"text {number}", "label": number % 4} for number in range(80)]
    folder = tmp_path / settings.get("dataset_name", "unused")
    folder.mkdir(parents=True)
    (folder / "train.jsonl").write_text("\n".join(map(json.dumps, rows)))
    monkeypatch.chdir(tmp_path)
    code, printed, errors = driver(run_classification.main, capsys)(
        RECIPES / recipe, "--max_seq_length", 32, "--max_steps", 2, "--num_seeds", 1,
    )  # fmt: skip
    assert code == 0, errors
    compared = json.loads((tmp_path / settings["output_dir"] / "comparison.json").read_text())["models"]
    assert [model["name"] for model in compared][-1] == settings["compare_with"][-1].partition("=")[0]
    assert len(compared) == 2
    assert "Difference to" in printed


@pytest.mark.parametrize("recipe", COMPARISONS, ids=str)
def test_command_before_a_comparison_is_valid(recipe):
    """The recipe names the compared model, and its flags are parsed."""
    comments = (RECIPES / recipe).read_text().partition("\n\n")[0].replace("\n#", " ")
    command = shlex.split(re.search(r"python run_mlm.py (.*?)( Then|$)", comments)[1])
    _, _, training_args = parse(command, settings_of(run_mlm.main))
    compared = yaml.safe_load((RECIPES / recipe).read_text())["compare_with"]
    assert compared[-1].endswith(f"={training_args.output_dir}")


def test_detour_takes_as_many_steps_as_masked_language_modelling():
    """The command in its comment continues from its output with the recipe that it is compared with."""
    comments = (RECIPES / "bert-base" / "detour.yaml").read_text().partition("\n\n")[0].replace("\n#", " ")
    command = shlex.split(re.search(r"python run_mlm.py (.*)", comments)[1])
    _, _, alone = parse(["recipes/bert-base/mlm.yaml"], settings_of(run_mlm.main))
    _, first_data, first = parse(["recipes/bert-base/detour.yaml"], settings_of(run_clm.main))
    second_model, second_data, second = parse(command, settings_of(run_mlm.main))
    assert first.num_train_epochs + second.num_train_epochs == alone.num_train_epochs
    assert second.num_train_epochs == pytest.approx(alone.num_train_epochs / 10)
    assert second_model.model_name_or_path == first.output_dir != second.output_dir
    for name in ("per_device_train_batch_size", "gradient_accumulation_steps", "learning_rate", "weight_decay", "seed"):
        assert getattr(first, name) == getattr(second, name) == getattr(alone, name)
    for name in ("train_file", "validation_split_percentage", "max_seq_length"):
        assert getattr(first_data, name) == getattr(second_data, name)


@pytest.mark.parametrize("recipe", ALL, ids=str)
def test_recipe_has_three_commented_blocks_and_true_batch_arithmetic(recipe):
    text = (RECIPES / recipe).read_text()
    assert re.findall(r"^# (model|data|trainer)\b", text, re.M) == ["model", "data", "trainer"]
    settings = yaml.safe_load(text)
    batch, accumulation = settings["per_device_train_batch_size"], settings.get("gradient_accumulation_steps", 1)
    tokens = batch * accumulation * settings["max_seq_length"]
    factors = re.search(r"# trainer: (.*) tokens (?:a|per) step", text)[1]
    assert int(factors.replace(",", "").replace("up to ", "").split(" = ")[-1]) == tokens
    blocks = dict.fromkeys((run_mlm, run_clm, run_plm), ("blocks",))
    kinds = (blocks | {run_classification: ("texts", "sentences")}).get(script_of(recipe), ("pairs",))
    kinds = [kind.removesuffix("s") for kind in kinds] if batch == 1 else kinds
    assert factors.startswith(tuple(f"{batch} {kind} x" for kind in kinds))


@pytest.mark.slow
@pytest.mark.parametrize(("script", "steps"), [("mlm", 160), ("clm", 60)])
def test_quickstart_recipe_learns(script, steps, capsys, tmp_path):
    """These of its steps halve the perplexity on the held-out articles."""
    argv = (f"recipes/quickstart/{script}.yaml", "--max_steps", steps, "--output_dir", tmp_path)
    code, _, errors = driver(SCRIPTS[script].main, capsys)(*argv)
    assert code == 0, errors
    history = json.loads((tmp_path / "trainer_state.json").read_text())["log_history"]
    before, *_, after = [entry["eval_loss"] for entry in history if "eval_loss" in entry]
    assert after < before - math.log(2)


def test_recipe_table_lists_all_recipes():
    table = (RECIPES / "README.md").read_text()
    assert set(re.findall(r"`([\w-]+/[\w-]+\.\w+)`", table)) == set(map(str, FILES))


def test_setting_missing_in_a_recipe_has_its_default():
    """A run resumes under a version with a new setting. A recipe does not contain nulls, either."""
    recipe = "learning_rate: 0.001\nmax_steps: -1\n"
    assert differences(f"{recipe}early_stopping_threshold: 0.0\nlanguage: en\n", recipe) == []
    assert differences(recipe, f"{recipe}language: en\n") == []
    assert differences(f"{recipe}language: de\n", recipe) == ["language de (not en)"]
    assert differences(recipe, f"{recipe}max_train_hours: 8\n") == ["max_train_hours None (not 8)"]
