"""Weights saved by other tools are loaded; a missing encoder ends in one error line."""

import json
import shutil
from argparse import Namespace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoConfig, AutoModel

from cloze.config.arguments import ModelArguments
from cloze.errors import UserError
from cloze.inference.session import load_trained
from cloze.models.loading import load_config, load_model
from cloze.models.weights import shorten, unwrap_name
from cloze.tasks.classification import CLASSIFICATION
from cloze.tasks.masked_lm import MASKED_LM
from cloze.tasks.next_sentence import NEXT_SENTENCE
from tests.utils import TASKS


@pytest.fixture(autouse=True)
def log_everything(caplog):
    caplog.set_level("INFO", "cloze")


@pytest.fixture
def rewritten(checkpoint, tmp_path):
    """``rewritten(family, rename, save)`` is a checkpoint with renamed weights, saved in another format."""

    def write(
        family, rename=lambda key: key, save=lambda weights, path: save_file(weights, path / "model.safetensors")
    ):
        path = tmp_path / "rewritten"
        shutil.copytree(checkpoint(family), path)
        weights = load_file(path / "model.safetensors")
        (path / "model.safetensors").unlink()
        save({rename(key): value for key, value in weights.items()}, path)
        return str(path)

    return write


def save_bin(weights, path):
    torch.save(weights, path / "pytorch_model.bin")


def save_nested(weights, path):
    """Save weights as Lightning does."""
    torch.save({"epoch": 3, "optimizer_states": [{"state": {}}], "state_dict": weights}, path / "pytorch_model.bin")


def save_shards(weights, path):
    names = sorted(weights)
    shards = {f"model-{number}.safetensors": names[number::2] for number in range(2)}
    for file, keys in shards.items():
        save_file({key: weights[key] for key in keys}, path / file, metadata={"format": "pt"})
    places = {key: file for file, keys in shards.items() for key in keys}
    (path / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": places}))


def loaded(path, task=MASKED_LM, **settings):
    model_args = ModelArguments(model_name_or_path=str(path))
    return load_model(model_args, load_config(model_args, task), task, 0, **settings)


def compiled_by_layer(key):
    """Return the name that torch.compile gives a weight if layers are compiled one by one."""
    for layers in ("encoder.layer.", "model.layers."):
        key = key.replace(f"{layers}0.", f"{layers}0._orig_mod.").replace(f"{layers}1.", f"{layers}1._orig_mod.")
    return key


@pytest.mark.parametrize("family", ["bert", "modernbert"])
@pytest.mark.parametrize(
    ("rename", "save", "logged"),
    [
        (lambda key: f"_orig_mod.{key}", None, "removed _orig_mod. from the names"),
        (lambda key: f"module._orig_mod.{key}", save_bin, "removed module._orig_mod. from the names"),
        (lambda key: f"model.{key}", save_nested, "using the entry 'state_dict'"),
        (lambda key: f"module.{key}", save_shards, "removed module. from the names"),
        (lambda key: key, save_nested, "using the entry 'state_dict'"),
        (compiled_by_layer, None, "_orig_mod. from the names in"),
    ],
    ids=["compiled", "distributed", "lightning", "shards", "nested", "layers"],
)
def test_wrapped_weights_are_loaded_and_saved_under_plain_names(
    family, rename, save, logged, rewritten, checkpoint, caplog, tmp_path
):
    """nanoGPT#325, fairseq#5096. ModernBERT's own names begin with "model."."""
    model = loaded(rewritten(family, rename, *([save] if save else [])))
    model.save_pretrained(tmp_path / "saved")
    saved, expected = (load_file(Path(path) / "model.safetensors") for path in (tmp_path / "saved", checkpoint(family)))
    assert saved.keys() == expected.keys()
    assert all(torch.equal(saved[key], value) for key, value in expected.items())
    assert "2 of 2 layers found" in caplog.text
    assert "new weights, not loaded from" not in caplog.text
    # transformers itself removes the prefix "model." from ModernBERT's names.
    assert logged in caplog.text or (family == "modernbert" and rename("x") == "model.x")


def test_new_head_equals_that_of_plain_weights(rewritten, checkpoint):
    """The first attempt to load leaves the random state unchanged."""
    wrapped, plain = (
        loaded(path, NEXT_SENTENCE) for path in (rewritten("bert", lambda key: f"module.{key}"), checkpoint("bert"))
    )
    assert all(torch.equal(value, plain.state_dict()[key]) for key, value in wrapped.state_dict().items())


@pytest.mark.parametrize(
    "rename",
    [
        lambda key: key.removeprefix("bert."),
        lambda key: key.replace("LayerNorm.weight", "LayerNorm.gamma").replace("LayerNorm.bias", "LayerNorm.beta"),
        lambda key: "module." + key.replace("LayerNorm.weight", "LayerNorm.gamma").replace("Norm.bias", "Norm.beta"),
    ],
    ids=["bare", "gamma", "wrapped"],
)
def test_old_and_bare_names_are_loaded(rename, rewritten, checkpoint, caplog):
    model, expected = loaded(rewritten("bert", rename)), loaded(checkpoint("bert"))
    assert all(torch.equal(value, expected.state_dict()[key]) for key, value in model.state_dict().items())
    assert "new weights, not loaded from" not in caplog.text


def test_pickle_with_other_objects_is_refused_with_a_remedy(rewritten):
    """Lightning saves hyperparameters in this way; torch's message would advise running their code."""

    def save(weights, path):
        torch.save({"state_dict": weights, "hyper_parameters": Namespace(lr=1)}, path / "pytorch_model.bin")

    with pytest.raises(
        UserError, match=r"the weights cannot be loaded: .* contains more than weights: save .*save_pretrained"
    ):
        loaded(rewritten("bert", save=save))


def test_two_models_in_one_file_are_refused(rewritten, checkpoint):
    """For example a student and its teacher; the same model twice is accepted."""

    def save(change):
        return lambda weights, path: torch.save(
            {f"model.{key}": value for key, value in weights.items()}
            | {f"model._orig_mod.{key}": change(value) for key, value in weights.items()},
            path / "pytorch_model.bin",
        )

    path = rewritten("bert", save=save(lambda value: value + 1))
    with pytest.raises(
        UserError, match=r"cannot be loaded: the file contains two models: bert.*, once as model._orig_mod.bert"
    ):
        loaded(path)
    shutil.rmtree(path)
    model, expected = loaded(rewritten("bert", save=save(torch.clone))), loaded(checkpoint("bert"))
    assert all(torch.equal(value, expected.state_dict()[key]) for key, value in model.state_dict().items())


@pytest.mark.parametrize("task", [MASKED_LM, CLASSIFICATION], ids=lambda task: task.title)
def test_weights_of_other_sizes_than_the_config_are_refused(task, checkpoint):
    """The position embeddings would start from random values, although the file contains them."""
    model_args = ModelArguments(model_name_or_path=checkpoint("bert"))
    config = AutoConfig.from_pretrained(checkpoint("bert"), max_position_embeddings=99)
    with pytest.raises(
        UserError, match=r"fit the config: .*position_embeddings.weight is \[66, 16\], not \[99, 16\]: use the config"
    ):
        load_model(model_args, config, task, 0)


def test_single_tensor_is_refused(rewritten):
    with pytest.raises(UserError, match="the weights cannot be loaded"):
        loaded(rewritten("bert", save=lambda weights, path: torch.save(torch.ones(3), path / "pytorch_model.bin")))


@pytest.mark.parametrize(
    ("name", "plain", "removed"),
    [
        ("bert.pooler.dense.bias", "bert.pooler.dense.bias", ""),
        ("module._orig_mod.bert.pooler.dense.bias", "bert.pooler.dense.bias", "module._orig_mod"),
        ("model.layers.0.attn.Wqkv.weight", "model.layers.0.attn.Wqkv.weight", ""),
        ("model.model.layers.0.attn.Wqkv.weight", "model.layers.0.attn.Wqkv.weight", "model"),
        ("bert.module.dense.bias", "bert.module.dense.bias", ""),
        ("module", "module", ""),
    ],
)
def test_weight_names_are_unwrapped(name, plain, removed):
    assert unwrap_name(name, {"model.layers.0.attn.Wqkv.weight"}) == (plain, removed)


# Missing weights


def foreign(key):
    return f"net.{key}"


def without_embeddings(key):
    return key.replace("word_embeddings", "words")


@pytest.mark.parametrize("task", [MASKED_LM, NEXT_SENTENCE, CLASSIFICATION], ids=lambda task: task.title)
@pytest.mark.parametrize(
    ("rename", "found"),
    [(foreign, "0 of 2 layers found"), (without_embeddings, "2 of 2 layers found; missing: bert.emb")],
)
def test_missing_encoder_is_an_error(task, rename, found, rewritten):
    with pytest.raises(UserError, match=rf"rewritten: the encoder's weights are missing: {found}.*save_pretrained\(\)"):
        loaded(rewritten("bert", rename), task)


def test_missing_encoder_is_an_error_in_a_session(rewritten):
    path = rewritten("bert", foreign)
    with pytest.raises(UserError, match=rf"^{path}: the encoder's weights are missing: 0 of 2 layers found"):
        load_trained(path, TASKS)


def test_missing_encoder_is_an_error_before_a_comparison(rewritten, checkpoint, run_classification_script, tmp_path):
    (tmp_path / "texts.csv").write_text("text,label\n" + "The moon is far.,a\nSalt melts ice.,b\n" * 9)
    code, _, error = run_classification_script(
        "--compare_with", f"one={checkpoint('bert')}", f"two={rewritten('bert', foreign)}", "--do_train", "--do_eval",
        "--train_file", tmp_path / "texts.csv", "--max_steps", 1, "--output_dir", tmp_path / "out",
    )  # fmt: skip
    assert code == 2
    assert "rewritten: the encoder's weights are missing" in error
    assert not list((tmp_path / "out").glob("*/")), "the first model was trained"


def test_missing_layers_are_warned_about(rewritten, caplog):
    """A shallower encoder may be intended."""
    loaded(rewritten("bert", lambda key: key.replace("layer.1.", "layer.7.")))
    assert "1 of 2 layers found; unused: 16 names, bert.encoder.*" in caplog.text
    (record,) = [record for record in caplog.records if "new weights, not loaded from" in record.getMessage()]
    assert record.getMessage().endswith("must be trained: bert.encoder.*")


def test_encoder_with_most_layers_missing_is_an_error(checkpoint):
    """The config has more layers than the weights."""
    model_args = ModelArguments(model_name_or_path=checkpoint("bert"))
    config = AutoConfig.from_pretrained(checkpoint("bert"), num_hidden_layers=8)
    with pytest.raises(UserError, match="2 of 8 layers found; missing: bert"):
        load_model(model_args, config, MASKED_LM, 0)


def test_unused_weights_are_warned_about(checkpoint, pair_checkpoint, caplog):
    loaded(pair_checkpoint("bert"))
    assert "2 of 2 layers found; unused: 4 names, bert.pooler.*, cls.seq_relationship.*" in caplog.text
    caplog.clear()
    loaded(checkpoint("bert"))
    assert "unused" not in caplog.text


def test_weight_names_are_shortened():
    assert shorten(["a.b.c", "a.b.d"], 2) == "a.b.c, a.b.d"
    assert shorten(["a.b.c", "a.b.d", "a.e.f"], 2) == "a.b.*, a.e.*"
    assert shorten([f"{letter}.b" for letter in "abcd"], 2) == "a.*, b.* and 2 more"
    assert shorten(["epoch", "b.c"], 1) == "epoch and 1 more"


@pytest.mark.parametrize("script", ["mlm", "nsp"])
def test_predictions_need_a_trained_head(script, checkpoint, request, tmp_path):
    run = request.getfixturevalue(f"run_{script}_script")
    model = tmp_path / "bare"
    shutil.copytree(checkpoint("bert"), model)
    AutoModel.from_pretrained(model).save_pretrained(model)
    (tmp_path / "mlm.txt").write_text("The [MASK] is far.\n")
    (tmp_path / "nsp.csv").write_text("sentence_a,sentence_b\nThe moon is far.,It is cold.\n")
    (test_file,) = tmp_path.glob(f"{script}.*")
    argv = ("--do_predict", "--test_file", test_file, "--output_dir", tmp_path / "out")
    code, _, error = run("--model_name_or_path", model, *argv)
    assert code == 2
    assert "bare: weights of the " in error
    assert error.endswith("add --do_train, or give a model that was trained with this script\n")
    code, _, error = run("--config_name", model, "--tokenizer_name", model, *argv)
    assert code == 2
    assert error == "error: --do_predict needs a trained model: give --model_name_or_path PATH, or add --do_train\n"
    assert not (tmp_path / "out" / "predictions.jsonl").exists()


def test_predictions_accept_a_head_trained_in_the_same_run(checkpoint, run_mlm_script, tmp_path):
    model, text = tmp_path / "bare", tmp_path / "text.txt"
    shutil.copytree(checkpoint("bert"), model)
    AutoModel.from_pretrained(model).save_pretrained(model)
    text.write_text("The [MASK] is far.\n")
    argv = ("--model_name_or_path", model, "--train_file", text, "--test_file", text, "--output_dir", tmp_path / "out")
    assert run_mlm_script(*argv, "--do_train", "--max_steps", 1, "--do_predict")[0] == 0
    assert (tmp_path / "out" / "predictions.jsonl").exists()
