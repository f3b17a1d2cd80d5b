"""Attention implementations, and whether batches without padding need an attention mask, found by trial."""

import pytest
import torch
from torch import nn
from transformers import CONFIG_MAPPING, AutoModelForCausalLM, AutoModelForMaskedLM, BertConfig, BertForMaskedLM
from transformers.modeling_outputs import MaskedLMOutput

from cloze.errors import UserError
from cloze.models.attention import check_attention, runs_without_mask
from tests.utils import BERT_LIKE, CAUSAL_FAMILIES, FAMILIES, NO_DROPOUT

BERT = BERT_LIKE | NO_DROPOUT
# What transformers does without a mask, and why the mask stays.
MASKED = {
    **dict.fromkeys(("bert", "distilbert", "roberta", "electra", "albert", "modernbert"), True),
    "deberta-v2": False,  # looks for padding, which a GPU has to wait for
    "big_bird": False,
    "xlm": False,  # takes tokens with the id of padding for padding
    "fnet": False,  # has no attention
}
SETTINGS = {"big_bird": BERT, "xlm": BERT, "fnet": {**BERT_LIKE, "hidden_dropout_prob": 0.0}}


def model_of(auto_model, family, settings, implementation=None):
    torch.manual_seed(0)
    config = CONFIG_MAPPING[family](**{"vocab_size": 120, "pad_token_id": 0} | settings)
    return auto_model.from_config(config, attn_implementation=implementation).train()


def test_attention_implementations_give_equal_outputs():
    models = [model_of(AutoModelForMaskedLM, "bert", BERT, name) for name in ("eager", "sdpa")]
    ids = torch.arange(24).view(2, 12)
    eager, fused = (model(input_ids=ids).logits for model in models)
    torch.testing.assert_close(eager, fused)


@pytest.mark.parametrize("family", ["deberta-v2", "xlm"])
def test_attention_that_a_model_lacks_is_an_error(family):
    model = model_of(AutoModelForMaskedLM, family, BERT)
    check_attention(model, "eager")
    with pytest.raises(UserError, match=f"--attn_implementation sdpa: {type(model).__name__} does not have it"):
        check_attention(model, "sdpa")


@pytest.mark.parametrize(("family", "runs"), MASKED.items(), ids=MASKED)
def test_encoders_that_run_without_a_mask(family, runs):
    settings = SETTINGS[family] if family in SETTINGS else FAMILIES[family][1]
    if family == "fnet":
        settings = {name: value for name, value in settings.items() if name != "num_attention_heads"}
    model = model_of(AutoModelForMaskedLM, family, settings)
    assert runs_without_mask(model) is runs
    assert model.training


@pytest.mark.parametrize(
    ("family", "settings", "runs"),
    [
        ("gpt2", CAUSAL_FAMILIES["gpt2"][1] | {"pad_token_id": None}, True),
        ("gpt2", CAUSAL_FAMILIES["gpt2"][1], False),
        ("bert", BERT | {"is_decoder": True}, True),
        ("xlnet", {"d_model": 16, "n_layer": 1, "n_head": 2, "d_inner": 32}, False),
    ],
    ids=["gpt2", "gpt2 with a padding token", "bert, causal", "xlnet"],
)
def test_causal_models_that_run_without_a_mask(family, settings, runs):
    """GPT-2 looks for padding only if its config has a padding token."""
    assert runs_without_mask(model_of(AutoModelForCausalLM, family, settings)) is runs


class Sensitive(BertForMaskedLM):
    """A model that computes something else without a mask, by ``change``."""

    change = 0.0

    def forward(self, input_ids, attention_mask=None, **kwargs):
        output = super().forward(input_ids, attention_mask=attention_mask, **kwargs)
        return MaskedLMOutput(logits=output.logits + (self.change if attention_mask is None else 0.0))


class Failing(nn.Module):
    def forward(self, *args, **kwargs):
        raise ValueError("All examples must have the same number of <eos> tokens.")


def test_a_model_that_computes_something_else_keeps_its_mask(monkeypatch):
    model = Sensitive(BertConfig(vocab_size=120, **BERT))
    assert runs_without_mask(model)
    monkeypatch.setattr(Sensitive, "change", 1e-6)
    assert not runs_without_mask(model)


def test_a_model_that_fails_on_the_trial_texts_keeps_its_mask():
    model = BertForMaskedLM(BertConfig(vocab_size=120, **BERT))
    model.cls = Failing()
    assert not runs_without_mask(model)


def test_a_model_of_few_positions_is_tried():
    assert runs_without_mask(BertForMaskedLM(BertConfig(vocab_size=120, **BERT | {"max_position_embeddings": 8})))


@pytest.mark.parametrize("family", [name for name, runs in MASKED.items() if runs])
def test_loss_and_gradients_are_equal_without_a_mask(family):
    """To the bit, in training mode, on texts longer than the trial texts and ModernBERT's window."""
    model = model_of(AutoModelForMaskedLM, family, FAMILIES[family][1])
    ids = torch.randint(1, 120, (3, 60), generator=torch.Generator().manual_seed(1))
    results = []
    for masks in ({"attention_mask": torch.ones_like(ids)}, {}):
        model.zero_grad()
        loss = model(input_ids=ids, labels=ids, **masks).loss
        loss.backward()
        results.append([loss.detach(), *(weights.grad.clone() for weights in model.parameters())])
    assert all(torch.equal(one, two) for one, two in zip(*results, strict=True))
