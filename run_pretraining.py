#!/usr/bin/env python
"""BERT's own pretraining: masked tokens and next sentences together (Devlin et al., 2018).

On a GPU:

    python run_pretraining.py recipes/bert-base/pretraining-128.yaml --train_file corpus.txt --bf16

On two CPU cores, in minutes, without a network:

    python run_pretraining.py recipes/quickstart/pretraining.yaml

The first argument may be a recipe, a YAML file of the flags; flags behind it win. ``--help`` lists them.
"""

from cloze.system.output import tolerate_output_errors
from cloze.system.signals import exit_while_importing, install_handler

if __name__ == "__main__":
    # Before the imports, which take seconds
    install_handler(exit_while_importing)
    tolerate_output_errors()

from cloze.cli import run_script
from cloze.config.arguments import ModelArguments, TrainingArguments
from cloze.config.data_arguments import PretrainingDataArguments


def main(model_args: ModelArguments, data_args: PretrainingDataArguments, training_args: TrainingArguments) -> None:
    # Not at the top: models and data sets take seconds to import, which --help and a wrong flag need not wait for
    from cloze.data.nsp import make_pairs
    from cloze.objectives.tasks import PRETRAINING
    from cloze.reporting.summary import finish
    from cloze.training.context import make_model, set_up
    from cloze.training.dry_run import dry_run, log_prepared
    from cloze.training.run import make_trainer, run

    # Text, config and tokenizer, which is trained from the text if there is none
    context = set_up(PRETRAINING, model_args, data_args, training_args)

    # Pairs are drawn anew each epoch, and masked while batches are made
    sets = make_pairs(context)
    if training_args.prepare_only:
        log_prepared(context)
        return
    model = make_model(context)

    # Train and evaluate: the loss is that of the masked tokens and that of the pairs, added up
    trainer = make_trainer(context, model, sets)
    if training_args.dry_run:
        dry_run(trainer, context, sets)
        return
    metrics = run(trainer, context)
    finish(trainer, context, sets, metrics)


if __name__ == "__main__":
    run_script(main)
