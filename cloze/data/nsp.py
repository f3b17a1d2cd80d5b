"""Build sentence pairs from corpora for each epoch, and describe them."""

import logging

import numpy as np
from transformers import PreTrainedTokenizerBase

from cloze.config.data_arguments import PairArguments
from cloze.data.builders import ExampleBuilder, Split
from cloze.data.context import DataContext
from cloze.data.pairs import IS_NEXT, IS_RANDOM, Pairs, PairSettings, Sentences, draw_pairs
from cloze.data.splits import DatasetSplits, make_splits
from cloze.errors import UserError
from cloze.tokenization.templates import pair_template_of

logger = logging.getLogger(__name__)

LABELS = {
    "nsp": {IS_NEXT: "B follows A", IS_RANDOM: "B is random"},
    "sop": {IS_NEXT: "B follows A", IS_RANDOM: "A follows B"},
}


class PairBuilder(ExampleBuilder[Pairs]):
    """Draw new pairs of sentences in each epoch, and the same pairs in all evaluations, whatever the seed.

    Args:
        seed: of the pairs, together with the epoch.
    """

    data_args: PairArguments

    def __init__(self, tokenizer: PreTrainedTokenizerBase, max_seq_length: int, data_args: PairArguments, seed: int):
        super().__init__(tokenizer, max_seq_length, data_args)
        self.template, self.seed = pair_template_of(tokenizer), seed
        swap = data_args.pair_objective == "sop"
        self.settings = PairSettings(
            max_tokens=max_seq_length - self.template.num_special,
            strategy=data_args.pair_strategy,
            swap=swap,
            random_probability=data_args.nsp_probability,
            short_probability=data_args.short_seq_probability,
        )
        self.granularity = "sentence_per_line" if data_args.sentence_per_line else "sentence"
        # A random B comes from another document of the same split.
        self.min_documents = 1 if swap else 2

    def build(self, split: Split, epoch: int | None) -> Pairs:
        """Return the pairs of an epoch; raise UserError if there are none."""
        count = "" if split.documents is None else f"{len(split.documents):,} of the documents of "
        check_sentences(sentences_of(split), self.settings, count + split.name)
        # The order of the batches is drawn from (seed, epoch).
        return self.build_chunk(split, np.random.default_rng(0 if epoch is None else (self.seed, epoch, 1)))

    def build_chunk(self, split: Split, rng: np.random.Generator) -> Pairs:
        """Return the pairs of a split; there may be none."""
        corpus = split.corpus
        return draw_pairs(corpus.tokens, sentences_of(split), self.template, self.settings, rng, corpus.word_starts)

    def describe(self, split: Split, examples: Pairs, limit: int | None) -> str:
        """Describe the number, kinds and length of the pairs, and the tokens lost; warn of too many random pairs."""
        self.check_maskable(split, examples, limit)
        sentences = sentences_of(split)
        lengths, labels, cut = examples.lengths[:limit], examples.labels[:limit], examples.cut[:limit]
        random_share, probability = (labels == IS_RANDOM).mean(), self.data_args.nsp_probability
        single = int((np.diff(sentences.documents) == 1).sum())
        kept = lengths.sum() - len(lengths) * self.template.num_special
        stats = [
            f"{len(labels):,} pairs of {len(sentences):,} sentences",
            f"{(labels == IS_NEXT).mean():.1%} IsNext",
            f"{lengths.mean():.0f} tokens on average ({lengths.mean() / self.max_seq_length:.0%} of "
            f"{self.max_seq_length})",
            f"{cut.sum() / (cut.sum() + kept):.1%} of the tokens cut off",
        ]
        if random_share > probability + 0.05 and len(labels) > 100:
            logger.warning(
                "%.0f %% of the pairs are random, but --nsp_probability is %g, because too few sentences have a next "
                "sentence in their document: use blank lines only between documents",
                100 * random_share,
                probability,
            )
        if single:
            role = "left out" if self.settings.swap else "can only start a random pair"
            stats.append(f"{single:,} documents of one sentence {role}")
        return ", ".join(stats)


def make_pairs(context: DataContext[PairArguments]) -> DatasetSplits:
    """Return the pairs to train and to evaluate on, and log the first pair with each label."""
    tokenizer, data_args = context.tokenizer, context.data_args
    splits = make_splits(context, PairBuilder(tokenizer, context.max_seq_length, data_args, context.shuffle_seed))
    for label, meaning in LABELS[data_args.pair_objective].items():
        pair = next((pair for pair in splits.samples if pair["next_sentence_label"] == label), None)
        if pair is not None:
            logger.info("Pair with label %d, %s: %s", label, meaning, tokenizer.decode(pair["input_ids"])[:400])
    return splits


def sentences_of(split: Split) -> Sentences:
    """Return the sentences of a split that have at least one token."""
    return Sentences.of(split.corpus.spans(split.documents), split.corpus.counts(split.documents))


def check_sentences(sentences: Sentences, settings: PairSettings, name: str) -> None:
    """Raise UserError if the text cannot give pairs of both labels."""
    if not settings.swap and sentences.num_documents < 2:
        raise UserError(
            f"{name}: fewer than two documents have text, but a random sentence comes from another document: put blank "
            "lines between documents, give more text or a --validation_file, or use --pair_objective sop"
        )
    if np.diff(sentences.documents).max(initial=0) < 2:
        raise UserError(
            f"{name}: no document has two sentences: put blank lines between documents, not between sentences, drop "
            "--sentence_per_line, or give more text or a --validation_file"
        )
