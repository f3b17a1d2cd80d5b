"""Train a tokenizer that replaces a checkpoint's: of its kind and conventions, with another vocabulary."""

import json
import logging
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerBase

from cloze.config.arguments import ModelArguments
from cloze.errors import UserError
from cloze.system.storage import find_or_write
from cloze.text.corpus import Corpus, read_documents
from cloze.tokenization.coverage import first_characters
from cloze.tokenization.loading import load_tokenizer
from cloze.tokenization.properties import fingerprint, hash_of, plain_backend, required_vocab_size
from cloze.tokenization.training import join_lines, train_in_thread, train_pieces, train_scores

logger = logging.getLogger(__name__)

# Increased when training changes, to invalidate cached tokenizers.
VERSION = 1
KINDS = ("WordPiece", "BPE", "Unigram")
# Settings of BPE: the marks of tokens inside a word, or at its end.
WORD_MARKS = ("continuing_subword_prefix", "end_of_word_suffix")
# The mark of a space in the tokens of SentencePiece.
SPACE = "\u2581"

# The tokens of a trained model, the first ones first, with their scores if it has any, and its merges.
Trained = tuple[dict[str, float], list]


def replace_tokenizer(
    own: PreTrainedTokenizerBase,
    corpora: Sequence[Corpus],
    vocab_size: int | None,
    limit: int | None,
    cache: Path,
    overwrite: bool,
) -> PreTrainedTokenizerBase:
    """Return a tokenizer like ``own`` with a vocabulary trained on the corpora, or load it from the cache.

    Args:
        own: the checkpoint's tokenizer.
        corpora: the text to train on.
        vocab_size: tokens of the new vocabulary; None for as many as ``own`` has.
        limit: characters of the text to train on; None for all.
        cache: folder of trained tokenizers.
        overwrite: train again even if the tokenizer is in the cache.

    Raises:
        UserError: if a tokenizer like ``own`` cannot be trained.
    """
    kind = type(own.backend_tokenizer.model).__name__ if own.is_fast else "slow"
    if kind not in KINDS:
        raise UserError(
            f"--new_tokenizer: the tokenizer of {own.name_or_path} ({type(own).__name__}, {kind}) cannot be trained: "
            f"give a checkpoint with a fast tokenizer of the kinds {', '.join(KINDS)}"
        )
    size = vocab_size or required_vocab_size(own)
    settings = [fingerprint(own), type(own).__name__, own.special_tokens_map, own.model_max_length]
    key = [VERSION, *settings, *(corpus.identity for corpus in corpora), size, limit]

    def read() -> Iterator[str]:
        documents = chain.from_iterable(map(read_documents, corpora))
        return join_lines(documents if limit is None else first_characters(documents, limit))

    def write(folder: Path) -> None:
        own.save_pretrained(folder)
        trained = retrain(json.loads(plain_backend(own).to_str()), read, size)
        (folder / "tokenizer.json").write_text(json.dumps(trained, ensure_ascii=False), encoding="utf-8")

    tokenizer = find_or_write(
        cache / f"tokenizer-{hash_of(key)}",
        write,
        load_saved,
        name="trained tokenizer",
        size=100 * size,
        overwrite=overwrite,
    )
    text = " and ".join(corpus.name for corpus in corpora)
    if limit is not None:
        text = f"the first {limit:,} characters of {text}"
    logger.info("Tokenizer: %s, %s tokens, trained on %s", type(tokenizer).__name__, f"{len(tokenizer):,}", text)
    return tokenizer


def load_saved(folder: Path) -> PreTrainedTokenizerBase:
    """Load a tokenizer that a run has saved in a folder."""
    tokenizer = load_tokenizer(ModelArguments(model_name_or_path=str(folder)), None)
    assert tokenizer is not None, "the folder is given"
    return tokenizer


def retrain(settings: dict, read: Callable[[], Iterator[str]], vocab_size: int) -> dict:
    """Return the settings of a fast tokenizer with a vocabulary trained on the texts that ``read`` yields.

    Special tokens keep their ids where these are below the size of the new vocabulary.

    Args:
        settings: the content of tokenizer.json.
        read: called for each pass over the texts.
        vocab_size: tokens of the new vocabulary, unless the text has more characters or fewer words.
    """
    model = settings["model"]
    is_list = isinstance(model["vocab"], list)
    old = {token: number for number, (token, _) in enumerate(model["vocab"])} if is_list else model["vocab"]
    added = {token["content"]: token["id"] for token in settings["added_tokens"]}
    unknown = _unknown_token(model)
    kept = {token: old[token] for token in old if token in added or token == unknown or _is_byte(token, model)}
    size = vocab_size - len(added.keys() - kept.keys())
    scores, merges = TRAIN[model["type"]](settings, read, sorted(kept, key=kept.__getitem__), size)
    tokens = place_tokens([token for token in scores if token not in kept], kept)
    # As before, tokens that the model lacks follow it: they must not become pieces of words.
    outside = sorted(added.keys() - set(tokens), key=added.__getitem__)
    ids = {token: number for number, token in enumerate([*tokens, *outside])}
    if is_list:
        scores |= {token: model["vocab"][number][1] for token, number in kept.items()}
        model |= {"vocab": [[token, scores[token]] for token in tokens], "unk_id": ids.get(unknown)}
    else:
        model |= {"vocab": {token: ids[token] for token in tokens}} | ({"merges": merges} if "merges" in model else {})
    for token in settings["added_tokens"]:
        token["id"] = ids[token["content"]]
    settings["added_tokens"].sort(key=lambda token: token["id"])
    settings["post_processor"] = _renumber(settings["post_processor"], ids)
    return settings


def _unknown_token(model: Mapping[str, Any]) -> str | None:
    """Return the unknown token of a model's settings, None if it has none."""
    if model["type"] != "Unigram":
        return model["unk_token"]
    return None if model["unk_id"] is None else model["vocab"][model["unk_id"]][0]


def _is_byte(token: str, model: Mapping[str, Any]) -> bool:
    """Return whether a token stands for a byte of characters that are not in the vocabulary."""
    return bool(model.get("byte_fallback")) and len(token) == 6 and token.startswith("<0x") and token.endswith(">")


def place_tokens(trained: Sequence[str], kept: Mapping[str, int]) -> list[str]:
    """Return all tokens in the order of their ids: ``kept`` ones keep theirs if possible, else they are the last."""
    size = len(trained) + len(kept)
    placed = {number: token for token, number in kept.items() if number < size}
    rest = chain(trained, sorted((token for token in kept if kept[token] >= size), key=kept.__getitem__))
    return [placed[number] if number in placed else next(rest) for number in range(size)]


def _renumber(processor: Any, ids: Mapping[str, int]) -> Any:
    """Return the settings of a post-processor with the new ids of its special tokens."""
    if isinstance(processor, list):
        return [_renumber(each, ids) for each in processor]
    if not isinstance(processor, dict):
        return processor
    result = {key: _renumber(value, ids) for key, value in processor.items()}
    for role in ("sep", "cls"):
        if role in result:
            result[role] = [result[role][0], ids[result[role][0]]]
    if "ids" in result:
        result["ids"] = [ids[token] for token in result["tokens"]]
    return result


def _train_wordpiece(settings: dict, read: Callable[[], Iterator[str]], special: list[str], size: int) -> Trained:
    backend = _untrained(settings, {"vocab": {}})
    train_pieces(read, backend, special, size)
    return _tokens_by_id(backend), []


def _train_bpe(settings: dict, read: Callable[[], Iterator[str]], special: list[str], size: int) -> Trained:
    backend = _untrained(settings, {"vocab": {}, "merges": []})
    bytes_ = pre_tokenizers.ByteLevel.alphabet() if '"ByteLevel"' in json.dumps(settings["pre_tokenizer"]) else []
    trainer = trainers.BpeTrainer(
        vocab_size=size,
        special_tokens=special,
        # In a fixed order, as the library returns a set.
        initial_alphabet=sorted(bytes_),
        show_progress=sys.stderr.isatty(),
        **{mark: settings["model"][mark] for mark in WORD_MARKS if settings["model"].get(mark)},
    )
    if not bytes_:
        _split_at_spaces(backend)
    train_in_thread(read(), backend, partial(backend.train_from_iterator, trainer=trainer))
    return _tokens_by_id(backend), json.loads(backend.to_str())["model"]["merges"]


def _train_unigram(settings: dict, read: Callable[[], Iterator[str]], special: list[str], size: int) -> Trained:
    unknown = _unknown_token(settings["model"]) or "<unk>"
    backend = _untrained(settings, {"vocab": [[unknown, 0.0]], "unk_id": 0})
    _split_at_spaces(backend)
    return train_scores(read(), backend, special, unknown, size), []


TRAIN = {"WordPiece": _train_wordpiece, "BPE": _train_bpe, "Unigram": _train_unigram}


def _untrained(settings: dict, model: dict) -> Tokenizer:
    """Return the tokenizer without its vocabulary, and without what refers to ids."""
    empty = {"model": settings["model"] | model, "added_tokens": [], "post_processor": None}
    backend = Tokenizer.from_str(json.dumps(settings | empty))
    if backend.pre_tokenizer is None:
        backend.pre_tokenizer = pre_tokenizers.Sequence([])
    return backend


def _split_at_spaces(backend: Tokenizer) -> None:
    """Split words before the mark of a space, for tokenizers that leave this to their model."""
    spaces = pre_tokenizers.Split(SPACE, "merged_with_next")
    backend.pre_tokenizer = pre_tokenizers.Sequence([backend.pre_tokenizer, spaces])


def _tokens_by_id(backend: Tokenizer) -> dict[str, float]:
    """Return the tokens of a trained model in the order of their ids."""
    vocabulary = backend.get_vocab(with_added_tokens=False)
    return dict.fromkeys(sorted(vocabulary, key=vocabulary.__getitem__), 0.0)
