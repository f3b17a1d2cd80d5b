#!/usr/bin/env python
"""Measure whether causal language modelling first helps to adapt an encoder (arXiv 2605.12438).

    python benchmarks/detour.py --model FOLDER            # a BERT checkpoint

The text is adaptation.py's. Both sides train on it for the same number of steps: "mlm" by masked language modelling,
"detour" by causal language modelling and, in the last tenth of the steps, by masked language modelling. Each seed
adapts the checkpoint anew, and draws the labelled texts anew. Prints the held-out masked losses and the classifiers'
accuracies, also written to detour.json. Run the same command again to resume: complete runs are not repeated.
"""

import argparse
import json
from collections.abc import Sequence
from pathlib import Path

import adaptation_text as docs
import numpy as np
from adaptation import FIRST_SEED, LINES, TUNED, Sizes, files_of, make_texts
from adaptation_runs import fine_tune, pretrain, start, summarise_runs

from cloze.comparison.table import format_comparison

# Part of the steps that train by masked language modelling after the detour: a tenth suffices, as the paper finds.
LAST_PART = 0.1
ADAPTED = (
    *(*LINES, "--per_device_train_batch_size", "32", "--warmup_steps", "0.1", "--weight_decay", "0.01", "--do_train"),
    *("--logging_steps", "100"),
)
MASKED = ("--mlm_probability", "0.3", "--do_eval")
# As recipes/bert-base/detour.yaml: the rate stays at its peak in the first run, and falls in the second.
FIRST_RUN = ("--lr_scheduler_type", "constant_with_warmup")
SECOND_RUN = (*MASKED, "--warmup_steps", "0")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--output_dir", type=Path, default=Path("results/adaptation"), help="as of adaptation.py")
    parser.add_argument("--model", type=Path, required=True, help="folder of a BERT checkpoint to adapt")
    parser.add_argument("--epochs", type=float, default=3, help="of adaptation")
    parser.add_argument("--learning_rate", default="3e-4", help="of adaptation, for all phases")
    parser.add_argument("--tuning_rate", default="1e-4", help="learning rate of the classifiers")
    parser.add_argument("--labels", type=int, nargs="+", default=Sizes().labels, help="labelled texts per class")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--bf16", action="store_true", help="as of adaptation.py")
    args = parser.parse_args()
    work = args.output_dir.resolve()
    precision = ["--bf16"] * args.bf16
    make_texts(work / "text", Sizes(), docs.PACKAGES)
    seeds = range(FIRST_SEED, FIRST_SEED + args.seeds)
    flags = [*ADAPTED, "--learning_rate", args.learning_rate, *precision]
    adapted = [adapt(work, args.model.resolve(), args.epochs, seed, flags) for seed in seeds]
    losses = {side: [runs[side]["figures"] for runs in adapted] for side in ("mlm", "detour")}
    results = {"losses": compare_losses(losses), "comparisons": []}
    tuned = [*TUNED, "--learning_rate", args.tuning_rate, *precision]
    for per_class in args.labels:
        models = [
            {side: run["path"] for side, run in runs.items()} | {"original": str(args.model.resolve())}
            for runs in adapted
        ]
        outcomes = [
            fine_tune(args.model.name, work, each, per_class, seed, tuned)
            for each, seed in zip(models, seeds, strict=True)
        ]
        compared = summarise_runs("detour", models[0], per_class, seeds, tuned, outcomes)
        print(f"\n{per_class} labels per class, {len(seeds)} seeds:\n\n{format_comparison(compared)}\n", flush=True)
        results["comparisons"].append(compared)
    (work / "detour.json").write_text(json.dumps(results, indent=2) + "\n")
    print(json.dumps(results))


def adapt(work: Path, model: Path, epochs: float, seed: int, flags: Sequence[str]) -> dict[str, dict]:
    """Adapt the checkpoint on both sides with one seed; return the figures of each."""
    name = f"{model.name}-{seed}"
    common = [*files_of(work), *flags, "--seed", seed]
    of_model = ["--model_name_or_path", model]
    alone = pretrain(f"{name}-mlm", work, [*of_model, *common, *MASKED, "--num_train_epochs", epochs])
    steps = json.loads((Path(alone["path"]) / "trainer_state.json").read_text())["global_step"]
    last = round(LAST_PART * steps)
    causal = work / "models" / f"{name}-clm"
    first = [*of_model, *common, *FIRST_RUN, "--max_steps", steps - last]
    start("run_clm.py", causal, first, work / "logs" / f"{name}-clm.log")
    after = ["--model_name_or_path", causal, *common, *SECOND_RUN, "--max_steps", last]
    return {"mlm": alone, "detour": pretrain(f"{name}-detour", work, after)}


def compare_losses(figures: dict[str, list[dict]]) -> dict[str, dict]:
    """Print and return the held-out masked loss of each side, by text: mean and standard deviation over seeds."""
    results: dict[str, dict] = {}
    for text in ("domain", "general"):
        losses = {side: np.array([run[f"eval_{text}_loss"] for run in runs]) for side, runs in figures.items()}
        difference = losses["detour"] - losses["mlm"]
        rows = losses | {"difference": difference}
        results[text] = {name: {"mean": values.mean(), "std": values.std(ddof=1)} for name, values in rows.items()}
        row = ", ".join(f"{name} {each['mean']:.3f} ± {each['std']:.3f}" for name, each in results[text].items())
        print(f"Held-out masked loss, {text}: {row}", flush=True)
    return results


if __name__ == "__main__":
    main()
