"""What a user reads at the end: a table of the run, a summary, a few words filled in; and the curves."""

import logging
from collections.abc import Sequence
from itertools import chain, cycle, islice
from pathlib import Path

import numpy as np
import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from cloze.data.pairs import IS_NEXT, IS_RANDOM
from cloze.data.splits import DatasetSplits
from cloze.errors import UserError
from cloze.models.loading import describe_model
from cloze.objectives.metrics import MASKED_TOKENS, SENTENCE_PAIRS, Objective
from cloze.reporting.history import format_metric, table_of
from cloze.reporting.model_card import write_model_card
from cloze.system.storage import CURVES
from cloze.training import checkpoints
from cloze.training.context import RunContext
from cloze.training.run import going_on_without
from cloze.training.trainer import PretrainingTrainer

logger = logging.getLogger(__name__)

# What is told of an evaluation: title, metric, format.
FIGURES = {
    MASKED_TOKENS.labels: [("masked perplexity", "perplexity", ",.2f"), ("masked accuracy", "accuracy", ".1%")],
    SENTENCE_PAIRS.labels: [
        ("pair loss", "loss", ".3f"),
        ("pair accuracy", "accuracy", ".1%"),
        ("pair F1", "f1", ".3f"),
    ],
    "label": [("loss of classes", "loss", ".3f"), ("accuracy", "accuracy", ".1%"), ("macro-F1", "macro_f1", ".3f")],
}

# Tokens of context shown on each side of a word that is filled in.
CONTEXT = 12


def finish(trainer: PretrainingTrainer, context: RunContext, sets: DatasetSplits, metrics: dict[str, float]) -> None:
    """Show what was trained and how it went, write the model card, and push to the Hub, each if asked for."""
    model, tokenizer, task, training_args = trainer.model, context.tokenizer, context.task, context.training_args
    shown = {}
    if sets.samples:
        # By every process, though one shows it: with FSDP, none has the whole model.
        if task.masks:
            shown["Words hidden from the model, and its guesses"] = fill_in(
                model, tokenizer, sets.samples, 5, np.random.default_rng(0)
            )
        if task.pairs:
            shown["Pairs, and how likely the model holds their order"] = judge(model, tokenizer, sets.samples, 4)
        if task.classifies:
            shown["Texts, and what the model takes them for"] = classify(
                trainer, sets.samples[:: max(1, len(sets.samples) // 4)][:4]
            )
    if trainer.is_world_process_zero() and sets.samples:
        history, best_step = trainer.state.log_history, trainer.state.best_global_step
        facts = {"model": describe_model(model, context.model_args), **sets.stats}
        lines = summarise_run(history, metrics, facts, training_args.output_dir, task.objectives)
        figures = figures_of(task.objectives)
        show(lines, shown, table_of(history, best_step, figures) if "train_loss" in metrics else [])
        if "train_loss" in metrics:
            card = Path(training_args.output_dir) / "README.md"
            draw_curves(history, best_step, figures, card.parent / CURVES)
            with going_on_without(trainer, card.name):
                named = {name: f"eval_{name}" for name in figures}
                evaluated = {name: (figures[name][0], metrics[key]) for name, key in named.items() if key in metrics}
                write_model_card(card, context, model, lines, shown, evaluated)
    if training_args.push_to_hub:
        trainer.push_to_hub(dataset=context.data_args.dataset_name)
    check_written(trainer)


def check_written(trainer: PretrainingTrainer) -> None:
    """Raise UserError if files could not be written beside the model."""
    if not trainer.unwritten:
        return
    output_dir, names = trainer.args.output_dir, ", ".join(trainer.unwritten)
    # Another run would train again.
    cure = "their content is in the log above"
    if not trainer.args.do_train or checkpoints.list_checkpoints(output_dir):
        cure = "make room, and run it again without --overwrite_output_dir to write them"
    raise UserError(
        f"{names} cannot be written to {output_dir} ({next(iter(trainer.unwritten.values()))}), all else of the run is "
        f"there: {cure}"
    )


def figures_of(objectives: dict[str, Objective]) -> dict[str, tuple[str, str]]:
    """Title and format of what is told of an evaluation, by the metric's name."""
    return {
        f"{prefix}{name}": (title, form)
        for prefix, objective in objectives.items()
        for title, name, form in FIGURES[objective.labels]
    }


def draw_curves(
    history: Sequence[dict], best_step: int | None, figures: dict[str, tuple[str, str]], path: Path
) -> None:
    """Write the figure of the run; warns where it cannot be written, as all else of the run is saved."""
    # Not at the top, as all of matplotlib comes with it.
    from cloze.reporting.plots import curves_of, save

    try:
        save(curves_of(history, best_step, figures), path)
    except OSError as error:
        path.unlink(missing_ok=True)
        logger.warning(
            "CURVES: %s cannot be written (%s): all else of the run is there; make room, and run it again without "
            "--overwrite_output_dir to draw it",
            path,
            error.strerror or error,
        )


def summarise_run(
    history: Sequence[dict], metrics: dict, facts: dict[str, str], output_dir: str, objectives: dict[str, Objective]
) -> dict[str, str]:
    """What was trained on what, and how it went, as lines of name and text."""
    lines = dict(facts)
    losses = [(entry["step"], entry["loss"]) for entry in history if "loss" in entry]
    if "train_runtime" in metrics:
        speed = f"{metrics['train_tokens']:,} real tokens, {metrics['train_tokens_per_second']:,.0f} a second"
        share = f"{metrics['train_non_padding_fraction']:.1%} of the batches"
        peak = f", {metrics['train_mfu']:.0%} of the peak (MFU)" if "train_mfu" in metrics else ""
        lines["training"] = f"{metrics['train_runtime']:.0f} s, {speed}, {share}{peak}"
    if losses:
        (first_step, first), (last_step, last) = losses[0], losses[-1]
        lines["training loss"] = f"{first:.3f} at step {first_step}, {last:.3f} at step {last_step}"
    if "eval_loss" in metrics:
        before = next((entry for entry in history if "eval_loss" in entry and entry["step"] == 0), {})
        for name, (title, form) in figures_of(objectives).items():
            name = f"eval_{name}"
            lines[title] = format_metric(metrics[name], form)
            if name in before and "train_loss" in metrics:
                lines[title] = f"{format_metric(before[name], form)} before, {lines[title]} after"
    if "train_loss" in metrics:
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
        outputs = model(input_ids=torch.tensor(window, device=model.device)[None])
        logits = MASKED_TOKENS.logits_of(outputs)[0, hidden]
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


@torch.no_grad()
def judge(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, examples: Sequence[dict], count: int
) -> list[str]:
    """Pairs of either label in turn, each with the chance the model gives to B following A, and whether it does."""
    model.eval()
    kinds = [[pair for pair in examples if pair["next_sentence_label"] == label] for label in (IS_NEXT, IS_RANDOM)]
    lines = []
    for pair in list(chain.from_iterable(zip(*kinds, strict=False)))[:count]:
        ids, types = torch.tensor(pair["input_ids"])[None], torch.tensor(pair["token_type_ids"])[None]
        outputs = model(input_ids=ids.to(model.device), token_type_ids=types.to(model.device))
        chance = SENTENCE_PAIRS.logits_of(outputs).float().softmax(-1)[0, IS_NEXT]
        a, b = (ids[types == kind] for kind in (0, 1))
        texts = (tokenizer.decode(text, skip_special_tokens=True) for text in (a[-2 * CONTEXT :], b[: 2 * CONTEXT]))
        truth = "they are in order" if pair["next_sentence_label"] == IS_NEXT else "they are not"
        lines.append(f"{' | '.join(texts)}\n    in order: {chance:.0%}   ({truth})")
    return lines


@torch.no_grad()
def classify(trainer: PretrainingTrainer, examples: Sequence[dict]) -> list[str]:
    """Texts, each with the model's best two classes and the true one."""
    model, tokenizer = trainer.model.eval(), trainer.processing_class
    names = model.config.id2label
    lines = []
    for example in examples:
        batch = {name: values.to(model.device) for name, values in trainer.data_collator([example]).items()}
        label = int(batch.pop("label"))
        best = model(**batch).logits[0].float().softmax(-1).topk(2)
        pairs = zip(best.indices.tolist(), best.values.tolist(), strict=True)
        guesses = ", ".join(f"{names[number]} {share:.0%}" for number, share in pairs)
        text = tokenizer.decode(example["input_ids"], skip_special_tokens=True)
        lines.append(f"{text[:100]}\n    {guesses}   (it is {names[label]})")
    return lines


def show(lines: dict[str, str], shown: dict[str, list[str]], table: Sequence[str] = ()) -> None:
    """Log the table of the run, the summary, and the examples."""
    if table:
        logger.info("\n%s", "\n".join(table))
    width = max(map(len, lines))
    logger.info("\n%s", "\n".join(f"  {name[0].upper() + name[1:]:<{width}}  {text}" for name, text in lines.items()))
    for title, examples in shown.items():
        if examples:
            logger.info("\n%s:\n%s\n", title, "\n".join(f"  {line}" for line in examples))
