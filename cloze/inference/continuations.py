"""Continue the user's texts with a causal language model, and score their tokens."""

import logging
from typing import Any, NamedTuple

import numpy as np
from accelerate.utils import gather_object
from transformers import PreTrainedTokenizerBase

from cloze.config.continuation_arguments import ContinuationArguments
from cloze.errors import UserError
from cloze.inference.generation import continue_ids
from cloze.inference.likelihoods import log_likelihoods, start_of
from cloze.inference.predictions import read_test_texts, save_predictions
from cloze.models.inspection import check_class
from cloze.objectives.metrics import check_finite
from cloze.tokenization.checks import count_unknown, warn_of_unknown
from cloze.tokenization.encoding import encode
from cloze.tokenization.properties import unknown_id
from cloze.tokenization.templates import template_of
from cloze.training.context import RunContext
from cloze.training.trainer import PretrainingTrainer

logger = logging.getLogger(__name__)

# Most texts to log, and characters of each before its continuation; the file has all.
MAX_LOGGED = 20
CONTEXT = 100


class Prompt(NamedTuple):
    """Hold a text to continue, and its ids without special tokens, [tokens]."""

    text: str
    ids: np.ndarray


class Continued(NamedTuple):
    """Hold the predictions for a row: its number, the log-likelihoods of its tokens, [tokens], and the new ids."""

    number: int
    scores: np.ndarray
    new: np.ndarray


Row = tuple[Prompt | None, dict[str, Any]]


def read_prompts(context: RunContext) -> list[Row]:
    """Return each row of ``test_file`` with its text, None if the text is empty.

    Raises:
        UserError: for a file without text, a text without tokens, a model that is trained for another task, or if the
            model has no room for ``max_new_tokens``.
    """
    data_args = context.data_args
    assert isinstance(data_args, ContinuationArguments)
    assert data_args.test_file is not None, "--do_predict needs it"
    check_room(data_args.max_new_tokens, context)
    if not context.do_train:
        check_class(
            f"--model_name_or_path {context.model_args.model_name_or_path}",
            context.config.architectures,
            context.config,
            context.task,
            context.model_args.trust_remote_code,
            "add --do_train, or give a causal language model",
        )
    found = read_test_texts(data_args.test_file, data_args, "texts to continue")
    (encoded,) = encode([[text for _, text, _ in found if text]], context.tokenizer, with_words=False)
    ids = iter([ids for ids, _ in encoded])
    rows: list[Row] = []
    for where, text, row in found:
        prompt = Prompt(text, next(ids)) if text else None
        if prompt and not len(prompt.ids):
            raise UserError(f"{where}: the tokenizer finds no token in the text: write words")
        rows.append((prompt, row))
    return rows


def check_room(max_new_tokens: int, context: RunContext) -> None:
    """Raise UserError if a token of a text and its continuation exceed the sequence length."""
    room = context.max_seq_length - len(start_of(template_of(context.tokenizer))) - 1
    if max_new_tokens > room:
        raise UserError(
            f"--max_new_tokens {max_new_tokens} does not fit into the model's input of {context.max_seq_length} tokens "
            f"(--max_seq_length): give at most {room}"
        )


def predict_continuations(trainer: PretrainingTrainer, rows: list[Row], context: RunContext) -> None:
    """Write predictions.jsonl to output_dir, in the order of the rows, and log the first MAX_LOGGED texts.

    The processes share the rows. With FSDP or DeepSpeed, no process holds the whole model, and each predicts all rows.
    """
    prompts = {number: prompt for number, (prompt, _) in enumerate(rows) if prompt}
    warn_of_prompts(list(prompts.values()), context)
    if trainer.is_fsdp_enabled or trainer.is_deepspeed_enabled:
        found = predict_rows(trainer, prompts, context)
    else:
        own = list(prompts)[trainer.args.process_index :: trainer.args.world_size]
        found = gather_object(predict_rows(trainer, {number: prompts[number] for number in own}, context))
    found.sort(key=lambda row: row.number)
    scores = np.concatenate([row.scores for row in found])
    check_finite(scores)
    if not trainer.is_world_process_zero():
        return
    predictions = [describe_row(trainer.processing_class, prompts[row.number], row) for row in found]
    for prompt, prediction in list(zip(prompts.values(), predictions, strict=True))[:MAX_LOGGED]:
        begin, end = (" ".join(text.split()) for text in (prompt.text, prediction["continuation"]))
        logger.info("\n  %s%s\n    %s", "... " if len(begin) > CONTEXT else "", begin[-CONTEXT:], end)
    logged = f" ({MAX_LOGGED} shown)" if len(prompts) > MAX_LOGGED else ""
    title = f"\nContinued {len(prompts):,} texts{logged}, perplexity {perplexity(scores):,.2f}"
    save_predictions(trainer, title, rows, predictions, {})


def warn_of_prompts(prompts: list[Prompt], context: RunContext) -> None:
    """Warn of unknown tokens, and of texts that leave no room for their continuations."""
    tokenizer, new = context.tokenizer, context.data_args.max_new_tokens
    ids = np.concatenate([prompt.ids for prompt in prompts])
    warn_of_unknown(count_unknown(ids, unknown_id(tokenizer)) / len(ids), "--test_file", tokenizer)
    template, room = template_of(tokenizer), context.max_seq_length - new
    num_long = sum(len(start_of(template)) + len(prompt.ids) > room for prompt in prompts)
    if num_long:
        logger.warning(
            "%d of %d texts are continued from their last %d tokens only: --max_seq_length %d has to hold "
            "--max_new_tokens %d, too",
            num_long,
            len(prompts),
            room - len(template.prefix),
            context.max_seq_length,
            new,
        )


def predict_rows(trainer: PretrainingTrainer, prompts: dict[int, Prompt], context: RunContext) -> list[Continued]:
    """Return the predictions for prompts by the number of their row."""
    tokenizer, args = context.tokenizer, context.training_args
    template, pad_id, length = template_of(tokenizer), context.task.padding_id(tokenizer), context.max_seq_length
    assert pad_id is not None, "check_model has checked it"
    batch_size, texts = args.per_device_eval_batch_size, [prompt.ids for prompt in prompts.values()]
    scores = log_likelihoods(trainer.model, template, texts, pad_id, length, batch_size)
    start, room = start_of(template), length - context.data_args.max_new_tokens
    begins = {number: begin_of(prompt.ids, start, template.prefix, room) for number, prompt in prompts.items()}
    ends = sorted({*template.separator, *template.suffix, tokenizer.eos_token_id} - {None})
    new = continue_ids(trainer.model, begins, context.data_args, args.seed, pad_id, ends, batch_size)
    return [Continued(number, own, new[number]) for number, own in zip(prompts, scores, strict=True)]


def begin_of(ids: np.ndarray, start: tuple[int, ...], prefix: tuple[int, ...], room: int) -> np.ndarray:
    """Return the ids to continue, int64, at most ``room``: the text [tokens] after ``start``, or its end if it is long.

    The end of a text is not a beginning, so only the template's ``prefix`` is before it.
    """
    if len(start) + len(ids) <= room:
        return np.concatenate([start, ids]).astype(np.int64)
    return np.concatenate([prefix, ids[len(ids) - room + len(prefix) :]]).astype(np.int64)


def describe_row(tokenizer: PreTrainedTokenizerBase, prompt: Prompt, row: Continued) -> dict[str, Any]:
    """Return the predictions for a row, as in predictions.jsonl."""
    tokens = tokenizer.convert_ids_to_tokens(prompt.ids.tolist())
    return {
        "continuation": decode_after(tokenizer, prompt.ids, row.new),
        "log_likelihood": float(row.scores.sum()),
        "perplexity": perplexity(row.scores),
        "tokens": [
            {"token": token, "log_likelihood": score} for token, score in zip(tokens, row.scores.tolist(), strict=True)
        ],
    }


def decode_after(tokenizer: PreTrainedTokenizerBase, ids: np.ndarray, new: np.ndarray) -> str:
    """Return the new tokens as text that follows the text of ``ids``, with the space between them if there is one."""
    whole, before = (
        str(tokenizer.decode(part, skip_special_tokens=True)) for part in (np.concatenate([ids, new]), ids)
    )
    if whole.startswith(before):
        return whole.removeprefix(before)
    return str(tokenizer.decode(new, skip_special_tokens=True))


def perplexity(scores: np.ndarray) -> float:
    """Return the perplexity of tokens with these log-likelihoods, [tokens]; infinity if it is too large for a float."""
    with np.errstate(over="ignore"):
        return float(np.exp(-scores.mean()))
