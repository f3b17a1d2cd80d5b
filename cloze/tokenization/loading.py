"""Load a tokenizer unchanged from any of its file formats."""

import logging
import unicodedata
from collections.abc import Iterable
from itertools import chain
from pathlib import Path
from typing import Any

from tokenizers.normalizers import BertNormalizer
from transformers import (
    CONFIG_MAPPING,
    TOKENIZER_MAPPING,
    AutoTokenizer,
    PreTrainedTokenizerBase,
    PreTrainedTokenizerFast,
)
from transformers.models.auto.tokenization_auto import get_tokenizer_config

from cloze.config.arguments import ModelArguments
from cloze.config.model_files import MAX_TOKENIZER_BYTES, check_vocabulary, find_file, read_json
from cloze.errors import UserError
from cloze.tokenization.properties import fingerprint

logger = logging.getLogger(__name__)

# Vocabulary files to read without tokenizer.json, and the type of model whose tokenizer class reads them.
VOCABULARIES = {
    ("vocab.txt",): "bert",
    ("vocab.json", "merges.txt"): "roberta",
    ("spiece.model",): "albert",
    ("spm.model",): "deberta-v2",
    ("sentencepiece.bpe.model",): "xlm-roberta",
}
# Common special tokens by their roles, for a tokenizer.json without tokenizer_config.json.
SPECIAL_TOKENS = {
    "unk_token": ("[UNK]", "<unk>"),
    "pad_token": ("[PAD]", "<pad>"),
    "cls_token": ("[CLS]", "<cls>", "<s>"),
    "sep_token": ("[SEP]", "<sep>", "</s>"),
    "mask_token": ("[MASK]", "<mask>"),
}


def load_tokenizer(model_args: ModelArguments, checkpoint: Path | None) -> PreTrainedTokenizerBase | None:
    """Return the tokenizer that the arguments name, or the tokenizer of the checkpoint to resume from.

    Returns None if there is neither: the caller trains one. Raises UserError if the tokenizer cannot be loaded.
    """
    name = model_args.tokenizer_name or model_args.model_name_or_path or checkpoint
    if name is None:
        return None
    flag = "--tokenizer_name" if model_args.tokenizer_name else "--model_name_or_path"
    cure = "give --tokenizer_name PATH, a folder with tokenizer.json, vocab.txt, or vocab.json and merges.txt"
    try:
        tokenizer = _load(str(name), model_args)
    # transformers raises errors of many types, and the tokenizers library a bare Exception.
    except Exception as error:
        problem = str(error)[:200]
        # transformers tries tiktoken last, and asks for it if a SentencePiece model cannot be read.
        if "tiktoken" in problem:
            problem = "a SentencePiece model needs pip install sentencepiece protobuf"
        raise UserError(f"{flag} {name}: no tokenizer could be loaded ({problem}): {cure}") from None
    if _is_empty(tokenizer):
        raise UserError(f"{flag} {name}: no tokenizer could be loaded (no tokenizer file found): {cure}")
    return tokenizer


def _load(name: str, model_args: ModelArguments) -> PreTrainedTokenizerBase:
    """Load a tokenizer from a folder, one of its files or the Hub; let errors of the libraries through."""
    path, known = Path(name), ["tokenizer.json", *chain.from_iterable(VOCABULARIES)]
    if path.is_file():
        if path.name not in known:
            raise ValueError(f"supported file names: {', '.join(known)}")
        name, path = str(path.parent), path.parent
    for file_name in ("tokenizer.json", "vocab.json", "tokenizer_config.json"):
        file = find_file(name, file_name, model_args)
        settings = {} if file is None else read_json(file, MAX_TOKENIZER_BYTES)
        if file_name != "tokenizer_config.json":
            check_vocabulary(settings)
    hub = model_args.hub_arguments
    arguments = hub | {"use_fast": model_args.use_fast_tokenizer}
    if path.is_dir() and not (path / "config.json").exists() and "tokenizer_class" not in get_tokenizer_config(name):
        arguments["config"] = CONFIG_MAPPING[_model_type(path, model_args.model_type)]()
    try:
        tokenizer = AutoTokenizer.from_pretrained(name, **arguments)
    # An error of any type, if the class is for another kind of tokenizer than tokenizer.json has.
    except Exception:
        if model_args.trust_remote_code or not (path / "tokenizer.json").exists():
            raise
        tokenizer = None
    if tokenizer is not None and (not tokenizer.is_fast or not type(tokenizer).__module__.startswith("transformers.")):
        return tokenizer
    settings = get_tokenizer_config(name, **hub)
    if tokenizer is None or find_file(name, "tokenizer.json", model_args):
        return _load_json(name, tokenizer, settings, hub)
    if _is_empty(tokenizer) or "do_lower_case" in settings or not _is_bert_normalized(tokenizer):
        return tokenizer
    case = _case_of(tokenizer.get_vocab()) | {key: settings[key] for key in ("strip_accents",) if key in settings}
    return AutoTokenizer.from_pretrained(name, **arguments, **case)


def _model_type(folder: Path, given: str | None) -> str:
    """Return the type of model whose tokenizer class reads the folder's files, the given type if possible."""
    for files, usual in VOCABULARIES.items():
        if all((folder / file).exists() for file in files):
            if not given:
                return usual
            # A class, though transformers declares a pair.
            kind: Any = TOKENIZER_MAPPING.get(CONFIG_MAPPING[given], None)
            return given if kind and set(files) <= set(kind.vocab_files_names.values()) else usual
    return given or "bert"


def _load_json(name: str, usual: PreTrainedTokenizerBase | None, settings: dict, hub: dict) -> PreTrainedTokenizerBase:
    """Load tokenizer.json unchanged, or return ``usual``, of the model's usual class, if it gives the same ids.

    Many tokenizer classes of transformers 5 read only the vocabulary from the file and use their model's defaults for
    the rest.
    """
    arguments = hub | ({"model_input_names": usual.model_input_names} if usual else {})
    saved = PreTrainedTokenizerFast.from_pretrained(name, **arguments)
    lower_case = settings.get("do_lower_case")
    if _is_bert_normalized(saved) and lower_case is not None:
        normalizer = saved.backend_tokenizer.normalizer
        normalizer.lowercase = lower_case
        saved.backend_tokenizer.normalizer = normalizer
    tokenizer = usual if usual and fingerprint(usual) == fingerprint(saved) else saved
    # A bare tokenizer.json names at most the padding token.
    if tokenizer.special_tokens_map.keys() <= {"pad_token"}:
        _name_special_tokens(tokenizer)
    return tokenizer


def _name_special_tokens(tokenizer: PreTrainedTokenizerBase) -> None:
    """Find the special tokens by their common names, and the unknown token in the model."""
    vocabulary = tokenizer.get_vocab()
    added = {str(token): token for token in tokenizer.added_tokens_decoder.values()}
    model = tokenizer.backend_tokenizer.model
    unknown = {"unk_token": (model.unk_token,)} if hasattr(model, "unk_token") else {}
    for name, usual in (SPECIAL_TOKENS | unknown).items():
        found = [token for token in usual if token in vocabulary]
        if found and name not in tokenizer.special_tokens_map:
            tokenizer.add_special_tokens({name: added.get(found[0], found[0])})


def _is_empty(tokenizer: PreTrainedTokenizerBase) -> bool:
    """Return whether a tokenizer has at most special tokens and a space, as transformers makes it without files."""
    return len(tokenizer) - len(set(tokenizer.all_special_ids)) < 3


def _is_bert_normalized(tokenizer: PreTrainedTokenizerBase) -> bool:
    return isinstance(tokenizer.backend_tokenizer.normalizer, BertNormalizer)


def _case_of(vocabulary: Iterable[str]) -> dict:
    """Return the settings for case and accents that the single letters of a WordPiece vocabulary imply.

    Words may have been added later, but single letters come only from the training text.
    """
    letters = {token.removeprefix("##") for token in vocabulary if len(token.removeprefix("##")) == 1}
    cased = any(letter != letter.lower() for letter in letters)
    accented = any(unicodedata.category(mark) == "Mn" for mark in unicodedata.normalize("NFD", "".join(letters)))
    logger.info(
        "Tokenizer: %s, because vocab.txt has %s and %s; set do_lower_case in tokenizer_config.json to override this",
        "cased" if cased else "uncased, accents kept" if accented else "uncased, accents stripped",
        "capital letters" if cased else "no capital letters",
        "accented letters" if accented else "no accented letters",
    )
    return {"do_lower_case": not cased, "strip_accents": False if accented else None}
