"""Corpora -> pairs for next sentence prediction, and the report of them."""

import logging
from collections.abc import Callable
from functools import partial

import numpy as np

from cloze.config.data_arguments import PairArguments
from cloze.data.pairs import IS_NEXT, IS_RANDOM, Pairs, PairSettings, Sentences, draw_pairs
from cloze.data.splits import DatasetSplits, Split, make_sets
from cloze.errors import UserError
from cloze.tokenization.templates import PairTemplate, pair_template_of
from cloze.training.context import RunContext

logger = logging.getLogger(__name__)

LABELS = {
    "nsp": {IS_NEXT: "B follows A", IS_RANDOM: "B is random"},
    "sop": {IS_NEXT: "B follows A", IS_RANDOM: "A follows B"},
}


def make_pairs(context: RunContext) -> DatasetSplits:
    """Prepare the training and the validation corpus, and pair their sentences: anew each epoch, or once for all.

    With no validation corpus, some documents of the training corpus are held out.
    """
    tokenizer, data_args = context.tokenizer, context.data_args
    template = pair_template_of(tokenizer)
    swap = data_args.pair_objective == "sop"
    settings = PairSettings(
        room=context.max_seq_length - template.num_special,
        strategy=data_args.pair_strategy,
        swap=swap,
        random_probability=data_args.nsp_probability,
        short_probability=data_args.short_seq_probability,
    )
    draw = partial(draw_from, template=template, settings=settings)
    sets = make_sets(
        context,
        "sentence_per_line" if data_args.sentence_per_line else "sentence",
        partial(examples_for_epoch, draw=draw, settings=settings, seed=context.training_args.shuffle_seed),
        draw,
        partial(describe, data_args=data_args, max_seq_length=context.max_seq_length),
        # A random sentence needs another document to come from, on each side.
        at_least=1 if swap else 2,
    )
    for label, meaning in LABELS[data_args.pair_objective].items():
        shown = next((pair for pair in sets.samples if pair["next_sentence_label"] == label), None)
        if shown is not None:
            logger.info("A pair of label %d, %s: %s", label, meaning, tokenizer.decode(shown["input_ids"])[:400])
    return sets


def examples_for_epoch(part: Split, epoch: int | None, draw: Callable, settings: PairSettings, seed: int) -> Pairs:
    """The pairs of an epoch, or those for evaluation, which are the same for every seed."""
    count = "" if part.documents is None else f"{len(part.documents):,} of the documents of "
    check(sentences_of(part), settings, count + part.name)
    # Not the generator of the order, which is that of (seed, epoch).
    return draw(part, np.random.default_rng(0 if epoch is None else (seed, epoch, 1)))


def draw_from(part: Split, rng: np.random.Generator, template: PairTemplate, settings: PairSettings) -> Pairs:
    return draw_pairs(part.corpus.tokens, sentences_of(part), template, settings, rng, part.corpus.word_starts)


def sentences_of(part: Split) -> Sentences:
    return Sentences.of(part.corpus.spans(part.documents), part.corpus.counts(part.documents))


def check(sentences: Sentences, settings: PairSettings, name: str) -> None:
    """Raise UserError for text that holds no pairs of both kinds."""
    if not settings.swap and sentences.num_documents < 2:
        raise UserError(
            f"{name}: a random sentence comes from another document, and there is but one with text: put blank lines "
            "between documents, give more text or a --validation_file, or use --pair_objective sop"
        )
    if np.diff(sentences.documents).max(initial=0) < 2:
        raise UserError(
            f"{name}: no document has two sentences, so that none follows another: put blank lines between "
            "documents, not sentences, leave out --sentence_per_line, or give more text or a --validation_file"
        )


def describe(part: Split, pairs: Pairs, limit: int | None, data_args: PairArguments, max_seq_length: int) -> str:
    """How many pairs of what kind, how full they are, and what was lost."""
    sentences = sentences_of(part)
    lengths, labels, cut = pairs.lengths[:limit], pairs.labels[:limit], pairs.cut[:limit]
    share = (labels == IS_NEXT).mean()
    single = int((np.diff(sentences.documents) == 1).sum())
    kept = lengths.sum() - len(lengths) * pairs.template.num_special
    facts = [
        f"{len(labels):,} pairs of {len(sentences):,} sentences",
        f"{share:.1%} IsNext",
        f"{lengths.mean():.0f} tokens on average ({lengths.mean() / max_seq_length:.0%} of {max_seq_length})",
        f"{cut.sum() / (cut.sum() + kept):.1%} of the tokens cut off",
    ]
    if (labels == IS_RANDOM).mean() > data_args.nsp_probability + 0.05 and len(labels) > 100:
        logger.warning(
            "RANDOM PAIRS: %.0f %% of the pairs, though --nsp_probability is %g: too few sentences have a next one in "
            "their document; see that blank lines stand between documents only",
            100 * (labels == IS_RANDOM).mean(),
            data_args.nsp_probability,
        )
    if single:
        role = "left out" if data_args.pair_objective == "sop" else "can only start a random pair"
        facts.append(f"{single:,} documents of one sentence {role}")
    return ", ".join(facts)
