#!/usr/bin/env python
"""Measure the time to a loss: a speedrun of masked language models.

    python benchmarks/speedrun.py --side stock --seeds 1 --sweep learning_rate 5e-4 1e-3 2e-3   # find the best rate
    python benchmarks/speedrun.py --side stock sparse --search    # find the numbers of steps, then run all seeds
    python benchmarks/speedrun.py                                 # all sides with the settings of their table
    python benchmarks/speedrun.py --quick                         # tests the benchmark: a minute on an idle machine

The rules:

1. Text: docstrings of the packages named in adaptation_text.py, in paragraphs without duplicates; a document is a file
   of a package. The documents are shuffled; the first 400,000 characters are held out, the next 5,000,000 are trained
   on (BERT-base: 3,000,000, of four packages). Versions and a digest are printed: times on other texts are not
   comparable.
2. Tokenizer: a lower-case WordPiece tokenizer of 8,192 tokens, trained once on the training text. The output layer at
   all positions then takes 39 % of the operations of the small model; with 16,384 tokens it would take 56 %. In
   BERT-base with 30,522 tokens it takes 22 %.
3. Model: BERT of transformers, with 4 layers of width 256, 4 heads and a feed-forward of 1,024 (--size small), or
   BERT-base, all sides in bfloat16. Techniques may change other values of the config. The saved model is a BERT.
4. Data: all sides train on the same blocks of 128 tokens, in any order and with any masks.
5. Time: seconds of the training steps, from the first to the last, as the Trainer reports them (train_runtime).
   Imports, preparation, saving and evaluation do not count. Each run is a process of its own with the same number of
   threads. The sides alternate, seed by seed.
6. Target: the masked loss on the held-out text after the last step, as run_mlm.py evaluates the saved model in a
   process of its own: 15 % of the tokens, the same ones for all sides. A learning-rate schedule may know the number of
   steps. A setting (learning rates and steps) reaches the target if its median loss over the seeds is at or below it.
   The time of a side is the median time of its fastest setting that reaches the target.
7. Stock: the Trainer and the collator of transformers with upstream's defaults (dropout 0.1, AdamW, linear decay), with
   the best learning rate, and batches of 8 or of 32 blocks, whichever is faster.

Prints Markdown tables and a line of JSON, also written to results.json. Run the same command again to resume: complete
runs are not repeated, and all runs in --output_dir are in the tables.
"""

import argparse
import json
import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from speedrun_runs import Speedrun, prepare, run
from speedrun_sides import SIZES, Side, sides
from speedrun_tables import NEAR, format_settings, format_techniques, loss_of, next_steps

FIRST_SEED = 42
# The search gives up at this factor above the first number of steps.
GIVE_UP = 4
# Rounds of all seeds with more steps, if the median misses the target that the first seed has reached.
ROUNDS = 3


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--output_dir", type=Path, default=Path("results/speedrun"), help="for text, logs and results")
    parser.add_argument("--size", default="small", choices=SIZES)
    parser.add_argument(
        "--side", nargs="+", default=list(sides()), choices=sides(), metavar="NAME", help=", ".join(sides())
    )
    parser.add_argument("--seeds", type=int, default=3, help="runs of each setting")
    parser.add_argument("--steps", type=int, nargs="+", help="numbers of steps instead of those in the table of sides")
    parser.add_argument("--sweep", nargs="+", default=[], metavar=("FLAG", "VALUE"), help="values of a flag to try")
    parser.add_argument("--search", action="store_true", help="find the shortest runs that reach the target")
    parser.add_argument("--target", type=float, help="held-out masked loss (default: set by --size)")
    parser.add_argument("--quick", action="store_true", help="three sides of a tiny model, one seed, few steps")
    args = parser.parse_args()
    if len(args.sweep) == 1:
        parser.error("--sweep needs values")
    if args.search and args.steps:
        parser.error("--search begins at the steps of the table: drop --steps")
    if args.quick:
        args.size, args.seeds, args.steps, args.side = "quick", 1, [20], ["stock", "sparse", "no-dropout"]
    speedrun = Speedrun(args.output_dir.resolve() / args.size, SIZES[args.size])
    environment = prepare(*speedrun)
    target = args.target or SIZES[args.size].target
    entries = [entry for name in args.side for entry in variants(name, args.sweep)]
    seeds = range(FIRST_SEED, FIRST_SEED + args.seeds)
    if args.search:
        search_all(speedrun, entries, target, seeds)
    else:
        for seed in seeds:
            for name, side in entries:
                for steps in args.steps or [side.steps]:
                    run(speedrun, name, side, steps, seed)
    runs = speedrun.runs
    print(f"\nTarget: {target}\n\n{format_techniques(runs, target, args.seeds)}\n\n{format_settings(runs, target)}\n")
    results = environment | {"target": target, "runs": [each._asdict() for each in runs]}
    (speedrun.work / "results.json").write_text(json.dumps(results, indent=2) + "\n")
    print(json.dumps(results))


def variants(name: str, sweep: Sequence[str]) -> list[tuple[str, Side]]:
    """Return a side with each value of the flag that is swept, or unchanged."""
    side = sides()[name]
    return [(name, replace(side, flags=side.flags | {sweep[0]: value})) for value in sweep[1:]] or [(name, side)]


def search_all(speedrun: Speedrun, entries: list[tuple[str, Side]], target: float, seeds: Sequence[int]) -> None:
    """Find the shortest runs with the first seed; run all seeds, again with more steps if their median misses."""
    found = [(name, side, search(speedrun, name, side, target, seeds[0])) for name, side in entries]
    left = [(name, side, steps) for name, side, steps in found if steps is not None]
    for _ in range(ROUNDS):
        groups = [[] for _ in left]
        for seed in seeds:
            for group, (name, side, steps) in zip(groups, left, strict=True):
                group.append(run(speedrun, name, side, steps, seed))
        left = [
            (name, side, math.ceil(NEAR * steps))
            for group, (name, side, steps) in zip(groups, left, strict=True)
            if loss_of(group) > target
        ]


def search(speedrun: Speedrun, name: str, side: Side, target: float, seed: int) -> int | None:
    """Return the smallest number of steps that reaches the target with one seed; None if the search gives up."""
    losses: dict[int, float] = {}
    steps: int | None = side.steps
    while steps is not None and steps <= GIVE_UP * side.steps:
        losses[steps] = run(speedrun, name, side, steps, seed).loss
        steps = next_steps(losses, target)
    return min((steps for steps, loss in losses.items() if loss <= target), default=None)


if __name__ == "__main__":
    main()
