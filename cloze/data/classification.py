"""Turn labelled texts into the examples of a classifier, and describe them."""

import logging
from collections import Counter
from collections.abc import Sequence
from functools import partial

import numpy as np
from transformers import PretrainedConfig, PreTrainedTokenizerBase

from cloze.config.classification_arguments import ClassificationArguments
from cloze.data.collators import IGNORED
from cloze.data.context import DataContext
from cloze.data.labelled_texts import LabelledText, check_labels, digest_of, find_classes, read_splits
from cloze.data.pairs import fit
from cloze.data.samplers import EpochDataset, longest_first
from cloze.data.splits import DatasetSplits, log_stats, samples_of
from cloze.errors import UserError
from cloze.tokenization.checks import check_known, count_unknown
from cloze.tokenization.encoding import encode
from cloze.tokenization.properties import unknown_id
from cloze.tokenization.templates import PairTemplate, Template, pair_template_of, template_of

logger = logging.getLogger(__name__)

# Most classes whose share is reported.
LISTED_CLASSES = 10


class LabelledExamples:
    """Hold texts as examples ``{"input_ids": int64 [length], "label": a class or -100, "example": int}``.

    Pairs may also have ``"token_type_ids"``, int64 [length]. Long texts are cut at the end; in a pair, the longer text
    is cut first.

    Args:
        texts: single texts or pairs.
        classes: the number of each label.
        max_seq_length: most tokens in an example, including special tokens.
        with_types: whether pairs have ``"token_type_ids"``.
        label_name: key of the label in an example.

    Attributes:
        cut: number of tokens cut off.
        num_cut: number of texts or pairs that were cut.
        unknown_share: share of unknown tokens, 0 to 1.
        digest: identifies texts and labels across runs.
    """

    def __init__(
        self,
        texts: Sequence[LabelledText],
        tokenizer: PreTrainedTokenizerBase,
        classes: dict[str, int],
        max_seq_length: int,
        with_types: bool,
        label_name: str = "label",
    ):
        self.pairs, self.with_types, self.label_name = len(texts[0].texts) == 2, with_types, label_name
        self.template: Template | PairTemplate = pair_template_of(tokenizer) if self.pairs else template_of(tokenizer)
        documents = (text.texts for text in texts)
        self.ids = [[ids for ids, _ in document] for document in encode(documents, tokenizer, with_words=False)]
        self.digest = digest_of(texts)
        all_ids = np.concatenate([ids for document in self.ids for ids in document])
        self.unknown_share = count_unknown(all_ids, unknown_id(tokenizer)) / max(1, len(all_ids))
        self.labels = [IGNORED if text.label is None else classes[text.label] for text in texts]
        lengths = np.array([list(map(len, ids)) for ids in self.ids])
        max_tokens = max_seq_length - self.template.num_special
        self.kept = fit(lengths, max_tokens) if self.pairs else np.minimum(lengths, max_tokens)
        self.cut, self.num_cut = int((lengths - self.kept).sum()), int((lengths > self.kept).any(1).sum())
        self.lengths = self.kept.sum(1) + self.template.num_special

    def __len__(self) -> int:
        return len(self.ids)

    def __getitem__(self, number: int) -> dict:
        texts = [ids[:kept] for ids, kept in zip(self.ids[number], self.kept[number], strict=True)]
        if isinstance(self.template, Template):
            return self.template.example(texts, int(number)) | {self.label_name: self.labels[number]}
        first, second = texts
        example = self.template.example(first, second, self.labels[number], int(number))
        example[self.label_name] = example.pop("next_sentence_label")
        if not self.with_types:
            del example["token_type_ids"]
        return example


def make_labelled(context: DataContext[ClassificationArguments]) -> DatasetSplits:
    """Read the labelled texts, set their classes in the config, and make examples.

    Held-out texts and subsets are the same for every ``--seed``, so runs with different seeds are comparable.
    """
    config, corpora = context.config, context.corpora
    texts, training, held_out = read_splits(corpora, context.data_args, context.do_eval, context.data_seed)
    if context.do_train:
        assert texts is not None
        # All texts count: a rare class may be missing from the texts that are left to train on.
        set_classes(config, find_classes(texts, corpora.train[""].name))
    else:
        check_trained(config, config.name_or_path)
    splits = DatasetSplits()
    if context.do_train:
        assert training is not None
        examples = _add_examples(splits, "training texts", training, corpora.train[""].name, context)
        splits.train = EpochDataset(partial(_same_in_all_epochs, examples))
        splits.samples = samples_of(examples)
    sources = corpora.validation or corpora.train
    for number, (name, evaluation) in enumerate(held_out.items()):
        title = f"held-out texts, {name}" if name else "held-out texts"
        examples = _add_examples(splits, title, evaluation, sources[name].name, context)
        splits.validation[name] = longest_first(examples)
        splits.samples = splits.samples if number else samples_of(examples)
    log_stats(splits)
    if splits.samples:
        label, ids = splits.samples[0]["label"], splits.samples[0]["input_ids"]
        class_name = dict(enumerate(numbers_of_classes(config))).get(label, "unknown")
        logger.info("Text of class %s: %s", class_name, " ".join(str(context.tokenizer.decode(ids)).split())[:300])
    return splits


def _add_examples(
    splits: DatasetSplits, title: str, texts: list[LabelledText], name: str, context: DataContext
) -> LabelledExamples:
    """Return texts as examples; add their description to the splits."""
    examples = examples_of(texts, context)
    check_known(examples.unknown_share, (text.texts for text in texts), name, context.tokenizer)
    splits.stats[title] = describe(texts, examples, context.max_seq_length)
    return examples


def _same_in_all_epochs(examples: LabelledExamples, epoch: int) -> LabelledExamples:
    return examples


def examples_of(texts: list[LabelledText], context: DataContext) -> LabelledExamples:
    """Return texts as examples; raise UserError for a label that the model does not know."""
    classes = numbers_of_classes(context.config)
    check_labels(texts, list(classes))
    with_types = getattr(context.config, "type_vocab_size", 0) > 1
    return LabelledExamples(texts, context.tokenizer, classes, context.max_seq_length, with_types)


def set_classes(config: PretrainedConfig, classes: list[str]) -> None:
    """Set the classes in the config; keep its order, and so its trained head, if it has the same classes.

    With other classes, the head is initialized again when the model is loaded (models.loading).
    """
    if set(numbers_of_classes(config)) != set(classes):
        config.id2label = dict(enumerate(classes))
        config.label2id = {label: number for number, label in enumerate(classes)}
    # The checkpoint may be for regression or multi-label classification.
    config.problem_type = "single_label_classification"


def check_trained(config: PretrainedConfig, name: str | None) -> None:
    """Raise UserError for a model that is not trained for single-label classification."""
    classifies = any(architecture.endswith("ForSequenceClassification") for architecture in config.architectures or [])
    one_of_several = config.problem_type in (None, "single_label_classification") and (config.num_labels or 0) > 1
    if not (classifies and one_of_several):
        raise UserError(f"{name or 'a new model'} is not a trained text classifier: add --do_train")


def numbers_of_classes(config: PretrainedConfig) -> dict[str, int]:
    """Return the number of each class of a model; a class without a name is called by its number."""
    names = sorted((int(number), name) for number, name in (config.id2label or {}).items())
    return {str(number) if name == f"LABEL_{number}" else name: number for number, name in names}


def describe(texts: list[LabelledText], examples: LabelledExamples, max_seq_length: int) -> str:
    """Describe the texts' number, classes and length, and the share of tokens cut off."""
    counts = Counter(text.label for text in texts).most_common()
    shares = ", ".join(f"{label} {count / len(texts):.0%}" for label, count in counts[:LISTED_CLASSES])
    more = f" and {len(counts) - LISTED_CLASSES} more classes" * (len(counts) > LISTED_CLASSES)
    lost = examples.cut / max(1, examples.cut + int(examples.kept.sum()))
    kind = "pairs" if examples.pairs else "texts"
    return (
        f"{len(texts):,} {kind} ({shares}{more}), {examples.lengths.mean():.0f} tokens on average (at most "
        f"{max_seq_length}), {lost:.1%} of the tokens cut off, {examples.unknown_share:.1%} unknown"
    )
