"""Log-likelihoods equal those of plain transformers, for each token, in texts of any length."""

import numpy as np
import pytest
import torch

from cloze.inference.likelihoods import log_likelihoods, windows_of
from cloze.tokenization.templates import Template
from tests.inference.test_generation import MODELS, PAD, make_model, prompts_of

DECODER, ENCODER = Template((), (), (2,)), Template((4, 5), (6,), (6,))


@pytest.fixture(scope="module", params=MODELS)
def model(request):
    return make_model(request.param)


@torch.no_grad()
def plain(model, start, ids):
    """Return the log-probability of each token after the ones before it."""
    whole = torch.tensor([[*start, *ids]])
    scores = model(input_ids=whole).logits[0].log_softmax(-1)
    return [scores[place - 1, whole[0, place]].item() for place in range(len(start), whole.shape[1])]


@pytest.mark.parametrize(("template", "start"), [(DECODER, (2,)), (ENCODER, (4, 5))])
def test_log_likelihoods_equal_plain_transformers_in_any_batch(template, start, model):
    texts = list(prompts_of(5, 17, 1, 9, 30).values())
    expected = [plain(model, start, ids) for ids in texts]
    for batch_size in (1, 2, 5):
        found = log_likelihoods(model, template, texts, PAD, 40, batch_size)
        assert [len(each) for each in found] == [5, 17, 1, 9, 30]
        for scores, own in zip(found, expected, strict=True):
            np.testing.assert_allclose(scores, own, atol=1e-5)


@pytest.mark.parametrize(("template", "start"), [(DECODER, (2,)), (ENCODER, (4, 5))])
def test_each_token_of_a_long_text_is_scored_after_half_a_window(template, start):
    model, (ids,) = make_model("gpt2"), prompts_of(150).values()
    (found,) = log_likelihoods(model, template, [ids], PAD, 21, batch_size=4)
    room = 21 - len(template.prefix)
    first = 21 - len(start)
    np.testing.assert_allclose(found[:first], plain(model, start, ids[:first]), atol=1e-5)
    done = first
    while done < 150:
        end = min(150, done + room // 2)
        own = plain(model, (*template.prefix, ids[end - room]), ids[end - room + 1 : end])[done - end :]
        np.testing.assert_allclose(found[done:end], own, atol=1e-5)
        done = end


@pytest.mark.parametrize(
    ("length", "template", "windows"),
    [
        (3, DECODER, [([2, 10, 11, 12], 0, 3)]),
        (7, DECODER, [([2, *range(10, 17)], 0, 7)]),
        (8, DECODER, [([2, *range(10, 17)], 0, 7), (list(range(10, 18)), 7, 1)]),
        (13, DECODER, [([2, *range(10, 17)], 0, 7), (list(range(13, 21)), 7, 4), (list(range(15, 23)), 11, 2)]),
        (8, ENCODER, [([4, 5, *range(10, 16)], 0, 6), ([4, 5, *range(12, 18)], 6, 2)]),
    ],
)
def test_windows_overlap_by_half(length, template, windows):
    found = windows_of(7, np.arange(10, 10 + length), template, 8)
    assert [(window.ids.tolist(), window.begin, window.num_targets) for window in found] == windows
    assert {window.text for window in found} == {7}
