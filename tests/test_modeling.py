"""Checks that replace device-side asserts, new configs, and what is loaded from a checkpoint."""

import copy

import pytest
import torch
from conftest import FAMILIES
from transformers import CONFIG_MAPPING, AutoConfig, AutoModel, AutoModelForMaskedLM

from cloze.arguments import ModelArguments, UserError
from cloze.modeling import check_model, count_positions, fit_config, load_config, load_model, outline


def config_of(family, tokenizers, **settings):
    kind, tiny = FAMILIES[family]
    config = CONFIG_MAPPING[family](**tiny | settings)
    fit_config(config, tokenizers[kind])
    return config


def tokenizer_of(family, tokenizers, **attributes):
    tokenizer = copy.deepcopy(tokenizers[FAMILIES[family][0]])
    for name, value in attributes.items():
        setattr(tokenizer, name, value)
    return tokenizer


def loaded(checkpoint_path, **settings):
    model_args = ModelArguments(model_name_or_path=str(checkpoint_path), **settings)
    return load_model(model_args, load_config(model_args))


# Positions


@pytest.mark.parametrize("family", FAMILIES)
def test_positions(family, tokenizers):
    """Mistake 20: RoBERTa counts from padding_idx + 1, so that of 66 positions fewer are of use."""
    config = config_of(family, tokenizers)
    pad = tokenizers["byte_level"].pad_token_id
    expected = {"roberta": 66 - pad - 1, "modernbert": 64}.get(family, 66)
    assert count_positions(outline(config), config) == expected


@pytest.mark.parametrize("pad", [0, 1, 5])
def test_positions_of_roberta(pad, tokenizers):
    """Mistake 20: the model's own verdict, token by token."""
    config = config_of("roberta", tokenizers, max_position_embeddings=20)
    config.pad_token_id = pad
    positions = count_positions(outline(config), config)
    assert positions == 20 - pad - 1
    model = AutoModelForMaskedLM.from_config(config)
    text = torch.full((1, positions + 1), 7)
    assert model(text[:, :-1]).logits.shape == (1, positions, 500)
    with pytest.raises((IndexError, RuntimeError), match=r"index .*out of"):
        model(text)


def test_outline_takes_no_memory(tokenizers):
    model = outline(config_of("bert", tokenizers, hidden_size=4096, intermediate_size=16_384, num_hidden_layers=40))
    assert model.num_parameters() > 8e9
    assert {parameter.device.type for parameter in model.parameters()} == {"meta"}


@pytest.mark.parametrize(
    ("family", "positions", "tokenizer_max", "expected"),
    [
        ("bert", 66, 10**30, 66),
        ("bert", 66, 32, 32),
        ("bert", 512, 512, 512),
        ("bert", 4096, 10**30, 1024),
        ("roberta", 514, 512, 512),
        ("modernbert", 8192, 8192, 1024),
    ],
)
def test_default_length(family, positions, tokenizer_max, expected, tokenizers):
    config = config_of(family, tokenizers, max_position_embeddings=positions)
    if family == "roberta":
        config.pad_token_id = 1
    tokenizer = tokenizer_of(family, tokenizers, model_max_length=tokenizer_max)
    assert check_model(config, tokenizer, None, False) == expected


def test_length_asked_for(tokenizers):
    """Mistake 20: a message instead of an assert; the tokenizer's limit is only a hint."""
    config, tokenizer = config_of("bert", tokenizers), tokenizer_of("bert", tokenizers, model_max_length=16)
    assert check_model(config, tokenizer, 66, False) == 66
    with pytest.raises(UserError, match="--max_seq_length 67 is more than the model's 66 positions"):
        check_model(config, tokenizer, 67, False)


@pytest.mark.parametrize(
    ("attributes", "message"), [({"mask_token": None}, "no mask token"), ({"pad_token": None}, "no padding token")]
)
def test_tokens_that_are_needed(attributes, message, tokenizers):
    """Mistake 20."""
    with pytest.raises(UserError, match=message):
        check_model(config_of("bert", tokenizers), tokenizer_of("bert", tokenizers, **attributes), None, False)


def test_vocabulary_too_small(tokenizers):
    """Mistake 20: one id more than the embedding has rows."""
    config, tokenizer = config_of("bert", tokenizers), tokenizer_of("bert", tokenizers)
    tokenizer.add_tokens(["tidepool"])
    with pytest.raises(UserError, match="the tokenizer has 501 tokens, the model's vocabulary 500"):
        check_model(config, tokenizer, None, False)
    fit_config(config, tokenizer)
    assert check_model(config, tokenizer, None, False) == 66


# Configs


@pytest.mark.parametrize("family", FAMILIES)
def test_fit_config(family, tokenizers):
    tokenizer = tokenizer_of(family, tokenizers)
    config = CONFIG_MAPPING[family](**FAMILIES[family][1])
    fit_config(config, tokenizer)
    assert config.vocab_size == 500
    assert config.pad_token_id == tokenizer.pad_token_id
    for name in ("bos", "eos", "cls", "sep", "mask"):
        if hasattr(config, f"{name}_token_id"):
            assert getattr(config, f"{name}_token_id") == getattr(tokenizer, f"{name}_token_id")
    embeddings = AutoModelForMaskedLM.from_config(config).get_input_embeddings()
    assert (embeddings.num_embeddings, embeddings.padding_idx) == (500, tokenizer.pad_token_id)


@pytest.mark.parametrize(
    ("overrides", "size"),
    [
        (None, 500),
        ("hidden_size=16", 500),
        ("vocab_size=512", 512),
        ("hidden_size=16,vocab_size=512", 512),
        ("type_vocab_size=1", 500),
    ],
)
def test_a_vocabulary_size_that_was_asked_for(overrides, size, tokenizers):
    """As when it is rounded up for the GPU; otherwise the tokenizer's."""
    config = load_config(ModelArguments(model_type="bert", config_overrides=overrides))
    fit_config(config, tokenizers["wordpiece"], overrides)
    assert config.vocab_size == size


def test_config_overrides():
    model_args = ModelArguments(model_type="bert", config_overrides="hidden_size=48,hidden_dropout_prob=0.3")
    config = load_config(model_args)
    assert (config.hidden_size, config.hidden_dropout_prob, config.num_hidden_layers) == (48, 0.3, 12)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"model_type": "brt"}, "--model_type brt is not known: did you mean b"),
        ({"model_type": "gpt2"}, "gpt2 has no masked-language-modelling head"),
        ({"model_type": "bert", "config_overrides": "hiden_size=48"}, "no setting 'hiden_size': did you mean hidden_"),
        ({"model_type": "bert", "config_overrides": "hidden_size=many"}, "--config_overrides hidden_size=many: "),
    ],
)
def test_configs_that_are_wrong(settings, message):
    with pytest.raises(UserError, match=message):
        load_config(ModelArguments(**settings))


def test_a_config_that_builds_no_model(tokenizers):
    with pytest.raises(UserError, match=r"the config builds no bert model: .*--config_overrides"):
        outline(config_of("bert", tokenizers, num_attention_heads=5))


# Weights


@pytest.mark.parametrize("family", FAMILIES)
def test_nothing_is_said_when_nothing_is_missing(family, checkpoint, caplog, capsys):
    model = loaded(checkpoint(family))
    expected = AutoModelForMaskedLM.from_pretrained(checkpoint(family))
    for name, weights in expected.state_dict().items():
        assert torch.equal(model.state_dict()[name], weights), name
    assert "NEW WEIGHTS" not in caplog.text + "".join(capsys.readouterr())


@pytest.mark.parametrize(
    ("family", "head", "layers"),
    [
        ("bert", "cls.predictions", ("transform.dense", "transform.LayerNorm")),
        ("roberta", "lm_head", ("dense", "layer_norm")),
    ],
)
def test_new_weights_are_named(family, head, layers, checkpoint, tmp_path, caplog):
    """A bare encoder brings no head; its own weights are all taken."""
    encoder = AutoModel.from_pretrained(checkpoint(family))
    encoder.save_pretrained(tmp_path)
    model = loaded(tmp_path)
    (record,) = [record for record in caplog.records if "NEW WEIGHTS" in record.getMessage()]
    assert record.levelname == "WARNING"
    assert str(tmp_path) in record.getMessage()
    named = record.getMessage().rpartition("trained: ")[2].split(", ")
    new = ["bias", "decoder.bias", *(f"{layer}.{part}" for layer in layers for part in ("weight", "bias"))]
    assert sorted(named) == sorted(f"{head}.{name}" for name in new)
    taken = model.base_model.state_dict()
    assert len(taken) > 30
    assert all(torch.equal(weights, encoder.state_dict()[name]) for name, weights in taken.items())


def test_weights_are_loaded_in_single_precision(checkpoint, tmp_path):
    """Also those of a checkpoint in bfloat16, in which small updates would be lost, unless asked for."""
    AutoModelForMaskedLM.from_pretrained(checkpoint("bert"), dtype=torch.bfloat16).save_pretrained(tmp_path)
    assert AutoConfig.from_pretrained(tmp_path).dtype == torch.bfloat16

    def dtypes(model):
        return {parameter.dtype for parameter in model.parameters()}

    assert dtypes(loaded(tmp_path)) == {torch.float32}
    assert dtypes(loaded(tmp_path, dtype="auto")) == {torch.bfloat16}
    assert dtypes(loaded(checkpoint("bert"), dtype="bfloat16")) == {torch.bfloat16}


@pytest.mark.parametrize("name", ["float32", "bfloat16"])
def test_new_models(name, checkpoint, tmp_path):
    """From the config of a bfloat16 checkpoint."""
    AutoModelForMaskedLM.from_pretrained(checkpoint("bert"), dtype=torch.bfloat16).save_pretrained(tmp_path)
    model_args = ModelArguments(config_name=str(tmp_path), dtype=name)
    model = load_model(model_args, load_config(model_args))
    assert {parameter.dtype for parameter in model.parameters()} == {getattr(torch, name)}


def test_weights_that_cannot_be_loaded(checkpoint, tmp_path):
    model_args = ModelArguments(model_name_or_path=checkpoint("bert"))
    config = load_config(model_args)
    config.save_pretrained(tmp_path)
    with pytest.raises(UserError, match=f"--model_name_or_path {tmp_path}: the weights cannot be loaded"):
        load_model(ModelArguments(model_name_or_path=str(tmp_path)), config)
