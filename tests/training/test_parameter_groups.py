"""Each parameter is in one group, with the learning rate and the weight decay of its kind."""

import re
from types import SimpleNamespace

import pytest
import transformers
from torch import nn
from transformers import CONFIG_MAPPING, Trainer

from cloze.errors import UserError
from cloze.training.parameter_groups import make_groups
from tests.utils import CAUSAL_FAMILIES, FAMILIES, XLNET

SETTINGS = {family: settings for family, (_, settings) in (FAMILIES | CAUSAL_FAMILIES).items()} | {"xlnet": XLNET}
BERT_MATRICES = r"bert\.encoder\.layer\.\d\..*(query|key|value|dense)\.weight"
# Model class -> its family, which of its parameters are the matrices of the layers, and how many these are.
MODELS = {
    "BertForPreTraining": ("bert", BERT_MATRICES, 12),
    "BertForNextSentencePrediction": ("bert", BERT_MATRICES, 12),
    "DistilBertForMaskedLM": ("distilbert", r"distilbert\.transformer\.layer\.\d\..*lin\d?\.weight", 12),
    "ModernBertForMaskedLM": ("modernbert", r"model\.layers\.\d\.(attn|mlp)\.(Wqkv|Wi|Wo)\.weight", 8),
    "AlbertForMaskedLM": (
        "albert",
        r"albert\.encoder\.albert_layer_groups\..*(query|key|value|dense|ffn|ffn_output)\.weight",
        6,
    ),
    "DebertaV2ForMaskedLM": ("deberta-v2", r"deberta\.encoder\.layer\.\d\..*(_proj|dense)\.weight", 16),
    "GPT2LMHeadModel": ("gpt2", r"transformer\.h\.\d\.(attn|mlp)\.c_\w+\.weight", 8),
    # The projections of its attention have three dimensions.
    "XLNetLMHeadModel": ("xlnet", r"transformer\.layer\.\d\.ff\.layer_\d\.weight", 4),
}
ARGS = {"learning_rate": 0.1, "muon_learning_rate": 0.2, "embedding_learning_rate": 0.3, "weight_decay": 0.01}


def model_of(name: str):
    family = MODELS[name][0]
    return getattr(transformers, name)(CONFIG_MAPPING[family](vocab_size=40, pad_token_id=0, **SETTINGS[family]))


def groups_of(model, **changes) -> list[dict]:
    """Return the groups with names in place of parameters; parameters that are not shared are in one of them."""
    args = SimpleNamespace(**{"optim": "muon"} | ARGS | changes)
    names = {parameter: name for name, parameter in model.named_parameters()}
    groups = make_groups(model, Trainer.get_decay_parameter_names(None, model), args)
    groups = [group | {"params": [names[parameter] for parameter in group["params"]]} for group in groups]
    assert sorted(name for group in groups for name in group["params"]) == sorted(names.values())
    assert groups[0]["lr"] == 0.1, "the rate that is logged"
    return groups


@pytest.mark.parametrize("name", MODELS)
def test_each_parameter_is_in_the_group_of_its_kind(name):
    model, (_, pattern, count) = model_of(name), MODELS[name]
    found = {}
    for group in groups_of(model):
        for parameter in group["params"]:
            found[parameter] = group["lr"], group["weight_decay"], "muon" in group
    decaying = Trainer.get_decay_parameter_names(None, model)
    embeddings = {f"{path}.weight" for path, module in model.named_modules() if isinstance(module, nn.Embedding)}
    for parameter, settings in found.items():
        decay = 0.01 if parameter in decaying else 0.0
        if re.fullmatch(pattern, parameter):
            assert settings == (0.2, 0.01, True), parameter
        elif parameter in embeddings:
            assert settings == (0.3, decay, False), parameter
        else:
            assert settings == (0.1, decay, False), parameter
    assert sum(is_muon for *_, is_muon in found.values()) == count


def test_groups_of_bert():
    decaying, rest, embeddings, matrices = groups_of(model_of("BertForPreTraining"))
    assert embeddings["params"] == [
        f"bert.embeddings.{kind}_embeddings.weight" for kind in ("word", "position", "token_type")
    ]
    heads = ["bert.pooler.dense", "cls.predictions.transform.dense", "cls.seq_relationship"]
    assert decaying["params"] == [f"{head}.weight" for head in heads]
    assert "cls.predictions.bias" in rest["params"]
    assert all(re.search(r"bias$|LayerNorm\.weight$", parameter) for parameter in rest["params"])
    assert (rest["weight_decay"], matrices["weight_decay"], len(matrices["params"])) == (0.0, 0.01, 12)


def test_embeddings_of_a_layer_and_layers_of_the_head_are_no_matrices():
    model = model_of("BertForPreTraining")
    model.bert.encoder.layer[0].distances = nn.Embedding(4, 16)
    model.cls.layers = nn.ModuleList([nn.Linear(16, 16)])
    decaying, _, matrices = groups_of(model, embedding_learning_rate=None)
    assert {"bert.encoder.layer.0.distances.weight", "cls.layers.0.weight"} < set(decaying["params"])
    assert len(matrices["params"]) == 12


def test_untied_output_layer_has_the_rate_of_embeddings():
    config = CONFIG_MAPPING["bert"](vocab_size=40, tie_word_embeddings=False, **SETTINGS["bert"])
    groups = groups_of(transformers.BertForMaskedLM(config), optim="adamw_torch", muon_learning_rate=None)
    assert [group["lr"] for group in groups] == [0.1, 0.1, 0.3]
    assert "cls.predictions.decoder.weight" in groups[2]["params"]


def test_rates_are_the_learning_rate_by_default():
    groups = groups_of(model_of("GPT2LMHeadModel"), muon_learning_rate=None, embedding_learning_rate=None)
    assert [(group["lr"], "muon" in group) for group in groups] == [(0.1, False), (0.1, False), (0.1, True)]
    assert groups[0]["params"] == ["transformer.wte.weight", "transformer.wpe.weight"]


def test_a_rate_of_zero_is_not_the_default():
    groups = groups_of(model_of("GPT2LMHeadModel"), muon_learning_rate=0.0, embedding_learning_rate=0.0)
    assert [group["lr"] for group in groups] == [0.1, 0.0, 0.0]


def test_model_without_layers_is_an_error():
    model = model_of("BertForPreTraining")
    model.bert.encoder.layer = nn.ModuleList()
    with pytest.raises(
        UserError, match=r"^--optim muon: BertForPreTraining has no layers with matrices: choose another"
    ):
        groups_of(model)
