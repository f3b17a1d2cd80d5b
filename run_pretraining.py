#!/usr/bin/env python
"""Pretrain like BERT, on masked tokens and next sentences together (Devlin et al., 2018).

On a GPU:

    python run_pretraining.py recipes/bert-base/pretraining-128.yaml --train_file corpus.txt --bf16

On two CPU cores, in about a minute, offline:

    python run_pretraining.py recipes/quickstart/pretraining.yaml

The first argument may be a recipe, a YAML file of flags; flags after it take precedence. ``--help`` lists all flags.
"""

from cloze.system.output import tolerate_output_errors
from cloze.system.signals import exit_while_importing, install_handler

if __name__ == "__main__":
    # Before the imports, which take seconds.
    install_handler(exit_while_importing)
    tolerate_output_errors()

from cloze.cli import run_script
from cloze.config.adaptation_arguments import AdaptationArguments
from cloze.config.arguments import TrainingArguments
from cloze.config.data_arguments import PretrainingDataArguments


def main(
    model_args: AdaptationArguments, data_args: PretrainingDataArguments, training_args: TrainingArguments
) -> None:
    """Train both objectives and evaluate them, as the settings say."""
    # Imported here because they take seconds; --help and errors in flags do not wait for them.
    from cloze.reporting.summary import finish
    from cloze.tasks.pretraining import PRETRAINING
    from cloze.training.context import set_up
    from cloze.training.run import run, start

    # Load text, config and tokenizer; without a tokenizer, train one on the text.
    context = set_up(PRETRAINING, model_args, data_args, training_args)

    # Make pairs of texts, new ones in each epoch. The collator masks them.
    splits = PRETRAINING.make_splits(context)

    # Build model and trainer; --prepare_only and --dry_run end here.
    trainer = start(context, splits)
    if trainer is None:
        return

    # Train and evaluate; the loss is the sum of both objectives' losses.
    metrics = run(trainer, context)
    finish(trainer, context, splits, metrics)


if __name__ == "__main__":
    run_script(main)
