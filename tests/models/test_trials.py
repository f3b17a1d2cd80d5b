"""Copies of models for trial runs."""

import torch
from transformers import BertConfig, BertForMaskedLM

from cloze.models.trials import trial_copy
from tests.utils import BERT_LIKE


def test_a_trial_copy_shares_the_weights_and_nothing_else():
    model = BertForMaskedLM(BertConfig(vocab_size=100, **BERT_LIKE)).train()
    copied = trial_copy(model)
    assert [w.data_ptr() for w in copied.parameters()] == [w.data_ptr() for w in model.parameters()]
    assert copied.get_output_embeddings().weight is copied.get_input_embeddings().weight
    assert not copied.training
    assert model.training
    assert not any(weights.requires_grad for weights in copied.parameters())
    assert all(weights.requires_grad for weights in model.parameters())
    assert copied.config is not model.config


def test_a_trial_copy_of_half_precision_has_weights_of_its_own():
    model = BertForMaskedLM(BertConfig(vocab_size=100, **BERT_LIKE)).bfloat16()
    assert {weights.dtype for weights in trial_copy(model).parameters()} == {torch.float32}
    assert {weights.dtype for weights in model.parameters()} == {torch.bfloat16}
