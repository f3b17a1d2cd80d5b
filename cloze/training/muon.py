"""Optimize the matrices of the layers with Muon and the other parameters with AdamW, as one optimizer."""

import math
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from torch import Tensor

# Values of a stack of matrices that are orthogonalized together: bounds the memory of a step.
STACKED = 2**24
# Instructions with which a CPU multiplies matrices in bfloat16 faster than in float32.
CPU_BFLOAT16 = ("amx_bf16", "avx512_bf16")


class BatchedMuon(torch.optim.Muon):
    """Run torch's Muon with one matrix product for all matrices of a shape, in the dtype that suits the device.

    The update of a matrix has the root mean square of AdamW's (Liu et al. 2025, arXiv:2502.16982), with Nesterov
    momentum.
    """

    def __init__(self, params: Iterable[Any], lr: float):
        super().__init__(params, lr=lr, weight_decay=0.0, adjust_lr_fn="match_rms_adamw")

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Update the matrices that have gradients; return the loss of ``closure``, if any."""
        loss = _evaluate(closure)
        for group in self.param_groups:
            stacks = defaultdict(list)
            for matrix in group["params"]:
                if matrix.grad is not None:
                    stacks[tuple(sorted(matrix.shape)), matrix.device, matrix.dtype].append(matrix)
            for matrices in stacks.values():
                size = max(STACKED // matrices[0].numel(), 1)
                for begin in range(0, len(matrices), size):
                    self._update(matrices[begin : begin + size], group)
        return loss

    def _update(self, matrices: Sequence[Tensor], group: dict[str, Any]) -> None:
        """Update matrices of [rows, columns] and of [columns, rows]."""
        directions = torch.stack([_wide(self._add_gradient(matrix, group["momentum"])) for matrix in matrices])
        coefficients, steps, eps = group["ns_coefficients"], group["ns_steps"], group["eps"]
        directions = directions.to(matmul_dtype(directions.device))
        directions = orthogonalize(directions, coefficients, steps, eps)
        lr = group["lr"]
        for matrix, direction in zip(matrices, directions, strict=True):
            matrix.mul_(1 - lr * group["weight_decay"])
            direction = direction.mT if matrix.shape[0] > matrix.shape[1] else direction
            matrix.add_(direction, alpha=-0.2 * math.sqrt(max(matrix.shape)) * lr)

    def _add_gradient(self, matrix: Tensor, momentum: float) -> Tensor:
        """Add the gradient to the matrix's momentum; return Nesterov's direction."""
        assert matrix.grad is not None
        state = self.state[matrix]
        if not state:
            state["momentum_buffer"] = torch.zeros_like(matrix.grad)
        buffer = state["momentum_buffer"].lerp_(matrix.grad, 1 - momentum)
        return matrix.grad.lerp(buffer, momentum)


class MuonWithAdamW(torch.optim.Optimizer):
    """Run Muon on some parameter groups and AdamW on the others.

    Both work on the groups and the state of this optimizer, which schedulers change, and checkpoints save and load.

    Args:
        groups: the parameter groups; Muon's have ``"muon": True``, and matrices only.
        lr: the learning rate of groups that have none.
        **adamw: the arguments of ``torch.optim.AdamW``.
    """

    def __init__(self, groups: Sequence[dict[str, Any]], lr: float, **adamw: Any):
        self.adamw = torch.optim.AdamW([group for group in groups if not group.get("muon")], lr=lr, **adamw)
        self.muon = BatchedMuon([group for group in groups if group.get("muon")], lr)
        # Schedules of a lowest rate read the default one.
        super().__init__([*self.adamw.param_groups, *self.muon.param_groups], {"lr": lr})
        self._share_groups()

    def _share_groups(self) -> None:
        for each in (self.adamw, self.muon):
            is_muon = each is self.muon
            each.param_groups = [group for group in self.param_groups if group.get("muon", False) is is_muon]
            each.state = self.state

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Take over a loaded state."""
        super().__setstate__(state)
        self._share_groups()

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Update all parameters that have gradients; return the loss of ``closure``, if any."""
        loss = _evaluate(closure)
        self.muon.step()
        self.adamw.step()
        return loss


def orthogonalize(matrices: Tensor, coefficients: Sequence[float], steps: int, eps: float) -> Tensor:
    """Return the matrices with singular values of about 1, by Newton-Schulz iterations (Jordan et al. 2024).

    Args:
        matrices: [count, rows, columns], with at most as many rows as columns.
        coefficients: of the matrix, its cube, and its fifth power.
        steps: the number of iterations.
        eps: the smallest norm by which a matrix is divided.
    """
    linear, cubic, quintic = coefficients
    matrices = matrices / torch.linalg.matrix_norm(matrices, keepdim=True).clamp(min=eps)
    for _ in range(steps):
        gram = matrices @ matrices.mT
        gram = torch.baddbmm(gram, gram, gram, beta=cubic, alpha=quintic)
        matrices = torch.baddbmm(matrices, gram, matrices, beta=linear)
    return matrices


def matmul_dtype(device: torch.device) -> torch.dtype:
    """Return bfloat16, and float32 on a CPU that multiplies in bfloat16 slowly."""
    if device.type == "cpu" and not any(torch.cpu.get_capabilities().get(name) for name in CPU_BFLOAT16):
        return torch.float32
    return torch.bfloat16


def _wide(matrix: Tensor) -> Tensor:
    """Return a matrix or its transpose, with at most as many rows as columns."""
    return matrix.mT if matrix.shape[0] > matrix.shape[1] else matrix


def _evaluate(closure: Callable[[], Any] | None) -> Any:
    if closure is None:
        return None
    with torch.enable_grad():
        return closure()
