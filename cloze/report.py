"""What a user reads at the end: a summary, a few words filled in, and the model card."""

import importlib.metadata
import logging
from collections.abc import Sequence
from itertools import cycle, islice
from pathlib import Path

import numpy as np
import torch
import yaml
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from cloze.arguments import DataTrainingArguments, ModelArguments, TrainingArguments
from cloze.metrics import perplexity

logger = logging.getLogger(__name__)

# Tokens of context shown on each side of a word that is filled in.
CONTEXT = 12


def summarise_run(history: Sequence[dict], metrics: dict, facts: dict[str, str], output_dir: str) -> dict[str, str]:
    """What was trained on what, and how it went, as lines of name and text."""
    lines = dict(facts)
    losses = [(entry["step"], entry["loss"]) for entry in history if "loss" in entry]
    if "train_runtime" in metrics:
        speed = f"{metrics['train_tokens']:,} real tokens, {metrics['train_tokens_per_second']:,.0f} a second"
        lines["training"] = f"{metrics['train_runtime']:.0f} s, {speed}"
    if losses:
        (first_step, first), (last_step, last) = losses[0], losses[-1]
        lines["training loss"] = f"{first:.3f} at step {first_step}, {last:.3f} at step {last_step}"
    if "eval_loss" in metrics:
        after = f"{metrics['perplexity']:,.2f}", f"{metrics['eval_accuracy']:.1%}"
        before = next((entry for entry in history if "eval_loss" in entry and entry["step"] == 0), None)
        if before and "train_runtime" in metrics:
            change = f"{perplexity(before['eval_loss']):,.2f} before", f"{before['eval_accuracy']:.1%} before"
            after = tuple(f"{old}, {new} after" for old, new in zip(change, after, strict=True))
        lines["masked perplexity"], lines["masked accuracy"] = after
    if "train_runtime" in metrics:
        lines["saved in"] = output_dir
    return lines


@torch.no_grad()
def fill_in(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    examples: Sequence[dict],
    count: int,
    rng: np.random.Generator,
) -> list[str]:
    """Words of the text hidden one by one, each with the model's three best guesses and the true word."""
    model.eval()
    lines, used = [], set()
    # Several words of an example if there are few examples; some examples have none to hide.
    for number in islice(cycle(rng.permutation(len(examples))), 4 * count):
        if len(lines) == count:
            break
        ids = examples[number]["input_ids"]
        words = [p for p in range(1, len(ids) - 1) if is_word(tokenizer, ids, p) and (number, p) not in used]
        if not words:
            continue
        place = int(rng.choice(words))
        used.add((number, place))
        window = ids[max(place - CONTEXT, 0) : place + CONTEXT + 1].copy()
        hidden = min(place, CONTEXT)
        truth, window[hidden] = tokenizer.decode(window[hidden : hidden + 1]).strip(), tokenizer.mask_token_id
        logits = model(input_ids=torch.tensor(window, device=model.device)[None]).logits[0, hidden]
        best = logits.float().softmax(-1).topk(3)
        pairs = zip(best.indices.tolist(), best.values.tolist(), strict=True)
        guesses = [f"{tokenizer.decode([token]).strip()} {share:.0%}" for token, share in pairs]
        hidden_special = set(tokenizer.all_special_ids) - {tokenizer.mask_token_id}
        text = tokenizer.decode([token for token in window if token not in hidden_special])
        lines.append(f"{text.strip().removeprefix('##')}\n    {', '.join(guesses)}   (the text has: {truth})")
    return lines


def is_word(tokenizer: PreTrainedTokenizerBase, ids: np.ndarray, place: int) -> bool:
    """Whether the token is a word, not too short, and no part of a longer one."""
    spans = (place - 1, place + 1), (place, place + 1), (place, place + 2)
    before, word, after = (tokenizer.decode(ids[start:stop]).strip() for start, stop in spans)
    # In scripts with an alphabet the shortest words tell little.
    long_enough = word.isalpha() and (len(word) > 3 or not word.isascii())
    return long_enough and ids[place] not in tokenizer.all_special_ids and not before.isalpha() and not after.isalpha()


def show(lines: dict[str, str], filled: Sequence[str]) -> None:
    width = max(map(len, lines))
    logger.info("\n%s", "\n".join(f"  {name.capitalize():<{width}}  {text}" for name, text in lines.items()))
    if filled:
        logger.info("\nWords hidden from the model, and its guesses:\n%s\n", "\n".join(f"  {line}" for line in filled))


def write_model_card(
    path: Path,
    lines: dict[str, str],
    filled: Sequence[str],
    model_args: ModelArguments,
    data_args: DataTrainingArguments,
    training_args: TrainingArguments,
    model: PreTrainedModel,
) -> None:
    """README.md of the model, with the Hub's metadata in front."""
    metadata = {"library_name": "transformers", "pipeline_tag": "fill-mask", "tags": [model.config.model_type]}
    if model_args.model_name_or_path and not Path(model_args.model_name_or_path).exists():
        metadata["base_model"] = model_args.model_name_or_path
    origin = model_args.model_name_or_path or f"a new {model.config.model_type}"
    versions = ", ".join(f"{name} {importlib.metadata.version(name)}" for name in ("transformers", "torch", "datasets"))
    rows = "\n".join(f"| {name} | {text} |" for name, text in lines.items() if name != "saved in")
    words = "\n\n".join(filled)
    path.write_text(
        f"""---
{yaml.safe_dump(metadata, sort_keys=False)}---

# {Path(training_args.output_dir).resolve().name}

A masked language model, trained from {origin}.

    from transformers import pipeline
    pipeline("fill-mask", model="{training_args.output_dir}")

| | |
|---|---|
{rows}

## Words filled in

{words}

## Settings

recipe.yaml holds them all. {data_args.mlm_probability:.0%} of the tokens were predicted;
learning rate {training_args.learning_rate}, {training_args.per_device_train_batch_size} examples a device, \
{training_args.gradient_accumulation_steps} batches a step, seed {training_args.seed}. {versions}.
""",
        encoding="utf-8",
    )
