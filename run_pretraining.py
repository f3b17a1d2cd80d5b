#!/usr/bin/env python
"""BERT's own pretraining: masked tokens and next sentences together (Devlin et al., 2018).

On a GPU:

    python run_pretraining.py recipes/bert-base/pretraining-128.yaml --train_file corpus.txt --bf16

On two CPU cores, in minutes, without a network:

    python run_pretraining.py recipes/quickstart/pretraining.yaml

The first argument may be a recipe, a YAML file of the flags; flags behind it win. ``--help`` lists them.
"""

from cloze.arguments import ModelArguments, TrainingArguments
from cloze.checkpoints import prepare_output_dir
from cloze.commandline import run_script
from cloze.corpus import find_corpora
from cloze.data_arguments import PretrainingDataArguments
from cloze.modeling import load_model
from cloze.pair_examples import make_pairs
from cloze.report import finish
from cloze.setup import load_config_and_tokenizer, make_collator, start
from cloze.tasks import PRETRAINING
from cloze.training import PretrainingTrainer, run


def main(model_args: ModelArguments, data_args: PretrainingDataArguments, training_args: TrainingArguments) -> None:
    cache = start(model_args, data_args, training_args)

    # Where to go on from, and the text
    checkpoint = prepare_output_dir(training_args, keep=model_args.model_name_or_path)
    corpora = find_corpora(data_args, model_args, training_args.do_train, training_args.do_eval)

    # Config and tokenizer, which is trained from the text if there is none
    config, tokenizer, max_seq_length = load_config_and_tokenizer(
        PRETRAINING, model_args, data_args, training_args, corpora, checkpoint, cache
    )

    # Pairs are drawn anew each epoch, and masked while batches are made
    sets = make_pairs(corpora, tokenizer, data_args, training_args, max_seq_length, cache)
    model = load_model(model_args, config, PRETRAINING)
    collator = make_collator(PRETRAINING, tokenizer, model, data_args, training_args, max_seq_length)

    # Train and evaluate: the loss is that of the masked tokens and that of the pairs, added up
    trainer = PretrainingTrainer(
        model=model,
        args=training_args,
        objectives=PRETRAINING.objectives,
        data_collator=collator,
        train_dataset=sets.train,
        eval_dataset=sets.validation,
        processing_class=tokenizer,
    )
    metrics = run(trainer, checkpoint, model_args, data_args)
    finish(trainer, PRETRAINING, metrics, sets, model_args, data_args, training_args)


if __name__ == "__main__":
    run_script(main)
