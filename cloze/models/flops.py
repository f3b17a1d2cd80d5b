"""Count the operations of a model's forward, and those a second that a device is capable of."""

import logging
import re
import time
from dataclasses import dataclass
from functools import cache

import numpy as np
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.functional import linear
from torch.utils.flop_counter import FlopCounterMode
from transformers import PreTrainedModel

from cloze.models.trials import quiet, trial_copy

logger = logging.getLogger(__name__)

# Dense matrix products, in 10^12 operations a second, from the makers' data sheets: of 16-bit numbers, of float32 with
# the tensor cores' TF32, and of float32 without. A card's name has to contain the key; the first that fits is taken.
PEAKS = {
    "B200": (2250, 1125, 75),
    "H200": (989, 494, 67),
    "H100 PCIe": (756, 378, 51),
    "H100 NVL": (835, 417, 60),
    "H100": (989, 494, 67),
    "A100": (312, 156, 19.5),
    "L40S": (362, 183, 91.6),
    "L40": (181, 90.5, 90.5),
    "L4": (121, 60, 30.3),
    "A10G": (70, 35, 31.5),
    "RTX 4090": (165, 82.6, 82.6),
    "RTX 3090": (71, 35.6, 35.6),
    "V100": (125, 15.7, 15.7),
    "T4": (65, 8.1, 8.1),
}

# Of the matrix products that are timed where no data sheet is known; no larger one follows one of LONG_ENOUGH seconds.
PRODUCT_SIZES = (128, 256, 512, 1024, 2048)
LONG_ENOUGH = 0.05


@dataclass(frozen=True)
class Flops:
    """Hold the operations of a model's forward, a multiplication and an addition counted as two: each example takes
    ``per_example + per_token * length + per_square * length^2``, and each masked token ``per_label``.

    For BERT with L layers of width d, feed-forward f, vocabulary V: per_token L(8 d^2 + 4 d f), per_square 4 d L,
    per_label 2 d^2 + 2 d V; where positions are selected before the last layer's 4 d f, these are of per_label.
    """

    per_example: float
    per_token: float
    per_square: float
    per_label: float

    def training(self, examples: int, tokens: int, squares: int, labels: int) -> float:
        """Return the operations of training on real tokens, three times the forward's; ``squares`` are of lengths."""
        per_text = self.per_example * examples + self.per_token * tokens + self.per_square * squares
        return 3 * (per_text + self.per_label * labels)


def count_flops(model: PreTrainedModel, masks: bool) -> Flops | None:
    """Return what a model's forward takes, from texts of a few lengths; None where it does not run on those.

    Args:
        model: takes ``masked_positions`` if it ``masks``. A copy is run, on the CPU.
    """
    trial = trial_copy(model).cpu()
    # Length and masked positions: four equations of four unknowns.
    trials = [(4, 2), (8, 2), (16, 2), (8, 4)]
    try:
        counts = [_count_forward(trial, *sizes, masks) for sizes in trials]
    except Exception as error:  # whatever a model does that is given so little
        logger.debug("%s does not run on a short text: %r", type(model).__name__, error)
        return None
    equations = [[1, length, length**2, labels] for length, labels in trials]
    solution = np.linalg.solve(np.array(equations, dtype=float), np.array(counts, dtype=float))
    return Flops(*solution.round(3).tolist())


@torch.no_grad()
def _count_forward(model: PreTrainedModel, length: int, labels: int, masks: bool) -> int:
    inputs = {"input_ids": torch.zeros(1, length, dtype=torch.long)}
    if masks:
        inputs["masked_positions"] = torch.zeros(labels, dtype=torch.long)
    # Of the kernels for attention, the counter does not know all; matrix products it does.
    with quiet(), sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        model(**inputs)
    return counter.get_total_flops()


@cache
def peak_flops(device: torch.device, dtype: torch.dtype) -> float:
    """Return the operations a second of the device's data sheet, or else those measured of a large matrix product."""
    if device.type == "cuda":
        name = torch.cuda.get_device_name(device)
        # Where --tf32 or --torch_compile have set this, torch refuses to read allow_tf32 (pytorch#166387).
        tf32 = torch.backends.cuda.matmul.fp32_precision == "tf32"
        column = 0 if dtype != torch.float32 else 1 if tf32 else 2
        found = next((peaks for key, peaks in PEAKS.items() if re.search(rf"\b{key}\b", name)), None)
        if found:
            return found[column] * 1e12
    return _measure_peak(device, dtype)


def _measure_peak(device: torch.device, dtype: torch.dtype) -> float:
    """Return the operations a second of matrix products, of the first size that takes long enough to be timed."""
    # With a generator of its own: that of training must not depend on whether this was measured.
    generator = torch.Generator(device).manual_seed(0)
    for size in PRODUCT_SIZES:
        a, b = torch.rand(2, size, size, device=device, dtype=dtype, generator=generator)
        seconds = min(_time_product(a, b) for _ in range(4))  # the first one warms up
        if seconds > LONG_ENOUGH:
            break
    return 2 * size**3 / seconds


def _time_product(a: torch.Tensor, b: torch.Tensor) -> float:
    start = time.perf_counter()
    # As a layer does it: a CPU computes a plain product of float16 number by number, which took minutes.
    linear(a, b)[0, 0].item()  # waits for the device
    return time.perf_counter() - start
