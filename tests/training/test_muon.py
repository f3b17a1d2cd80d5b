"""Muon with AdamW as one optimizer: the updates are those of torch's two, also with schedules and after loading."""

import copy
import io

import pytest
import torch
from torch.optim.lr_scheduler import LambdaLR

from cloze.training import muon
from cloze.training.muon import MuonWithAdamW, orthogonalize

SHAPES = ((8, 8), (8, 16), (16, 8), (8, 8), (4, 12))
ADAMW = {"betas": (0.8, 0.95), "eps": 1e-7, "fused": True}


@pytest.fixture
def parameters():
    """Return matrices for Muon, and a matrix and a bias for AdamW."""
    torch.manual_seed(0)
    return [torch.nn.Parameter(torch.randn(*shape)) for shape in (*SHAPES, (9, 8), (8,))]


def groups_of(parameters) -> list[dict]:
    *matrices, embedding, bias = parameters
    return [
        {"params": [embedding], "lr": 0.01, "weight_decay": 0.1},
        {"params": [bias], "lr": 0.01, "weight_decay": 0.0},
        {"params": matrices, "lr": 0.05, "weight_decay": 0.2, "muon": True},
    ]


def make(parameters) -> MuonWithAdamW:
    return MuonWithAdamW(groups_of(parameters), lr=0.01, **ADAMW)


def train(parameters, *optimizers, steps, seed=0, scheduler=None):
    generator = torch.Generator().manual_seed(seed)
    for _ in range(steps):
        for parameter in parameters:
            parameter.grad = torch.randn(parameter.shape, generator=generator)
        for optimizer in optimizers:
            optimizer.step()
        if scheduler is not None:
            scheduler.step()


def torch_muon(matrices) -> torch.optim.Muon:
    return torch.optim.Muon(matrices, lr=0.05, weight_decay=0.2, adjust_lr_fn="match_rms_adamw")


@pytest.mark.parametrize("stacked", [1, 200, 2**24])
def test_matrices_are_updated_as_by_torch_in_float32(stacked, parameters, monkeypatch):
    monkeypatch.setattr(muon, "STACKED", stacked)
    monkeypatch.setattr(muon, "matmul_dtype", lambda device: torch.float32)
    # torch's Muon has no other dtype, and changes the copy in place.
    monkeypatch.setattr(torch.Tensor, "bfloat16", torch.Tensor.clone)
    expected = copy.deepcopy(parameters)
    train(parameters, make(parameters), steps=5)
    *matrices, _, _ = expected
    train(expected, torch_muon(matrices), steps=5)
    for found, matrix in zip(parameters, matrices, strict=False):
        torch.testing.assert_close(found, matrix, rtol=1e-5, atol=1e-6)


def test_matrices_are_updated_as_by_torch_in_bfloat16(parameters, monkeypatch):
    monkeypatch.setattr(muon, "matmul_dtype", lambda device: torch.bfloat16)
    before, expected = copy.deepcopy(parameters), copy.deepcopy(parameters)
    train(parameters, make(parameters), steps=1)
    *matrices, _, _ = expected
    train(expected, torch_muon(matrices), steps=1)
    for old, found, matrix in zip(before, parameters, matrices, strict=False):
        # 8 bits of mantissa, through five iterations.
        torch.testing.assert_close(found - old, matrix - old, rtol=0, atol=0.03 * (matrix - old).abs().max().item())


def test_other_parameters_are_updated_as_by_torchs_adamw(parameters):
    expected = copy.deepcopy(parameters)
    train(parameters, make(parameters), steps=5)
    adamw = torch.optim.AdamW(groups_of(expected)[:2], lr=0.01, **ADAMW)
    train(expected, adamw, steps=5)
    assert all(torch.equal(found, other) for found, other in zip(parameters[-2:], expected[-2:], strict=True))


def test_saved_and_loaded_state_continues_bit_for_bit_with_a_schedule(parameters):
    """Through a file that is read without pickled classes, as a checkpoint."""

    def with_schedule(parameters):
        optimizer = make(parameters)
        return optimizer, LambdaLR(optimizer, lambda step: 1 - step / 10)

    other = copy.deepcopy(parameters)
    optimizer, scheduler = with_schedule(parameters)
    train(parameters, optimizer, steps=4, scheduler=scheduler)
    saved = io.BytesIO()
    torch.save([parameters, optimizer.state_dict(), scheduler.state_dict()], saved)
    train(parameters, optimizer, steps=4, seed=1, scheduler=scheduler)
    optimizer, scheduler = with_schedule(other)
    train(other, optimizer, steps=1, seed=2)
    weights, *states = torch.load(io.BytesIO(saved.getvalue()), weights_only=True)
    for parameter, weight in zip(other, weights, strict=True):
        parameter.data = weight.data
    optimizer.load_state_dict(states[0])
    scheduler.load_state_dict(states[1])
    train(other, optimizer, steps=4, seed=1, scheduler=scheduler)
    assert all(torch.equal(*pair) for pair in zip(parameters, other, strict=True))
    assert [group["lr"] for group in optimizer.param_groups] == pytest.approx([0.002, 0.002, 0.01])


def test_state_has_one_value_per_weight_for_muon_and_two_for_adamw(parameters):
    optimizer = make(parameters)
    train(parameters, optimizer, steps=1)
    names = [sorted(optimizer.state[parameter]) for parameter in parameters]
    assert names == [["momentum_buffer"]] * 5 + [["exp_avg", "exp_avg_sq", "step"]] * 2


def test_gradients_scaled_for_float16_are_unscaled(parameters):
    expected = copy.deepcopy(parameters)
    train(expected, make(expected), steps=1)
    optimizer, scaler = make(parameters), torch.amp.GradScaler("cpu", init_scale=1024.0)
    generator = torch.Generator().manual_seed(0)
    for parameter in parameters:
        parameter.grad = scaler.scale(torch.randn(parameter.shape, generator=generator))
    scaler.step(optimizer)
    assert all(torch.equal(*pair) for pair in zip(parameters, expected, strict=True))


def test_parameters_without_gradients_stay(parameters):
    before = copy.deepcopy(parameters)
    optimizer = make(parameters)
    parameters[0].grad, parameters[-1].grad = torch.ones(8, 8), torch.ones(8)
    assert optimizer.step(lambda: 3) == 3
    assert [torch.equal(*pair) for pair in zip(before, parameters, strict=True)] == [False, *[True] * 5, False]


def test_orthogonalized_matrices_have_singular_values_of_about_one():
    torch.manual_seed(0)
    group = torch.optim.Muon([torch.zeros(1, 1)]).param_groups[0]
    matrices = torch.randn(3, 8, 20) * torch.tensor([1e-3, 1.0, 1e3])[:, None, None]
    values = torch.linalg.svdvals(orthogonalize(matrices, group["ns_coefficients"], group["ns_steps"], group["eps"]))
    assert values.min() > 0.6
    assert values.max() < 1.3


@pytest.mark.parametrize(
    ("capabilities", "dtype"),
    [({"avx512_f": True}, torch.float32), ({"avx512_bf16": True}, torch.bfloat16), ({}, torch.float32)],
)
def test_a_cpu_multiplies_in_bfloat16_only_if_it_has_instructions_for_it(capabilities, dtype, monkeypatch):
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: capabilities)
    assert muon.matmul_dtype(torch.device("cpu")) == dtype
    assert muon.matmul_dtype(torch.device("cuda")) == torch.bfloat16
