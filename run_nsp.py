#!/usr/bin/env python
"""Train next sentence prediction: does text B follow text A (Devlin et al., 2018, section 3.1)?

On a GPU:

    python run_nsp.py --model_name_or_path bert-base-uncased --train_file corpus.txt --do_train --do_eval --bf16 \
        --max_seq_length 128 --output_dir out

On two CPU cores, in about a minute, offline:

    python run_nsp.py recipes/quickstart/nsp.yaml

Predict whether the pairs in a file are in order:

    python run_nsp.py --model_name_or_path out --do_predict --test_file pairs.csv --output_dir out

The first argument may be a recipe, a YAML file of flags; flags after it take precedence. ``--help`` lists all flags.
"""

from cloze.system.output import tolerate_output_errors
from cloze.system.signals import exit_while_importing, install_handler

if __name__ == "__main__":
    # Before the imports, which take seconds.
    install_handler(exit_while_importing)
    tolerate_output_errors()

from cloze.cli import run_script
from cloze.config.arguments import ModelArguments, TrainingArguments
from cloze.config.data_arguments import NextSentenceArguments


def main(model_args: ModelArguments, data_args: NextSentenceArguments, training_args: TrainingArguments) -> None:
    """Train next sentence prediction, evaluate it, and predict for pairs, as the settings say."""
    # Imported here because they take seconds; --help and errors in flags do not wait for them.
    from cloze.inference.next_sentence import predict_pairs, read_pairs
    from cloze.reporting.summary import finish
    from cloze.tasks.next_sentence import NEXT_SENTENCE
    from cloze.training.context import set_up
    from cloze.training.run import run, start

    # Load text, config and tokenizer; without a tokenizer, train one on the text.
    context = set_up(NEXT_SENTENCE, model_args, data_args, training_args)
    test_rows = read_pairs(data_args) if training_args.do_predict else []

    # Make pairs of texts, new ones in each epoch.
    splits = NEXT_SENTENCE.make_splits(context)

    # Build model and trainer; --prepare_only and --dry_run end here.
    trainer = start(context, splits)
    if trainer is None:
        return

    # Train and evaluate.
    metrics = run(trainer, context)

    # Predict for the pairs of --test_file.
    if test_rows:
        predict_pairs(trainer, test_rows, context.max_seq_length)

    finish(trainer, context, splits, metrics)


if __name__ == "__main__":
    run_script(main)
