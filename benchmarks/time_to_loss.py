#!/usr/bin/env python
"""Measure the time to reach a loss, with this project and with the stock Trainer, on the same model and text.

    python benchmarks/time_to_loss.py --text corpus.txt --seconds 600

Both sides start from the same weights, use the same optimizer, and alternate in one process. After each turn, with the
clock stopped, the masked loss is measured on the same held-out examples with the same masks. Prints the losses over
time, when ours reaches the final loss of the stock Trainer, and a line of JSON.
"""

import argparse
import copy
import json
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Semaphore

import numpy as np
import torch
from sides import SIZES, Bench, add_arguments, make_bench, our_trainer, stock_trainer
from torch.nn import functional
from transformers import PreTrainedModel, PrinterCallback, Trainer, TrainerCallback, set_seed

from cloze.data.collators import IGNORED
from cloze.text.corpus import FileCorpus
from cloze.text.files import find_files
from cloze.training.context import make_collator, padding_of


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add_arguments(parser)
    parser.add_argument("--work", default="lines", choices=["lines", "blocks-128"])
    parser.add_argument("--size", default="small", choices=SIZES)
    parser.add_argument("--seconds", type=float, default=300, help="training time of each side")
    parser.add_argument("--points", type=int, default=10, help="turns of each side, with one measurement each")
    parser.add_argument("--learning_rate", type=float, default=3e-4)
    args = parser.parse_args()
    set_seed(0)
    with tempfile.TemporaryDirectory() as folder:
        text, held_out = split_text(args.text, Path(folder))
        bench = make_bench(args.work, args.size, argparse.Namespace(**vars(args) | {"text": text}), folder, held_out)
        batches = held_out_batches(bench)
        # Training ends by time, so the learning rate is constant after a warm-up.
        training = {
            "learning_rate": args.learning_rate,
            "lr_scheduler_type": "constant_with_warmup",
            "warmup_steps": 50,
            "max_steps": 1_000_000,
        }
        ours, stock = copy.deepcopy(bench.model), copy.deepcopy(bench.model)
        first, second = Semaphore(1), Semaphore(0)
        turns = [Turns(first, second, batches, args), Turns(second, first, batches, args)]
        trainers = [our_trainer(bench, ours, **training), stock_trainer(bench, stock, args, **training)]
        with ThreadPoolExecutor(2) as threads:
            list(threads.map(train, trainers, turns))
    curves = {name: side.curve for name, side in zip(("ours", "stock"), turns, strict=True)}
    print("side     | seconds | steps | held-out loss")
    for name, curve in curves.items():
        for seconds, steps, loss in curve:
            print(f"{name:<8} | {seconds:7.1f} | {steps:5d} | {loss:.4f}")
    target = curves["stock"][-1][2]
    seconds = time_to(curves["ours"], target)
    share = "never" if seconds is None else f"after {seconds:.1f} s, {seconds / curves['stock'][-1][0]:.2f} of its time"
    print(f"ours reaches the final loss of stock, {target:.4f}, {share}")
    print(json.dumps({**vars(args), "threads": torch.get_num_threads(), "torch": torch.__version__, "curves": curves}))


def split_text(text: str, folder: Path) -> tuple[str, str]:
    """Hold out every 20th document; write both parts to files."""
    parts = {"train": [], "held_out": []}
    for number, lines in enumerate(FileCorpus(find_files([text], "--text")).documents()):
        parts["held_out" if number % 20 == 0 else "train"].append("\n".join(lines))
    for name, documents in parts.items():
        (folder / f"{name}.txt").write_text("\n\n".join(documents), encoding="utf-8")
    return str(folder / "train.txt"), str(folder / "held_out.txt")


def held_out_batches(bench: Bench) -> list[dict[str, torch.Tensor]]:
    collator = make_collator(bench.context, padding_of(bench.context, bench.model))
    examples = bench.splits.validation[""]
    parts = np.array_split(np.arange(len(examples)), max(1, len(examples) // 16))
    return [collator([examples[int(number)] for number in part]) for part in parts]


class Turns(TrainerCallback):
    """Let a trainer train during its turns, and measure the held-out loss after each."""

    def __init__(self, mine: Semaphore, other: Semaphore, batches: list[dict[str, torch.Tensor]], args):
        self.mine, self.other, self.batches, self.args = mine, other, batches, args
        self.curve, self.seconds = [], 0.0

    def on_train_begin(self, args, state, control, **kwargs):
        self.mine.acquire()
        self.begin = time.perf_counter()

    def on_step_end(self, args, state, control, model=None, **kwargs):
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        elapsed = time.perf_counter() - self.begin
        if elapsed < self.args.seconds / self.args.points:
            return
        self.seconds += elapsed
        self.curve.append((self.seconds, state.global_step, held_out_loss(model, self.batches)))
        control.should_training_stop = len(self.curve) == self.args.points
        self.other.release()
        if not control.should_training_stop:
            self.mine.acquire()
            self.begin = time.perf_counter()


def train(trainer: Trainer, turns: Turns) -> None:
    trainer.add_callback(turns)
    trainer.remove_callback(PrinterCallback)
    try:
        trainer.train()
    finally:
        turns.other.release()


@torch.no_grad()
def held_out_loss(model: PreTrainedModel, batches: list[dict[str, torch.Tensor]]) -> float:
    model.eval()
    total = count = 0
    for batch in batches:
        batch = {name: values.to(model.device) for name, values in batch.items()}
        logits = model(input_ids=batch["input_ids"], attention_mask=batch.get("attention_mask")).logits
        chosen = batch["labels"] != IGNORED
        total += float(functional.cross_entropy(logits[chosen].float(), batch["labels"][chosen], reduction="sum"))
        count += int(chosen.sum())
    model.train()
    return total / count


def time_to(curve: list[tuple[float, int, float]], target: float) -> float | None:
    """Return when the curve first reaches the target, interpolated between measurements; None if it does not."""
    seconds, losses = np.array([point[0] for point in curve]), np.array([point[2] for point in curve])
    reached = int(np.argmax(losses <= target))
    if losses[reached] > target:
        return None
    if reached == 0:
        return float(seconds[0])
    before, after = reached - 1, reached
    share = (losses[before] - target) / (losses[before] - losses[after])
    return float(seconds[before] + share * (seconds[after] - seconds[before]))


if __name__ == "__main__":
    main()
