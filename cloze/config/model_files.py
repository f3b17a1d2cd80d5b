"""Read a model's JSON files within bounds: models come from untrusted sources."""

import json
import math
import os
from pathlib import Path
from typing import Any

from transformers.utils import cached_file

from cloze.config.arguments import ModelArguments
from cloze.config.recipes import MAX_DEPTH

# A config with the names of a million classes has about 40 MB, an index of shards a few.
MAX_JSON_BYTES = 64 * 2**20
# The largest tokenizers, with 250,000 tokens, have about 35 MB; parsed, they take ten times as much memory.
MAX_TOKENIZER_BYTES = 512 * 2**20
# Of layers and classes: a config builds lists of them, a million in less than a second.
MAX_COUNT = 1_000_000
# Ids per token: removed tokens leave gaps, and so does padding to a multiple of 64 before added tokens.
MAX_GAPS = 100


def find_file(name: str, file_name: str, model_args: ModelArguments) -> str | None:
    """Return the path of a model's file, downloaded from the Hub if needed; None if it does not exist."""
    hub_arguments = {key: value for key, value in model_args.hub_arguments.items() if key != "trust_remote_code"}
    try:
        return cached_file(name, file_name, **hub_arguments)
    except OSError:
        return None


def read_json(path: str, bound: int = MAX_JSON_BYTES) -> Any:
    """Return the value in a JSON file; raise ValueError if it is too large, nested too deeply, or not JSON."""
    name = os.path.basename(path)
    if os.path.getsize(path) > bound:
        raise ValueError(f"{name} has more than {bound:,} bytes")
    try:
        return json.loads(Path(path).read_text(encoding="utf-8"))
    except RecursionError:
        raise ValueError(f"{name} is nested too deeply") from None


def check_settings(value: Any, name: str = "", depth: int = 0) -> None:
    """Raise ValueError for values in a config with which a model cannot be built in bounded memory and time."""
    if depth > MAX_DEPTH:
        raise ValueError(f"{name} is nested more than {MAX_DEPTH} levels deep")
    if isinstance(value, dict | list):
        for key, item in value.items() if isinstance(value, dict) else enumerate(value):
            check_settings(item, str(key) if isinstance(value, dict) else name, depth + 1)
    elif isinstance(value, float) and math.isnan(value):
        raise ValueError(f"{name} is not a number")
    elif isinstance(value, int) and value > MAX_COUNT and ("layer" in name or "labels" in name):
        raise ValueError(f"{name} is more than {MAX_COUNT:,}")


def check_shards(index: Any) -> None:
    """Raise ValueError for an index of weights that names files outside its folder."""
    for shard in set(index["weight_map"].values()):
        if Path(shard).name != shard:
            raise ValueError(f"{shard} is not a file in the folder of its index")


def check_vocabulary(tokenizer: Any) -> None:
    """Raise ValueError for a vocabulary with large gaps between ids: libraries allocate memory for each id.

    Args:
        tokenizer: the value in tokenizer.json or vocab.json.
    """
    model = tokenizer.get("model")
    vocabulary = model.get("vocab") if isinstance(model, dict) else tokenizer
    ids = [number for number in vocabulary.values() if isinstance(number, int)] if isinstance(vocabulary, dict) else []
    if ids and max(ids) > MAX_GAPS * (len(ids) + 1):
        raise ValueError(f"it has {len(ids):,} tokens but ids up to {max(ids):,}: number the tokens without gaps")
