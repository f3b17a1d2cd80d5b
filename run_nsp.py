#!/usr/bin/env python
"""Next sentence prediction: does B follow A, or is it from elsewhere (Devlin et al., 2018, section 3.1)?

On a GPU:

    python run_nsp.py --model_name_or_path bert-base-uncased --train_file corpus.txt --do_train --do_eval --bf16 \
        --max_seq_length 128 --output_dir out

On two CPU cores, in minutes, without a network:

    python run_nsp.py recipes/quickstart/nsp.yaml

The judgement of a trained model on pairs of your own:

    python run_nsp.py --model_name_or_path out --do_predict --test_file pairs.csv --output_dir out

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
from cloze.config.data_arguments import NextSentenceArguments


def main(model_args: ModelArguments, data_args: NextSentenceArguments, training_args: TrainingArguments) -> None:
    # Not at the top: models and data sets take seconds to import, which --help and a wrong flag need not wait for
    from cloze.data.nsp import make_pairs
    from cloze.inference.next_sentence import predict, read_pairs
    from cloze.objectives.tasks import NEXT_SENTENCE
    from cloze.reporting.summary import finish
    from cloze.training.context import make_model, set_up
    from cloze.training.dry_run import dry_run, log_prepared
    from cloze.training.run import make_trainer, run

    # Text, config and tokenizer, which is trained from the text if there is none
    context = set_up(NEXT_SENTENCE, model_args, data_args, training_args)
    test_rows = read_pairs(data_args) if training_args.do_predict else []

    # Pairs of sentences are drawn anew each epoch
    sets = make_pairs(context)
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

    # Judge pairs of the user's own
    if test_rows:
        predict(trainer, test_rows, context.max_seq_length)

    finish(trainer, context, sets, metrics)


if __name__ == "__main__":
    run_script(main)
