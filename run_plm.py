#!/usr/bin/env python
"""Train a permutation language model (XLNet, Yang et al., 2019): adapt a checkpoint, or start from scratch.

On a GPU:

    python run_plm.py --model_name_or_path xlnet-base-cased --train_file corpus.txt --do_train --do_eval --bf16 \
        --output_dir out

On two CPU cores, in two minutes, offline:

    python run_plm.py recipes/quickstart/plm.yaml

The first argument may be a recipe, a YAML file of flags; flags after it take precedence. ``--help`` lists all flags.
There is no --do_predict: XLNet continues texts with ``generate`` of transformers.
"""

from cloze.system.output import tolerate_output_errors
from cloze.system.signals import exit_while_importing, install_handler

if __name__ == "__main__":
    # Before the imports, which take seconds.
    install_handler(exit_while_importing)
    tolerate_output_errors()

from cloze.cli import run_script
from cloze.config.arguments import ModelArguments, TrainingArguments
from cloze.config.permutation_arguments import PermutationArguments


def main(model_args: ModelArguments, data_args: PermutationArguments, training_args: TrainingArguments) -> None:
    """Train a permutation language model and evaluate it, as the settings say."""
    # Imported here because they take seconds; --help and errors in flags do not wait for them.
    from cloze.reporting.summary import finish
    from cloze.tasks.permutation_lm import PERMUTATION_LM
    from cloze.training.context import set_up
    from cloze.training.run import run, start

    # Load text, config and tokenizer; without a tokenizer, train one on the text.
    context = set_up(PERMUTATION_LM, model_args, data_args, training_args)

    # Make blocks, or lines. The collator draws new targets and orders in each epoch.
    splits = PERMUTATION_LM.make_splits(context)

    # Build model and trainer; --prepare_only and --dry_run end here.
    trainer = start(context, splits)
    if trainer is None:
        return

    # Train and evaluate.
    metrics = run(trainer, context)
    finish(trainer, context, splits, metrics)


if __name__ == "__main__":
    run_script(main)
