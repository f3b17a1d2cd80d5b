#!/usr/bin/env python
"""Train a causal language model: adapt a checkpoint to your text, or start from scratch.

On a GPU:

    python run_clm.py --model_name_or_path gpt2 --train_file corpus.txt --do_train --do_eval --bf16 --output_dir out

On two CPU cores, in about a minute, offline:

    python run_clm.py recipes/quickstart/clm.yaml

Continue the lines of a file, and score their tokens:

    python run_clm.py --model_name_or_path out --do_predict --test_file lines.txt --output_dir out

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
from cloze.config.continuation_arguments import ContinuationArguments


def main(model_args: ModelArguments, data_args: ContinuationArguments, training_args: TrainingArguments) -> None:
    """Train a causal language model, evaluate it, and continue texts, as the settings say."""
    # Imported here because they take seconds; --help and errors in flags do not wait for them.
    from cloze.inference.continuations import predict_continuations, read_prompts
    from cloze.reporting.summary import finish
    from cloze.tasks.causal_lm import CAUSAL_LM
    from cloze.training.context import set_up
    from cloze.training.run import run, start

    # Load text, config and tokenizer; without a tokenizer, train one on the text.
    context = set_up(CAUSAL_LM, model_args, data_args, training_args)
    test_rows = read_prompts(context) if training_args.do_predict else []

    # Make blocks, or lines. The collator makes the next token the target of each token.
    splits = CAUSAL_LM.make_splits(context)

    # Build model and trainer; --prepare_only and --dry_run end here.
    trainer = start(context, splits)
    if trainer is None:
        return

    # Train and evaluate.
    metrics = run(trainer, context)

    # Continue and score the texts of --test_file.
    if test_rows:
        predict_continuations(trainer, test_rows, context)

    finish(trainer, context, splits, metrics)


if __name__ == "__main__":
    run_script(main)
