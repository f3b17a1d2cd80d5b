"""Labelled texts -> the examples of a classifier, and the report of them."""

import hashlib
import logging
from collections import Counter
from collections.abc import Sequence
from functools import partial

import numpy as np
from torch.utils.data import Subset
from transformers import PretrainedConfig, PreTrainedTokenizerBase

from cloze.config.arguments import TrainingArguments
from cloze.config.classification_arguments import ClassificationArguments
from cloze.data.collators import IGNORED
from cloze.data.labelled_texts import LabelledText, check_labels, divide, find_classes, read_labelled, sample
from cloze.data.pairs import fit
from cloze.data.samplers import EpochDataset
from cloze.data.splits import SHOWN, DatasetSplits
from cloze.errors import UserError
from cloze.text.corpus import Corpus
from cloze.tokenization.checks import check_known, count_unknown
from cloze.tokenization.encoding import encode
from cloze.tokenization.properties import unknown_id
from cloze.tokenization.templates import pair_template_of, template_of
from cloze.training.context import RunContext

logger = logging.getLogger(__name__)

# Classes whose share is told.
TOLD = 10


class LabelledExamples:
    """Texts as examples ``{"input_ids": int64 [length], "label": number of a class, or -100, "example": its number}``.

    Pairs have ``"token_type_ids"``, int64 [length], too, if the model tells A from B. A text that is too long is cut at
    its end, of a pair the longer one.

    Args:
        texts: each one text, or two.
        classes: the number of each label.
    """

    def __init__(
        self,
        texts: Sequence[LabelledText],
        tokenizer: PreTrainedTokenizerBase,
        classes: dict[str, int],
        max_seq_length: int,
        with_types: bool,
    ):
        self.pairs, self.with_types = len(texts[0].texts) == 2, with_types
        self.template = pair_template_of(tokenizer) if self.pairs else template_of(tokenizer)
        documents = (text.texts for text in texts)
        self.ids = [[ids for ids, _ in document] for document in encode(documents, tokenizer, with_words=False)]
        # By which the texts are known again, whatever the tokenizer makes of them.
        self.digest = digest_of(texts)
        all_ids = np.concatenate([ids for document in self.ids for ids in document])
        self.unknown_share = count_unknown(all_ids, unknown_id(tokenizer)) / max(1, len(all_ids))
        self.labels = [IGNORED if text.label is None else classes[text.label] for text in texts]
        lengths = np.array([list(map(len, ids)) for ids in self.ids])
        room = max_seq_length - self.template.num_special
        self.kept = fit(lengths, room) if self.pairs else np.minimum(lengths, room)
        self.cut = int((lengths - self.kept).sum())
        self.lengths = self.kept.sum(1) + self.template.num_special

    def __len__(self) -> int:
        return len(self.ids)

    def __getitem__(self, number: int) -> dict:
        texts = [ids[:kept] for ids, kept in zip(self.ids[number], self.kept[number], strict=True)]
        if not self.pairs:
            return self.template.example(texts, int(number)) | {"label": self.labels[number]}
        example = self.template.example(*texts, self.labels[number], int(number))
        example["label"] = example.pop("next_sentence_label")
        if not self.with_types:
            del example["token_type_ids"]
        return example


def make_labelled(context: RunContext) -> DatasetSplits:
    """Read the labelled texts, find their classes, which the config is told, and make examples of them.

    What is held out, and a sample of the texts, are the same for every ``--seed``, so that runs can be compared.
    """
    data_args, training_args, config = context.data_args, context.training_args, context.config
    texts, training, evaluation = read_sets(context.corpora, data_args, training_args)
    if training_args.do_train:
        # Of all texts: a class may be so rare that it is held out, or not drawn.
        set_classes(config, find_classes(texts, context.corpora[0].name))
    else:
        check_trained(config, context.model_args.model_name_or_path)
    sets = DatasetSplits()
    if training_args.do_train:
        examples = examples_of(training, context)
        documents = (text.texts for text in training)
        check_known(examples.unknown_share, documents, context.corpora[0].name, context.tokenizer)
        sets.train = EpochDataset(partial(examples_for_epoch, examples))
        sets.stats["training texts"] = describe(training, examples, context)
        sets.samples = shown_of(examples)
    if training_args.do_eval:
        examples = examples_of(evaluation, context)
        documents, corpus = (text.texts for text in evaluation), context.corpora[1] or context.corpora[0]
        check_known(examples.unknown_share, documents, corpus.name, context.tokenizer)
        # By length, so that a batch has little padding.
        sets.validation = Subset(examples, np.argsort(-examples.lengths, kind="stable"))
        sets.stats["held-out texts"] = describe(evaluation, examples, context)
        sets.samples = shown_of(examples)
    for name, fact in sets.stats.items():
        logger.info("%s: %s", name.capitalize(), fact)
    if sets.samples:
        shown = sets.samples[0]
        logger.info(
            "A text of %s: %s", name_of(config, shown["label"]), context.tokenizer.decode(shown["input_ids"])[:300]
        )
    return sets


def read_sets(
    corpora: tuple[Corpus | None, Corpus | None], data_args: ClassificationArguments, training_args: TrainingArguments
) -> tuple[list[LabelledText] | None, list[LabelledText] | None, list[LabelledText] | None]:
    """Return all texts of the first corpus, those to train on and those to evaluate on."""
    # By a generator of its own, those to evaluate on are the same however many are trained on, or none.
    rng, rng_of_evaluation = (np.random.default_rng([training_args.data_seed or 0, number]) for number in (0, 1))
    texts, evaluation = (None if corpus is None else read_labelled(corpus, data_args) for corpus in corpora)
    training = texts
    if training_args.do_eval and evaluation is None:
        training, evaluation = divide(texts, data_args.validation_split_percentage, rng)
    if training_args.do_train:
        training = sample(training, data_args.max_train_samples, rng)
    if training_args.do_eval:
        evaluation = sample(evaluation, data_args.max_eval_samples, rng_of_evaluation)
    return texts, training, evaluation


def digest_of(texts: Sequence[LabelledText]) -> str:
    return hashlib.sha256(repr([(text.texts, text.label) for text in texts]).encode()).hexdigest()


def examples_for_epoch(examples: LabelledExamples, epoch: int) -> LabelledExamples:
    """The same in all epochs."""
    return examples


def shown_of(examples: LabelledExamples) -> list[dict]:
    """A few from all over, as the first ones may all be of one class."""
    return [examples[number] for number in np.linspace(0, len(examples) - 1, min(SHOWN, len(examples))).astype(int)]


def examples_of(texts: list[LabelledText], context: RunContext) -> LabelledExamples:
    """UserError for a label that the model does not know."""
    classes = numbers_of_classes(context.config)
    check_labels(texts, list(classes))
    with_types = getattr(context.config, "type_vocab_size", 0) > 1
    return LabelledExamples(texts, context.tokenizer, classes, context.max_seq_length, with_types)


def set_classes(config: PretrainedConfig, classes: list[str]) -> None:
    """Give the config the classes, in its own order if it has the same: its head then knows them already.

    A head for other classes, even as many, is made anew when the model is loaded (models.loading).
    """
    if set(numbers_of_classes(config)) != set(classes):
        config.id2label = dict(enumerate(classes))
        config.label2id = {label: number for number, label in enumerate(classes)}
    # The checkpoint may have been for numbers, or for several classes of a text.
    config.problem_type = "single_label_classification"


def check_trained(config: PretrainedConfig, name: str | None) -> None:
    """Raise UserError for a model that was not trained to give each text one of several classes."""
    classifies = any(architecture.endswith("ForSequenceClassification") for architecture in config.architectures or [])
    one_of_several = config.problem_type in (None, "single_label_classification") and config.num_labels > 1
    if not (classifies and one_of_several):
        raise UserError(f"{name or 'a new model'} was not trained to tell classes of texts apart: add --do_train")


def numbers_of_classes(config: PretrainedConfig) -> dict[str, int]:
    """The number of each class of a model; those without names of their own are called by their numbers."""
    names = {number: config.id2label[number] for number in sorted(config.id2label)}
    return {str(number) if name == f"LABEL_{number}" else name: number for number, name in names.items()}


def name_of(config: PretrainedConfig, number: int) -> str:
    return next((name for name, other in numbers_of_classes(config).items() if other == number), "no known class")


def describe(texts: list[LabelledText], examples: LabelledExamples, context: RunContext) -> str:
    """How many texts of which classes, how long they are, and what was cut off."""
    counts = Counter(text.label for text in texts).most_common()
    shares = ", ".join(f"{label} {count / len(texts):.0%}" for label, count in counts[:TOLD])
    more = f" and {len(counts) - TOLD} more classes" * (len(counts) > TOLD)
    lost = examples.cut / max(1, examples.cut + int(examples.kept.sum()))
    kind = "pairs" if examples.pairs else "texts"
    return (
        f"{len(texts):,} {kind} ({shares}{more}), {examples.lengths.mean():.0f} tokens on average (at most "
        f"{context.max_seq_length}), {lost:.1%} of the tokens cut off, {examples.unknown_share:.1%} unknown"
    )
