"""Load trained models, and predict with them for texts typed by hand, as on a page in the browser."""

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
from cloze.models.inspection import build_on_meta
from cloze.models.loading import check_model, load_config
from cloze.models.vocabulary import find_new_tokens, resize_vocabulary
from cloze.models.weights import load_weights, shorten
from cloze.objectives.metrics import SENTENCE_PAIRS, Objective
from cloze.objectives.task import Task
from cloze.text.columns import check_unicode
from cloze.tokenization.loading import load_tokenizer
from cloze.tokenization.templates import ensure_template
from cloze.training.context import padding_for

# Longer texts take longer than a user waits for a page; this is about ten windows of 512 tokens.
MOST_CHARACTERS = 20_000
MOST_MASKS = 20


@dataclass(frozen=True)
class TrainedModel:
    """Hold a checkpoint's model and tokenizer, and the task whose heads it was saved with."""

    task: Task
    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    max_seq_length: int

    def predicts(self, objective: Objective) -> bool:
        """Return whether the model has a trained head for it."""
        return objective in self.task.objectives.values()

    @property
    def stats(self) -> str:
        """Say how large the model is, and how much it sees."""
        size = f"{self.model.num_parameters() / 1e6:,.1f} million parameters"
        vocabulary = f"{len(self.tokenizer):,} tokens in the vocabulary"
        return f"{type(self.model).__name__}, {size}, {vocabulary}, sees {self.max_seq_length:,} tokens at once"


def short_names(names: Iterable[str]) -> dict[str, str]:
    """Return each model under the name to show: its folder's, with as much of the path as tells it from the others."""
    paths = {}
    for name in names:
        paths.setdefault(Path(name).resolve().parts if Path(name).is_dir() else tuple(name.split("/")), name)
    short = {}
    for path, name in paths.items():
        # On the Hub, whose it is belongs to the name.
        count = 1 if Path(name).is_dir() else len(path)
        while count < len(path) and sum(other[-count:] == path[-count:] for other in paths) > 1:
            count += 1
        short["/".join(path[-count:])] = name
    return short


def load_trained(name: str, tasks: Sequence[Task]) -> TrainedModel:
    """Load the model in a folder, or of that name on the Hub, with the heads that it was trained with.

    Nothing that comes with it is executed. UserError if there is no model, or none of the heads.

    Args:
        tasks: whose heads it may have; all of their architectures are among those of the last one.
    """
    model_args = ModelArguments(model_name_or_path=name)
    try:
        config = load_config(model_args, tasks[-1])
        task = task_of(config, name, tasks)
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
    task.prepare_model(model, length)
    return TrainedModel(task, model.eval(), tokenizer, length)


def task_of(config: PretrainedConfig, name: str, tasks: Sequence[Task]) -> Task:
    """Return the task by the class that the checkpoint was saved from, as it tells which heads are trained."""
    for task in tasks:
        known = config.model_type in task.model_types
        if known and type(build_on_meta(config, task)).__name__ in (config.architectures or []):
            return task
    raise UserError(
        f"{name}: a {' or '.join(config.architectures or [config.model_type])} has neither a head for masked tokens "
        "nor one for next sentences: train it with run_mlm.py, run_nsp.py or run_pretraining.py first"
    )


def fill_masks_in_text(trained: TrainedModel, text: str, top_k: int) -> list[list[Filling]]:
    """Return the likeliest tokens for each mask of a text: masks x top_k."""
    check_length(text)
    count = with_own_mask(text, trained.tokenizer).count(trained.tokenizer.mask_token)
    if not count:
        raise UserError(f"Nothing is hidden: write {MASK} in place of a word.")
    if count > MOST_MASKS:
        raise UserError(f"{count:,} words are hidden: hide {MOST_MASKS} at most.")
    (fillings,) = fill_masks(trained.model, trained.tokenizer, [text], top_k, trained.max_seq_length)
    return fillings


@torch.no_grad()
def judge_texts(trained: TrainedModel, sentence_a: str, sentence_b: str) -> tuple[float, bool]:
    """Return the probability that the second text does not follow the first, and whether the pair had to be cut."""
    for text in (sentence_a, sentence_b):
        check_length(text)
    model, tokenizer, length = trained.model, trained.tokenizer, trained.max_seq_length
    examples = encode_pairs([LabelledText((sentence_a, sentence_b), None, "These two")], tokenizer, length)
    batch = collate([examples[0]], tokenizer.pad_token_id, padding_for(model, length))
    del batch["next_sentence_label"]
    logits = SENTENCE_PAIRS.logits_of(model(**batch)).float()
    return logits.softmax(-1)[0, IS_RANDOM].item(), examples.num_cut > 0


def check_length(text: str) -> None:
    """Raise UserError for a text that is empty, too long, or no valid Unicode."""
    if not text.strip():
        raise UserError("There is no text yet: write some.")
    check_unicode(text, "The text")
    if len(text) > MOST_CHARACTERS:
        raise UserError(f"{len(text):,} characters are too many: give {MOST_CHARACTERS:,} at most.")
