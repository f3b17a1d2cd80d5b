"""Averaged weights: the average recomputed by hand, put in place, written and read."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn

from cloze.errors import UserError
from cloze.training.averaging import AVERAGE, AveragingTrainer, SavingTrainer, WeightAverage, read_average


class Tied(nn.Module):
    """Two names for one matrix, a bias of 16 bits, and a frozen weight."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.embeddings = nn.Linear(3, 2, bias=False)
        self.head = nn.Linear(3, 2, dtype=torch.bfloat16)
        self.head.weight = self.embeddings.weight
        self.frozen = nn.Parameter(torch.ones(2), requires_grad=False)


@pytest.fixture
def model():
    return Tied()


def begin(model, decay, checkpoint=None) -> WeightAverage:
    average = WeightAverage(decay)
    average.checkpoint = checkpoint
    average.on_train_begin(None, None, None, model=model)
    return average


@torch.no_grad()
def step(model, average) -> dict[str, np.ndarray]:
    """Change the weights that are trained, and return them."""
    for weight in (model.embeddings.weight, model.head.bias):
        weight += torch.randn(weight.shape).to(weight.dtype)
    average.on_optimizer_step(None, None, None)
    return weights_of(model)


def weights_of(model) -> dict[str, np.ndarray]:
    return {name: weight.detach().double().numpy().copy() for name, weight in model.named_parameters()}


@pytest.mark.parametrize("decay", [0.5, 0.25, 0.999])
def test_average_is_as_computed_by_hand(decay, model):
    average, expected = begin(model, decay), weights_of(model)
    # (1 + t) / (10 + t) after step t, up to the decay.
    rates = {0.5: [2 / 11, 3 / 12, 4 / 13, 5 / 14, 6 / 15, 7 / 16, 8 / 17, 9 / 18, 0.5, 0.5]}
    rates[0.25] = [2 / 11] + 9 * [0.25]
    rates[0.999] = [*rates[0.5][:8], 10 / 19, 11 / 20]
    for rate in rates[decay]:
        now = step(model, average)
        expected = {name: rate * value + (1 - rate) * now[name] for name, value in expected.items()}
    assert list(average.weights) == ["embeddings.weight", "head.bias"], "tied once, the frozen not at all"
    for name, value in zip(average.weights, average.average, strict=True):
        assert value.dtype == torch.float32
        np.testing.assert_allclose(value.numpy(), expected[name], rtol=2e-6, atol=1e-6)


def test_long_run_reaches_the_full_decay(model):
    average = begin(model, 0.999)
    average.steps = 8_990
    (before, _), now = [each.double().numpy().copy() for each in average.average], step(model, average)
    expected = 0.999 * before + 0.001 * now["embeddings.weight"]
    np.testing.assert_allclose(average.average[0].numpy(), expected, rtol=1e-6)


@pytest.mark.parametrize("error", [None, SystemExit])
def test_own_weights_come_back_bit_for_bit(error, model):
    average = begin(model, 0.9)
    step(model, average)
    own, averages = weights_of(model), [each.clone() for each in average.average]
    try:
        with average.applied():
            assert torch.equal(model.head.weight, averages[0])
            assert torch.equal(model.head.bias, averages[1].bfloat16())
            if error:
                raise error
    except SystemExit:
        pass
    assert all((value == own[name]).all() for name, value in weights_of(model).items())
    assert all(map(torch.equal, average.average, averages))
    average.apply()
    assert torch.equal(model.embeddings.weight, averages[0])


def test_average_resumes_bit_for_bit(model, tmp_path):
    whole = begin(model, 0.9)
    for _ in range(3):
        step(model, whole)
    whole.write(tmp_path)
    resumed = begin(model, 0.9, tmp_path)
    assert resumed.steps == 3
    torch.manual_seed(1)
    step(model, whole)
    resumed.on_optimizer_step(None, None, None)
    assert resumed.steps == 4
    assert all(map(torch.equal, resumed.average, whole.average))


def test_checkpoint_without_an_average_begins_one(model, tmp_path):
    average = begin(model, 0.9, tmp_path)
    assert average.steps == 0
    assert torch.equal(average.average[0], model.embeddings.weight)
    assert average.average[0] is not model.embeddings.weight


def test_average_of_another_model_is_refused(model, tmp_path):
    begin(nn.Linear(3, 2), 0.9).write(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == [AVERAGE]
    with pytest.raises(Exception, match=r"embeddings\.weight"):
        begin(model, 0.9, tmp_path)
    with pytest.raises(RuntimeError):
        read_average(tmp_path, {"weight": torch.zeros(3, 3)})


@pytest.mark.parametrize("sharding", ["is_fsdp_enabled", "is_deepspeed_enabled"])
def test_sharded_weights_are_refused(sharding, monkeypatch):
    def init(self, **kwargs):
        self.is_fsdp_enabled = self.is_deepspeed_enabled = False
        setattr(self, sharding, True)

    monkeypatch.setattr(SavingTrainer, "__init__", init)
    AveragingTrainer(SimpleNamespace(ema_decay=None))
    with pytest.raises(UserError, match="--ema_decay does not support FSDP or DeepSpeed"):
        AveragingTrainer(SimpleNamespace(ema_decay=0.9))
