#!/usr/bin/env python
"""Measure what pretraining and adaptation give on a text that every machine has: docstrings of installed packages.

    python benchmarks/adaptation.py                   # the small model
    python benchmarks/adaptation.py --model minilm    # also a BERT checkpoint, adapted in three ways: hours on a CPU
    python benchmarks/adaptation.py --quick           # the small model on little text: three minutes

The task: which package is a paragraph from? Its name is hidden in all paragraphs. Each comparison fine-tunes the models
with few labels, drawn anew for each seed; no file is in two of the parts to pretrain, to fine-tune and to test on.
adaptation_sweep.py tries settings on another part. Prints tables and a line of JSON, also written to results.json. Run
the same command again to resume: complete runs are not repeated.
"""

import argparse
import json
import random
import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import adaptation_text as docs
from adaptation_runs import compare, pretrain

from cloze.comparison.table import format_comparison

FIRST_SEED = 42
# Texts on other subjects that are held out, to measure what an adapted model has forgotten.
HELD_OUT_GENERAL = 500


class Sizes(NamedTuple):
    """Hold the size of the benchmark.

    Attributes:
        unlabelled: paragraphs to pretrain on.
        pool: labelled paragraphs to draw from, per package.
        evaluated: paragraphs to test on, and as many to choose settings on, per package.
        labels: labelled paragraphs to train on, per package.
        seeds: runs of each model.
        small: flags of the small model's pretraining that differ.
        tuning: flags of fine-tuning that differ.
    """

    unlabelled: int = 25_000
    pool: int = 200
    evaluated: int = 300
    labels: tuple[int, ...] = (10, 50)
    seeds: int = 5
    small: tuple[str, ...] = ()
    tuning: tuple[str, ...] = ()


QUICK = Sizes(
    unlabelled=3_000,
    pool=20,
    evaluated=60,
    labels=(10,),
    seeds=2,
    small=("--num_train_epochs", "2", "--vocab_size", "3000"),
    tuning=("--num_train_epochs", "10"),
)

# Pretraining of the small model: the quickstart's ModernBERT, with more tokens in its vocabulary.
LINES = ("--line_by_line", "--max_seq_length", "128", "--save_strategy", "no", "--eval_strategy", "no")
SMALL = (
    *("recipes/quickstart/mlm.yaml", *LINES, "--vocab_size", "8000", "--max_steps", "-1", "--num_train_epochs", "6"),
    *("--per_device_train_batch_size", "32", "--logging_steps", "200"),
)
# Adaptation of the checkpoint, and what its kinds add. Replay: a fifth of the tokens is general text.
ADAPTED = (
    *(*LINES, "--num_train_epochs", "3", "--per_device_train_batch_size", "32", "--learning_rate", "3e-4"),
    *("--mlm_probability", "0.3", "--warmup_steps", "0.1", "--weight_decay", "0.01", "--logging_steps", "50"),
    *("--do_train", "--do_eval"),
)
ADAPTATIONS = {
    "adapted": (),
    "vocabulary": ("--add_vocabulary", "1000"),
    "replay": ("--mixture", "domain=0.8", "general=0.2"),
}
# Fine-tuning; the same for all models of a comparison.
TUNED = (
    *("--max_seq_length", "128", "--per_device_train_batch_size", "16", "--warmup_steps", "0.1", "--weight_decay"),
    *("0.01", "--per_device_eval_batch_size", "64", "--save_strategy", "no", "--num_train_epochs", "20"),
)
TUNED_SMALL = (*TUNED, "--learning_rate", "1e-3")
TUNED_CHECKPOINT = (*TUNED, "--learning_rate", "1e-4")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--output_dir", type=Path, default=Path("results/adaptation"), help="for texts, models, logs")
    parser.add_argument("--packages", nargs="+", default=docs.PACKAGES, help="packages to read, if installed")
    parser.add_argument("--model", type=Path, help="folder of a BERT checkpoint to adapt; default: none")
    parser.add_argument("--adaptations", nargs="+", default=list(ADAPTATIONS), choices=ADAPTATIONS)
    parser.add_argument("--bf16", action="store_true", help="faster on CPUs that compute in bfloat16")
    parser.add_argument("--quick", action="store_true", help="less of everything, in --output_dir/quick")
    args = parser.parse_args()
    sizes = QUICK if args.quick else Sizes()
    work = (args.output_dir / "quick" if args.quick else args.output_dir).resolve()
    results = run(work, sizes, args.packages, args.model, args.adaptations, ["--bf16"] * args.bf16)
    (work / "results.json").write_text(json.dumps(results, indent=2) + "\n")
    print(json.dumps(results))


def run(
    work: Path,
    sizes: Sizes,
    packages: Sequence[str],
    model: Path | None = None,
    adaptations: Sequence[str] = (),
    precision: Sequence[str] = (),
) -> dict:
    """Make the texts, then pretrain, adapt and compare; return all figures. ``precision`` are flags of all runs."""
    results: dict = {"text": make_texts(work / "text", sizes, packages), "small": run_small(work, sizes, precision)}
    if model is not None:
        results["checkpoint"] = run_checkpoint(work, sizes, model, adaptations, precision)
    return results


def run_small(work: Path, sizes: Sizes, precision: Sequence[str]) -> dict:
    """Pretrain the small model, and compare it with random weights."""
    pretrained = pretrain("pretrained", work, [*SMALL, *files_of(work), *precision, *sizes.small])
    models = {"scratch": None, "pretrained": pretrained["path"]}
    tuned = [*TUNED_SMALL, *precision, *sizes.tuning]
    return {"pretraining": [pretrained], "comparisons": compare_all("small", work, models, sizes, tuned)}


def run_checkpoint(work: Path, sizes: Sizes, model: Path, adaptations: Sequence[str], precision: Sequence[str]) -> dict:
    """Adapt a checkpoint in some ways, and compare the outcomes with the checkpoint, also with mean pooling."""
    adapted = [adapt(name, work, model, [*ADAPTATIONS[name], *precision]) for name in adaptations]
    models = {"original": str(model.resolve())} | {each["name"]: each["path"] for each in adapted}
    tuned = [*TUNED_CHECKPOINT, *precision]
    fewest = sizes._replace(labels=sizes.labels[:1])
    return {
        "pretraining": adapted,
        "comparisons": compare_all("checkpoint", work, models, sizes, tuned),
        "mean_pooling": compare_all("mean", work, models, fewest, tuned, "benchmarks/mean_pooling.py"),
    }


def adapt(name: str, work: Path, model: Path, flags: Sequence[str]) -> dict:
    """Adapt a checkpoint with flags that ``ADAPTED`` does not have; return its figures."""
    files = files_of(work, replays="--mixture" in flags)
    return pretrain(name, work, ["--model_name_or_path", model.resolve(), *ADAPTED, *files, *flags])


def files_of(work: Path, replays: bool = False) -> list[str]:
    """Return the flags of the texts to pretrain on and to evaluate on."""
    text = work / "text"
    training = [f"domain={text / 'domain.txt'}"] + [f"general={text / 'general.txt'}"] * replays
    held_out = [f"domain={text / 'held-out.txt'}", f"general={text / 'general-held-out.txt'}"]
    return ["--train_file", *training, "--validation_file", *held_out]


def make_texts(folder: Path, sizes: Sizes, packages: list[str]) -> dict:
    """Write the texts, unless they are there; return what they are made of."""
    described = folder / "text.json"
    if not described.exists():
        folder.mkdir(parents=True, exist_ok=True)
        versions = docs.installed(packages)
        if len(versions) < 2:
            sys.exit("fewer than two of the packages are installed: give others with --packages")
        texts = docs.split(
            docs.read_packages(versions), sizes.unlabelled, sizes.pool, sizes.evaluated, random.Random(0)
        )
        general = docs.read_general()
        random.Random(0).shuffle(general)
        docs.write_lines(folder / "domain.txt", [paragraph.text for paragraph in texts.unlabelled])
        docs.write_lines(folder / "held-out.txt", [paragraph.text for paragraph in texts.held_out])
        docs.write_lines(folder / "general.txt", general[HELD_OUT_GENERAL:])
        docs.write_lines(folder / "general-held-out.txt", general[:HELD_OUT_GENERAL])
        docs.write_labelled(folder / "validation.csv", texts.validation)
        docs.write_labelled(folder / "test.csv", texts.test)
        for seed in range(FIRST_SEED, FIRST_SEED + sizes.seeds):
            for per_class in sizes.labels:
                drawn = docs.draw(texts.pool, per_class, seed)
                docs.write_labelled(folder / f"train-{per_class}-{seed}.csv", drawn)
        counts = {part: len(paragraphs) for part, paragraphs in texts._asdict().items()} | {"general": len(general)}
        by_package = Counter(paragraph.package for paragraph in texts.unlabelled)
        described.write_text(json.dumps({"versions": versions, "paragraphs": counts, "unlabelled": by_package}))
    text = json.loads(described.read_text())
    print("Packages: " + ", ".join(f"{package} {version}" for package, version in text["versions"].items()))
    print("Paragraphs: " + ", ".join(f"{count:,} {part}" for part, count in text["paragraphs"].items()), flush=True)
    return text


def compare_all(
    name: str,
    work: Path,
    models: dict,
    sizes: Sizes,
    flags: Sequence[str],
    script: str = "run_classification.py",
) -> list[dict]:
    """Compare models with each number of labels per class, and print the tables."""
    comparisons = []
    for per_class in sizes.labels:
        seeds = range(FIRST_SEED, FIRST_SEED + sizes.seeds)
        compared = compare(name, work, models, per_class, seeds, flags, script=script)
        title = f"{name}, {per_class} labels per class, {compared['test_examples']:,} test texts, {len(seeds)} seeds"
        print(f"\n{title}:\n\n{format_comparison(compared)}\n", flush=True)
        comparisons.append(compared)
    return comparisons


if __name__ == "__main__":
    main()
