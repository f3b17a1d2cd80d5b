"""Trained models to be asked by hand: those of a page in the browser."""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import torch
from transformers import PretrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

from cloze.config.arguments import ModelArguments
from cloze.errors import UserError
from cloze.inference.fill_mask import MASK, Filling, fill_masks, with_own_mask
from cloze.inference.next_sentence import SentencePair, judge_pair
from cloze.models.inspection import build_on_meta
from cloze.models.loading import check_model, load_config
from cloze.models.sparse_prediction import predict_masked_positions
from cloze.models.vocabulary import find_new_tokens, resize_vocabulary
from cloze.models.weights import load_weights, shorten
from cloze.objectives.metrics import MASKED_TOKENS
from cloze.objectives.tasks import MASKED_LM, NEXT_SENTENCE, PRETRAINING, Task
from cloze.text.columns import check_unicode
from cloze.tokenization.loading import load_tokenizer
from cloze.tokenization.templates import ensure_template

# More take longer than one waits for a page: so many characters are some ten windows of 512 tokens.
MOST_CHARACTERS = 20_000
MOST_MASKS = 20


@dataclass(frozen=True)
class TrainedModel:
    """A checkpoint's model and tokenizer, and the task whose heads it was saved with."""

    name: str
    task: Task
    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    max_seq_length: int

    @property
    def facts(self) -> str:
        size = f"{self.model.num_parameters() / 1e6:,.1f} million parameters"
        vocabulary = f"{len(self.tokenizer):,} tokens in the vocabulary"
        return f"{type(self.model).__name__}, {size}, {vocabulary}, sees {self.max_seq_length:,} tokens at once"


def short_names(names: Iterable[str]) -> dict[str, str]:
    """Return each model under the name to show: its folder's, with as much of the path as tells it from the others."""
    paths = {}
    for name in names:
        paths.setdefault(Path(name).resolve().parts if Path(name).is_dir() else tuple(name.split("/")), name)
    shown = {}
    for path, name in paths.items():
        # On the Hub, whose it is belongs to the name.
        count = 1 if Path(name).is_dir() else len(path)
        while count < len(path) and sum(other[-count:] == path[-count:] for other in paths) > 1:
            count += 1
        shown["/".join(path[-count:])] = name
    return shown


def load_trained(name: str) -> TrainedModel:
    """The model in a folder, or of that name on the Hub, with the heads that it was trained with.

    Nothing that comes with it is executed. UserError if there is no model, or none of the heads.
    """
    model_args = ModelArguments(model_name_or_path=name)
    try:
        config = load_config(model_args, MASKED_LM)
        task = task_of(config, name)
        tokenizer = load_tokenizer(model_args, None)
        length = check_model(config, tokenizer, task, None, trust_remote_code=False, dtype="float32")
        new_tokens = find_new_tokens(model_args, config, tokenizer)
        ensure_template(tokenizer, config.model_type)
        model, missing = load_weights(model_args, config, task, torch.float32)
    except UserError as error:
        # Without what is a cure elsewhere: flags of the scripts that train.
        problem = re.sub(", and give --trust_remote_code.*|: give --tokenizer_name.*", "", str(error))
        raise UserError(problem.removeprefix("--model_name_or_path ")) from None
    if missing:
        raise UserError(f"{name}: weights of the {task.head} are missing ({shorten(missing, 4)}): train it first")
    resize_vocabulary(model, new_tokens)
    if task.masks:
        predict_masked_positions(model, MASKED_TOKENS.logits, length)
    return TrainedModel(name, task, model.eval(), tokenizer, length)


def task_of(config: PretrainedConfig, name: str) -> Task:
    """The task by the class that the checkpoint was saved from, as it tells which heads are trained."""
    for task in (PRETRAINING, NEXT_SENTENCE, MASKED_LM):
        known = config.model_type in task.model_types
        if known and type(build_on_meta(config, task)).__name__ in (config.architectures or []):
            return task
    raise UserError(
        f"{name}: a {' or '.join(config.architectures or [config.model_type])} has neither a head for masked tokens "
        "nor one for next sentences: train it with run_mlm.py, run_nsp.py or run_pretraining.py first"
    )


def fill_masks_in_text(trained: TrainedModel, text: str, top_k: int) -> list[list[Filling]]:
    """The likeliest tokens for each mask of a text: masks x top_k."""
    check_length(text)
    count = with_own_mask(text, trained.tokenizer).count(trained.tokenizer.mask_token)
    if not count:
        raise UserError(f"Nothing is hidden: write {MASK} in place of a word.")
    if count > MOST_MASKS:
        raise UserError(f"{count:,} words are hidden: hide {MOST_MASKS} at most.")
    (fillings,) = fill_masks(trained.model, trained.tokenizer, [text], top_k, trained.max_seq_length)
    return fillings


def ask_about_pair(trained: TrainedModel, sentence_a: str, sentence_b: str) -> tuple[float, bool]:
    """The probability that the second text does not follow the first, and whether the pair had to be cut."""
    for text in (sentence_a, sentence_b):
        check_length(text)
    pair = SentencePair(sentence_a, sentence_b, None, "These two")
    return judge_pair(trained.model, trained.tokenizer, pair, trained.max_seq_length)


def check_length(text: str) -> None:
    if not text.strip():
        raise UserError("There is no text yet: write some.")
    check_unicode(text, "The text")
    if len(text) > MOST_CHARACTERS:
        raise UserError(f"{len(text):,} characters are too many: give {MOST_CHARACTERS:,} at most.")
