"""Continuations equal those of a plain loop over the model's forward, alone and in any batch."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from transformers import CONFIG_MAPPING, AutoModelForCausalLM, GenerationConfig

from cloze.config.continuation_arguments import ContinuationArguments
from cloze.inference.generation import continue_ids, make_sampler, pad_left

SETTINGS = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "max_position_embeddings": 64}
MODELS = {
    "gpt2": {"n_embd": 32, "n_layer": 2, "n_head": 2, "n_positions": 64},
    "bert": SETTINGS | {"intermediate_size": 64, "is_decoder": True},
    # Positions begin at 2, pad_token_id + 1.
    "roberta": SETTINGS | {"intermediate_size": 64, "is_decoder": True},
    "llama": SETTINGS | {"intermediate_size": 64},
    # Takes no position ids.
    "bloom": {"hidden_size": 32, "n_layer": 2, "n_head": 2},
}
PAD, END, VOCABULARY = 1, 2, 90


def make_model(family):
    ids = {"pad_token_id": PAD, "eos_token_id": END, "bos_token_id": 0}
    config = CONFIG_MAPPING[family](vocab_size=VOCABULARY, **MODELS[family], **ids)
    torch.manual_seed(3)
    model = AutoModelForCausalLM.from_config(config).eval()
    with torch.no_grad():
        for weights in model.parameters():
            # With the small initial weights, all tokens would be about equally probable.
            weights.add_(torch.randn_like(weights) * 0.1)
    return model


@pytest.fixture(scope="module", params=MODELS)
def model(request):
    return make_model(request.param)


@pytest.fixture(scope="module")
def gpt2():
    return make_model("gpt2")


def prompts_of(*lengths):
    rng = np.random.default_rng(0)
    return {10 * row: rng.integers(3, VOCABULARY, length) for row, length in enumerate(lengths)}


def arguments(**settings):
    return ContinuationArguments(max_new_tokens=12, **settings)


def as_lists(found):
    return {number: new.tolist() for number, new in sorted(found.items())}


@torch.no_grad()
def next_logits(model, ids):
    return model(input_ids=torch.tensor([ids])).logits[0, -1]


def greedy(model, prompt, end=None, count=12):
    """Take the most probable token of a plain forward, without cache, padding or positions."""
    ids = prompt.tolist()
    for _ in range(count):
        token = int(next_logits(model, ids).argmax())
        if token == end:
            break
        ids.append(token)
    return ids[len(prompt) :]


def test_greedy_continuations_equal_plain_forwards(model):
    prompts = prompts_of(5, 17, 1, 9)
    expected = {number: greedy(model, prompt) for number, prompt in prompts.items()}
    assert len(set(map(tuple, expected.values()))) == 4
    for batch_size in (1, 3, 4):
        found = continue_ids(model, prompts, arguments(), 0, PAD, [], batch_size)
        assert as_lists(found) == expected


def test_a_continuation_ends_before_an_end_token(gpt2):
    prompts = prompts_of(5, 17, 1, 9)
    whole = {number: greedy(gpt2, prompt) for number, prompt in prompts.items()}
    end = whole[0][4]
    unused = min(set(range(VOCABULARY)) - {token for new in whole.values() for token in new})
    expected = {number: greedy(gpt2, prompt, end) for number, prompt in prompts.items()}
    assert len(expected[0]) < 12
    for pad in (PAD, end):
        found = continue_ids(gpt2, prompts, arguments(), 0, pad, [unused, end], batch_size=4)
        assert as_lists(found) == expected


def test_settings_of_the_checkpoint_do_not_apply(gpt2):
    """Many checkpoints come with a temperature or a penalty, which would change what --do_sample says."""
    prompts = prompts_of(5, 7)
    expected = as_lists(continue_ids(gpt2, prompts, arguments(), 0, PAD, []))
    own = gpt2.generation_config
    gpt2.generation_config = GenerationConfig(repetition_penalty=9.0, do_sample=True, min_new_tokens=3, num_beams=2)
    try:
        assert as_lists(continue_ids(gpt2, prompts, arguments(), 0, PAD, [])) == expected
        assert gpt2.generation_config.repetition_penalty == 9.0
    finally:
        gpt2.generation_config = own


def test_samples_depend_on_seed_and_row_only(gpt2):
    prompts = prompts_of(5, 17, 1, 9, 5)
    args = arguments(do_sample=True, temperature=2.0)
    expected = as_lists(continue_ids(gpt2, prompts, args, 7, PAD, [], batch_size=5))
    state = torch.get_rng_state()
    for number, prompt in prompts.items():
        assert as_lists(continue_ids(gpt2, {number: prompt}, args, 7, PAD, [])) == {number: expected[number]}
    assert as_lists(continue_ids(gpt2, dict(reversed(prompts.items())), args, 7, PAD, [], batch_size=2)) == expected
    assert torch.equal(torch.get_rng_state(), state)
    other = as_lists(continue_ids(gpt2, prompts, args, 8, PAD, [], batch_size=5))
    assert all(other[number] != expected[number] for number in prompts)
    # The same text in two rows.
    twice = continue_ids(gpt2, {0: prompts[0], 1: prompts[0]}, args, 7, PAD, [])
    assert twice[0].tolist() == expected[0] != twice[1].tolist()


def test_the_least_temperature_and_one_token_are_greedy(gpt2):
    prompts = prompts_of(5, 17)
    expected = as_lists(continue_ids(gpt2, prompts, arguments(), 0, PAD, []))
    for settings in ({"temperature": 0.01}, {"top_k": 1}, {"top_p": 1e-6}):
        args = arguments(do_sample=True, **settings)
        assert as_lists(continue_ids(gpt2, prompts, args, 3, PAD, [])) == expected


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({}, [0.1, 0.2, 0.3, 0.4]),
        ({"top_k": 2}, [0, 0, 3 / 7, 4 / 7]),
        ({"top_p": 0.8}, [0, 2 / 9, 3 / 9, 4 / 9]),
        ({"temperature": 0.5}, [1 / 30, 4 / 30, 9 / 30, 16 / 30]),
        ({"temperature": 0.5, "top_p": 0.6}, [0, 0, 9 / 25, 16 / 25]),
    ],
)
def test_tokens_are_drawn_with_their_probabilities(settings, expected):
    rows, args = list(range(4000)), ContinuationArguments(max_new_tokens=2, do_sample=True, **settings)
    logits = torch.tensor([[0.1, 0.2, 0.3, 0.4]]).log().repeat(len(rows), 1)
    sample = make_sampler(rows, args, seed=0, width=3)
    for length in (3, 4):
        tokens = sample(torch.zeros(len(rows), length, dtype=torch.int64), logits).argmax(-1)
        shares = torch.bincount(tokens, minlength=4) / len(rows)
        assert shares.tolist() == pytest.approx(expected, abs=0.03)
        assert [share > 0 for share in shares.tolist()] == [share > 0 for share in expected]


def test_a_token_without_probability_is_never_drawn(monkeypatch):
    """A draw of 0 is not below the first token's probability if that is 0."""
    monkeypatch.setattr(np.random, "default_rng", lambda seed: SimpleNamespace(random=np.zeros))
    sample = make_sampler([0], arguments(do_sample=True), seed=0, width=3)
    logits = torch.tensor([[-torch.inf, -torch.inf, 1.0, 2.0]])
    assert sample(torch.zeros(1, 3, dtype=torch.int64), logits).tolist() == [[-torch.inf, -torch.inf, 0, -torch.inf]]


@pytest.mark.parametrize(("family", "sizes"), [("gpt2", {3}), ("bloom", {1})])
def test_models_without_position_ids_get_no_padding(family, sizes):
    model, found = make_model(family), set()
    model.register_forward_hook(lambda module, args, outputs: found.add(len(outputs.logits)))
    continue_ids(model, prompts_of(5, 17, 1), arguments(), 0, PAD, [], batch_size=3)
    assert found == sizes


def test_padding_is_on_the_left():
    batch = pad_left([np.array([5, 6, 7]), np.array([8])], 0)
    assert batch["input_ids"].tolist() == [[5, 6, 7], [0, 0, 8]]
    assert batch["attention_mask"].tolist() == [[1, 1, 1], [0, 0, 1]]
