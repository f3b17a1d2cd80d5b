"""Count the FLOPs of a model's forward, and find a device's peak FLOPs per second."""

import inspect
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

# Dense matrix products in TFLOP/s, from the vendors' data sheets: 16-bit, float32 with TF32, float32 without TF32. The
# first key that occurs in the GPU's name counts.
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

# Matrix products to time on other devices, in ascending order, until one takes more than MIN_SECONDS.
PRODUCT_SIZES = (128, 256, 512, 1024, 2048)
MIN_SECONDS = 0.05


@dataclass(frozen=True)
class Flops:
    """Hold the FLOPs of a model's forward; a multiply-add counts as two.

    An example takes ``per_example + per_token * length + per_square * length^2``, and each masked token ``per_label``.
    For BERT with L layers of width d, feed-forward f, vocabulary V: per_token L(8 d^2 + 4 d f), per_square 4 d L,
    per_label 2 d^2 + 2 d V. If the last feed-forward sees masked positions only, its 4 d f moves to per_label.
    """

    per_example: float
    per_token: float
    per_square: float
    per_label: float

    def training(self, examples: int, tokens: int, squares: int, labels: int) -> float:
        """Return the FLOPs of training, three times the forward's; ``squares`` is the sum of squared lengths."""
        per_text = self.per_example * examples + self.per_token * tokens + self.per_square * squares
        return 3 * (per_text + self.per_label * labels)


def count_flops(model: PreTrainedModel, masks: bool) -> Flops | None:
    """Return the FLOPs of a model's forward, fitted to short texts; None if the model fails on short texts.

    Args:
        model: the model; a copy runs on the CPU.
        masks: whether the model predicts masked tokens and its forward takes their positions (Task.takes_positions).
    """
    trial = trial_copy(model).cpu()
    # Length and number of masked positions: four equations for four unknowns.
    trials = [(4, 2), (8, 2), (16, 2), (8, 4)]
    try:
        counts = [_count_forward(trial, *sizes, masks) for sizes in trials]
    except Exception as error:  # models raise errors of any type here
        logger.debug("%s does not run on a short text: %r", type(model).__name__, error)
        return None
    equations = [[1, length, length**2, labels] for length, labels in trials]
    solution = np.linalg.solve(np.array(equations, dtype=float), np.array(counts, dtype=float))
    return Flops(*solution.round(3).tolist())


@torch.no_grad()
def _count_forward(model: PreTrainedModel, length: int, labels: int, masks: bool) -> int:
    inputs = {"input_ids": torch.zeros(1, length, dtype=torch.long)}
    if masks and "target_mapping" in inspect.signature(model.forward).parameters:
        # XLNet: two streams of attention; the second one has a row for each target.
        inputs |= {"perm_mask": torch.zeros(1, length, length), "target_mapping": torch.eye(length)[None, :labels]}
    elif masks:
        inputs["masked_positions"] = torch.zeros(labels, dtype=torch.long)
    # The counter misses some fused attention kernels; MATH uses plain matrix products.
    with quiet(), sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        model(**inputs)
    return counter.get_total_flops()


@cache
def peak_flops(device: torch.device, dtype: torch.dtype) -> float:
    """Return the device's peak FLOPs per second: from the data sheet, else measured with matrix products."""
    if device.type == "cuda":
        name = torch.cuda.get_device_name(device)
        # After --tf32 or --torch_compile have set this, torch refuses to read allow_tf32 (pytorch#166387).
        tf32 = torch.backends.cuda.matmul.fp32_precision == "tf32"
        column = 0 if dtype != torch.float32 else 1 if tf32 else 2
        found = next((peaks for key, peaks in PEAKS.items() if re.search(rf"\b{key}\b", name)), None)
        if found:
            return found[column] * 1e12
    return _measure_peak(device, dtype)


def _measure_peak(device: torch.device, dtype: torch.dtype) -> float:
    """Return the FLOPs per second of the first matrix product that takes long enough to time."""
    # Its own generator: the random numbers of training must not depend on this measurement.
    generator = torch.Generator(device).manual_seed(0)
    for size in PRODUCT_SIZES:
        a, b = torch.rand(2, size, size, device=device, dtype=dtype, generator=generator)
        seconds = min(_time_product(a, b) for _ in range(4))  # the first one warms up
        if seconds > MIN_SECONDS:
            break
    return 2 * size**3 / seconds


def _time_product(a: torch.Tensor, b: torch.Tensor) -> float:
    start = time.perf_counter()
    # Not a @ b: a CPU computes that element by element in float16, which took minutes.
    linear(a, b)[0, 0].item()  # waits for the device
    return time.perf_counter() - start
