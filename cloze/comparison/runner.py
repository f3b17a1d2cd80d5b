"""Several models fine-tuned on the same texts, with the same seeds and order, and compared."""

import copy
import gc
import importlib
import json
import logging
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import asdict, replace
from functools import partial
from itertools import product
from pathlib import Path

import numpy as np
import torch

from cloze.comparison.bootstrap import Outcome, summarise, tabulate
from cloze.config.arguments import TrainingArguments
from cloze.config.classification_arguments import ClassificationArguments, ClassifierArguments
from cloze.config.recipes import differences, recipe_of
from cloze.data.classification import numbers_of_classes
from cloze.data.labelled_texts import digest_of, read_splits
from cloze.data.splits import DatasetSplits
from cloze.errors import UserError
from cloze.models.loading import load_config
from cloze.models.weights import load_weights
from cloze.objectives.classification import classes_of
from cloze.system.locks import lock_output_dir
from cloze.system.storage import RECIPE
from cloze.system.waiting import on_first_process
from cloze.tasks.classification import CLASSIFICATION
from cloze.text.sources import find_corpora
from cloze.tokenization.loading import load_tokenizer
from cloze.training import checkpoints
from cloze.training.context import start_process
from cloze.training.trainer import PretrainingTrainer

logger = logging.getLogger(__name__)

# What came of a run, beside its model: with it, the run is over.
OUTCOME = "outcome.json"
# Of its file, at most.
FIGURE_SIZE = 2**20
# Settings that a run may go on with changed, and that runs to be compared have alike.
COMPARE_CRITICAL = (
    *("max_eval_samples", "per_device_train_batch_size", "gradient_accumulation_steps", "max_tokens_per_batch"),
    *("bf16", "fp16", "load_best_model_at_end", "metric_for_best_model", "eval_strategy", "eval_steps"),
)


def compare(
    fine_tune: Callable[..., Outcome | None],
    model_args: ClassifierArguments,
    data_args: ClassificationArguments,
    training_args: TrainingArguments,
) -> None:
    """Fine-tune each model with each seed, in ``output_dir/NAME/seed-N``, and tell how they differ.

    A run that is over is not done again, and one that was broken off is gone on with.

    Args:
        fine_tune: of the settings of one run, its outcome; None with ``dry_run`` and ``prepare_only``.
    """
    start_process(data_args, training_args)
    check_comparison(model_args, training_args)
    trains = not (training_args.dry_run or training_args.prepare_only)
    seeds = [training_args.seed + number for number in range(model_args.num_seeds if trains else 1)]
    runs = list(product(seeds, range(len(model_args.models))))
    outcomes = [[] for _ in model_args.models]
    if trains and training_args.overwrite_output_dir and training_args.process_index == 0:
        # All of them now, lest what is left of the comparison before is taken for this one's, if this is broken off.
        for path in Path(training_args.output_dir).glob(f"*/seed-*/{OUTCOME}"):
            path.unlink()
    digests = digests_of_texts(model_args, data_args, training_args) if trains else []
    for count, (seed, number) in enumerate(runs, 1):
        model, training = run_of(model_args, training_args, number, seed)
        logger.info("\n%s: run %d of %d", training.run_name, count, len(runs))
        leaves_nothing = nullcontext() if trains else checkpoints.without_new_folders(training.output_dir)
        # Its folder is one in which it could be run alone, too.
        locked = lock_output_dir(training.output_dir, dry_run=training.dry_run, prepare_only=training.prepare_only)
        with leaves_nothing, locked:
            outcomes[number].append(outcome_of_run(fine_tune, model, data_args, training))
        if trains:
            check_texts(outcomes, digests)
    if trains and training_args.process_index == 0:
        recipe = recipe_of(model_args, data_args, training_args)
        output_dir = Path(training_args.output_dir)
        with checkpoints.writing(output_dir / "comparison.json", FIGURE_SIZE):
            tell(summarise(model_args.models, outcomes, seeds), output_dir, recipe)


def check_comparison(model_args: ClassifierArguments, training_args: TrainingArguments) -> None:
    """Raise UserError for what is wrong with the settings or one of the models, before the first of them is trained."""
    if not (training_args.do_train and training_args.do_eval):
        raise UserError("--compare_with trains models and evaluates them: add --do_train --do_eval")
    for name in ("do_predict", "push_to_hub", "resume_from_checkpoint"):
        if getattr(training_args, name):
            raise UserError(f"--{name} is for one model: drop it, or --compare_with")
    output_dir = Path(training_args.output_dir)
    if any((output_dir / name).exists() for name in checkpoints.MODEL_FILES):
        raise UserError(
            f"--output_dir {output_dir} holds a model, whose recipe a comparison replaces: give another folder"
        )
    for number in range(len(model_args.models)):
        model, _ = run_of(model_args, training_args, number, training_args.seed)
        config = load_config(model, CLASSIFICATION)
        load_tokenizer(model, None)
        if model.model_name_or_path is not None:
            load_weights(model, config, CLASSIFICATION, torch.float32)


def run_of(
    model_args: ClassifierArguments, training_args: TrainingArguments, number: int, seed: int
) -> tuple[ClassifierArguments, TrainingArguments]:
    """The settings of one model's run: config and tokenizer are the first one's, if they are given."""
    name, path = model_args.models[number]
    own = {"config_name": None, "tokenizer_name": None} if number else {}
    training = copy.copy(training_args)
    training.seed, training.run_name, training.compared = seed, f"{name}-seed-{seed}", True
    training.output_dir = str(Path(training_args.output_dir) / name / f"seed-{seed}")
    training.resolved = training_args.resolved | {"seed": seed, "output_dir": training.output_dir}
    return replace(model_args, compare_with=None, model_name_or_path=path, **own), training


def outcome_of_run(
    fine_tune: Callable[..., Outcome | None],
    model_args: ClassifierArguments,
    data_args: ClassificationArguments,
    training_args: TrainingArguments,
) -> Outcome | None:
    """That of the run if it is over, else of what is left of it; its checkpoints are removed then."""
    path = Path(training_args.output_dir) / OUTCOME
    if not training_args.overwrite_output_dir:
        recipe = recipe_of(model_args, data_args, training_args)
        outcome = on_first_process(partial(find_outcome, path, recipe))
        if outcome is not None:
            logger.info("It is over: accuracy %.4f, macro-F1 %.4f", outcome.accuracy, outcome.macro_f1)
            return outcome
        # Broken off between its model and its outcome, and without checkpoints, it has nothing to go on from.
        training_args.overwrite_output_dir = on_first_process(partial(is_begun, path.parent, recipe))
    outcome = fine_tune(model_args, data_args, training_args)
    gc.collect()  # lest two models are in the device's memory
    if "wandb" in training_args.report_to:
        # The Trainer's callback leaves its run open, and would log the next one there.
        importlib.import_module("wandb").finish()
    if outcome is not None and training_args.process_index == 0:
        with checkpoints.writing(path, FIGURE_SIZE), checkpoints.replacing(path) as file:
            json.dump(asdict(outcome), file, ensure_ascii=False)
        checkpoints.remove_all(training_args.output_dir)
    return outcome


def find_outcome(path: Path, recipe: str) -> Outcome | None:
    if not path.exists():
        return None
    changes = differences(recipe, (path.parent / RECIPE).read_text(encoding="utf-8"), COMPARE_CRITICAL)
    if changes:
        raise UserError(
            f"{path.parent} is of another recipe, here changed to {', '.join(changes)}: give what it has, or another "
            "--output_dir, or --overwrite_output_dir to start afresh"
        )
    return Outcome(**json.loads(path.read_text(encoding="utf-8")))


def is_begun(folder: Path, recipe: str) -> bool:
    """Whether a folder without checkpoints is of a run of this recipe."""
    path = folder / RECIPE
    if not path.exists() or checkpoints.list_checkpoints(str(folder)):
        return False
    return not differences(recipe, path.read_text(encoding="utf-8"), COMPARE_CRITICAL)


def outcome_of(trainer: PretrainingTrainer, splits: DatasetSplits, metrics: dict[str, float]) -> Outcome:
    """Of the last evaluation, with the texts in the order in which they were read."""
    names = np.array(list(numbers_of_classes(trainer.model.config)))
    order = np.argsort(splits.validation.indices)
    labels, predictions = (names[classes][order].tolist() for classes in classes_of(trainer.scores[""]))
    seconds = trainer.stop_callback.seconds_before + metrics.get("train_runtime", 0.0)
    digests = [splits.train.examples_for_epoch(0).digest, splits.validation.dataset.digest] if splits.train else []
    return Outcome(metrics["eval_accuracy"], metrics["eval_macro_f1"], seconds, labels, predictions, digests)


def digests_of_texts(
    model_args: ClassifierArguments, data_args: ClassificationArguments, training_args: TrainingArguments
) -> list[str]:
    """Return the digests of the texts to train and to evaluate on, as the files hold them now."""
    corpora = find_corpora(
        data_args,
        training_args.do_train,
        training_args.do_eval,
        output_dir=training_args.output_dir,
        cache_dir=model_args.cache_dir,
        token=model_args.token,
    )
    do_train, do_eval, seed = training_args.do_train, training_args.do_eval, training_args.data_seed or 0
    _, *splits = read_splits(corpora, data_args, do_train, do_eval, seed)
    return [digest_of(texts) for texts in splits]


def check_texts(outcomes: list[list[Outcome]], digests: list[str]) -> None:
    """Raise UserError where runs were trained or evaluated on other texts than the files hold now."""
    if any(outcome.digests != digests for runs in outcomes for outcome in runs):
        raise UserError(
            "some runs were trained or evaluated on other texts than are in the files now: put those back, or start "
            "afresh with --overwrite_output_dir"
        )


def tell(comparison: dict, output_dir: Path, recipe: str) -> None:
    """Write comparison.json, its figure and the recipe that gives it again, and show the table."""
    # Not at the top, as all of matplotlib comes with it.
    from cloze.reporting.plots import draw_comparison

    (output_dir / RECIPE).write_text(recipe, encoding="utf-8")
    path = output_dir / "comparison.json"
    path.write_text(json.dumps(comparison, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    title = f"{comparison['test_examples']:,} held-out texts, seeds {', '.join(map(str, comparison['seeds']))}"
    logger.info("\n%s:\n\n%s\n\nSaved in %s, drawn beside it", title, tabulate(comparison), path)
    with checkpoints.writing(path.with_suffix(".png"), FIGURE_SIZE):
        draw_comparison(comparison, path.with_suffix(".png"))
