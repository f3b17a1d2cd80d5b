"""Read the files of settings that a model brings along, within bounds, as models come from strangers."""

import json
import math
import os
from pathlib import Path
from typing import Any

from transformers.utils import cached_file

from cloze.config.arguments import ModelArguments
from cloze.config.recipes import MAX_DEPTH

# A config with the names of a million classes has some 40 MB, an index of shards a few.
MAX_JSON_BYTES = 64 * 2**20
# The largest tokenizers, of a quarter of a million tokens, have some 35 MB; read, each byte takes ten.
MAX_TOKENIZER_BYTES = 512 * 2**20
# Layers and classes, of which configs make lists before there is any model: a million takes less than a second.
MAX_COUNT = 1_000_000
# Ids to a token: gaps are left by tokens that were taken out, and before those that were added behind a multiple of 64.
MAX_GAPS = 100


def find_file(name: str, file_name: str, model_args: ModelArguments) -> str | None:
    """Return the path of a model's file, loaded from the Hub if need be; None if there is none."""
    hub_arguments = {key: value for key, value in model_args.hub_arguments.items() if key != "trust_remote_code"}
    try:
        return cached_file(name, file_name, **hub_arguments)
    except OSError:
        return None


def read_json(path: str, bound: int = MAX_JSON_BYTES) -> Any:
    """Return what a file of JSON holds; raise ValueError if it is too large, nested too deeply, or no JSON."""
    name = os.path.basename(path)
    if os.path.getsize(path) > bound:
        raise ValueError(f"{name} has more than {bound:,} bytes")
    try:
        return json.loads(Path(path).read_text(encoding="utf-8"))
    except RecursionError:
        raise ValueError(f"{name} is nested too deeply") from None


def check_settings(value: Any, name: str = "", depth: int = 0) -> None:
    """Raise ValueError for numbers that no model can be built with, at least not in memory or in time."""
    if depth > MAX_DEPTH:
        raise ValueError(f"{name} is nested more than {MAX_DEPTH} times")
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
            raise ValueError(f"{shard} is not a file beside its index")


def check_vocabulary(tokenizer: Any) -> None:
    """Raise ValueError for ids that lie far apart: tokenizers and models keep something for each id between.

    Args:
        tokenizer: what tokenizer.json holds, or vocab.json.
    """
    model = tokenizer.get("model")
    vocabulary = model.get("vocab") if isinstance(model, dict) else tokenizer
    ids = [number for number in vocabulary.values() if isinstance(number, int)] if isinstance(vocabulary, dict) else []
    if ids and max(ids) > MAX_GAPS * (len(ids) + 1):
        raise ValueError(f"it has {len(ids):,} tokens, but ids up to {max(ids):,}: number them without gaps")
