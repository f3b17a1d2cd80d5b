"""Throughput of a run: real tokens a second, the share of real tokens in the batches, and that of the device's peak."""

import numpy as np
import torch
from accelerate import Accelerator

from cloze.data.collators import IGNORED
from cloze.models.flops import Flops


class Meter:
    """Counts what passes through training, on the device, lest it be waited for.

    Args:
        flops: of the model, or None: no MFU.
        peak: operations a second of a device.
        device: where to count.
    """

    def __init__(self, flops: Flops | None, peak: float, device: torch.device):
        self.flops, self.peak, self.device = flops, peak, device
        self.examples = self.places = 0
        self.counts = torch.zeros(3, dtype=torch.int64, device=device)
        self.last, self.last_seconds = np.zeros(5), 0.0

    def add(self, batch: dict[str, torch.Tensor]) -> None:
        lengths = batch["attention_mask"].sum(1)
        labels = (batch["labels"] != IGNORED).sum() if "labels" in batch else lengths.new_zeros(())
        self.counts += torch.stack([lengths.sum(), (lengths**2).sum(), labels])
        self.examples += len(lengths)
        self.places += batch["attention_mask"].numel()

    def totals(self, accelerator: Accelerator) -> np.ndarray:
        """Examples, places for tokens, real tokens, squares of the lengths, masked tokens, of all processes, [5]."""
        own = torch.cat([torch.tensor([self.examples, self.places], device=self.device), self.counts])
        return accelerator.reduce(own).cpu().numpy()

    def since_last(self, accelerator: Accelerator, seconds: float) -> dict[str, float]:
        """The figures since this was asked last; ``seconds`` are those of all training."""
        totals = self.totals(accelerator)
        counts, elapsed = totals - self.last, seconds - self.last_seconds
        self.last, self.last_seconds = totals, seconds
        return self.figures(counts, elapsed, accelerator.num_processes)

    def figures(self, counts: np.ndarray, seconds: float, processes: int) -> dict[str, float]:
        """What so many counts, as in ``totals``, come to in so many seconds."""
        examples, places, tokens, squares, labels = map(int, counts)
        figures = {"tokens_per_second": round(tokens / seconds, 1), "non_padding_fraction": round(tokens / places, 4)}
        if self.flops is not None:
            flops = self.flops.training(examples, tokens, squares, labels)
            figures["mfu"] = round(flops / seconds / (self.peak * processes), 4)
        return figures
