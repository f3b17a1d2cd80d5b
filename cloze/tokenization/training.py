"""Train a tokenizer from the corpus; its special tokens, and what else is asked of it."""

import hashlib
import json
import logging
import re
import sys
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future
from functools import partial
from itertools import pairwise, takewhile
from pathlib import Path
from typing import TypeVar

import numpy as np
from tokenizers import AddedToken, Tokenizer, models, pre_tokenizers, processors, trainers
from tokenizers.normalizers import Normalizer
from tokenizers.pre_tokenizers import PreTokenizer
from tqdm.auto import tqdm
from transformers import AutoTokenizer, BertTokenizer, PreTrainedTokenizerBase, RobertaTokenizer

from cloze.errors import UserError
from cloze.system.storage import find_or_write
from cloze.text.corpus import Corpus, read_documents
from cloze.tokenization.encoding import CHUNK_CHARS, PIECE, beginning, plain_backend, portions
from cloze.tokenization.templates import PairTemplate, Template

logger = logging.getLogger(__name__)

T = TypeVar("T")

# Raised when what is trained changes, so that tokenizers in older caches are not taken for it.
VERSION = 2
# Behind it, a long text can be cut.
BETWEEN_WORDS = re.compile(r"\w(?= \w)")
# Characters, for byte-level BPE bytes, of a word at most in training, whose time grows with the square of the length.
LONGEST_WORD = 1_000

WORDPIECE_TYPES = ("bert", "distilbert", "electra")
BYTE_LEVEL_TYPES = ("roberta", "modernbert")
# Families whose pairs are <s> A </s></s> B </s>, all of type 0; those of others are [CLS] A [SEP] B [SEP].
DOUBLE_SEPARATOR_TYPES = (
    "camembert", "data2vec-text", "ibert", "longformer", "mpnet", "roberta", "roberta-prelayernorm", "xlm-roberta",
    "xlm-roberta-xl", "xmod",
)  # fmt: skip
# Shares of unknown tokens above which a warning says so, and above which nothing is left to learn.
MUCH_UNKNOWN, MOST_UNKNOWN = 0.02, 0.5
# An Egyptian hieroglyph, as text that hardly any vocabulary knows.
RARE_TEXT = "\U00013000"
# Kinds of tokenizer that say to which word a token belongs.
WORD_MODELS = ("WordPiece", "BPE", "Unigram")


def train_tokenizer(
    corpus: Corpus, model_type: str, vocab_size: int, lower_case: bool, cache: Path, overwrite: bool
) -> PreTrainedTokenizerBase:
    """Train a tokenizer of the kind that ``model_type`` uses, or take the one trained from the same text before."""
    if model_type not in WORDPIECE_TYPES + BYTE_LEVEL_TYPES:
        raise UserError(
            f"a new {model_type} needs --tokenizer_name PATH; tokenizers are trained here for "
            f"{', '.join(WORDPIECE_TYPES)} (WordPiece) and {', '.join(BYTE_LEVEL_TYPES)} (byte-level BPE)"
        )
    train = train_wordpiece if model_type in WORDPIECE_TYPES else train_byte_level
    path = cache / f"tokenizer-{hash_of([VERSION, train.__name__, corpus.identity, vocab_size, lower_case])}"
    tokenizer = find_or_write(
        path,
        lambda folder: train(corpus, vocab_size, lower_case).save_pretrained(folder),
        AutoTokenizer.from_pretrained,
        name="trained tokenizer",
        # Half of it merges.
        size=100 * vocab_size,
        overwrite=overwrite,
    )
    logger.info("Tokenizer: %s, %s tokens, trained on %s", type(tokenizer).__name__, f"{len(tokenizer):,}", corpus.name)
    return tokenizer


def train_wordpiece(corpus: Corpus, vocab_size: int, lower_case: bool) -> PreTrainedTokenizerBase:
    """BERT's tokenizer. Accents are kept, even in lower case: in many languages they tell words apart."""
    backend: Tokenizer = BertTokenizer(do_lower_case=lower_case, strip_accents=False).backend_tokenizer
    special = list(backend.get_added_tokens_decoder().values())
    # The trainer numbers characters inside words in the order of a hash map, which differs from run to run and then
    # decides between merges of equal count. Given beforehand in a fixed order, they make training reproducible.
    characters: set[str] = set()
    texts = tqdm(texts_of(corpus), "collecting characters", unit=" documents", disable=not sys.stderr.isatty())
    for text in texts:
        characters.update(text)
    continuing = [f"##{character}" for character in sorted(characters_in_words(characters, backend))]
    trainer = trainers.WordPieceTrainer(
        vocab_size=vocab_size,
        special_tokens=[str(token) for token in special] + continuing,
        show_progress=sys.stderr.isatty(),
    )
    train_on(corpus, backend, partial(backend.train_from_iterator, trainer=trainer))
    vocabulary = backend.get_vocab(with_added_tokens=False)
    return BertTokenizer(vocab=vocabulary, do_lower_case=lower_case, strip_accents=False)


def characters_in_words(characters: Iterable[str], backend: Tokenizer) -> set[str]:
    """What becomes of the characters that can stand inside a word; punctuation and Chinese stand alone."""
    inside: set[str] = set()
    for character in characters:
        word = backend.normalizer.normalize_str(f"a{character}a")
        if len(backend.pre_tokenizer.pre_tokenize_str(word)) == 1:
            inside.update(word[1:-1])
    return inside


def train_byte_level(corpus: Corpus, vocab_size: int, lower_case: bool) -> PreTrainedTokenizerBase:
    """RoBERTa's tokenizer; ModernBERT's is of the same kind."""
    if lower_case:
        raise UserError("--do_lower_case is for WordPiece tokenizers (bert, distilbert, electra): drop it")
    untrained = RobertaTokenizer()
    pre_tokenizer = untrained.backend_tokenizer.pre_tokenizer
    train = partial(untrained.train_new_from_iterator, vocab_size=vocab_size, show_progress=sys.stderr.isatty())
    tokenizer = train_on(corpus, untrained.backend_tokenizer, train)
    tokenizer.backend_tokenizer.pre_tokenizer = pre_tokenizer
    # As RoBERTa's own: the space before a mask belongs to the word that is hidden.
    tokenizer.add_special_tokens({"mask_token": AddedToken(tokenizer.mask_token, lstrip=True, special=True)})
    return tokenizer


def train_on(corpus: Corpus, backend: Tokenizer, train: Callable[[Iterator[str]], T]) -> T:
    """Return ``train(texts)``, for which the backend cuts long words; in a thread, so that signals are handled.

    Training is one call of the library, during which the main thread would not run Python's signal handlers.
    """
    texts = count_long_words(texts_of(corpus), backend.normalizer, backend.pre_tokenizer)
    pieces = pre_tokenizers.FixedLength(length=LONGEST_WORD)
    backend.pre_tokenizer = pre_tokenizers.Sequence([backend.pre_tokenizer, pieces])
    result, stopped = Future(), threading.Event()

    def run() -> None:
        try:
            result.set_result(train(takewhile(lambda text: not stopped.is_set(), texts)))
        except BaseException as error:
            result.set_exception(error)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    try:
        return result.result()
    finally:
        # Where a signal ends the process, the library must not call Python any more.
        stopped.set()
        thread.join(timeout=1)


def count_long_words(texts: Iterator[str], normalizer: Normalizer | None, pre_tokenizer: PreTokenizer) -> Iterator[str]:
    """Pass the texts on, and warn if words in them are cut for training."""
    count = 0
    for text in texts:
        if any(len(run) > LONGEST_WORD for run in text.split()):
            normalized = normalizer.normalize_str(text) if normalizer else text
            count += sum(len(word) > LONGEST_WORD for word, _ in pre_tokenizer.pre_tokenize_str(normalized))
        yield text
    if count:
        logger.warning(
            "LONG WORDS: words longer than %s characters (%s) are cut into pieces to train the tokenizer: check that "
            "spaces separate the words of the text",
            f"{LONGEST_WORD:,}",
            f"{count:,}",
        )


def texts_of(corpus: Corpus) -> Iterator[str]:
    """Yield the documents, long ones in pieces: the words of tokenizers trained here end at a space between letters."""
    for document in read_documents(corpus):
        text, begin = "\n".join(document), 0
        while found := BETWEEN_WORDS.search(text, begin + PIECE):
            yield text[begin : found.end()]
            begin = found.end()
        yield text[begin:]


def ensure_template(tokenizer: PreTrainedTokenizerBase, model_type: str) -> None:
    """Make a tokenizer that adds no special tokens add the model family's; it is saved with the model like this.

    UserError if it has no such tokens.
    """
    prefix, suffix = single = special_tokens_around(tokenizer, 1)
    if any(single) and any(special_tokens_around(tokenizer, 2)):
        return
    name = type(tokenizer).__name__
    if not any(single):
        tokens = [tokenizer.cls_token or tokenizer.bos_token, tokenizer.sep_token or tokenizer.eos_token]
        if not tokenizer.is_fast or None in tokens:
            raise UserError(
                f"{tokenizer.name_or_path}: the tokenizer ({name}) adds no special tokens, as [CLS] and [SEP]: "
                "name its cls_token and sep_token in tokenizer_config.json, or give --tokenizer_name PATH of another"
            )
        prefix, suffix = ((token_id,) for token_id in tokenizer.convert_tokens_to_ids(tokens))
    doubled = model_type in DOUBLE_SEPARATOR_TYPES
    tokenizer.backend_tokenizer.post_processor = processors.TemplateProcessing(
        single="start $A end",
        pair="start $A end end $B end" if doubled else "start $A end $B:1 end:1",
        special_tokens=[
            {"id": place, "ids": list(ids), "tokens": tokenizer.convert_ids_to_tokens(ids)}
            for place, ids in (("start", prefix), ("end", suffix))
        ],
    )
    before, between, after = (" ".join(map(tokenizer.decode, ids)) for ids in special_tokens_around(tokenizer, 2))
    logger.warning(
        "SPECIAL TOKENS: the tokenizer (%s) adds none to %s: those of %s models are added, %s A %s B %s, and saved "
        "with it",
        name,
        "two texts" if any(single) else "a text",
        model_type,
        before,
        between,
        after,
    )


def special_tokens_around(tokenizer: PreTrainedTokenizerBase, texts: int) -> list[tuple[int, ...]]:
    """Return the ids that the tokenizer adds before, between and behind one text or two: ``texts + 1`` groups.

    Whatever the texts are: they are tokens here that no vocabulary has to know.
    """
    if tokenizer.is_fast:
        word = Tokenizer(models.WordLevel({"text": 0})).encode("text")
        whole = plain_backend(tokenizer).post_process(*[word] * texts)
        ids = [-1 if text is not None else token for token, text in zip(whole.ids, whole.sequence_ids, strict=True)]
    else:
        ids = tokenizer.build_inputs_with_special_tokens(*[[-1]] * texts)
    places = [-1, *(place for place, token in enumerate(ids) if token == -1), len(ids)]
    return [tuple(ids[before + 1 : after]) for before, after in pairwise(places)]


def template_of(tokenizer: PreTrainedTokenizerBase) -> Template:
    """Return the special tokens that the tokenizer puts around a text."""
    prefix, suffix = special_tokens_around(tokenizer, 1)
    separator = tokenizer.sep_token_id if tokenizer.sep_token_id is not None else tokenizer.eos_token_id
    return Template(prefix, suffix, separator=() if separator is None else (separator,))


def pair_template_of(tokenizer: PreTrainedTokenizerBase) -> PairTemplate:
    """Return the special tokens that the tokenizer puts around two texts and between them."""
    return PairTemplate(*special_tokens_around(tokenizer, 2))


def unknown_id(tokenizer: PreTrainedTokenizerBase) -> int | None:
    """Return the id of what the vocabulary lacks, as [UNK], or None if the tokenizer has none."""
    if tokenizer.unk_token_id is None and tokenizer.is_fast:
        # That of a tokenizer.json alone is named in its model only.
        backend = tokenizer.backend_tokenizer
        return backend.token_to_id(getattr(backend.model, "unk_token", None) or "")
    return tokenizer.unk_token_id


def count_unknown(ids: np.ndarray, unknown: int | None) -> int:
    return 0 if unknown is None else int(np.count_nonzero(ids == unknown))


def check_known(
    share: float, documents: Iterable[Sequence[str]], name: str, tokenizer: PreTrainedTokenizerBase
) -> None:
    """Raise UserError, or warn, if much of a text is unknown to the tokenizer: ``share`` of its tokens, or left out."""
    check_unknown(share, name, tokenizer)
    check_dropped(documents, name, tokenizer)


def check_unknown(share: float, name: str, tokenizer: PreTrainedTokenizerBase) -> None:
    """Raise UserError for text that is mostly unknown to the tokenizer, and warn of text that is so in part."""
    if share > MOST_UNKNOWN:
        raise UserError(describe_unknown(share, name, tokenizer))
    warn_of_unknown(share, name, tokenizer)


def warn_of_unknown(share: float, name: str, tokenizer: PreTrainedTokenizerBase) -> None:
    if share > MUCH_UNKNOWN:
        logger.warning("UNKNOWN: %s", describe_unknown(share, name, tokenizer))


def describe_unknown(share: float, name: str, tokenizer: PreTrainedTokenizerBase) -> str:
    model = tokenizer.backend_tokenizer.model if tokenizer.is_fast else None
    # WordPiece makes one [UNK] of a longer word, whatever its characters.
    longest = getattr(model, "max_input_chars_per_word", None)
    token = tokenizer.convert_ids_to_tokens(unknown_id(tokenizer))
    return (
        f"{name}: {share:.1%} of the tokens are {token}: the tokenizer {tokenizer.name_or_path} "
        f"({type(tokenizer).__name__}) lacks characters of the text"
        + f", or its words are longer than {longest} characters" * (longest is not None)
        + ": give a model or --tokenizer_name for such text, or train one that knows every byte (--model_type roberta)"
    )


def check_dropped(documents: Iterable[Sequence[str]], name: str, tokenizer: PreTrainedTokenizerBase) -> None:
    """Raise UserError, or warn, if the tokenizer leaves out characters at the beginning of the text.

    BPE without a token for unknown text does, and nothing in the ids shows it.
    """
    backend = plain_backend(tokenizer) if tokenizer.is_fast else None
    if backend is None or not isinstance(backend.model, models.BPE) or backend.model.unk_token is not None:
        return
    if backend.encode(RARE_TEXT, add_special_tokens=False).ids:
        return
    texts = beginning(next(portions(documents))[0], CHUNK_CHARS)
    if backend.normalizer:
        texts = list(map(backend.normalizer.normalize_str, texts))
    count = kept = 0
    for text, encoding in zip(texts, backend.encode_batch(texts, add_special_tokens=False), strict=True):
        covered = {place for begin, end in encoding.offsets for place in range(begin, end)}
        places = {place for place, character in enumerate(text) if not character.isspace()}
        count += len(places)
        kept += len(places & covered)
    share = 1 - kept / max(1, count)
    problem = (
        f"{name}: the tokenizer {tokenizer.name_or_path} ({type(tokenizer).__name__}) leaves out {share:.1%} of the "
        "characters, which its vocabulary lacks, and has no token for unknown text: give a model or --tokenizer_name "
        "for such text, or train one that knows every byte (--model_type roberta)"
    )
    if share > MOST_UNKNOWN:
        raise UserError(problem)
    if share > MUCH_UNKNOWN:
        logger.warning("UNKNOWN: %s", problem)


def check_whole_words(tokenizer: PreTrainedTokenizerBase) -> None:
    """Raise UserError for a tokenizer that does not say where words begin."""
    name = type(tokenizer).__name__
    if not tokenizer.is_fast:
        raise UserError(f"--whole_word_mask: {name} is a slow tokenizer: use a fast one, or drop the flag")
    backend = tokenizer.backend_tokenizer
    kind = type(backend.model).__name__
    if kind not in WORD_MODELS or backend.pre_tokenizer is None:
        raise UserError(f"--whole_word_mask: {name} ({kind}) does not say where words begin: drop the flag")


def required_vocab_size(tokenizer: PreTrainedTokenizerBase) -> int:
    """Rows that an embedding needs for the tokenizer's ids; more than ``len(tokenizer)`` where ids have gaps."""
    return max(tokenizer.get_vocab().values()) + 1


def fingerprint(tokenizer: PreTrainedTokenizerBase) -> str:
    """Changes whenever the tokenizer would give other ids."""
    if not tokenizer.is_fast:
        return hash_of([type(tokenizer).__name__, tokenizer.get_vocab(), repr(tokenizer.init_kwargs)])
    return hash_of(plain_backend(tokenizer).to_str())


def hash_of(value) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True, default=str).encode()).hexdigest()[:16]
