"""Test which tokens are predicted and in which order: as in transformers, and reproducible by example."""

import numpy as np
import pytest
import torch
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn.functional import cross_entropy
from transformers import DataCollatorForPermutationLanguageModeling

from cloze.config.permutation_arguments import MAX_SPAN_LENGTH, PLM_PROBABILITY
from cloze.data import permutation
from cloze.data.collators import IGNORED, Padding
from cloze.data.permutation import PermutationCollator, draw_order, draw_spans, map_targets
from cloze.tokenization.templates import template_of
from tests.utils import ROOT

SIXTH = (PLM_PROBABILITY, MAX_SPAN_LENGTH)


@pytest.fixture
def make_examples(xlnet_tokenizer):
    """``make_examples(lengths, epoch)`` has ordinary tokens, of these lengths with <sep> <cls>."""

    def make(lengths, epoch=None):
        template, rng = template_of(xlnet_tokenizer), np.random.default_rng(0)
        ids = [rng.integers(9, len(xlnet_tokenizer), length - template.num_special) for length in lengths]
        examples = [template.example([each], number) for number, each in enumerate(ids)]
        return examples if epoch is None else [example | {"epoch": epoch} for example in examples]

    return make


@pytest.fixture
def collator(xlnet_tokenizer):
    return lambda **arguments: PermutationCollator(xlnet_tokenizer, Padding(multiple=2), **arguments)


def rng_of(seed=0):
    return np.random.default_rng(seed)


# The objective


class Replayed:
    """Give the numbers that the collator of transformers has drawn, in the place of an example's generator."""

    def __init__(self, spans, order):
        self.spans, self.order = spans, order

    def random(self, shape):
        draws = np.zeros(shape)
        for place, (span, begin, context) in enumerate(self.spans):
            draws[:, place] = (span - 0.5) / MAX_SPAN_LENGTH, (begin + 0.5) / (context - span + 1)
        return draws

    def permutation(self, size):
        assert size == len(self.order)
        return self.order


def upstream_batch(examples, tokenizer, monkeypatch):
    """Return the batch of transformers' collator, and a generator for each example that repeats its draws."""
    drawn, orders, randint, randperm = [], [], torch.randint, torch.randperm

    def noting_randint(*args):
        drawn.append((args[-2], randint(*args)))
        return drawn[-1][1]

    def noting_randperm(size):
        orders.append(randperm(size))
        return orders[-1]

    with monkeypatch.context() as patched:
        patched.setattr(torch, "randint", noting_randint)
        patched.setattr(torch, "randperm", noting_randperm)
        torch.manual_seed(1)
        batch = DataCollatorForPermutationLanguageModeling(tokenizer)(examples)
    generators, length = [], batch["input_ids"].shape[1]
    for order in orders:
        spans, begin = [], 0
        while begin < length:
            (_, span), (choices, place) = drawn[:2]
            del drawn[:2]
            context = choices - 1 + span.item()
            spans.append((span.item(), place.item(), context))
            begin += context
        generators.append(Replayed(spans, order.numpy()))
    assert not drawn
    return batch, generators


def test_batch_and_loss_equal_those_of_transformers(make_examples, collator, xlnet, xlnet_tokenizer, monkeypatch):
    """The same draws give the same masks and labels, and the same loss from fewer logits."""
    examples = make_examples([64] * 6)
    # Separators between documents are not predicted, either.
    for example in examples:
        example["input_ids"][20] = xlnet_tokenizer.sep_token_id
    wanted, generators = upstream_batch([{"input_ids": e["input_ids"]} for e in examples], xlnet_tokenizer, monkeypatch)
    monkeypatch.setattr(permutation, "example_rng", lambda seed, epoch, example: generators[example])
    batch = collator()(examples)
    for name in ("input_ids", "labels", "perm_mask"):
        assert torch.equal(batch[name], wanted[name].to(batch[name].dtype)), name
    segments = torch.tensor([[0] * 63 + [2]] * 6)
    assert torch.equal(batch["token_type_ids"], segments)
    assert batch["target_mapping"].shape[1] < 32
    model = xlnet()
    count = (batch["labels"] != IGNORED).sum()
    with torch.no_grad():
        expected = model(**wanted, token_type_ids=segments).loss
        logits = model(**{name: batch[name] for name in batch.keys() - {"labels", "characters"}}).logits
    targets = batch["labels"].gather(1, batch["target_mapping"].argmax(-1))
    found = cross_entropy(logits.flatten(0, 1), targets.flatten(), reduction="sum", ignore_index=IGNORED) / count
    assert found.item() == pytest.approx(expected.item(), abs=1e-6)


def test_batch_of_given_draws(xlnet_tokenizer, monkeypatch):
    """Position 2 of the order sees position 1, and the text sees no predicted token."""
    names = ("<unk>", "<cls>", "<sep>", "<pad>", "<mask>")
    unknown, cls, sep, pad, mask = (xlnet_tokenizer.get_vocab()[name] for name in names)
    generators = [Replayed([(2, 0, 12)], np.array([1, 0, 2])), Replayed([(1, 1, 6)], np.array([1, 0]))]
    monkeypatch.setattr(permutation, "example_rng", lambda seed, epoch, example: generators[example])
    first, second = np.array([20, 21, 22, unknown, sep, cls]), np.array([30, 31, sep, cls])
    batch = PermutationCollator(xlnet_tokenizer, Padding(multiple=2), targets_multiple=1)(
        [{"input_ids": first, "example": 0}, {"input_ids": second, "example": 1}]
    )
    assert batch["input_ids"].tolist() == [[mask, mask, 22, unknown, sep, cls], [30, mask, sep, cls, pad, pad]]
    assert batch["attention_mask"].tolist() == [[1] * 6, [1, 1, 1, 1, 0, 0]]
    assert batch["token_type_ids"].tolist() == [[0, 0, 0, 0, 0, 2], [0, 0, 0, 2, 0, 0]]
    assert batch["labels"].tolist() == [[20, 21] + [IGNORED] * 4, [IGNORED, 31] + [IGNORED] * 4]
    # Order of the first: positions 1, 0, 2, 4, 3, 5. Unknown and special tokens have a rank, too.
    assert batch["perm_mask"][0].int().tolist() == [
        [1, 0, 0, 0, 0, 0],
        [1, 1, 0, 0, 0, 0],
        [1, 1, 0, 0, 0, 0],
        [0, 0, 0, 0, 0, 0],
        [0, 0, 0, 0, 0, 0],
        [0, 0, 0, 0, 0, 0],
    ]
    assert batch["perm_mask"][1, :4, :4].int().tolist() == [[0, 1, 0, 0], [0, 1, 0, 0], [0, 0, 0, 0], [0, 0, 0, 0]]
    assert batch["target_mapping"].argmax(-1).tolist() == [[0, 1], [1, 0]]
    assert batch["target_mapping"].sum(-1).tolist() == [[1, 1], [1, 1]]


def test_predictions_do_not_depend_on_padding(make_examples, collator, xlnet):
    """Examples of different lengths, even and odd, in one batch and alone."""
    examples, model = make_examples([64, 9, 31, 40, 17], epoch=3), xlnet()
    together, collate = collator(seed=5)(examples), collator(seed=5)
    inputs = together.keys() - {"labels"}
    with torch.no_grad():
        logits = model(**{name: together[name] for name in inputs}).logits
        for row, example in enumerate(examples):
            alone, length = collate([example]), len(example["input_ids"])
            assert alone["input_ids"].shape == (1, length + length % 2)
            for name in ("input_ids", "labels", "attention_mask", "token_type_ids"):
                assert together[name][row, :length].tolist() == alone[name][0, :length].tolist()
            assert torch.equal(together["perm_mask"][row, :length, :length], alone["perm_mask"][0, :length, :length])
            count = int((alone["labels"] != IGNORED).sum())
            expected = model(**{name: alone[name] for name in inputs}).logits[0, :count]
            torch.testing.assert_close(logits[row, :count], expected, rtol=1e-5, atol=1e-5)


def test_padding_on_the_left_gives_the_same_logits(make_examples, collator, xlnet):
    """XLNet was trained with padding on the left; its positions are relative."""
    batch, model = collator()(make_examples([40, 40])), xlnet()
    inputs = {name: batch[name] for name in batch.keys() - {"labels", "characters"}}
    found = []
    for side in ((6, 0), (0, 6)):
        padded = {name: torch.nn.functional.pad(values, side) for name, values in inputs.items()}
        padded["perm_mask"] = torch.nn.functional.pad(inputs["perm_mask"], side + side)
        with torch.no_grad():
            found.append(model(**padded).logits)
    torch.testing.assert_close(*found, rtol=1e-5, atol=1e-5)


def test_predicted_tokens_are_hidden_from_the_model(make_examples, collator, xlnet):
    """The logits at the predicted positions depend on no predicted token."""
    examples = make_examples([48] * 2)
    batch, model = collator()(examples), xlnet()
    others = [example | {"input_ids": example["input_ids"].copy()} for example in examples]
    for other, labels in zip(others, batch["labels"].numpy(), strict=True):
        other["input_ids"][labels != IGNORED] = 11
    inputs = batch.keys() - {"labels", "characters"}
    with torch.no_grad():
        found = [model(**{name: each[name] for name in inputs}).logits for each in (batch, collator()(others))]
    assert torch.equal(*found)


# What draws depend on


def test_draws_depend_on_seed_epoch_and_example(make_examples, collator):
    lengths = [64] * 4
    labels = {
        (seed, epoch): collator(seed=seed)(make_examples(lengths, epoch))["labels"].tolist()
        for seed in (1, 2)
        for epoch in (0, 1)
    }
    assert len({str(each) for each in labels.values()}) == 4
    again = collator(seed=1)(make_examples(lengths, 1)[::-1])["labels"].tolist()
    assert again[::-1] == labels[1, 1]


def test_evaluations_do_not_depend_on_training_settings(make_examples, collator):
    examples = make_examples([64] * 4)
    batches = [collator()(examples), collator(plm_probability=0.5, max_span_length=1, seed=9)(examples)]
    assert batches[0].keys() == batches[1].keys()
    assert all(torch.equal(batches[0][name], batches[1][name]) for name in batches[0])
    trained = [collator(plm_probability=share)(make_examples([64] * 4, 0))["labels"] for share in (1 / 6, 0.5)]
    assert (trained[1] != IGNORED).sum() > 2 * (trained[0] != IGNORED).sum()
    assert "characters" not in collator()(make_examples([64], 0))


def test_characters_are_counted_in_evaluations(collator, xlnet_tokenizer):
    ids = xlnet_tokenizer("The stars shine over the sea, and the whales sing all night long. " * 3)["input_ids"]
    batch = collator()([{"input_ids": np.array(ids), "example": 4}])
    tokens = xlnet_tokenizer.convert_ids_to_tokens(batch["labels"][batch["labels"] != IGNORED].tolist())
    assert batch["characters"].tolist() == [len("".join(tokens).replace("\u2581", ""))]
    assert batch["characters"][0] > 5


def test_documents_of_examples_are_kept(make_examples, collator):
    (example,) = make_examples([32])
    batch = collator()([example | {"documents": np.array([3, 4]), "document_ends": np.array([10, 30])}])
    assert batch["documents"].tolist() == [[3, 4]]
    assert batch["document_ends"].tolist() == [[10, 30]]


# Spans, orders and targets


def test_share_and_lengths_of_spans():
    """One sixth is predicted, in spans of 1 to 5 that are equally frequent."""
    drawn = draw_spans(300_000, *SIXTH, rng_of())
    assert drawn.mean() == pytest.approx(1 / 6, abs=0.003)
    edges = np.flatnonzero(np.diff(drawn.astype(int), prepend=0, append=0)).reshape(-1, 2)
    counts = np.bincount(np.diff(edges)[:, 0])
    # Neighbours of two contexts may touch.
    assert counts[1:6].min() > 0.18 * counts.sum()
    assert counts[6:].sum() < 0.02 * counts.sum()


@pytest.mark.parametrize(("share", "longest"), [(1 / 6, 5), (0.15, 3), (0.5, 1), (0.9, 4), (0.3, 20)])
def test_spans_equal_those_of_a_loop(share, longest):
    """The same numbers, used one span after another as the paper describes."""
    sizes, places = rng_of(7).random((2, -(-200 // int(1 / share))))
    expected, begin = np.zeros(200, dtype=bool), 0
    for size, place in zip(sizes, places, strict=True):
        span = 1 + int(size * longest)
        context = int(span / share)
        start = begin + int(place * (context - span + 1))
        expected[start : start + span] = True
        begin += context
    assert begin >= 200
    assert draw_spans(200, share, longest, rng_of(7)).tolist() == expected.tolist()


@given(length=st.integers(1, 200), seed=st.integers(0, 9))
@settings(deadline=None)
def test_order_is_the_same_in_both_halves(length, seed):
    order = draw_order(length, rng_of(seed))
    half = -(-length // 2)
    assert sorted(order[:half].tolist()) == list(range(half))
    assert order[half:].tolist() == (order[: length - half] + half).tolist()


@pytest.mark.parametrize(("counts", "multiple", "targets"), [([0, 0], 4, 4), ([5, 1], 4, 8), ([7, 9], 4, 10)])
def test_targets_are_those_predicted_then_others(counts, multiple, targets):
    predicted = np.zeros((2, 10), dtype=bool)
    for row, count in enumerate(counts):
        predicted[row, rng_of(row).choice(10, count, replace=False)] = True
    mapping = map_targets(predicted, multiple)
    assert mapping.shape == (2, targets, 10)
    for row, count in enumerate(counts):
        places = mapping[row].argmax(-1).tolist()
        assert places[:count] == np.flatnonzero(predicted[row]).tolist()
        assert len(set(places)) == targets
        assert not predicted[row, places[count:]].any()


def test_recipe_of_xlnet_predicts_one_token_in_six():
    """Contexts are cut to whole tokens: a share just above 1/6 would predict 17.6 %."""
    share = yaml.safe_load((ROOT / "recipes" / "xlnet-base" / "plm.yaml").read_text())["plm_probability"]
    drawn, expected = (draw_spans(600, each, 5, np.random.default_rng(0)) for each in (share, PLM_PROBABILITY))
    assert drawn.tolist() == expected.tolist()
