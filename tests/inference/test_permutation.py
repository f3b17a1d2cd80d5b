"""Spans shown at the end of a run: what stands around them, and that the guesses are the model's."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from cloze.data.collators import IGNORED, Padding
from cloze.data.permutation import PermutationCollator
from cloze.inference.permutation import MAX_SPANS, guess_spans, show_span


@pytest.fixture
def ids_of(xlnet_tokenizer):
    return lambda text: xlnet_tokenizer(text, add_special_tokens=False)["input_ids"]


@pytest.mark.parametrize(
    ("before", "after", "shown"),
    [
        ("the sea", "and the moon<sep><cls>", "the sea [MASK] and the moon"),
        ("the<sep>sea", "<sep>and the moon<sep><cls>", "sea [MASK]"),
        ("the<mask>sea", "and<mask>the moon<sep><cls>", "... sea [MASK] and ..."),
        ("the " * 20, "and " * 20, f"... {'the ' * 12}[MASK] {'and ' * 12}..."),
    ],
)
def test_text_around_a_span(before, after, shown, ids_of, xlnet_tokenizer):
    """It ends at special tokens, at other hidden tokens, and after 12 tokens."""
    before, truth, guess, after = map(ids_of, (before, "of the stars", "in the water", after))
    truth, guess = truth[:2], guess[:2]
    hidden = np.array([*before, *[xlnet_tokenizer.mask_token_id] * 2, *after])
    labels = np.full(len(hidden), IGNORED)
    places = np.arange(len(before), len(before) + 2)
    labels[places] = truth
    text = show_span(xlnet_tokenizer, hidden, labels, places, np.array(guess))
    assert text == f"{shown}\n    in the   (the text has: of the)"


def test_guesses_are_those_of_the_model(ids_of, xlnet, xlnet_tokenizer):
    """A model that predicts one token everywhere; examples without a target are left out."""
    model = xlnet().train()
    with torch.no_grad():
        model.lm_loss.bias[ids_of("whale")[0]] = 1e4
    text = ids_of("the stars shine over the sea and the whales sing all night while the moon goes round. ") * 3
    samples = [{"input_ids": np.array([*text[number:], 4, 3]), "example": number} for number in range(12)]
    samples.insert(0, {"input_ids": np.array([4, 3]), "example": 99})
    collator = PermutationCollator(xlnet_tokenizer, Padding(multiple=2))
    trainer = SimpleNamespace(model=model, processing_class=xlnet_tokenizer, data_collator=collator)
    shown = guess_spans(trainer, samples)
    assert len(shown) == MAX_SPANS - 1
    guess = xlnet_tokenizer.decode(ids_of("whale")[:1])
    assert all(f"\n    {guess}" in each and "(the text has: " in each for each in shown)
    assert not model.training
