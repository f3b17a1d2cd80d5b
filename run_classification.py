#!/usr/bin/env python
"""Classification of texts: fine-tune a checkpoint on labelled ones, or several, and see whether they differ.

On a GPU:

    python run_classification.py --model_name_or_path bert-base-uncased --train_file labelled.csv \
        --do_train --do_eval --num_train_epochs 3 --bf16 --output_dir out

On two CPU cores, in minutes, without a network, after run_mlm.py recipes/quickstart/mlm.yaml:

    python run_classification.py recipes/quickstart/classification.yaml

Whether an adapted model does better than the original:

    python run_classification.py --compare_with original=bert-base-uncased adapted=out/mlm --num_seeds 3 \
        --train_file labelled.csv --do_train --do_eval --output_dir out/compared

The labels of texts of your own:

    python run_classification.py --model_name_or_path out --do_predict --test_file texts.csv --output_dir predicted

The first argument may be a recipe, a YAML file of the flags; flags behind it win. ``--help`` lists them.
"""

from cloze.system.output import tolerate_output_errors
from cloze.system.signals import exit_while_importing, install_handler

if __name__ == "__main__":
    # Before the imports, which take seconds
    install_handler(exit_while_importing)
    tolerate_output_errors()

from cloze.cli import run_script
from cloze.comparison.bootstrap import Outcome
from cloze.config.arguments import TrainingArguments
from cloze.config.classification_arguments import ClassificationArguments, ClassifierArguments


def main(model_args: ClassifierArguments, data_args: ClassificationArguments, training_args: TrainingArguments) -> None:
    if model_args.compare_with:
        from cloze.comparison.runner import compare

        compare(fine_tune, model_args, data_args, training_args)
    else:
        fine_tune(model_args, data_args, training_args)


def fine_tune(
    model_args: ClassifierArguments, data_args: ClassificationArguments, training_args: TrainingArguments
) -> Outcome | None:
    # Not at the top: models and data sets take seconds to import, which --help and a wrong flag need not wait for
    from cloze.comparison.runner import outcome_of
    from cloze.data.classification import examples_of, make_labelled
    from cloze.data.labelled_texts import read_test_texts
    from cloze.inference.classify import predict_classes
    from cloze.objectives.classification import CLASSIFICATION
    from cloze.reporting.summary import finish
    from cloze.training.context import make_model, set_up
    from cloze.training.dry_run import dry_run, log_prepared
    from cloze.training.run import make_trainer, run

    # Texts, config and tokenizer
    context = set_up(CLASSIFICATION, model_args, data_args, training_args)
    test_rows = read_test_texts(data_args) if training_args.do_predict else []

    # Labelled texts, those to train on and those held out; the config is told their classes
    sets = make_labelled(context)
    test_examples = examples_of([text for text, _ in test_rows if text], context) if test_rows else None
    if training_args.prepare_only:
        log_prepared(context)
        return None
    model = make_model(context)

    # Train and evaluate
    trainer = make_trainer(context, model, sets)
    if training_args.dry_run:
        dry_run(trainer, context, sets)
        return None
    metrics = run(trainer, context)
    outcome = outcome_of(trainer, sets, metrics) if training_args.do_eval else None

    # Classify texts of the user's own
    if test_rows:
        predict_classes(trainer, test_rows, test_examples, context)

    finish(trainer, context, sets, metrics)
    return outcome


if __name__ == "__main__":
    run_script(main)
