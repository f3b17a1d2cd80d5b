#!/usr/bin/env python
"""Try other settings of pretraining, adaptation and fine-tuning on the validation texts of adaptation.py.

    python benchmarks/adaptation_sweep.py                    # the small model
    python benchmarks/adaptation_sweep.py --model minilm     # the checkpoint
    python benchmarks/adaptation_sweep.py --only mask-15     # one variant

Each variant changes some flags of adaptation.py. Its model is compared with random weights, or with the checkpoint
unchanged, with 10 labels per class. Run the same command again to resume. Prints a table per variant.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import adaptation_text as docs
from adaptation import FIRST_SEED, SMALL, TUNED_CHECKPOINT, TUNED_SMALL, Sizes, adapt, files_of, make_texts
from adaptation_runs import compare, pretrain

from cloze.comparison.table import format_comparison

PER_CLASS = 10


class Variant(NamedTuple):
    """Hold the flags that differ: of pretraining or adaptation, and of fine-tuning; and the script that fine-tunes."""

    pretraining: Sequence[str] = ()
    tuning: Sequence[str] = ()
    script: str = "run_classification.py"


SMALL_VARIANTS = {
    "unchanged": Variant(),
    "epochs-3": Variant(("--num_train_epochs", "3")),
    "epochs-12": Variant(("--num_train_epochs", "12")),
    "mask-15": Variant(("--mlm_probability", "0.15")),
    "vocabulary-4000": Variant(("--vocab_size", "4000")),
    "tuning-3e-4": Variant(tuning=("--learning_rate", "3e-4")),
    "tuning-3e-3": Variant(tuning=("--learning_rate", "3e-3")),
    "pooling-cls": Variant(tuning=("--classifier_pooling", "cls")),
}
CHECKPOINT_VARIANTS = {
    "unchanged": Variant(),
    "epochs-1": Variant(("--num_train_epochs", "1")),
    "epochs-6": Variant(("--num_train_epochs", "6")),
    "lr-1e-4": Variant(("--learning_rate", "1e-4")),
    "lr-1e-3": Variant(("--learning_rate", "1e-3")),
    "mask-15": Variant(("--mlm_probability", "0.15")),
    "tuning-3e-5": Variant(tuning=("--learning_rate", "3e-5")),
    "tuning-3e-4": Variant(tuning=("--learning_rate", "3e-4")),
    "pooling-mean": Variant(script="benchmarks/mean_pooling.py"),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--output_dir", type=Path, default=Path("results/adaptation"), help="as of adaptation.py")
    parser.add_argument("--model", type=Path, help="folder of a BERT checkpoint to adapt; default: the small model")
    parser.add_argument("--only", nargs="+", help="names of variants")
    parser.add_argument("--bf16", action="store_true", help="as of adaptation.py")
    parser.add_argument("--seeds", type=int, default=2)
    args = parser.parse_args()
    work = args.output_dir.resolve()
    make_texts(work / "text", Sizes(), docs.PACKAGES)
    variants = SMALL_VARIANTS if args.model is None else CHECKPOINT_VARIANTS
    seeds = range(FIRST_SEED, FIRST_SEED + args.seeds)
    for name in args.only or variants:
        compared = try_variant(name, variants[name], work, args.model, seeds, ["--bf16"] * args.bf16)
        print(f"\n{name}:\n\n{format_comparison(compared)}\n", flush=True)


def try_variant(
    name: str, variant: Variant, work: Path, model: Path | None, seeds: Sequence[int], precision: Sequence[str]
) -> dict:
    """Pretrain or adapt with a variant's flags, unless they are those of adaptation.py, and compare."""
    kind = "small" if model is None else "checkpoint"
    flags = [*precision, *variant.pretraining]
    if model is None:
        trained = pretrain(
            f"small-{name}" if variant.pretraining else "pretrained", work, [*SMALL, *files_of(work), *flags]
        )
        models = {"scratch": None, name: trained["path"]}
    else:
        trained = adapt(f"checkpoint-{name}" if variant.pretraining else "adapted", work, model, flags)
        models = {"original": str(model.resolve()), name: trained["path"]}
    tuned = [*(TUNED_SMALL if model is None else TUNED_CHECKPOINT), *precision, *variant.tuning]
    return compare(f"{kind}-{name}", work, models, PER_CLASS, seeds, tuned, "validation", variant.script)


if __name__ == "__main__":
    main()
