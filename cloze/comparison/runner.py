"""Fine-tune several models on the same texts, seeds and order, and compare them."""

import copy
import gc
import importlib
import json
import logging
from collections.abc import Callable
from dataclasses import asdict, replace
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import torch

from cloze.comparison.bootstrap import Outcome, summarise
from cloze.comparison.table import format_comparison
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
from cloze.system.processes import on_first_process
from cloze.system.storage import RECIPE
from cloze.tasks.classification import CLASSIFICATION
from cloze.tokenization.loading import load_tokenizer
from cloze.training import checkpoints
from cloze.training.context import find_texts, start_process
from cloze.training.trainer import PretrainingTrainer

logger = logging.getLogger(__name__)

# The results of a run, in the folder of its model. A run that has this file is complete.
OUTCOME = "outcome.json"
# Most bytes of a file of results or a figure.
MAX_FILE_SIZE = 2**20
# Settings that may change when a run is resumed, but not between compared runs.
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
    """Fine-tune each model with each seed, in ``output_dir/NAME/seed-N``, and report the differences.

    Complete runs are not repeated, and an interrupted run is resumed.

    Args:
        fine_tune: trains with the given settings and returns the outcome, None with ``dry_run`` and ``prepare_only``.
        model_args: the models.
        data_args: the data settings.
        training_args: of the first seed.

    Raises:
        UserError: for settings that do not fit a comparison, and if the texts have changed since a complete run.
    """
    start_process(data_args, training_args)
    _check_comparison(model_args, training_args)
    if len(data_args.held_out_names) > 1:
        raise UserError("--compare_with compares models on one held-out set: give one --validation_file name")
    trains = not (training_args.dry_run or training_args.prepare_only)
    seeds = [training_args.seed + number for number in range(model_args.num_seeds if trains else 1)]
    runs = list(product(seeds, range(len(model_args.models))))
    outcomes: list[list[Outcome]] = [[] for _ in model_args.models]
    if trains and training_args.overwrite_output_dir and training_args.process_index == 0:
        # All of them before the first run. After an interruption, the rest would pass for this comparison's results.
        for path in Path(training_args.output_dir).glob(f"*/seed-*/{OUTCOME}"):
            path.unlink()
    digests = []
    if trains:
        corpora = find_texts(model_args, data_args, training_args)
        _, training_texts, held_out = read_splits(
            corpora, data_args, training_args.do_eval, training_args.data_seed or 0
        )
        assert training_texts is not None
        digests = [digest_of(training_texts), digest_of(next(iter(held_out.values())))]
    for count, (seed, number) in enumerate(runs, 1):
        model, training = _settings_of_run(model_args, training_args, number, seed)
        logger.info("\nRun %d of %d: %s", count, len(runs), training.run_name)
        # The lock that a single run takes.
        with lock_output_dir(training.output_dir, dry_run=training.dry_run, prepare_only=training.prepare_only):
            outcome = _outcome_of_run(fine_tune, model, data_args, training)
        if not trains:
            continue
        assert outcome is not None
        outcomes[number].append(outcome)
        if outcome.digests != digests:
            raise UserError(
                "the texts have changed since some runs of this comparison: restore them, or start over with "
                "--overwrite_output_dir"
            )
    if trains and training_args.process_index == 0:
        recipe = recipe_of(model_args, data_args, training_args)
        output_dir = Path(training_args.output_dir)
        with checkpoints.writing(output_dir / "comparison.json", MAX_FILE_SIZE):
            _save_comparison(summarise(model_args.models, outcomes, seeds), output_dir, recipe)


def _check_comparison(model_args: ClassifierArguments, training_args: TrainingArguments) -> None:
    """Raise UserError for settings that do not fit, and for a model that cannot be loaded, before any training."""
    if not (training_args.do_train and training_args.do_eval):
        raise UserError("--compare_with needs --do_train --do_eval: add them")
    for name in ("do_predict", "push_to_hub", "resume_from_checkpoint"):
        if getattr(training_args, name):
            raise UserError(f"--{name} cannot be combined with --compare_with: drop one of them")
    output_dir = Path(training_args.output_dir)
    if any((output_dir / name).exists() for name in checkpoints.MODEL_FILES):
        raise UserError(
            f"--output_dir {output_dir} contains a model, and --compare_with would overwrite its recipe.yaml: give "
            "another folder"
        )
    for number in range(len(model_args.models)):
        model, _ = _settings_of_run(model_args, training_args, number, training_args.seed)
        config = load_config(model, CLASSIFICATION)
        load_tokenizer(model, None)
        if model.model_name_or_path is not None:
            load_weights(model, config, CLASSIFICATION, torch.float32)


def _settings_of_run(
    model_args: ClassifierArguments, training_args: TrainingArguments, number: int, seed: int
) -> tuple[ClassifierArguments, TrainingArguments]:
    """Return the settings of one run. --config_name and --tokenizer_name apply to the first model only."""
    name, path = model_args.models[number]
    training = copy.copy(training_args)
    training.seed, training.run_name, training.compared = seed, f"{name}-seed-{seed}", True
    training.output_dir = str(Path(training_args.output_dir) / name / f"seed-{seed}")
    training.resolved = training_args.resolved | {"seed": seed, "output_dir": training.output_dir}
    model = replace(model_args, compare_with=None, model_name_or_path=path)
    return model if number == 0 else replace(model, config_name=None, tokenizer_name=None), training


def _outcome_of_run(
    fine_tune: Callable[..., Outcome | None],
    model_args: ClassifierArguments,
    data_args: ClassificationArguments,
    training_args: TrainingArguments,
) -> Outcome | None:
    """Read the outcome of a complete run; otherwise train, save the outcome and remove the checkpoints."""
    path = Path(training_args.output_dir) / OUTCOME
    if not training_args.overwrite_output_dir:
        recipe = recipe_of(model_args, data_args, training_args)
        outcome, starts_afresh = on_first_process(partial(_find_outcome, path, recipe))
        if outcome is not None:
            logger.info("Already complete: accuracy %.4f, macro-F1 %.4f", outcome.accuracy, outcome.macro_f1)
            return outcome
        training_args.overwrite_output_dir = starts_afresh
    outcome = fine_tune(model_args, data_args, training_args)
    gc.collect()  # frees the memory of the device before the next model
    if "wandb" in (training_args.report_to or []):
        # The Trainer's callback leaves its wandb run open, and the next model would be logged to it.
        importlib.import_module("wandb").finish()
    if outcome is not None and training_args.process_index == 0:
        with checkpoints.writing(path, MAX_FILE_SIZE), checkpoints.replacing(path) as file:
            json.dump(asdict(outcome), file, ensure_ascii=False)
        checkpoints.remove_all(training_args.output_dir)
    return outcome


def _find_outcome(path: Path, recipe: str) -> tuple[Outcome | None, bool]:
    """Return the outcome of a complete run, or None, and whether to overwrite a run that cannot be resumed.

    Such a run has this recipe and a model, but was interrupted before its outcome was written and has no checkpoint.
    """
    written = path.parent / RECIPE
    if not written.exists():
        return None, False
    changes = differences(recipe, written.read_text(encoding="utf-8"), COMPARE_CRITICAL)
    if not path.exists():
        return None, not (changes or checkpoints.list_checkpoints(str(path.parent)))
    if changes:
        raise UserError(
            f"{path.parent} was created with different settings (now {', '.join(changes)}): restore them, or give "
            "another --output_dir, or --overwrite_output_dir to start over"
        )
    return Outcome(**json.loads(path.read_text(encoding="utf-8"))), False


def outcome_of(trainer: PretrainingTrainer, splits: DatasetSplits, metrics: dict[str, float]) -> Outcome:
    """Return the outcome of the last evaluation, with labels and predictions in the order of the held-out texts."""
    # Both hold LabelledExamples, which DatasetSplits does not declare.
    train: Any = splits.train
    name, validation = next(iter(splits.validation.items()))
    examples: Any = validation.dataset
    names = np.array(list(numbers_of_classes(trainer.model.config)))
    order = np.argsort(validation.indices)
    labels, predictions = (names[classes][order].tolist() for classes in classes_of(trainer.scores[name][""]))
    seconds = trainer.stop_callback.seconds_before + metrics.get("train_runtime", 0.0)
    digests = [train.examples_for_epoch(0).digest, examples.digest] if train else []
    return Outcome(metrics["eval_accuracy"], metrics["eval_macro_f1"], seconds, labels, predictions, digests)


def _save_comparison(comparison: dict, output_dir: Path, recipe: str) -> None:
    """Write comparison.json, its figure and the recipe, and log the table."""
    # Imported here because matplotlib takes long to load.
    from cloze.reporting.plots import comparison_of, save

    (output_dir / RECIPE).write_text(recipe, encoding="utf-8")
    path = output_dir / "comparison.json"
    path.write_text(json.dumps(comparison, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    title = f"{comparison['test_examples']:,} held-out texts, seeds {', '.join(map(str, comparison['seeds']))}"
    logger.info("\n%s:\n\n%s\n\nSaved in %s, with a figure", title, format_comparison(comparison), path)
    with checkpoints.writing(path.with_suffix(".png"), MAX_FILE_SIZE):
        save(comparison_of(comparison), path.with_suffix(".png"))
