#!/usr/bin/env python
"""Fine-tune a text classifier, or several checkpoints on the same texts to compare them.

On a GPU:

    python run_classification.py --model_name_or_path bert-base-uncased --train_file labelled.csv \
        --do_train --do_eval --num_train_epochs 3 --bf16 --output_dir out

On two CPU cores, in about a minute, offline, after run_mlm.py recipes/quickstart/mlm.yaml:

    python run_classification.py recipes/quickstart/classification.yaml

Compare an adapted model with the original:

    python run_classification.py --compare_with original=bert-base-uncased adapted=out/mlm --num_seeds 3 \
        --train_file labelled.csv --do_train --do_eval --output_dir out/compared

Predict the labels of a file of texts:

    python run_classification.py --model_name_or_path out --do_predict --test_file texts.csv --output_dir predicted

The first argument may be a recipe, a YAML file of flags; flags after it take precedence. ``--help`` lists all flags.
"""

from cloze.system.output import tolerate_output_errors
from cloze.system.signals import exit_while_importing, install_handler

if __name__ == "__main__":
    # Before the imports, which take seconds.
    install_handler(exit_while_importing)
    tolerate_output_errors()

from cloze.cli import run_script
from cloze.comparison.bootstrap import Outcome
from cloze.config.arguments import TrainingArguments
from cloze.config.classification_arguments import ClassificationArguments, ClassifierArguments


def main(model_args: ClassifierArguments, data_args: ClassificationArguments, training_args: TrainingArguments) -> None:
    """Fine-tune one classifier, or compare several."""
    if model_args.compare_with:
        from cloze.comparison.runner import compare

        compare(fine_tune, model_args, data_args, training_args)
    else:
        fine_tune(model_args, data_args, training_args)


def fine_tune(
    model_args: ClassifierArguments, data_args: ClassificationArguments, training_args: TrainingArguments
) -> Outcome | None:
    """Fine-tune a classifier; return its outcome, None without an evaluation."""
    # Imported here because they take seconds; --help and errors in flags do not wait for them.
    from cloze.comparison.runner import outcome_of
    from cloze.data.classification import examples_of
    from cloze.data.labelled_texts import read_test_texts
    from cloze.inference.classify import predict_classes
    from cloze.reporting.summary import finish
    from cloze.tasks.classification import CLASSIFICATION
    from cloze.training.context import set_up
    from cloze.training.run import run, start

    # Load texts, config and tokenizer.
    context = set_up(CLASSIFICATION, model_args, data_args, training_args)
    test_rows = read_test_texts(data_args) if training_args.do_predict else []

    # Make labelled examples; this adds their classes to the config.
    splits = CLASSIFICATION.make_splits(context)
    test_examples = examples_of([text for text, _ in test_rows if text], context) if test_rows else None

    # Build model and trainer; --prepare_only and --dry_run end here.
    trainer = start(context, splits)
    if trainer is None:
        return None

    # Train and evaluate.
    metrics = run(trainer, context)
    outcome = outcome_of(trainer, splits, metrics) if training_args.do_eval else None

    # Classify the texts of --test_file.
    if test_examples is not None:
        predict_classes(trainer, test_rows, test_examples, context)

    finish(trainer, context, splits, metrics)
    return outcome


if __name__ == "__main__":
    run_script(main)
