"""Losses and metrics of predicted tokens equal PyTorch's, however a step is cut."""

import math

import numpy as np
import pytest
import torch
from torch.nn.functional import cross_entropy

from cloze.config.arguments import TrainingArguments
from cloze.data.collators import IGNORED, Padding
from cloze.data.permutation import PermutationCollator
from cloze.objectives.permutation import PREDICTED_TOKENS, score_targets, summarise_targets
from cloze.tokenization.templates import template_of
from cloze.training.trainer import PretrainingTrainer

LENGTHS = [64, 9, 31, 40, 17, 64, 50, 12, 33, 28, 61, 8, 45, 22, 64, 37]


@pytest.fixture
def examples(xlnet_tokenizer):
    template, rng = template_of(xlnet_tokenizer), np.random.default_rng(0)
    ids = [rng.integers(9, len(xlnet_tokenizer), length - template.num_special) for length in LENGTHS]
    return [template.example([each], number) | {"epoch": 2} for number, each in enumerate(ids)]


@pytest.fixture
def step(examples, xlnet, xlnet_tokenizer, tmp_path):
    """``step(size)`` is the loss and the gradients of an optimizer step of 16 examples, in micro-batches of a size."""

    def run(size):
        args = TrainingArguments(output_dir=str(tmp_path), use_cpu=True)
        trainer = PretrainingTrainer(args, {"": PREDICTED_TOKENS}, padding=Padding(), model=xlnet())
        collator = PermutationCollator(xlnet_tokenizer, Padding(multiple=4))
        batches = [collator(examples[begin : begin + size]) for begin in range(0, 16, size)]
        num_items = trainer.count_targets(batches)
        losses = [trainer.compute_loss(trainer.model, batch, num_items_in_batch=num_items) for batch in batches]
        sum(losses).backward()
        gradients = {name: weights.grad for name, weights in trainer.model.named_parameters()}
        return sum(loss.item() for loss in losses), gradients, batches

    return run


@pytest.mark.parametrize("size", [1, 4])
def test_step_does_not_depend_on_its_micro_batches(size, step):
    (loss, gradients, _), (whole, expected, _) = step(size), step(16)
    assert loss == pytest.approx(whole, abs=1e-6)
    assert gradients.keys() == expected.keys()
    largest = max(gradient.abs().max() for gradient in expected.values())
    for name, gradient in gradients.items():
        assert (gradient - expected[name]).abs().max() <= 1e-6 * max(largest, 1), name


def test_loss_is_the_mean_over_the_predicted_tokens(step, xlnet):
    loss, gradients, (batch,) = step(16)
    model = xlnet()
    inputs = {name: batch[name] for name in batch.keys() - {"labels", "target_mapping"}}
    dense = model(**inputs, target_mapping=torch.eye(batch["labels"].shape[1]).expand(16, -1, -1)).logits
    mean = cross_entropy(dense.flatten(0, 1), batch["labels"].flatten())
    assert loss == pytest.approx(mean.item(), abs=1e-6)
    mean.backward()
    torch.testing.assert_close(gradients["transformer.mask_emb"], model.transformer.mask_emb.grad, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("label_smoothing", [0.0, 0.1])
def test_scores_by_example_and_document(label_smoothing):
    """Two examples of 3 and 1 predicted tokens, with rows that have no label; the first is of two documents."""
    logits = torch.randn(2, 4, 7, generator=torch.Generator().manual_seed(0))
    mapping = torch.eye(6)[torch.tensor([[1, 2, 4, 0], [3, 0, 1, 2]])]
    labels = torch.full((2, 6), IGNORED)
    labels[0, [1, 2, 4]], labels[1, 3] = torch.tensor([5, 6, int(logits[0, 2].argmax())]), 2
    batch = {
        "labels": labels,
        "target_mapping": mapping,
        "documents": torch.tensor([[0, 1], [1, IGNORED]]),
        "document_ends": torch.tensor([[2, 5], [5, IGNORED]]),
        "characters": torch.tensor([9, 4]),
    }
    scores = score_targets(logits, batch, label_smoothing)
    losses = cross_entropy(logits[0, :3], labels[0, [1, 2, 4]], reduction="none", label_smoothing=label_smoothing)
    last = cross_entropy(logits[1, 0], labels[1, 3], label_smoothing=label_smoothing)
    torch.testing.assert_close(scores["loss"], torch.stack([losses.sum(), last]))
    assert scores["count"].tolist() == [3, 1]
    assert scores["hits"][0] >= 1
    torch.testing.assert_close(scores["document_loss"][0], torch.stack([losses[0], losses[1:].sum()]))
    assert scores["document_count"].tolist() == [[1, 2], [1, 0]]


def test_metrics_are_of_the_whole_set():
    scores = {"loss": [6.0, 2.0], "count": [3.0, 1.0], "hits": [1.0, 1.0], "characters": [10.0, 6.0]}
    assert summarise_targets({name: np.array(values) for name, values in scores.items()}) == {
        "loss": 2,
        "perplexity": math.exp(2),
        "bits_per_character": 8 / math.log(2) / 16,
        "accuracy": 0.5,
        "predicted_tokens": 4,
    }
