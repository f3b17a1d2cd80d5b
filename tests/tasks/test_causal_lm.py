"""The task of run_clm.py: tokenizers left unchanged, encoders with a causal mask, beginnings to continue."""

import copy

import numpy as np
import pytest
import torch
from transformers import CONFIG_MAPPING, AutoModelForCausalLM, AutoModelForMaskedLM, GPT2Config

from cloze.config.arguments import ModelArguments
from cloze.errors import UserError
from cloze.models.causality import attends_to_later_tokens
from cloze.models.loading import load_config
from cloze.tasks.causal_lm import CAUSAL_LM, ENCODER_TYPES, GIVEN, NEW, beginning_of, continue_samples
from cloze.tasks.masked_lm import MASKED_LM
from cloze.tokenization.properties import fingerprint
from tests.utils import BERT_LIKE

# No architecture of the two, and those without a causal class.
OTHERS = ("distilbert", "modernbert", "deberta-v2", "albert", "mpnet", "xlnet")


def tiny_config(model_type):
    own = {"xmod": {"languages": ["en_XX"], "default_language": "en_XX"}}.get(model_type, {})
    return CONFIG_MAPPING[model_type](**BERT_LIKE, vocab_size=80, pad_token_id=1, **own)


@pytest.mark.parametrize("model_type", ENCODER_TYPES)
def test_an_encoder_is_causal_here_and_bidirectional_elsewhere(model_type, tmp_path, caplog):
    """With the weights of a masked language model, all of them."""
    tiny_config(model_type).save_pretrained(tmp_path)
    args = ModelArguments(model_name_or_path=str(tmp_path))
    torch.manual_seed(0)
    AutoModelForMaskedLM.from_config(tiny_config(model_type)).save_pretrained(tmp_path)
    config = load_config(args, CAUSAL_LM)
    assert config.is_decoder
    model, loading = AutoModelForCausalLM.from_pretrained(tmp_path, config=config, output_loading_info=True)
    assert (set(loading["missing_keys"]), set(loading["unexpected_keys"])) == (set(), set())
    assert not attends_to_later_tokens(model)
    CAUSAL_LM.prepare_model(model, 16)
    model.save_pretrained(tmp_path / "causal")
    args = ModelArguments(model_name_or_path=str(tmp_path / "causal"))
    with caplog.at_level("INFO", logger="cloze"):
        caplog.clear()
        config = load_config(args, MASKED_LM)
        load_config(args, MASKED_LM, trains=False)
    assert [(record.levelname, record.getMessage()) for record in caplog.records] == [
        ("INFO", f"Model: {tmp_path}/causal was trained with a causal mask; it attends in both directions again"),
        (
            "WARNING",
            f"{tmp_path}/causal was last trained with a causal mask, and now attends in both directions: continue its "
            "training with run_mlm.py --do_train first",
        ),
    ]
    assert not config.is_decoder
    model, loading = AutoModelForMaskedLM.from_pretrained(tmp_path / "causal", config=config, output_loading_info=True)
    assert (set(loading["missing_keys"]), set(loading["unexpected_keys"])) == (set(), set())
    assert attends_to_later_tokens(model)


@pytest.mark.parametrize("model_type", OTHERS)
def test_other_encoders_are_one_line_that_names_those_that_can(model_type):
    with pytest.raises(UserError, match=f"{model_type} has no causal.*: use .* gpt2, run_plm.py for xlnet, or .*bert"):
        load_config(ModelArguments(model_type=model_type), CAUSAL_LM)


def test_a_decoders_tokenizer_stays_unchanged(tokenizers):
    tokenizer = copy.deepcopy(tokenizers["gpt2"])
    before = fingerprint(tokenizer)
    CAUSAL_LM.check(GPT2Config(), tokenizer)
    CAUSAL_LM.prepare_tokenizer(tokenizer, GPT2Config())
    assert fingerprint(tokenizer) == before
    assert tokenizer.pad_token is None
    assert CAUSAL_LM.padding_id(tokenizer) == tokenizer.eos_token_id


def test_an_encoders_tokenizer_gets_a_template_and_pads_with_its_own_token(tokenizers):
    tokenizer = copy.deepcopy(tokenizers["wordpiece"])
    tokenizer.backend_tokenizer.post_processor = None
    CAUSAL_LM.prepare_tokenizer(tokenizer, CONFIG_MAPPING["bert"]())
    assert tokenizer.convert_ids_to_tokens(tokenizer("the")["input_ids"]) == ["[CLS]", "the", "[SEP]"]
    assert CAUSAL_LM.padding_id(tokenizer) == tokenizer.pad_token_id


def test_a_tokenizer_without_an_end_of_text_token_is_an_error(tokenizers):
    """Documents would run into each other."""
    tokenizer = copy.deepcopy(tokenizers["gpt2"])
    tokenizer.eos_token = None
    with pytest.raises(UserError, match=r"no end-of-text token to put between documents: set eos_token"):
        CAUSAL_LM.check(GPT2Config(), tokenizer)


def test_a_beginning_is_of_a_document_if_the_example_has_one(tokenizers):
    tokenizer = tokenizers["gpt2"]
    end = tokenizer.eos_token_id
    words = np.arange(5, 5 + GIVEN)
    assert beginning_of(np.array([9, 9, end, *words]), tokenizer).tolist() == [end, *words[:-1]]
    assert beginning_of(np.array([*words, end, 9]), tokenizer).tolist() == words.tolist()
    assert beginning_of(words[:-1], tokenizer) is None
    assert beginning_of(np.array([*words[2:], end, *words[2:-1]]), tokenizer) is None


@pytest.mark.parametrize(("positions", "new"), [(64, NEW), (GIVEN + 5, 5), (GIVEN, 0)])
def test_samples_are_continued_by_the_most_probable_tokens(positions, new, tokenizers):
    """As many as the model has positions for."""
    tokenizer = tokenizers["gpt2"]
    torch.manual_seed(0)
    config = GPT2Config(n_embd=16, n_layer=1, n_head=2, n_positions=positions, vocab_size=500, eos_token_id=0)
    model = AutoModelForCausalLM.from_config(config).eval()
    samples = [{"input_ids": np.arange(5 + 9 * number, 5 + 9 * number + GIVEN)} for number in range(9)]
    expected = []
    for sample in (samples[0], samples[3], samples[6]) if new else ():
        ids = sample["input_ids"].tolist()
        while len(ids) < GIVEN + new:
            with torch.no_grad():
                ids.append(model(input_ids=torch.tensor([ids])).logits[0, -1].argmax().item())
        parts = [" ".join(tokenizer.decode(part).split()) for part in (ids[:GIVEN], ids[GIVEN:])]
        expected.append(f"{parts[0]} ... {parts[1]}")
    assert continue_samples(model, tokenizer, samples) == expected
