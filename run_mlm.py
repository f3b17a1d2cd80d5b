#!/usr/bin/env python
"""Masked language modelling: adapt a checkpoint to one's own text, or train a new model from scratch.

On a GPU:

    python run_mlm.py --model_name_or_path bert-base-uncased --train_file corpus.txt --do_train --do_eval --bf16 \
        --output_dir out

On two CPU cores, in minutes, without a network:

    python run_mlm.py recipes/quickstart/mlm.yaml

The words that a trained model puts in place of [MASK], in lines of your own:

    python run_mlm.py --model_name_or_path out --do_predict --test_file lines.txt --output_dir out

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
from cloze.config.data_arguments import DataTrainingArguments


def main(model_args: ModelArguments, data_args: DataTrainingArguments, training_args: TrainingArguments) -> None:
    # Not at the top: models and data sets take seconds to import, which --help and a wrong flag need not wait for
    from cloze.data.mlm import make_blocks
    from cloze.inference.fill_mask import predict, read_lines_to_fill
    from cloze.objectives.tasks import MASKED_LM
    from cloze.reporting.summary import finish
    from cloze.training.context import make_model, set_up
    from cloze.training.dry_run import dry_run, log_prepared
    from cloze.training.run import make_trainer, run

    # Text, config and tokenizer, which is trained from the text if there is none
    context = set_up(MASKED_LM, model_args, data_args, training_args)
    test_rows = read_lines_to_fill(context) if training_args.do_predict else []

    # Blocks, or lines; masks are drawn while batches are made, anew each epoch
    sets = make_blocks(context)
    if training_args.prepare_only:
        log_prepared(context)
        return
    model = make_model(context)

    # Train and evaluate
    trainer = make_trainer(context, model, sets)
    if training_args.dry_run:
        dry_run(trainer, context, sets)
        return
    metrics = run(trainer, context)

    # Fill in lines of the user's own
    if test_rows:
        predict(trainer, test_rows, data_args.top_k, context.max_seq_length)

    finish(trainer, context, sets, metrics)


if __name__ == "__main__":
    run_script(main)
