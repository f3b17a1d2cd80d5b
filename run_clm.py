#!/usr/bin/env python
"""Train a causal language model: adapt a checkpoint to your text, or start from scratch.

On a GPU:

    python run_clm.py --model_name_or_path gpt2 --train_file corpus.txt --do_train --do_eval --bf16 --output_dir out

On two CPU cores, in about a minute, offline:

    python run_clm.py recipes/quickstart/clm.yaml

Encoders such as BERT get a causal mask; run_mlm.py continues from the output with attention in both directions.

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
from cloze.config.data_arguments import CausalArguments


def main(model_args: ModelArguments, data_args: CausalArguments, training_args: TrainingArguments) -> None:
    """Train a causal language model and evaluate it, as the settings say."""
    # Imported here because they take seconds; --help and errors in flags do not wait for them.
    from cloze.reporting.summary import finish
    from cloze.tasks.causal_lm import CAUSAL_LM
    from cloze.training.context import set_up
    from cloze.training.run import run, start

    # Load text, config and tokenizer; without a tokenizer, train one on the text.
    context = set_up(CAUSAL_LM, model_args, data_args, training_args)

    # Make blocks, or lines. The collator makes the next token the target of each token.
    splits = CAUSAL_LM.make_splits(context)

    # Build model and trainer; --prepare_only and --dry_run end here.
    trainer = start(context, splits)
    if trainer is None:
        return

    # Train and evaluate.
    metrics = run(trainer, context)
    finish(trainer, context, splits, metrics)


if __name__ == "__main__":
    run_script(main)
