#!/usr/bin/env python
"""Measure training throughput of this project, the stock Trainer and the notebooks, in tokens/s without padding.

    python benchmarks/throughput.py --text corpus.txt --work lines --size small

All sides train a copy of the same new model on the same text, in one process, and alternate. The first step of a turn
is not counted. Prints a table of medians and a line of JSON.
"""

import argparse
import copy
import json
import resource
import statistics
import subprocess
import sys
import tempfile

import psutil
import torch
from sides import SIDES, SIZES, WORKS, add_arguments, make_bench
from transformers import set_seed

SPEED_COLUMNS = {
    "work": "<10",
    "size": "<9",
    "side": "<8",
    "tokens/s": "11,.1f",
    "slowest": "11,.1f",
    "fastest": "11,.1f",
    "non-padding": ".1%",
    "MFU": ".1%",
    "ours / side": ".2f",
}
MEMORY_COLUMNS = {"work": "<10", "size": "<9", "side": "<8", "peak MB": ",.0f", "ours / side": ".2f"}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add_arguments(parser)
    parser.add_argument("--work", nargs="+", default=list(WORKS), choices=WORKS)
    parser.add_argument("--size", nargs="+", default=["small"], choices=SIZES)
    parser.add_argument("--side", nargs="+", default=list(SIDES), choices=SIDES)
    parser.add_argument("--seconds", type=float, default=15, help="length of a turn, after its first step")
    parser.add_argument("--turns", type=int, default=5)
    parser.add_argument("--memory", action="store_true", help="measure peak memory instead, one process per side")
    parser.add_argument("--measure", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args()
    set_seed(0)
    if args.measure:
        print(measure_memory(args))
        return
    columns = MEMORY_COLUMNS if args.memory else SPEED_COLUMNS
    compare = compare_memory if args.memory else compare_speed
    rows = [row for work in args.work for size in args.size for row in compare(work, size, args)]
    print(" | ".join(columns))
    for row in rows:
        print(" | ".join("-" if row[name] is None else format(row[name], form) for name, form in columns.items()))
    print(json.dumps({**vars(args), "threads": torch.get_num_threads(), "torch": torch.__version__, "rows": rows}))


def compare_speed(work: str, size: str, args) -> list[dict]:
    """Return one row per side, with medians over alternating turns."""
    with tempfile.TemporaryDirectory() as folder:
        bench = make_bench(work, size, args, folder)
        turns = {side: [] for side in args.side}
        for seed in range(args.turns):
            for side, clocks in turns.items():
                clocks.append(SIDES[side](bench, copy.deepcopy(bench.model), args, args.seconds, seed))
                print(f"{work} {size} {side}: {clocks[-1].turns[0]}", file=sys.stderr)
        names = {"work": work, "size": size}
        rows = [names | {"side": side} | medians([c.turns[0] for c in clocks]) for side, clocks in turns.items()]
    return with_ratios(rows, "tokens/s")


def medians(turns: list[dict]) -> dict[str, float | None]:
    """Summarise the measurements of several turns."""
    speeds = [turn["tokens_per_second"] for turn in turns]
    return {
        "tokens/s": statistics.median(speeds),
        "slowest": min(speeds),
        "fastest": max(speeds),
        "non-padding": statistics.mean(turn["non_padding_fraction"] for turn in turns),
        "MFU": statistics.median(turn["mfu"] for turn in turns) if "mfu" in turns[0] else None,
    }


def with_ratios(rows: list[dict], figure: str) -> list[dict]:
    """Add to each row the ratio of our figure to its figure."""
    ours = next((row[figure] for row in rows if row["side"] == "ours"), None)
    return [row | {"ours / side": None if ours is None else ours / row[figure]} for row in rows]


def compare_memory(work: str, size: str, args) -> list[dict]:
    """Return one row per side, with the peak memory of a few steps in a separate process."""
    rows = []
    for side in args.side:
        argv = [sys.executable, *sys.argv, "--measure", "--work", work, "--size", size, "--side", side]
        child = subprocess.run(argv, check=True, capture_output=True, text=True)
        rows.append({"work": work, "size": size, "side": side, "peak MB": float(child.stdout.splitlines()[-1]) / 1e6})
    return with_ratios(rows, "peak MB")


def measure_memory(args) -> float:
    """Return the peak memory of training in bytes: weights, gradients, optimizer state and activations."""
    with tempfile.TemporaryDirectory() as folder:
        bench = make_bench(args.work[0], args.size[0], args, folder)
        # The current use, because the peak includes copies that make_bench has dropped.
        before = psutil.Process().memory_info().rss - 4 * bench.model.num_parameters()
        SIDES[args.side[0]](bench, bench.model, args, 1, 0)
        if args.device == "cuda":
            return torch.cuda.max_memory_allocated()
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 - before


if __name__ == "__main__":
    main()
