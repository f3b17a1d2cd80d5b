"""Measure throughput: non-padding tokens per second, their fraction of the batches, and model FLOPs utilization."""

import numpy as np
import torch
from accelerate import Accelerator

from cloze.data.collators import IGNORED
from cloze.models.flops import Flops


class ThroughputMeter:
    """Count examples and tokens on the device, without waiting for it.

    Args:
        flops: FLOPs of the model's forward; None leaves out the MFU.
        peak: peak FLOPs per second of a device.
        device: the device to count on.
    """

    def __init__(self, flops: Flops | None, peak: float, device: torch.device):
        self.flops, self.peak, self.device = flops, peak, device
        self.examples = self.positions = 0
        self.counts = torch.zeros(3, dtype=torch.int64, device=device)
        self.last, self.last_seconds = np.zeros(5), 0.0

    def add(self, batch: dict[str, torch.Tensor]) -> None:
        """Count a batch.

        Args:
            batch: ``attention_mask`` [examples, length], or ``input_ids`` alike if there is no padding, and ``labels``
                alike if tokens are masked.
        """
        mask = batch["attention_mask"] if "attention_mask" in batch else torch.ones_like(batch["input_ids"])
        lengths = mask.sum(1)
        labels = (batch["labels"] != IGNORED).sum() if "labels" in batch else lengths.new_zeros(())
        self.counts += torch.stack([lengths.sum(), (lengths**2).sum(), labels])
        self.examples += len(lengths)
        self.positions += mask.numel()

    def totals(self, accelerator: Accelerator) -> np.ndarray:
        """Return examples, positions, non-padding tokens, squared lengths and masked tokens of all processes, [5]."""
        own = torch.cat([torch.tensor([self.examples, self.positions], device=self.device), self.counts])
        return accelerator.reduce(own).cpu().numpy()

    def since_last(self, accelerator: Accelerator, seconds: float) -> dict[str, float]:
        """Return the rates since the last call; ``seconds`` is the time since the start of training."""
        totals = self.totals(accelerator)
        counts, elapsed = totals - self.last, seconds - self.last_seconds
        self.last, self.last_seconds = totals, seconds
        return self.rates(counts, elapsed, accelerator.num_processes)

    def rates(self, counts: np.ndarray, seconds: float, processes: int) -> dict[str, float]:
        """Return the rates of counts (see ``totals``) in some seconds, by their names in the log."""
        examples, positions, tokens, squares, labels = map(int, counts)
        rates = {"tokens_per_second": round(tokens / seconds, 1), "non_padding_fraction": round(tokens / positions, 4)}
        if self.flops is not None:
            flops = self.flops.training(examples, tokens, squares, labels)
            rates["mfu"] = round(flops / seconds / (self.peak * processes), 4)
        return rates
