"""Measure a run: real tokens a second, their fraction of the batches, and the fraction of the device's peak."""

import numpy as np
import torch
from accelerate import Accelerator

from cloze.data.collators import IGNORED
from cloze.models.flops import Flops


class ThroughputMeter:
    """Count what passes through training, on the device, which nothing then has to wait for.

    Args:
        flops: of the model's forward; None leaves out the MFU.
        peak: operations a second of a device.
        device: where to count.
    """

    def __init__(self, flops: Flops | None, peak: float, device: torch.device):
        self.flops, self.peak, self.device = flops, peak, device
        self.examples = self.positions = 0
        self.counts = torch.zeros(3, dtype=torch.int64, device=device)
        self.last, self.last_seconds = np.zeros(5), 0.0

    def add(self, batch: dict[str, torch.Tensor]) -> None:
        """Count a batch: ``attention_mask`` [examples, length], and ``labels`` of that shape if tokens are masked."""
        lengths = batch["attention_mask"].sum(1)
        labels = (batch["labels"] != IGNORED).sum() if "labels" in batch else lengths.new_zeros(())
        self.counts += torch.stack([lengths.sum(), (lengths**2).sum(), labels])
        self.examples += len(lengths)
        self.positions += batch["attention_mask"].numel()

    def totals(self, accelerator: Accelerator) -> np.ndarray:
        """Return examples, positions, real tokens, squares of the lengths, masked tokens, of all processes, [5]."""
        own = torch.cat([torch.tensor([self.examples, self.positions], device=self.device), self.counts])
        return accelerator.reduce(own).cpu().numpy()

    def since_last(self, accelerator: Accelerator, seconds: float) -> dict[str, float]:
        """Return the rates since the last call; ``seconds`` are those of all training."""
        totals = self.totals(accelerator)
        counts, elapsed = totals - self.last, seconds - self.last_seconds
        self.last, self.last_seconds = totals, seconds
        return self.rates(counts, elapsed, accelerator.num_processes)

    def rates(self, counts: np.ndarray, seconds: float, processes: int) -> dict[str, float]:
        """Return what the counts, as of ``totals``, are a second, by their names in the log."""
        examples, positions, tokens, squares, labels = map(int, counts)
        rates = {"tokens_per_second": round(tokens / seconds, 1), "non_padding_fraction": round(tokens / positions, 4)}
        if self.flops is not None:
            flops = self.flops.training(examples, tokens, squares, labels)
            rates["mfu"] = round(flops / seconds / (self.peak * processes), 4)
        return rates
