"""Whether a model attends to later tokens, found by trial."""

import pytest
import torch
from transformers import AutoModelForCausalLM, BertConfig, GPT2Config, XLNetConfig

from cloze.errors import UserError
from cloze.models.causality import attends_to_later_tokens, check_causal

BERT = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32, "vocab_size": 60}


@pytest.mark.parametrize(
    ("config", "attends"),
    [
        (GPT2Config(n_embd=16, n_layer=1, n_head=2, vocab_size=60), False),
        (GPT2Config(n_embd=16, n_layer=1, n_head=2, vocab_size=60, n_positions=8), False),
        (BertConfig(**BERT, max_position_embeddings=8), True),
        (BertConfig(**BERT, is_decoder=True), False),
        (BertConfig(**BERT), True),
        (XLNetConfig(d_model=16, n_layer=1, n_head=2, d_inner=32, vocab_size=60), True),
    ],
    ids=["gpt2", "gpt2, 8 positions", "bert, 8 positions", "bert, causal", "bert", "xlnet"],
)
def test_a_model_that_sees_its_targets_is_found(config, attends):
    """XLNet does without the masks of its own objective, though it is a causal model to transformers."""
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(config).train()
    assert attends_to_later_tokens(model) is attends
    assert model.training
    if attends:
        with pytest.raises(UserError, match=r"attends to later tokens, .*: use a decoder such as gpt2"):
            check_causal(model)
    else:
        check_causal(model)
