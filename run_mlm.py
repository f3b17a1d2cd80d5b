#!/usr/bin/env python
"""Train a masked language model: adapt a checkpoint to your text, or start from scratch.

On a GPU:

    python run_mlm.py --model_name_or_path bert-base-uncased --train_file corpus.txt --do_train --do_eval --bf16 \
        --output_dir out

On two CPU cores, in about a minute, offline:

    python run_mlm.py recipes/quickstart/mlm.yaml

Predict the masked words in a file of lines with [MASK]:

    python run_mlm.py --model_name_or_path out --do_predict --test_file lines.txt --output_dir out

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
from cloze.config.data_arguments import DataTrainingArguments


def main(model_args: AdaptationArguments, data_args: DataTrainingArguments, training_args: TrainingArguments) -> None:
    """Train a masked language model, evaluate it, and predict masked words, as the settings say."""
    # Imported here because they take seconds; --help and errors in flags do not wait for them.
    from cloze.inference.fill_mask import predict_words, read_masked_texts
    from cloze.reporting.summary import finish
    from cloze.tasks.masked_lm import MASKED_LM
    from cloze.training.context import set_up
    from cloze.training.run import run, start

    # Load text, config and tokenizer; without a tokenizer, train one on the text.
    context = set_up(MASKED_LM, model_args, data_args, training_args)
    test_rows = read_masked_texts(context) if training_args.do_predict else []

    # Make blocks, or lines. The collator draws new masks in each epoch.
    splits = MASKED_LM.make_splits(context)

    # Build model and trainer; --prepare_only and --dry_run end here.
    trainer = start(context, splits)
    if trainer is None:
        return

    # Train and evaluate.
    metrics = run(trainer, context)

    # Predict the masked words of --test_file.
    if test_rows:
        predict_words(trainer, test_rows, data_args.top_k, context.max_seq_length)

    finish(trainer, context, splits, metrics)


if __name__ == "__main__":
    run_script(main)
