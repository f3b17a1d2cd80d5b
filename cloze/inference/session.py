"""Load trained models, and predict for texts typed by a user, as on the page of app.py."""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from transformers import PretrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

from cloze.config.arguments import ModelArguments
from cloze.data.collators import collate
from cloze.data.labelled_texts import LabelledText
from cloze.data.pairs import IS_RANDOM
from cloze.errors import UserError
from cloze.inference.fill_mask import MASK, Filling, fill_masks, with_own_mask
from cloze.inference.next_sentence import encode_pairs
from cloze.models.inspection import class_name
from cloze.models.loading import check_model, load_config
from cloze.models.resizing import resize_vocabulary
from cloze.models.vocabulary import find_rows
from cloze.models.weights import load_weights, shorten
from cloze.objectives.metrics import SENTENCE_PAIRS, Objective
from cloze.objectives.task import Task
from cloze.text.columns import check_unicode
from cloze.tokenization.loading import load_tokenizer
from cloze.training.context import padding_for

# About ten windows of 512 tokens: longer texts take longer than a user waits.
MAX_CHARACTERS = 20_000
MAX_MASKS = 20


@dataclass(frozen=True)
class TrainedModel:
    """Hold a checkpoint's model and tokenizer, and the task that it was trained for."""

    task: Task
    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    max_seq_length: int

    def predicts(self, objective: Objective) -> bool:
        """Return whether the model has a trained head for an objective."""
        return objective in self.task.objectives.values()

    @property
    def stats(self) -> str:
        """Describe the model's class, size, vocabulary and input length."""
        size = f"{self.model.num_parameters() / 1e6:,.1f} million parameters"
        vocabulary = f"{len(self.tokenizer):,} tokens in the vocabulary"
        return f"{type(self.model).__name__}, {size}, {vocabulary}, input of up to {self.max_seq_length:,} tokens"


def short_names(names: Iterable[str]) -> dict[str, str]:
    """Return the models by display name: the folder's name, with parents as far as needed to be unique."""
    paths: dict[tuple[str, ...], str] = {}
    for name in names:
        paths.setdefault(Path(name).resolve().parts if Path(name).is_dir() else tuple(name.split("/")), name)
    short = {}
    for path, name in paths.items():
        # A Hub name keeps its owner.
        count = 1 if Path(name).is_dir() else len(path)
        while count < len(path) and sum(other[-count:] == path[-count:] for other in paths) > 1:
            count += 1
        short["/".join(path[-count:])] = name
    return short


def load_trained(name: str, tasks: Sequence[Task]) -> TrainedModel:
    """Load a model with its trained heads, without running code from its files.

    Args:
        name: folder or Hub name of the model.
        tasks: tasks that the model may be trained for; the last one supports all architectures of the others.

    Raises:
        UserError: if there is no model, or if it has no trained head of these tasks.
    """
    model_args = ModelArguments(model_name_or_path=name)
    try:
        config = load_config(model_args, tasks[-1], trains=False)
        task = task_of(config, name, tasks)
        tokenizer = load_tokenizer(model_args, None)
        assert tokenizer is not None, "model_name_or_path is set"
        length = check_model(config, tokenizer, task, None, trust_remote_code=False, dtype="float32")
        rows = find_rows(model_args, config, tokenizer)
        task.prepare_tokenizer(tokenizer, config)
        model, missing = load_weights(model_args, config, task, torch.float32)
    except UserError as error:
        # Advice to give flags of the training scripts is no help here.
        problem = re.sub(": [^:]*--(trust_remote_code|tokenizer_name).*", "", str(error))
        raise UserError(problem.removeprefix("--model_name_or_path ")) from None
    if missing:
        raise UserError(
            f"{name}: weights of the {task.head} are missing ({shorten(missing, 4)}): train the model first"
        )
    resize_vocabulary(model, rows)
    task.prepare_model(model, length)
    return TrainedModel(task, model.eval(), tokenizer, length)


def task_of(config: PretrainedConfig, name: str, tasks: Sequence[Task]) -> Task:
    """Return the task whose model class the checkpoint was saved from: that class has the trained heads."""
    for task in tasks:
        known = config.model_type in task.model_types
        if known and class_name(config, task) in (config.architectures or []):
            return task
    raise UserError(
        f"{name}: {' or '.join(config.architectures or [config.model_type])} has no head for masked tokens or next "
        "sentences: train it with run_mlm.py, run_nsp.py or run_pretraining.py first"
    )


def fill_masks_in_text(trained: TrainedModel, text: str, top_k: int) -> list[list[Filling]]:
    """Return the most probable tokens for each mask of a text: masks x top_k."""
    check_length(text)
    count = with_own_mask(text, trained.tokenizer).count(trained.tokenizer.mask_token)
    if not count:
        raise UserError(f"No word is hidden: write {MASK} in place of a word.")
    if count > MAX_MASKS:
        raise UserError(f"{count:,} words are hidden: hide at most {MAX_MASKS}.")
    (fillings,) = fill_masks(trained.model, trained.tokenizer, [text], top_k, trained.max_seq_length)
    return fillings


@torch.no_grad()
def judge_texts(trained: TrainedModel, sentence_a: str, sentence_b: str) -> tuple[float, bool]:
    """Return the probability that the second text does not follow the first, and whether the pair was truncated."""
    for text in (sentence_a, sentence_b):
        check_length(text)
    model, tokenizer, length = trained.model, trained.tokenizer, trained.max_seq_length
    examples = encode_pairs([LabelledText((sentence_a, sentence_b), None, "The pair")], tokenizer, length)
    batch = collate([examples[0]], tokenizer.pad_token_id, padding_for(model, length))
    del batch["next_sentence_label"]
    logits = SENTENCE_PAIRS.logits_of(model(**batch)).float()
    return logits.softmax(-1)[0, IS_RANDOM].item(), examples.num_cut > 0


def check_length(text: str) -> None:
    """Raise UserError for a text that is empty, too long, or not valid Unicode."""
    if not text.strip():
        raise UserError("The text is empty: write some words.")
    check_unicode(text, "The text")
    if len(text) > MAX_CHARACTERS:
        raise UserError(f"The text has {len(text):,} characters: shorten it to {MAX_CHARACTERS:,}.")
