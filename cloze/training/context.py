"""Set up a run for any script: process, text, config, tokenizer, model and collator."""

import logging
import os
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import datasets
from transformers import PreTrainedModel, PreTrainedTokenizerBase, set_seed
from transformers.utils.logging import disable_progress_bar

from cloze.config.arguments import ModelArguments, TrainingArguments
from cloze.config.data_arguments import DataArguments
from cloze.config.rate_decay import try_schedule
from cloze.config.recipes import recipe_of
from cloze.data.collators import Padding
from cloze.data.context import DataContext
from cloze.errors import UserError
from cloze.models.attention import runs_without_mask
from cloze.models.inspection import uses_attention_mask
from cloze.models.loading import (
    check_checkpoint,
    check_model,
    code_sources,
    load_config,
    load_model,
    sync_config_with_tokenizer,
)
from cloze.models.vocabulary import Rows, find_rows
from cloze.objectives.task import Task
from cloze.system.processes import on_first_process
from cloze.text.corpus import Corpus, find_change, log_columns
from cloze.text.sources import Corpora, find_corpora, warn_of_overlap
from cloze.tokenization.adaptation import adapt_tokenizer, mask_whole_words
from cloze.tokenization.loading import load_tokenizer
from cloze.tokenization.new_tokenizer import train_tokenizer
from cloze.tokenization.token_cache import cache_folder
from cloze.training.checkpoints import Fingerprints, Progress
from cloze.training.output_dir import prepare_output_dir

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class RunContext(DataContext):
    """Hold the settings of a run and what was made from them.

    Attributes:
        checkpoint: the checkpoint to resume from, if any.
        recipe: the settings as a recipe (YAML text).
        own: the checkpoint's own tokenizer, None if the run does not change it.
        rows: how the checkpoint's vocabulary becomes the tokenizer's, if it differs.
    """

    task: Task
    model_args: ModelArguments
    training_args: TrainingArguments
    checkpoint: Path | None
    recipe: str
    own: PreTrainedTokenizerBase | None
    rows: Rows | None


def set_up(
    task: Task, model_args: ModelArguments, data_args: DataArguments, training_args: TrainingArguments
) -> RunContext:
    """Start the process, load text, config and tokenizer, and check that they fit each other and the task."""
    start_process(data_args, training_args)
    mask_whole_words(model_args, data_args)
    if model_args.trust_remote_code:
        logger.warning(
            "--trust_remote_code lets code from %s run with your permissions",
            " and with ".join(code_sources(model_args)),
        )
    cache = cache_folder(model_args.cache_dir)
    overwrite_cache = data_args.overwrite_cache and training_args.local_process_index == 0
    recipe = recipe_of(model_args, data_args, training_args)
    checkpoint = None
    if not training_args.prepare_only:
        checkpoint = on_first_process(partial(prepare_output_dir, training_args, model_args.model_name_or_path, recipe))
    corpora = find_texts(model_args, data_args, training_args)
    warn_of_overlap(corpora)
    if checkpoint is not None:
        check_texts(Progress.read(checkpoint).fingerprints, corpora)
    for corpus in corpora.all:
        log_columns(corpus, data_args.other_columns)
    config = load_config(model_args, task, training_args.do_train)
    if checkpoint is not None:
        check_checkpoint(checkpoint, config, task, model_args.trust_remote_code)
    own = load_tokenizer(model_args, checkpoint)
    if own is None:
        texts = list((corpora.train or corpora.validation).values())
        if not texts:
            raise UserError("no text to train a tokenizer on, and no model: give --model_name_or_path PATH")
        own = train_tokenizer(
            texts,
            config.model_type,
            model_args.vocab_size,
            model_args.do_lower_case,
            cache,
            overwrite=overwrite_cache,
        )
    tokenizer = adapt_tokenizer(own, model_args, data_args, corpora, checkpoint, cache, overwrite_cache)
    if model_args.model_name_or_path is None:
        sync_config_with_tokenizer(config, tokenizer, model_args.config_overrides)
    dtype = None if training_args.prepare_only else model_args.dtype
    length = check_model(
        config,
        tokenizer,
        task,
        data_args.max_seq_length,
        model_args.trust_remote_code,
        dtype,
        model_args.attn_implementation,
    )
    # Before prepare_tokenizer, because another model's tokenizer may lack the template's special tokens.
    changed = None if tokenizer is own else own
    rows = find_rows(model_args, config, tokenizer, changed)
    task.prepare_tokenizer(tokenizer, config)
    budget = training_args.max_tokens_per_batch
    if budget is not None and budget < length:
        raise UserError(
            f"--max_tokens_per_batch {budget} is less than --max_seq_length {length}, the longest example: raise it to "
            f"{length} or more, or lower --max_seq_length"
        )
    return RunContext(
        data_args=data_args,
        do_train=training_args.do_train,
        do_eval=training_args.do_eval,
        shuffle_seed=training_args.shuffle_seed,
        data_seed=training_args.data_seed or 0,
        # One process rebuilds the cache; the others wait for its lock, or read the old entry with the same ids.
        overwrite_cache=overwrite_cache,
        cache=cache,
        corpora=corpora,
        config=config,
        tokenizer=tokenizer,
        max_seq_length=length,
        task=task,
        model_args=model_args,
        training_args=training_args,
        checkpoint=checkpoint,
        recipe=recipe,
        own=changed,
        rows=rows,
    )


def find_texts(model_args: ModelArguments, data_args: DataArguments, training_args: TrainingArguments) -> Corpora:
    """Return the training and the validation texts that the run needs."""
    return find_corpora(
        data_args,
        training_args.do_train,
        training_args.do_eval,
        output_dir=training_args.output_dir,
        cache_dir=model_args.cache_dir,
        token=model_args.token,
    )


def fingerprints_of(corpora: Corpora) -> Fingerprints:
    """Return what identifies the texts, for checkpoints."""
    return {use: {name: corpus.content for name, corpus in texts.items()} for use, texts in corpora._asdict().items()}


def check_texts(fingerprints: Fingerprints, corpora: Corpora) -> None:
    """Raise UserError if a training text has changed since a checkpoint; warn if a validation text has.

    Args:
        fingerprints: of the texts in the checkpoint.
        corpora: the texts now.
    """
    training = _first_change(fingerprints.get("train", {}), corpora.train)
    validation = _first_change(fingerprints.get("validation", {}), corpora.validation)
    if training is not None:
        raise UserError(
            f"the training text has changed since the checkpoint: {training}: restore it, or start over with "
            "--overwrite_output_dir"
        )
    if validation is not None:
        logger.warning(
            "the validation text has changed since the checkpoint: %s: earlier evaluations are not comparable",
            validation,
        )


def _first_change(contents: dict[str, list[list]], texts: dict[str, Corpus]) -> str | None:
    """Return where the first text that has changed differs from its recorded content; None if none has changed."""
    changes = (find_change(contents.get(name), corpus) for name, corpus in texts.items())
    return next(filter(None, changes), None)


def start_process(data_args: DataArguments, training_args: TrainingArguments) -> None:
    """Set seeds, logging, progress bars and threads, and try the learning-rate schedule before the text is prepared."""
    try_schedule(training_args)
    set_seed(training_args.seed)
    if not training_args.should_log:
        logging.getLogger("cloze").setLevel(logging.ERROR)
    if training_args.disable_tqdm:
        disable_progress_bar()
        datasets.disable_progress_bars()
    if training_args.visible_gpus > 1:
        logger.warning(
            "%d GPUs visible, 1 in use: launch with accelerate launch --num_processes %d",
            training_args.visible_gpus,
            training_args.visible_gpus,
        )
    if data_args.preprocessing_num_workers:
        os.environ["RAYON_NUM_THREADS"] = str(data_args.preprocessing_num_workers)


def make_model(context: RunContext) -> PreTrainedModel:
    """Load or initialize the model to train, evaluate or predict with."""
    args = context.training_args
    only_predicts = args.do_predict and not args.do_train
    return load_model(context.model_args, context.config, context.task, args.seed, context.rows, only_predicts)


def padding_of(context: RunContext, model: PreTrainedModel) -> Padding:
    """Return how to pad the batches of a run."""
    args = context.training_args
    padding = padding_for(model, context.max_seq_length)
    return replace(
        padding,
        # Tensor cores need multiples of 8.
        multiple=8 if args.fp16 or args.bf16 else padding.multiple,
        fixed=padding.fixed or context.data_args.pad_to_max_length,
        omit_mask=runs_without_mask(model),
    )


def padding_for(model: PreTrainedModel, max_seq_length: int) -> Padding:
    """Return how to pad a model's batches by default."""
    return Padding(multiple=4, longest=max_seq_length, fixed=not uses_attention_mask(model))


def make_collator(context: RunContext, padding: Padding) -> Callable[[list[dict]], dict]:
    """Return the task's collator."""
    if not context.data_args.streaming or context.training_args.dataloader_num_workers:
        # This process tokenizes nothing more, or only in single-threaded data-loader workers; if the variable is unset,
        # tokenizers warns in each forked worker.
        os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    return context.task.make_collator(context, padding, context.training_args.seed)
