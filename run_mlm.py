#!/usr/bin/env python
"""Masked language modelling: adapt a checkpoint to one's own text, or train a new model from scratch.

On a GPU:

    python run_mlm.py --model_name_or_path bert-base-uncased --train_file corpus.txt --do_train --do_eval --bf16 \
        --output_dir out

On two CPU cores, in minutes, without a network:

    python run_mlm.py recipes/quickstart/mlm.yaml

The first argument may be a recipe, a YAML file of the flags; flags behind it win. ``--help`` lists them.
"""

import logging
import os
from pathlib import Path

import datasets
import numpy as np
from transformers import set_seed
from transformers.utils.logging import disable_progress_bar

from cloze import report
from cloze.arguments import DataTrainingArguments, ModelArguments, TrainingArguments
from cloze.checkpoints import check_disk, prepare_output_dir
from cloze.commandline import run_script
from cloze.corpus import find_corpora
from cloze.examples import make_examples
from cloze.masking import MaskingCollator
from cloze.modeling import check_model, fit_config, load_config, load_model
from cloze.preparation import cache_folder
from cloze.recipes import write_recipe
from cloze.tokenization import load_tokenizer, train_tokenizer
from cloze.training import MaskedLMTrainer, run

logger = logging.getLogger("cloze.run_mlm")


def main(model_args: ModelArguments, data_args: DataTrainingArguments, training_args: TrainingArguments) -> None:
    set_seed(training_args.seed)
    if not training_args.should_log:
        logging.getLogger("cloze").setLevel(logging.ERROR)
    if training_args.disable_tqdm:
        disable_progress_bar()
        datasets.disable_progress_bars()
    if data_args.preprocessing_num_workers:
        os.environ["RAYON_NUM_THREADS"] = str(data_args.preprocessing_num_workers)
    cache = cache_folder(model_args)

    # Where to go on from, and the text
    checkpoint = prepare_output_dir(training_args, keep=model_args.model_name_or_path)
    corpora = find_corpora(data_args, model_args, training_args.do_train, training_args.do_eval)

    # Config and tokenizer
    config = load_config(model_args)
    tokenizer = load_tokenizer(model_args, checkpoint)
    if tokenizer is None:
        tokenizer = train_tokenizer(
            corpora[0] or corpora[1],
            config.model_type,
            model_args.vocab_size,
            model_args.do_lower_case,
            cache,
            overwrite=data_args.overwrite_cache and training_args.local_process_index == 0,
        )
    if model_args.model_name_or_path is None:
        fit_config(config, tokenizer, model_args.config_overrides)
    max_seq_length = check_model(config, tokenizer, data_args.max_seq_length, model_args.trust_remote_code)

    # Examples
    sets = make_examples(corpora, tokenizer, data_args, training_args, max_seq_length, cache)
    if not data_args.streaming:
        # All text is tokenized; unless told so, the library warns in each data-loader worker that is forked.
        os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

    # Model
    model = load_model(model_args, config)
    origin = model_args.model_name_or_path or "scratch"
    model_fact = f"{type(model).__name__}, {model.num_parameters() / 1e6:.1f} million parameters, from {origin}"
    logger.info("Model: %s", model_fact)

    # Masks are drawn while batches are made, anew each epoch
    multiple_of_8 = (training_args.fp16 or training_args.bf16) and max_seq_length % 8 == 0
    collator = MaskingCollator(
        tokenizer,
        mlm_probability=data_args.mlm_probability,
        mask_replace_prob=data_args.mask_replace_prob,
        random_replace_prob=data_args.random_replace_prob,
        whole_words=data_args.whole_word_mask,
        pad_to=max_seq_length if data_args.pad_to_max_length else None,
        pad_to_multiple_of=8 if multiple_of_8 else None,
        seed=training_args.seed,
    )

    # Train and evaluate
    trainer = MaskedLMTrainer(
        model=model,
        args=training_args,
        data_collator=collator,
        train_dataset=sets.train,
        eval_dataset=sets.validation,
        processing_class=tokenizer,
    )
    if training_args.do_train:
        check_disk(training_args, trainer.save_total_limit, model.num_parameters())
    recipe = Path(training_args.output_dir) / "recipe.yaml"
    if trainer.is_world_process_zero() and (training_args.do_train or not recipe.exists()):
        write_recipe(recipe, model_args, data_args, training_args)
    metrics = run(trainer, checkpoint)

    # What a reader wants to know
    if trainer.is_world_process_zero():
        facts = {"model": model_fact, **sets.facts}
        lines = report.summarise_run(trainer.state.log_history, metrics, facts, training_args.output_dir)
        filled = report.fill_in(model, tokenizer, sets.shown, 5, np.random.default_rng(0))
        report.show(lines, filled)
        if "train_loss" in metrics:
            card = Path(training_args.output_dir) / "README.md"
            report.write_model_card(card, lines, filled, model_args, data_args, training_args, model)
    if training_args.push_to_hub:
        trainer.push_to_hub(dataset=data_args.dataset_name)


if __name__ == "__main__":
    run_script(main)
