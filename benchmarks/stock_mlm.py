#!/usr/bin/env python
"""Train with the stock Trainer and collator on the blocks of run_mlm.py, the first side of speedrun.py.

    python benchmarks/stock_mlm.py --model_type bert --train_file corpus.txt --do_train --output_dir out

Takes the flags of run_mlm.py. Text, blocks and initial weights are those of run_mlm.py; all the rest is what upstream's
run_mlm.py does. Of the flags of training, those of transformers.TrainingArguments have an effect.
"""

import sys
from dataclasses import fields
from pathlib import Path

import transformers
from transformers import DataCollatorForLanguageModeling, Trainer

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from cloze.cli import run_script  # noqa: E402
from cloze.config.adaptation_arguments import AdaptationArguments  # noqa: E402
from cloze.config.arguments import TrainingArguments  # noqa: E402
from cloze.config.data_arguments import DataTrainingArguments  # noqa: E402
from cloze.tasks.masked_lm import MASKED_LM  # noqa: E402
from cloze.training.context import make_model, set_up  # noqa: E402

# Settings whose default in run_mlm.py is not the one of transformers.
OWN_DEFAULTS = {"train_sampling_strategy", "save_total_limit", "logging_first_step", "logging_nan_inf_filter"}


def main(model_args: AdaptationArguments, data_args: DataTrainingArguments, training_args: TrainingArguments) -> None:
    context = set_up(MASKED_LM, model_args, data_args, training_args)
    names = {field.name for field in fields(transformers.TrainingArguments) if field.init} - OWN_DEFAULTS
    stock = {name: value for name, value in training_args.resolved.items() if name in names}
    blocks = MASKED_LM.make_splits(context).train.examples_for_epoch(0)
    trainer = Trainer(
        make_model(context),
        transformers.TrainingArguments(**stock),
        data_collator=DataCollatorForLanguageModeling(context.tokenizer, mlm_probability=data_args.mlm_probability),
        train_dataset=[{"input_ids": blocks[number]["input_ids"]} for number in range(len(blocks))],
        processing_class=context.tokenizer,
    )
    result = trainer.train()
    trainer.save_model()
    trainer.save_metrics("train", result.metrics)


if __name__ == "__main__":
    run_script(main)
