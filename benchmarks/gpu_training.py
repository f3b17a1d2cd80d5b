#!/usr/bin/env python
"""Run the parts of gpu.sh that train in one process: parity with the CPU, and throughput with and without compiling.

python benchmarks/gpu_training.py throughput [--smoke] [--results FILE] [--limit SECONDS]
"""

import argparse
import copy
import gc
import tempfile
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import psutil
import torch
from gpu import parse, read_results, report
from gpu_waits import find_waits
from sides import ROOT, SIDES, Bench, add_arguments, make_bench, our_trainer
from throughput import medians
from torch import nn
from transformers import PreTrainedModel, PrinterCallback, TrainerCallback
from transformers.trainer_utils import IntervalStrategy

from cloze.models.sparse_prediction import predict_masked_positions
from cloze.objectives.metrics import MASKED_TOKENS
from cloze.training.trainer import PretrainingTrainer

# Relative tolerances: of losses and of gradients in float32 between devices, of losses in bfloat16, and of losses and
# gradients between sparse prediction and the stock head.
LOSS, GRADIENT, BF16, HEAD = 1e-5, 1e-3, 2e-3, 1e-5


@dataclass(frozen=True)
class Plan:
    """The sizes of all measurements.

    Attributes:
        parity_size: model size for parity, a key of sides.SIZES.
        size: model size for throughput, a key of sides.SIZES.
        copies: repetitions of the sample, for many batches per epoch.
        works: keys of sides.WORKS to measure; blocks are also measured with torch.compile.
        tokens: micro-batch sizes to try, in descending order. The largest that fits is measured; on an H100 it was the
            fastest for each side. ``compiled`` takes the middle one if none is known.
        seconds: length of a turn.
        warm_up_of_lines: steps before the first turn with batches of lines.
        backend: of torch.compile.
    """

    device: str
    parity_size: str
    size: str
    copies: int
    works: tuple[str, ...]
    tokens: tuple[int, ...]
    seconds: float
    warm_up_of_lines: int
    workers: int
    backend: str


GPU = Plan(
    device="cuda",
    parity_size="small",
    size="bert-base",
    copies=22,
    works=("blocks-128", "lines", "blocks-512"),
    tokens=(262_144, 131_072, 65_536, 32_768, 16_384, 8_192),
    seconds=1.5,
    warm_up_of_lines=25,
    workers=4,
    backend="inductor",
)
SMOKE = Plan(
    device="cpu",
    parity_size="micro",
    size="micro",
    copies=1,
    works=("blocks-128", "lines"),
    tokens=(1024, 512),
    seconds=0.05,
    warm_up_of_lines=4,
    workers=1,
    backend="eager",
)


def main() -> None:
    parts = {"parity": parity, "throughput": throughput, "compiled": compiled}
    args = parse(parts, __doc__)
    with tempfile.TemporaryDirectory() as folder:
        parts[args.part](args, Path(folder))


def plan_of(args: argparse.Namespace) -> Plan:
    return SMOKE if args.smoke else GPU


def settings(**changes) -> argparse.Namespace:
    """Return the defaults of sides.add_arguments with changes."""
    parser = argparse.ArgumentParser()
    add_arguments(parser)
    return argparse.Namespace(**vars(parser.parse_args([])) | changes)


# Parity


class Recorder(TrainerCallback):
    """Record the gradients before each optimizer step."""

    def __init__(self):
        self.gradients = []

    def on_pre_optimizer_step(self, args, state, control, model=None, **kwargs):
        self.gradients.append(gradients(model))


def parity(args: argparse.Namespace, folder: Path) -> None:
    """Compare losses and gradients between GPU and CPU, and between sparse prediction and the stock head.

    Check that training on blocks does not wait for the GPU.
    """
    plan = plan_of(args)

    def bench_on(device: str, bf16: bool = False, work: str = "lines") -> Bench:
        return make_bench(
            work, plan.parity_size, settings(device=device, bf16=bf16, dropout=0.0, tf32=False), str(folder)
        )

    # One bench at a time, because accelerate has one device and one precision per process.
    bench = bench_on("cpu")
    model = bench.model
    expected = two_steps(bench, model)
    for bf16 in (False, True):
        figures = compare(expected, two_steps(bench_on(plan.device, bf16), model))
        ok = figures["loss"] <= BF16 if bf16 else figures["loss"] <= LOSS and figures["gradient"] <= GRADIENT
        report(args, check=f"two steps, {'bf16' if bf16 else 'float32'}, compared with the CPU", **figures, ok=ok)
    report(args, check="sparse prediction, compared with the stock head", **compare_heads(bench_on(plan.device), model))
    report(args, check="steps that do not wait for the device", **find_waits(bench_on(plan.device, True, "blocks-128")))


def two_steps(bench: Bench, model: PreTrainedModel) -> list[tuple[float, dict[str, torch.Tensor]]]:
    """Train for two steps; return the loss and the gradients of each."""
    trainer = padded_trainer(bench, model)
    recorder = Recorder()
    trainer.add_callback(recorder)
    trainer.remove_callback(PrinterCallback)
    trainer.train()
    losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    return list(zip(losses, recorder.gradients, strict=True))


def padded_trainer(bench: Bench, model: PreTrainedModel) -> PretrainingTrainer:
    """Return a trainer of a copy of the model, with the same padded batches in each precision and no clipping."""
    return our_trainer(
        bench,
        copy.deepcopy(model),
        max_steps=2,
        max_grad_norm=0.0,
        max_tokens_per_batch=None,
        train_sampling_strategy="random",
        per_device_train_batch_size=32,
        logging_strategy=IntervalStrategy.STEPS,
        logging_steps=1,
    )


def compare_heads(bench: Bench, model: PreTrainedModel) -> dict:
    """Compare loss and gradients of a batch with the stock model, which computes logits at all positions."""
    trainer = padded_trainer(bench, model)
    (batch,) = next(iter(trainer.get_train_dataloader()))
    num_items = trainer.count_targets([batch])
    loss = trainer.compute_loss(trainer.model.train(), batch, num_items_in_batch=num_items)
    loss.backward()
    stock = copy.deepcopy(model).to(trainer.args.device).train()
    wanted = stock(**{name: batch[name] for name in ("input_ids", "attention_mask", "labels") if name in batch}).loss
    wanted.backward()
    figures = compare([(wanted.item(), gradients(stock))], [(loss.item(), gradients(trainer.model))])
    # The module that selects positions is found by trial; GPU and CPU must find the same one.
    places = [predict_masked_positions(each, MASKED_TOKENS.logits, 64) for each in (copy.deepcopy(model), stock)]
    equal = figures["loss"] <= HEAD and figures["gradient"] <= HEAD
    return figures | {"places": places, "ok": equal and places[0] == places[1] != ""}


def gradients(model: nn.Module) -> dict[str, torch.Tensor]:
    return {name: p.grad.detach().double().cpu() for name, p in model.named_parameters() if p.grad is not None}


def compare(expected: list[tuple[float, dict]], found: list[tuple[float, dict]]) -> dict:
    """Return the largest relative differences of losses, of gradient norms, and of the gradients of one weight.

    Differences of gradients are relative to the largest gradient of the weight, but at least to a thousandth of the
    largest gradient of the model, because some gradients, such as those of key biases, are only rounding errors.
    """
    losses, norms, differences = [], [], {}
    for step, ((loss, wanted), (own_loss, own)) in enumerate(zip(expected, found, strict=True), 1):
        losses.append(abs(own_loss - loss) / loss)
        norm, own_norm = (nn.utils.get_total_norm(side.values()).item() for side in (wanted, own))
        norms.append(abs(own_norm - norm) / norm)
        sizes = {name: values.abs().max().item() for name, values in wanted.items()}
        floor = 1e-3 * max(sizes.values())
        for name in wanted.keys() | own.keys():
            difference = (own[name] - wanted[name]).abs().max().item()
            differences[f"{name}, step {step}"] = difference / max(sizes[name], floor)
    worst = max(differences, key=differences.get)
    return {
        "losses": [loss for loss, _ in found],
        "loss": max(losses),
        "gradient_norm": max(norms),
        "gradient": differences[worst],
        "worst": worst,
    }


# Throughput


def throughput(args: argparse.Namespace, folder: Path) -> None:
    """Measure each side with the largest micro-batch that fits in memory."""
    plan = plan_of(args)
    for work, side, bench, bench_args in benches(args, plan.works, folder, max_tokens_per_batch=plan.tokens[-1]):
        # Sparse prediction is set up on the GPU, because on the CPU this takes longer than the measurement.
        bench.model.to(plan.device)
        # Batches of lines have many shapes, and the first batch of a shape takes longer.
        warm_up = 4 if work.startswith("blocks") else plan.warm_up_of_lines
        for tokens in plan.tokens:
            result = measured(bench, side, tokens, bench_args, plan, warm_up)
            if "figures" in result or tokens == plan.tokens[-1]:
                report(args, work=work, side=side, **result)
                break
            report(args, work=work, side=side, tokens=tokens, tried="out of memory")


def compiled(args: argparse.Namespace, folder: Path) -> None:
    """Measure with torch.compile, with the best micro-batches of ``throughput``."""
    plan = plan_of(args)
    best = {(line["work"], line["side"]): line["tokens"] for line in read_results(args.results) if "figures" in line}
    works = [work for work in plan.works if work.startswith("blocks")]
    for work, side, bench, bench_args in benches(args, works, folder, torch_compile_backend=plan.backend):
        tokens = best.get((work, side), plan.tokens[(len(plan.tokens) - 1) // 2])
        # Resets, because after other lengths torch.compile would use dynamic ones.
        torch._dynamo.reset()
        # The warm-up includes a second compilation, for any number of masked positions.
        report(args, work=work, side=side, **measured(bench, side, tokens, bench_args, plan, warm_up=8))


def benches(
    args: argparse.Namespace, works: Iterable[str], folder: Path, **changes
) -> Iterator[tuple[str, str, Bench, argparse.Namespace]]:
    """Yield each work and side with its bench, while the time left exceeds the longest measurement so far."""
    plan, longest = plan_of(args), 0.0
    text = repeat_sample(folder / "text", plan.copies)
    bench_args = settings(device=plan.device, bf16=True, text=text, workers=plan.workers, **changes)
    for work in works:
        bench = None
        for side in ("ours", "stock"):
            begin = time.time()
            if begin - psutil.Process().create_time() + longest > args.limit:
                report(args, work=work, side=side, skipped="no time left")
                continue
            bench = bench or make_bench(work, plan.size, bench_args, str(folder))
            yield work, side, bench, bench_args
            longest = max(longest, time.time() - begin)


def measured(bench: Bench, side: str, tokens: int, bench_args: argparse.Namespace, plan: Plan, warm_up: int) -> dict:
    """Measure three turns; return the fields of the report."""
    figures = measure(bench, side, tokens, bench_args, plan.seconds, turns=3, warm_up=warm_up)
    compiled = bench_args.torch_compile_backend is not None
    outcome = {"failed": "out of memory"} if figures is None else {"figures": figures}
    return {"size": plan.size, "compiled": compiled, "tokens": tokens, **outcome}


def measure(
    bench: Bench, side: str, tokens: int, bench_args: argparse.Namespace, seconds: float, **clock
) -> dict | None:
    """Train a copy of the model with micro-batches of ``tokens``; return None if memory does not suffice."""
    training = {
        "per_device_train_batch_size": max(1, tokens // bench.work.max_seq_length),
        # The last batch of an epoch has a different shape.
        "dataloader_drop_last": True,
    }
    if side == "ours" and bench.context.training_args.max_tokens_per_batch is not None:
        training["max_tokens_per_batch"] = tokens
    elif side == "ours":
        # The text's last block is short: it is in the batch that is dropped. With its mask, compiling would start anew.
        training["train_sampling_strategy"] = "sequential"
    # Also frees the rest of a run that ran out of memory.
    gc.collect()
    cuda, before = bench_args.device == "cuda", 0
    if cuda:
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
    try:
        clock = SIDES[side](bench, copy.deepcopy(bench.model), bench_args, seconds, 0, **clock, **training)
    except torch.OutOfMemoryError:
        return None
    peak = (torch.cuda.max_memory_allocated() - before) / 1e9 if cuda else None
    return {**medians(clock.turns), "peak GB": peak, "warm-up s": round(clock.warm_up_seconds, 2)}


def repeat_sample(text: Path, copies: int) -> str:
    """Write the bundled sample to a folder, each file repeated ``copies`` times."""
    text.mkdir()
    for path in (ROOT / "sample").glob("*.txt"):
        (text / path.name).write_text((path.read_text(encoding="utf-8").strip() + "\n\n") * copies, encoding="utf-8")
    return str(text)


if __name__ == "__main__":
    main()
