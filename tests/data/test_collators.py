"""Test which tokens are masked, how they are replaced, and that masks depend on (seed, epoch, example) only."""

import copy
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import AddedToken
from torch.utils.data import DataLoader, Subset
from transformers import DataCollatorForLanguageModeling

from cloze.data.blocks import Blocks, Lines
from cloze.data.collators import IGNORED, MaskingCollator, Padding, collate, mask_tokens, masked_positions, pad
from cloze.data.samplers import BatchSettings, EpochDataset, ResumableBatchSampler
from cloze.data.schedules import Step
from cloze.tokenization.encoding import encode
from cloze.tokenization.templates import pair_template_of, template_of

KINDS = ["wordpiece", "byte_level", "unigram"]
SIGMAS = 5


def assert_share(count, total, share):
    """Assert that ``count`` of ``total`` fits the probability ``share``, within 5 standard deviations."""
    assert abs(count - total * share) < SIGMAS * np.sqrt(total * share * (1 - share)), (count / total, share)


def ordinary_ids_of(tokenizer):
    return sorted(set(tokenizer.get_vocab().values()) - set(tokenizer.all_special_ids))


def make_examples(tokenizer, count, length, seed=0):
    """Return random ordinary tokens between the tokenizer's special tokens."""
    template = template_of(tokenizer)
    text = np.random.default_rng(seed).choice(ordinary_ids_of(tokenizer), (count, length))
    return [template.example([ids], number) for number, ids in enumerate(text)]


def in_epoch(examples, epoch):
    return [{**example, "epoch": epoch} for example in examples]


def masks_of(batch, row=0):
    """Return a row's new ids and labels, without padding."""
    length = int(batch["attention_mask"][row].sum())
    return batch["input_ids"][row, :length].tolist(), batch["labels"][row, :length].tolist()


# Given draws


ORDINARY = np.array([5, 6, 7, 8])
INPUT_IDS = np.array([[2, 5, 6, 7, 8, 3], [2, 8, 5, 3, 0, 0]])
MASKABLE = np.array([[0, 1, 1, 1, 1, 0], [0, 1, 1, 0, 0, 0]], dtype=bool)
CHOICE = [[0.0, 0.14, 0.16, 0.14, 0.14, 0.0], [0.0, 0.15, 0.0, 0.0, 0.0, 0.0]]
ACTION = [[0.0, 0.79, 0.0, 0.81, 0.95, 0.0], [0.0, 0.0, 0.8, 0.0, 0.0, 0.0]]
REPLACEMENT = [[0.0, 0.0, 0.0, 0.99, 0.0, 0.0], [0.0, 0.0, 0.25, 0.0, 0.0, 0.0]]
MASK = 4


def test_collator_masks_the_drawn_tokens():
    draws = np.array([CHOICE, ACTION, REPLACEMENT])
    input_ids, labels = mask_tokens(INPUT_IDS, MASKABLE, draws, 0.15, 0.8, 0.1, MASK, ORDINARY)
    assert input_ids.tolist() == [[2, MASK, 6, 8, 8, 3], [2, 8, 6, 3, 0, 0]]
    assert labels.tolist() == [[-100, 5, -100, 7, 8, -100], [-100, -100, 5, -100, -100, -100]]
    assert (input_ids.dtype, labels.dtype) == (np.int64, np.int64)


def test_whole_words_follow_the_draw_of_their_first_token():
    """Of the words [5 6 7] and [8], the first is chosen; in the second row the end of a word from the block before."""
    word_starts = np.array([[1, 1, 0, 0, 1, 1], [1, 0, 1, 1, 1, 1]], dtype=bool)
    choice = [[0.9, 0.1, 0.9, 0.9, 0.2, 0.9], [0.1, 0.9, 0.9, 0.0, 0.0, 0.0]]
    draws = np.array([choice, ACTION, REPLACEMENT])
    input_ids, labels = mask_tokens(INPUT_IDS, MASKABLE, draws, 0.15, 0.8, 0.1, MASK, ORDINARY, word_starts)
    assert input_ids.tolist() == [[2, MASK, MASK, 8, 8, 3], [2, MASK, 5, 3, 0, 0]]
    assert labels.tolist() == [[-100, 5, 6, 7, -100, -100], [-100, 8, -100, -100, -100, -100]]


@pytest.mark.parametrize(
    ("mask", "random", "expected"), [(1, 0, [4, 4, 4]), (0, 1, [5, 7, 8]), (0, 0, [6, 6, 6]), (0.5, 0.5, [4, 7, 8])]
)
def test_mask_and_random_shares_of_0_and_1(mask, random, expected):
    draws = np.array([[[0.0, 0.0, 0.0]], [[0.0, 0.5, 0.999]], [[0.0, 0.5, 0.999]]])
    text, maskable = np.array([[6, 6, 6]]), np.ones((1, 3), dtype=bool)
    input_ids, labels = mask_tokens(text, maskable, draws, 0.15, mask, random, MASK, ORDINARY)
    assert input_ids.tolist() == [expected]
    assert labels.tolist() == [[6, 6, 6]]


# Rates


@pytest.mark.parametrize("settings", [(0.15, 0.8, 0.1), (0.3, 0.5, 0.5)])
def test_rates_of_single_tokens(settings, tokenizers):
    tokenizer = tokenizers["wordpiece"]
    examples = make_examples(tokenizer, 500, 500)
    probability, mask, random = settings
    collator = MaskingCollator(
        tokenizer, mlm_probability=probability, mask_replace_prob=mask, random_replace_prob=random
    )
    batch = collator(in_epoch(examples, 0))
    chosen = batch["labels"] != IGNORED
    assert_share(chosen.sum().item(), 500 * 500, probability)
    check_actions(batch, tokenizer, mask, random)
    # Equally often at each position and in each example, within 5 standard deviations of the chi-square distribution.
    for counts in (chosen[:, 1:-1].sum(0), chosen.sum(1)):
        chi_square = ((counts - 500 * probability) ** 2 / (500 * probability * (1 - probability))).sum().item()
        assert abs(chi_square - 500) < SIGMAS * np.sqrt(2 * 500)


def check_actions(batch, tokenizer, mask, random):
    """A random replacement may equal the original token by chance."""
    chosen = batch["labels"] != IGNORED
    new, old = batch["input_ids"][chosen], batch["labels"][chosen]
    by_chance = random / len(ordinary_ids_of(tokenizer))
    assert_share((new == tokenizer.mask_token_id).sum().item(), len(old), mask)
    assert_share((new == old).sum().item(), len(old), 1 - mask - random + by_chance)
    assert_share(((new != old) & (new != tokenizer.mask_token_id)).sum().item(), len(old), random - by_chance)


@pytest.mark.parametrize("kind", KINDS)
def test_random_replacements_are_uniform_over_ordinary_tokens(kind, tokenizers):
    """transformers#15342: never [CLS], [PAD] or another special token."""
    tokenizer = tokenizers[kind]
    examples = in_epoch(make_examples(tokenizer, 400, 510), 0)
    collator = MaskingCollator(tokenizer, mlm_probability=0.5, mask_replace_prob=0, random_replace_prob=1)
    batch = collator(examples)
    replacements = batch["input_ids"][batch["labels"] != IGNORED].numpy()
    assert len(replacements) > 100_000
    ids, counts = np.unique(replacements, return_counts=True)
    assert ids.tolist() == ordinary_ids_of(tokenizer)
    mean = len(replacements) / len(ids)
    assert abs(((counts - mean) ** 2 / mean).sum() - (len(ids) - 1)) < SIGMAS * np.sqrt(2 * len(ids))


def test_special_tokens_without_a_named_attribute_are_never_chosen(tokenizers):
    """transformers#15342: ModernBERT's tokenizer.json marks <|endoftext|> and <|padding|> special; no attribute names
    them."""
    tokenizer = copy.deepcopy(tokenizers["byte_level"])
    tokenizer.backend_tokenizer.add_special_tokens([AddedToken("<|endoftext|>", special=True)])
    number = tokenizer.convert_tokens_to_ids("<|endoftext|>")
    examples = make_examples(tokenizers["byte_level"], 100, 510)
    for example in examples:
        example["input_ids"][7] = number
    collator = MaskingCollator(tokenizer, mlm_probability=1.0, mask_replace_prob=0, random_replace_prob=1)
    batch = collator(in_epoch(examples, 0))
    assert batch["labels"][:, 7].tolist() == [IGNORED] * 100
    assert (batch["input_ids"] == number).sum() == 100


@pytest.mark.parametrize("whole_words", [False, True])
@pytest.mark.parametrize("kind", KINDS)
def test_padding_and_special_tokens_are_never_chosen(kind, whole_words, tokenizers):
    """transformers#11155: with probability 1, all other tokens are chosen."""
    tokenizer = tokenizers[kind]
    examples = make_examples(tokenizer, 5, 20)
    for example, cut in zip(examples, (5, 21, 9, 13, 2), strict=True):
        example["input_ids"] = example["input_ids"][:cut]
        example["word_starts"] = np.arange(cut) % 3 == 0
    examples[1]["input_ids"][1:18:4] = tokenizer.all_special_ids
    collator = MaskingCollator(tokenizer, mlm_probability=1.0, whole_words=whole_words)
    batch = collator(in_epoch(examples, 0))
    for row, example in enumerate(examples):
        original = example["input_ids"].tolist()
        expected = [IGNORED if token in tokenizer.all_special_ids else token for token in original]
        assert batch["labels"][row].tolist() == expected + [IGNORED] * (21 - len(original))
        assert batch["attention_mask"][row].tolist() == [1] * len(original) + [0] * (21 - len(original))
        assert batch["input_ids"][row, len(original) :].tolist() == [tokenizer.pad_token_id] * (21 - len(original))


# Dependence of masks on seed, epoch and example


def test_masks_depend_on_the_example_not_on_its_batch(tokenizers):
    """arXiv:1907.11692: masks are the same in any batch, at any position, with any padding."""
    tokenizer = tokenizers["wordpiece"]
    examples = in_epoch(make_examples(tokenizer, 12, 60), 3)
    for example in examples:
        example["input_ids"] = example["input_ids"][: 20 + 3 * example["example"]]
    collator = MaskingCollator(tokenizer, seed=5)
    alone = [masks_of(collator([example])) for example in examples]
    assert sum(label != IGNORED for _, labels in alone for label in labels) > 30
    wide = MaskingCollator(tokenizer, seed=5, padding=Padding(1, 100, fixed=True))
    for batch_size in (2, 5, 12):
        for each in (collator, wide):
            order = np.random.default_rng(batch_size).permutation(12)
            for start in range(0, 12, batch_size):
                numbers = order[start : start + batch_size]
                batch = each([examples[number] for number in numbers])
                assert [masks_of(batch, row) for row in range(len(numbers))] == [alone[number] for number in numbers]


@pytest.mark.parametrize("whole_words", [False, True])
def test_masks_differ_between_examples_epochs_and_seeds(whole_words, tokenizers):
    """arXiv:1907.11692: only the text is the same; evaluation has its own masks."""
    tokenizer = tokenizers["wordpiece"]
    example = make_examples(tokenizer, 1, 200)[0] | {"word_starts": np.ones(202, dtype=bool)}
    seen = set()
    for seed in (0, 1, 2**32 - 1):
        collator = MaskingCollator(tokenizer, seed=seed, whole_words=whole_words)
        for epoch in (0, 1, 2):
            for number in (0, 1, 1_000_000):
                batch = collator([example | {"epoch": epoch, "example": number}])
                seen.add(tuple(masks_of(batch)[1]))
    seen.add(tuple(masks_of(collator([example]))[1]))
    assert len(seen) == 3 * 3 * 3 + 1


def test_masks_of_two_epochs_are_independent(tokenizers):
    """arXiv:1907.11692: 15 % of the tokens chosen in one epoch are chosen in the next; likewise between examples."""
    tokenizer = tokenizers["wordpiece"]
    examples = make_examples(tokenizer, 400, 500)
    collator = MaskingCollator(tokenizer)
    first, second = ((collator(in_epoch(examples, epoch))["labels"] != IGNORED)[:, 1:-1] for epoch in (0, 1))
    assert_share((first & second).sum().item(), first.sum().item(), 0.15)
    assert_share((first[:-1] & first[1:]).sum().item(), first[:-1].sum().item(), 0.15)


@pytest.mark.parametrize("strategy", ["random", "group_by_length"])
def test_workers_make_the_same_batches_as_one_process(strategy, tokenizers):
    """arXiv:1907.11692: workers, which outlive an epoch here, repeat neither each other's masks nor those of the last
    epoch."""
    tokenizer = tokenizers["wordpiece"]
    text = np.random.default_rng(0).choice(ordinary_ids_of(tokenizer), 2000)
    ends = np.arange(0, 2001, 50)
    lines = Lines(text, np.stack([ends[:-1], ends[1:]], axis=1), template_of(tokenizer), 34)

    def two_epochs(workers):
        padding = Padding()
        sampler = ResumableBatchSampler(
            EpochDataset(lambda epoch: lines), BatchSettings(strategy, 4), padding.padded_lengths, seed=7
        )
        loader = DataLoader(
            sampler.examples,
            batch_sampler=sampler,
            collate_fn=MaskingCollator(tokenizer, seed=7),
            num_workers=workers,
            persistent_workers=workers > 0,
        )
        epochs = []
        for epoch in (0, 1):
            sampler.set_epoch(epoch)
            epochs.append([{name: values.tolist() for name, values in batch.items()} for batch in loader])
        return epochs

    here = two_epochs(0)
    assert two_epochs(2) == here
    by_text = [{unmasked(batch, row): labels for batch in epoch for row, labels in rows_of(batch)} for epoch in here]
    assert len(by_text[0]) == 80
    assert by_text[0].keys() == by_text[1].keys()
    assert all(by_text[1][text] != labels for text, labels in by_text[0].items())


def rows_of(batch):
    return enumerate(batch["labels"])


def unmasked(batch, row):
    """Restore the original text from the masked text and the labels."""
    pairs = zip(batch["input_ids"][row], batch["labels"][row], batch["attention_mask"][row], strict=True)
    return tuple(new if label == IGNORED else label for new, label, real in pairs if real)


def test_evaluation_masks_are_fixed_once(tokenizers):
    """Masks are the same for any seed, in any pass, in any batch."""
    tokenizer = tokenizers["wordpiece"]
    text = np.random.default_rng(0).choice(ordinary_ids_of(tokenizer), 3000)
    blocks = Blocks(text, np.array([[0, 1000], [1000, 3000]]), template_of(tokenizer), 64)
    dataset = Subset(blocks, range(len(blocks)))
    passes = []
    for seed, batch_size, workers in ((0, 8, 0), (0, 8, 0), (1, 8, 0), (2**31, 3, 2)):
        collator = MaskingCollator(tokenizer, seed=seed)
        loader = DataLoader(dataset, batch_size, collate_fn=collator, num_workers=workers)
        passes.append([masks_of(batch, row) for batch in loader for row in range(len(batch["labels"]))])
    assert len(passes[0]) == len(blocks) == 49
    assert passes[1] == passes[2] == passes[3] == passes[0]


def test_evaluation_masks_do_not_depend_on_training_settings(tokenizers):
    """Perplexities stay comparable between runs with other rates, shares or whole words."""
    tokenizer = tokenizers["wordpiece"]
    examples = make_examples(tokenizer, 400, 500)
    for example in examples:
        example["word_starts"] = np.arange(502) % 3 == 0
    plain = MaskingCollator(tokenizer)(examples)
    other = MaskingCollator(
        tokenizer, mlm_probability=0.4, mask_replace_prob=0.3, random_replace_prob=0.6, whole_words=True, seed=3
    )
    assert all(torch.equal(values, plain[name]) for name, values in other(examples).items())
    assert_share((plain["labels"] != IGNORED).sum().item(), 400 * 500, 0.15)
    check_actions(plain, tokenizer, 0.8, 0.1)
    rare = MaskingCollator(tokenizer, eval_mlm_probability=0.05)(examples)
    assert_share((rare["labels"] != IGNORED).sum().item(), 400 * 500, 0.05)


# Whole words


@pytest.mark.parametrize("kind", KINDS)
def test_whole_words_are_chosen_whole(kind, tokenizers, texts):
    """transformers#11768: for all kinds of tokenizers, with the rates of single tokens and the same 80/10/10 shares."""
    tokenizer = tokenizers[kind]
    template = template_of(tokenizer)
    encoded = encode([[text] for text in texts], tokenizer, with_words=True)
    examples = [
        {**template.example([ids], number), "word_starts": template.word_starts([starts])}
        for number, ((ids, starts),) in enumerate(encoded)
    ]
    collator = MaskingCollator(tokenizer, whole_words=True)
    batches = [collator(in_epoch(examples, epoch)) for epoch in range(12)]
    batch = {name: torch.cat([batch[name] for batch in batches]) for name in ("input_ids", "labels", "attention_mask")}
    assert batch["attention_mask"].sum() > 200_000

    words = [words_of(encoding, tokenizer) for encoding in tokenizer(texts).encodings] * 12
    counts = {1: [0, 0], 2: [0, 0]}  # words and chosen words of one token, and of several
    for chosen, words_here in zip((batch["labels"] != IGNORED).tolist(), words, strict=True):
        for word in words_here:
            assert len({chosen[position] for position in word}) == 1
            counts[min(2, len(word))][0] += 1
            counts[min(2, len(word))][1] += chosen[word[0]]
        assert sum(chosen) == sum(len(word) for word in words_here if chosen[word[0]])
    for total, number_chosen in counts.values():
        assert total > 20_000
        assert_share(number_chosen, total, 0.15)
    check_actions(batch, tokenizer, 0.8, 0.1)


def words_of(encoding, tokenizer):
    """Return the token positions of each word by the tokenizer's word ids; [UNK] is special and never predicted."""
    words: dict[int, list[int]] = {}
    for position, (word, token) in enumerate(zip(encoding.word_ids, encoding.ids, strict=True)):
        if word is not None and token not in tokenizer.all_special_ids:
            words.setdefault(word, []).append(position)
    return list(words.values())


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        ("wordpiece", ["the", "moon", "'", "s", "unlikely", "tides", ",", "again"]),
        ("byte_level", ["The", "Moon", "'s", "unlikely", "tides", ",", "again"]),
        ("unigram", ["The", "Moon's", "unlikely", "tides,", "again"]),
    ],
)
def test_word_starts_of_a_sentence(kind, expected, tokenizers):
    """transformers#11768: find the tokens of a word by their text, without the library's word ids."""
    tokenizer = tokenizers[kind]
    ((ids, word_starts),) = next(encode([["The Moon's unlikely tides, again"]], tokenizer, with_words=True))
    pieces = [tokenizer.convert_ids_to_tokens(int(token)) for token in ids]
    assert len(pieces) > len(expected)
    words = []
    for piece, starts in zip(pieces, word_starts, strict=True):
        if starts:
            words.append("")
        words[-1] += piece.removeprefix("##").strip("\u0120\u2581")
    assert words == expected


# Pairs

A_PAIR = {"input_ids": np.array([2, 7, 8, 3, 9, 3]), "token_type_ids": np.array([0, 0, 0, 0, 1, 1])}
A_SHORT_ONE = {"input_ids": np.array([2, 9, 3, 3]), "token_type_ids": np.array([0, 0, 0, 1])}
PAIRS = [A_PAIR | {"next_sentence_label": 1, "example": 0}, A_SHORT_ONE | {"next_sentence_label": 0, "example": 1}]


def test_pair_collator_pads_ids_types_and_labels():
    """Padding has type 0, as in tokenizers, and is not attended to."""
    batch = collate(PAIRS, 5, Padding())
    assert {name: values.tolist() for name, values in batch.items()} == {
        "input_ids": [[2, 7, 8, 3, 9, 3], [2, 9, 3, 3, 5, 5]],
        "attention_mask": [[1, 1, 1, 1, 1, 1], [1, 1, 1, 1, 0, 0]],
        "token_type_ids": [[0, 0, 0, 0, 1, 1], [0, 0, 0, 1, 0, 0]],
        "next_sentence_label": [1, 0],
    }
    assert {values.dtype for values in batch.values()} == {torch.int64}


@pytest.mark.parametrize(
    ("padding", "pairs", "has_mask"),
    [
        (Padding(omit_mask=True), [A_PAIR, A_PAIR], False),
        (Padding(omit_mask=True), [A_PAIR, A_SHORT_ONE], True),
        (Padding(8, omit_mask=True), [A_PAIR, A_PAIR], True),
        (Padding(), [A_PAIR, A_PAIR], True),
    ],
)
def test_only_batches_without_padding_have_no_mask(padding, pairs, has_mask):
    full, batch = collate(pairs, 5, replace(padding, omit_mask=False)), collate(pairs, 5, padding)
    assert ("attention_mask" in batch) is has_mask
    assert all(torch.equal(values, full[name]) for name, values in batch.items())
    assert full.keys() - batch.keys() == (set() if has_mask else {"attention_mask"})


def test_masked_tokens_do_not_depend_on_the_mask_of_padding(tokenizers):
    examples = in_epoch(make_examples(tokenizers["wordpiece"], 4, 30), 0)
    full, batch = (
        MaskingCollator(tokenizers["wordpiece"], padding=Padding(omit_mask=omits))(examples) for omits in (False, True)
    )
    assert full.keys() - batch.keys() == {"attention_mask"}
    assert all(torch.equal(values, full[name]) for name, values in batch.items())


@pytest.mark.parametrize(
    ("padding", "width"),
    [
        (Padding(), 6),
        (Padding(8), 8),
        (Padding(4, 7), 7),
        (Padding(4, 48), 8),
        (Padding(1, 10, fixed=True), 10),
        (Padding(8, 10, fixed=True), 10),
    ],
)
def test_pair_collator_pads_to_the_padded_length(padding, width):
    batch = collate(PAIRS, 5, padding)
    assert batch["input_ids"].tolist() == [[2, 7, 8, 3, 9, 3] + [5] * (width - 6), [2, 9, 3, 3] + [5] * (width - 4)]
    assert batch["token_type_ids"].tolist() == [
        [0, 0, 0, 0, 1, 1] + [0] * (width - 6),
        [0, 0, 0, 1] + [0] * (width - 4),
    ]
    assert batch["attention_mask"].tolist() == [[1] * 6 + [0] * (width - 6), [1] * 4 + [0] * (width - 4)]
    assert batch["next_sentence_label"].tolist() == [1, 0]


def test_block_collator_gives_no_types_and_no_pair_labels():
    examples = [{"input_ids": np.array([2, 7, 3]), "example": 0}, {"input_ids": np.array([2, 3]), "example": 1}]
    assert {name: values.tolist() for name, values in pad(examples, 5, Padding()).items()} == {
        "input_ids": [[2, 7, 3], [2, 3, 5]],
        "attention_mask": [[1, 1, 1], [1, 1, 0]],
    }


def test_pair_collator_keeps_unknown_labels():
    batch = collate([PAIRS[0] | {"next_sentence_label": IGNORED}, PAIRS[1]], 5, Padding())
    assert batch["next_sentence_label"].tolist() == [-100, 0]


def make_pair(tokenizer, a, b, label, number):
    return pair_template_of(tokenizer).example(np.array(a), np.array(b), label, number)


@pytest.mark.parametrize("kind", KINDS)
def test_pair_masks_spare_special_tokens_and_padding(kind, tokenizers):
    """transformers#11155: with probability 1, all tokens of A and B are chosen, but not the separator between them."""
    tokenizer = tokenizers[kind]
    ordinary = ordinary_ids_of(tokenizer)
    a, b, c = ordinary[:5], ordinary[10:13], ordinary[20:22]
    cls, sep, padding, mask = (getattr(tokenizer, f"{name}_token_id") for name in ("cls", "sep", "pad", "mask"))
    between = [sep, sep] if kind == "byte_level" else [sep]
    examples = [make_pair(tokenizer, a, b, 1, 0), make_pair(tokenizer, c, c, 0, 1)]
    collator = MaskingCollator(tokenizer, mlm_probability=1.0, mask_replace_prob=1.0, random_replace_prob=0.0)
    batch = collator(in_epoch(examples, 0))
    n, left = len(between), 4
    labels = [[-100, *a, *[-100] * n, *b, -100], [-100, *c, *[-100] * n, *c, -100, *[-100] * left]]
    places = [place for place, label in enumerate(labels[0] + labels[1]) if label != -100]
    assert {name: values.tolist() for name, values in batch.items()} == {
        "input_ids": [
            [cls, *[mask] * 5, *between, *[mask] * 3, sep],
            [cls, mask, mask, *between, mask, mask, sep, *[padding] * left],
        ],
        "labels": labels,
        "attention_mask": [[1] * (10 + n), [1] * (6 + n) + [0] * left],
        "token_type_ids": [
            [0] * (6 + n) + [1] * 4,
            [0] * (3 + n) + [1] * 3 + [0] * left,
        ],
        "next_sentence_label": [1, 0],
        "masked_positions": places + [0] * (2 * (10 + n) - len(places)),
    }
    assert {values.dtype for values in batch.values()} == {torch.int64}


@pytest.mark.parametrize("whole_words", [False, True])
def test_pair_masks_equal_masks_of_the_same_ids_without_types(whole_words, tokenizers):
    """Masks depend on (seed, epoch, example) only; types and label stay unchanged."""
    tokenizer = tokenizers["wordpiece"]
    ordinary = np.array(ordinary_ids_of(tokenizer))
    examples = []
    for number in range(20):
        a, b = ordinary[number : number + 30], ordinary[100 + number : 120 + 2 * number]
        word_starts = np.arange(len(a) + len(b) + 3) % 3 != 1
        examples.append(make_pair(tokenizer, a, b, number % 2, number) | {"word_starts": word_starts, "epoch": 3})
    collator = MaskingCollator(tokenizer, seed=5, whole_words=whole_words)
    pairs = collator(examples)
    without = [{name: e[name] for name in ("input_ids", "example", "epoch", "word_starts")} for e in examples]
    plain = collator(without)
    assert (pairs["labels"] != IGNORED).sum() > 60
    assert all(torch.equal(pairs[name], plain[name]) for name in plain)
    assert pairs["next_sentence_label"].tolist() == [0, 1] * 10
    assert pairs["token_type_ids"].sum(1).tolist() == [21 + number for number in range(20)]
    assert torch.equal(pairs["token_type_ids"], collate(examples, tokenizer.pad_token_id, Padding())["token_type_ids"])


# Shape


@pytest.mark.parametrize(
    ("padding", "width"),
    [
        (Padding(), 13),
        (Padding(8), 16),
        (Padding(8, 14), 14),
        (Padding(8, 64), 16),
        (Padding(1, 40, fixed=True), 40),
        (Padding(8, 30, fixed=True), 30),
    ],
)
def test_masking_collator_pads_to_the_padded_length(padding, width, tokenizers):
    tokenizer = tokenizers["wordpiece"]
    examples = make_examples(tokenizer, 3, 11)
    examples[1]["input_ids"] = examples[1]["input_ids"][:4]
    batch = MaskingCollator(tokenizer, padding=padding)(examples)
    assert {name: tuple(values.shape) for name, values in batch.items()} == dict.fromkeys(
        ["input_ids", "attention_mask", "labels"], (3, width)
    ) | {"masked_positions": (32,), "characters": (3,)}
    assert {values.dtype for values in batch.values()} == {torch.int64}
    assert batch["attention_mask"].sum(1).tolist() == [13, 4, 13]
    assert (batch["input_ids"][1, 4:] == tokenizer.pad_token_id).all()


@pytest.mark.parametrize(
    ("padding", "lengths", "widths"),
    [
        (Padding(), [1, 7, 33], [1, 7, 33]),
        (Padding(4), [1, 4, 5, 33], [4, 4, 8, 36]),
        (Padding(8, 33), [1, 8, 9, 32, 33], [8, 8, 16, 32, 33]),
        (Padding(4, 66), [1, 63, 64, 65, 66], [4, 64, 64, 66, 66]),
        (Padding(8, 20, fixed=True), [1, 7, 20], [20, 20, 20]),
    ],
)
def test_padded_lengths_are_rounded_up_within_the_positions(padding, lengths, widths):
    """Lengths are rounded up, but never to more positions than the model has."""
    assert padding.padded_lengths(np.array(lengths)).tolist() == widths


# Positions


@pytest.mark.parametrize(
    ("labels", "multiple", "positions"),
    [
        ([[-100, 7, -100], [8, 9, -100]], 1, [1, 3, 4]),
        ([[-100, 7, -100], [8, 9, -100]], 4, [1, 3, 4, 0]),
        ([[5, 7, -100], [8, -100, -100]], 5, [0, 1, 3, 2, 2]),
        ([[-100, 7, -100], [8, 9, -100]], 32, [1, 3, 4, 0, 0, 0]),
        ([[-100, -100, -100, -100]], 2, [0, 0]),
        ([[-100, -100, -100, -100]], 32, [0, 0, 0, 0]),
        ([[5, 6], [7, 8]], 4, [0, 1, 2, 3]),
        ([[5, 6], [7, 8]], 3, [0, 1, 2, 3]),
    ],
)
def test_positions_of_given_labels(labels, multiple, positions):
    """Positions are padded with the first position without a label, up to the number of positions."""
    found = masked_positions(np.array(labels), multiple)
    assert found.tolist() == positions
    assert found.dtype == np.int64


@given(st.integers(1, 5), st.integers(1, 40), st.floats(0, 1), st.integers(1, 40), st.integers(0, 2**32 - 1))
@settings(max_examples=100, deadline=None)
def test_positions_are_those_of_all_labels_each_once(rows, length, share, multiple, seed):
    rng = np.random.default_rng(seed)
    labels = np.where(rng.random((rows, length)) < share, rng.integers(500, size=(rows, length)), IGNORED)
    positions = masked_positions(labels, multiple)
    count = (labels != IGNORED).sum()
    assert positions[:count].tolist() == np.flatnonzero(labels.ravel() != IGNORED).tolist()
    assert (labels.ravel()[positions[count:]] == IGNORED).all()
    assert count <= len(positions) <= labels.size
    assert len(positions) % multiple == 0 or len(positions) == labels.size
    assert len(positions) < count + multiple or len(positions) == multiple


def test_positions_of_a_batch_are_those_of_its_labels(tokenizers):
    collator = MaskingCollator(tokenizers["wordpiece"])
    batch = collator(in_epoch(make_examples(tokenizers["wordpiece"], 10, 100), 0))
    positions, labels = batch["masked_positions"], batch["labels"].flatten()
    assert len(positions) % 32 == 0
    assert torch.equal(positions[labels[positions] != IGNORED], (labels != IGNORED).nonzero()[:, 0])


def test_collator_is_a_transformers_data_collator(tokenizers):
    collator = MaskingCollator(tokenizers["wordpiece"], mlm_probability=0.2)
    assert isinstance(collator, DataCollatorForLanguageModeling)
    assert (collator.mlm_probability, collator.mask_replace_prob, collator.random_replace_prob) == (0.2, 0.8, 0.1)


# Schedules


def at_step(examples, number, total):
    return [{**example, "step": Step(number, total)} for example in in_epoch(examples, 2)]


def test_rate_of_a_step(tokenizers):
    """The masks are those of a collator with the rate of the step; those of a lower rate are among them."""
    tokenizer = tokenizers["wordpiece"]
    examples = make_examples(tokenizer, 40, 50)
    collator = MaskingCollator(tokenizer, mlm_probability=0.5, final_mlm_probability=0.1, seed=3)
    for number, rate in enumerate([0.5, 0.4, 0.3, 0.2, 0.1]):
        batch = collator(at_step(examples, number, 5))
        assert_share((batch["labels"] != IGNORED).sum().item(), 40 * 50, rate)
    for number, rate in ((0, 0.5), (4, 0.1)):
        constant = MaskingCollator(tokenizer, mlm_probability=rate, seed=3)(in_epoch(examples, 2))
        batch = collator(at_step(examples, number, 5))
        assert all(torch.equal(batch[name], values) for name, values in constant.items())


def test_rate_of_a_step_is_not_of_evaluations_and_the_largest_without_a_step(tokenizers):
    tokenizer = tokenizers["wordpiece"]
    examples = make_examples(tokenizer, 10, 50)
    plain = MaskingCollator(tokenizer)(examples)
    for ends in ((0.5, 0.1), (0.1, 0.5)):
        collator = MaskingCollator(tokenizer, mlm_probability=ends[0], final_mlm_probability=ends[1])
        assert torch.equal(collator(examples)["labels"], plain["labels"])
        largest = MaskingCollator(tokenizer, mlm_probability=0.5)(in_epoch(examples, 2))
        assert torch.equal(collator(in_epoch(examples, 2))["labels"], largest["labels"])


@pytest.mark.parametrize("cut", [4, 8])
def test_masks_of_a_step_do_not_depend_on_the_batch(cut, tokenizers):
    tokenizer = tokenizers["wordpiece"]
    examples = at_step(make_examples(tokenizer, 6, 14), 3, 9)
    collator = MaskingCollator(tokenizer, 0.5, final_mlm_probability=0.1, lengths=(cut, 16), padding=Padding(4, 16))
    whole, *parts = (collator(each) for each in (examples, examples[:1], examples[1:4], examples[4:]))
    for name in ("input_ids", "labels"):
        assert torch.equal(whole[name], torch.cat([part[name] for part in parts]))


def test_pieces_of_blocks_have_the_masks_of_the_blocks(tokenizers):
    """A block of 16 gives two pieces of 8, one of 11 tokens two, and one of 5 tokens one; then blocks are whole."""
    tokenizer = tokenizers["wordpiece"]
    examples = [*make_examples(tokenizer, 2, 14), *make_examples(tokenizer, 1, 9), *make_examples(tokenizer, 1, 3)]
    settings = {"mlm_probability": 0.5, "padding": Padding(4, 16), "positions_multiple": 4}
    whole = MaskingCollator(tokenizer, **settings)(in_epoch(examples, 2))
    collator = MaskingCollator(tokenizer, lengths=(8, 16), **settings)
    short, long = (collator(at_step(examples, number, 10)) for number in (4, 5))
    assert short["input_ids"].shape == (7, 8)
    kept = whole["attention_mask"].view(-1, 8).any(1)
    assert kept.tolist() == [True] * 7 + [False]
    for name in ("input_ids", "labels", "attention_mask"):
        assert torch.equal(short[name], whole[name].view(-1, 8)[kept])
        assert torch.equal(long[name], whole[name])
    targets = short["labels"].flatten()[short["masked_positions"]]
    assert torch.equal(targets[targets != IGNORED], whole["labels"][whole["labels"] != IGNORED])
    assert short["input_ids"][:, 0].eq(tokenizer.cls_token_id).tolist() == [True, False] * 3 + [True]


def test_pieces_of_a_batch_of_short_blocks_have_the_length_of_the_step(tokenizers):
    tokenizer = tokenizers["wordpiece"]
    collator = MaskingCollator(tokenizer, lengths=(8, 32), padding=Padding(4, 32))
    for count, shape in ((2, (1, 8)), (10, (2, 8)), (20, (3, 8))):
        batch = collator(at_step(make_examples(tokenizer, 1, count), 0, 10))
        assert batch["input_ids"].shape == shape
        assert batch["attention_mask"].sum() == count + 2
    assert collator(make_examples(tokenizer, 3, 30))["input_ids"].shape == (3, 32)


# Evaluations


def test_batches_of_evaluations_count_the_characters_of_the_tokens_to_predict(tokenizers):
    tokenizer = tokenizers["wordpiece"]
    examples = make_examples(tokenizer, 30, 50)
    batch = MaskingCollator(tokenizer)(examples)
    for labels, characters in zip(batch["labels"], batch["characters"].tolist(), strict=True):
        tokens = tokenizer.convert_ids_to_tokens(labels[labels != IGNORED].tolist())
        assert characters == sum(len(token.removeprefix("##")) for token in tokens)
    assert "characters" not in MaskingCollator(tokenizer)(in_epoch(examples, 0))


def test_whole_words_of_evaluations_share_choice_and_treatment(tokenizers):
    """Three tokens a word; the shares are those of evaluations, and training is not affected."""
    tokenizer = tokenizers["wordpiece"]
    examples = make_examples(tokenizer, 300, 150)
    for example in examples:
        example["words"] = np.append(np.insert(np.arange(150) // 3 + 1000 * example["example"], 0, -1), -1)
    settings = {"mlm_probability": 0.9, "eval_mlm_probability": 0.3}
    collator = MaskingCollator(tokenizer, eval_whole_words=True, **settings)
    batch = collator(examples)
    chosen = (batch["labels"] != IGNORED)[:, 1:151].view(300, 50, 3)
    masked = (batch["input_ids"] == tokenizer.mask_token_id)[:, 1:151].view(300, 50, 3)
    assert torch.equal(chosen.any(2), chosen.all(2))
    assert torch.equal(masked.any(2), masked.all(2))
    assert_share(chosen[:, :, 0].sum().item(), 300 * 50, 0.3)
    assert_share(masked[:, :, 0].sum().item(), chosen[:, :, 0].sum().item(), 0.8)
    plain, trained = (each(in_epoch(examples, 2)) for each in (MaskingCollator(tokenizer, **settings), collator))
    assert torch.equal(plain["input_ids"], trained["input_ids"])
