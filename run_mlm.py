#!/usr/bin/env python
"""Masked language modelling: adapt a checkpoint to one's own text, or train a new model from scratch.

On a GPU:

    python run_mlm.py --model_name_or_path bert-base-uncased --train_file corpus.txt --do_train --do_eval --bf16 \
        --output_dir out

On two CPU cores, in minutes, without a network:

    python run_mlm.py recipes/quickstart/mlm.yaml

The first argument may be a recipe, a YAML file of the flags; flags behind it win. ``--help`` lists them.
"""

from cloze.arguments import ModelArguments, TrainingArguments
from cloze.block_examples import make_blocks
from cloze.checkpoints import prepare_output_dir
from cloze.commandline import run_script
from cloze.corpus import find_corpora
from cloze.data_arguments import DataTrainingArguments
from cloze.modeling import load_model
from cloze.report import finish
from cloze.setup import load_config_and_tokenizer, make_collator, start
from cloze.tasks import MASKED_LM
from cloze.training import PretrainingTrainer, run


def main(model_args: ModelArguments, data_args: DataTrainingArguments, training_args: TrainingArguments) -> None:
    cache = start(model_args, data_args, training_args)

    # Where to go on from, and the text
    checkpoint = prepare_output_dir(training_args, keep=model_args.model_name_or_path)
    corpora = find_corpora(data_args, model_args, training_args.do_train, training_args.do_eval)

    # Config and tokenizer, which is trained from the text if there is none
    config, tokenizer, max_seq_length = load_config_and_tokenizer(
        MASKED_LM, model_args, data_args, training_args, corpora, checkpoint, cache
    )

    # Blocks, or lines
    sets = make_blocks(corpora, tokenizer, data_args, training_args, max_seq_length, cache)

    # Masks are drawn while batches are made, anew each epoch
    model = load_model(model_args, config, MASKED_LM)
    collator = make_collator(MASKED_LM, tokenizer, model, data_args, training_args, max_seq_length)

    # Train and evaluate
    trainer = PretrainingTrainer(
        model=model,
        args=training_args,
        objectives=MASKED_LM.objectives,
        data_collator=collator,
        train_dataset=sets.train,
        eval_dataset=sets.validation,
        processing_class=tokenizer,
    )
    metrics = run(trainer, checkpoint, model_args, data_args)
    finish(trainer, MASKED_LM, metrics, sets, model_args, data_args, training_args)


if __name__ == "__main__":
    run_script(main)
