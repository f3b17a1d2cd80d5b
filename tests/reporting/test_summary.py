"""What a user reads at the end: true figures, whole words, and no settings that are secret."""

import numpy as np
import pytest
import torch
from transformers import AutoModelForMaskedLM, AutoModelForNextSentencePrediction, AutoModelForPreTraining

from cloze.objectives.metrics import SENTENCE_PAIRS
from cloze.objectives.tasks import MASKED_LM, NEXT_SENTENCE, PRETRAINING
from cloze.reporting.summary import fill_in, is_word, judge, show, summarise_run
from cloze.tokenization.templates import pair_template_of

METRICS = {
    "train_loss": 2.5,
    "train_runtime": 12.3,
    "train_tokens": 123_456,
    "train_tokens_per_second": 10_000.0,
    "train_non_padding_fraction": 0.9753,
    "train_mfu": 0.414,
    "eval_loss": 2.0,
    "eval_perplexity": 7.389,
    "eval_accuracy": 0.25,
    "perplexity": 7.389,
}
HISTORY = [
    {"step": 0, "eval_loss": 3.0, "eval_perplexity": 20.0855, "eval_accuracy": 0.125},
    {"step": 1, "loss": 3.5},
    {"step": 9, "loss": 2.125},
]
PAIR_METRICS = {"eval_loss": 0.5, "eval_accuracy": 0.75, "eval_f1": 0.8, "eval_is_next": 0.5}
PAIR_HISTORY = [
    {"step": 0, "eval_loss": 0.7, "eval_accuracy": 0.5, "eval_f1": 0.125, "eval_is_next": 0.5},
    {"step": 1, "loss": 0.7},
    {"step": 9, "loss": 0.5},
]


def test_the_summary_has_the_first_and_the_last_of_each():
    lines = summarise_run(HISTORY, METRICS, {"model": "BERT"}, "results", MASKED_LM.objectives)
    assert lines == {
        "model": "BERT",
        "training": "12 s, 123,456 real tokens, 10,000 a second, 97.5% of the batches, 41% of the peak (MFU)",
        "training loss": "3.500 at step 1, 2.125 at step 9",
        "masked perplexity": "20.09 before, 7.39 after",
        "masked accuracy": "12.5% before, 25.0% after",
        "saved in": "results",
    }


def evaluated(metrics):
    return {name: value for name, value in metrics.items() if not name.startswith("train_")}


def test_the_summary_of_an_evaluation_alone_speaks_of_nothing_else():
    lines = summarise_run([], evaluated(METRICS), {}, "out", MASKED_LM.objectives)
    assert lines == {"masked perplexity": "7.39", "masked accuracy": "25.0%"}


TRAINED = {
    "train_loss": 2.5,
    "train_runtime": 2.0,
    "train_tokens": 100,
    "train_tokens_per_second": 50.0,
    "train_non_padding_fraction": 0.5,
}


def test_the_summary_of_pairs():
    lines = summarise_run(PAIR_HISTORY, TRAINED | PAIR_METRICS, {}, "results", NEXT_SENTENCE.objectives)
    assert lines == {
        "training": "2 s, 100 real tokens, 50 a second, 50.0% of the batches",
        "training loss": "0.700 at step 1, 0.500 at step 9",
        "pair loss": "0.700 before, 0.500 after",
        "pair accuracy": "50.0% before, 75.0% after",
        "pair F1": "0.125 before, 0.800 after",
        "saved in": "results",
    }
    lines = summarise_run([], PAIR_METRICS, {}, "out", NEXT_SENTENCE.objectives)
    assert lines == {"pair loss": "0.500", "pair accuracy": "75.0%", "pair F1": "0.800"}


def test_the_summary_of_both_objectives_keeps_them_apart():
    metrics = {
        "eval_loss": 2.5,
        "eval_mlm_loss": 2.0,
        "eval_mlm_perplexity": 7.389,
        "eval_mlm_accuracy": 0.25,
        "eval_nsp_loss": 0.5,
        "eval_nsp_accuracy": 0.75,
        "eval_nsp_f1": 0.8,
        "perplexity": 7.389,
    }
    before = {"step": 0, "eval_loss": 3.7, "eval_mlm_loss": 3.0, "eval_mlm_perplexity": 20.0855}
    before |= {"eval_mlm_accuracy": 0.125, "eval_nsp_loss": 0.7, "eval_nsp_accuracy": 0.5, "eval_nsp_f1": 0.125}
    lines = summarise_run([before], TRAINED | metrics, {}, "results", PRETRAINING.objectives)
    assert lines == {
        "training": "2 s, 100 real tokens, 50 a second, 50.0% of the batches",
        "masked perplexity": "20.09 before, 7.39 after",
        "masked accuracy": "12.5% before, 25.0% after",
        "pair loss": "0.700 before, 0.500 after",
        "pair accuracy": "50.0% before, 75.0% after",
        "pair F1": "0.125 before, 0.800 after",
        "saved in": "results",
    }


def test_the_summary_without_an_evaluation_has_no_figures_of_one():
    lines = summarise_run(PAIR_HISTORY[1:], TRAINED, {}, "results", NEXT_SENTENCE.objectives)
    assert list(lines) == ["training", "training loss", "saved in"]


@pytest.mark.parametrize("kind", ["wordpiece", "byte_level", "unigram"])
def test_only_whole_words_are_hidden(kind, tokenizers):
    tokenizer = tokenizers[kind]
    text = "The light that comes from distant stars is unquestionably old, and with it wanders."
    ids = np.array(tokenizer(text)["input_ids"])
    words = [
        tokenizer.decode(ids[place : place + 1]).strip() for place in range(len(ids)) if is_word(tokenizer, ids, place)
    ]
    assert {"that", "with"} <= set(words)
    assert set(map(str.lower, words)) < set(text.lower().replace(",", "").replace(".", "").split())
    assert all(len(word) > 3 for word in words)


def test_a_model_that_knows_the_word_is_shown_to_know_it(checkpoint, tokenizers):
    """The model is made to answer every question with the one word."""
    tokenizer, model = tokenizers["wordpiece"], AutoModelForMaskedLM.from_pretrained(checkpoint("bert"))
    ids = np.array(tokenizer("the light of the moon, the light of the sun")["input_ids"])
    light = int(tokenizer.convert_tokens_to_ids("light"))
    with torch.no_grad():
        model.cls.predictions.bias[light] = 100.0
    lines = fill_in(model, tokenizer, [{"input_ids": ids}], 5, np.random.default_rng(0))
    for question, answer in (line.split("\n") for line in lines):
        assert question.count("[MASK]") == 1
        assert answer.strip().startswith("light 100%, ")
    truths = sorted(line.rpartition(": ")[2] for line in lines)
    assert truths == ["light)", "light)", "moon)"], "every word once, though there is one example only"


# Pairs that are shown


def make_pairs(tokenizer, texts):
    template = pair_template_of(tokenizer)
    examples = []
    for number, (*both, label) in enumerate(texts):
        a, b = (np.array(tokenizer(text, add_special_tokens=False)["input_ids"]) for text in both)
        examples.append(template.example(a, b, label, number))
    return examples


TEXTS = [
    ("the moon is far", "the sun is farther", 1),
    ("salt stays", "water goes", 1),
    ("is it deep", "very", 0),
    ("the stars", "are many", 0),
    ("a drum", "beats", 0),
]


@pytest.mark.parametrize("family", ["bert", "albert", "fnet"])
def test_pairs_of_both_kinds_are_judged_in_turn(family, pair_checkpoint, tokenizers):
    """The text of both without special tokens, the model's own probability, and the truth."""
    tokenizer = tokenizers["unigram" if family == "albert" else "wordpiece"]
    model = AutoModelForPreTraining.from_pretrained(pair_checkpoint(family))
    examples = make_pairs(tokenizer, TEXTS)
    lines = judge(model, tokenizer, examples, 3)
    expected = []
    for number in (2, 0, 3):
        example = examples[number]
        inputs = {name: torch.tensor(example[name])[None] for name in ("input_ids", "token_type_ids")}
        chance = SENTENCE_PAIRS.logits_of(model(**inputs)).softmax(-1)[0, 0].item()
        a, b, label = TEXTS[number]
        truth = ("they are in order", "they are not")[label]
        expected.append(f"{a} | {b}\n    in order: {chance:.0%}   ({truth})")
    assert lines == expected
    assert len(judge(model, tokenizer, examples, 99)) == 4, "as many of each"


def test_the_chance_shown_is_that_of_b_following_a(pair_checkpoint, tokenizers):
    """Mistake 3: 0 is IsNext. A model that holds everything for random gives 0 %, the other way round 100 %."""
    tokenizer = tokenizers["wordpiece"]
    model = AutoModelForNextSentencePrediction.from_pretrained(pair_checkpoint("bert"))
    examples = make_pairs(tokenizer, TEXTS)
    for bias, chance in (([0.0, 99.0], "0%"), ([99.0, 0.0], "100%")):
        with torch.no_grad():
            model.cls.seq_relationship.bias[:] = torch.tensor(bias)
        lines = judge(model, tokenizer, examples, 4)
        assert all(f"in order: {chance}   (" in line for line in lines)
    truths = [line.rpartition("   ")[2] for line in lines]
    assert truths == ["(they are in order)", "(they are not)"] * 2


def test_long_pairs_are_shown_around_the_border(pair_checkpoint, tokenizers):
    """The end of A and the beginning of B: 24 tokens of each, as the special ones in them are no text."""
    tokenizer = tokenizers["wordpiece"]
    words = tokenizer.decode(tokenizer("the " * 60)["input_ids"], skip_special_tokens=True).split()
    texts = [("moon " + " ".join(words), " ".join(words) + " sun", label) for label in (0, 1)]
    model = AutoModelForNextSentencePrediction.from_pretrained(pair_checkpoint("bert"))
    examples = make_pairs(tokenizer, texts)
    for example in examples:
        for name in ("input_ids", "token_type_ids"):
            example[name] = np.concatenate([example[name][:1], example[name][32:95], example[name][-1:]])
    for line in judge(model, tokenizer, examples, 2):
        a, b = line.split("\n")[0].split(" | ")
        assert a.split() == ["the"] * 23
        assert b.split() == ["the"] * 24


def test_what_is_shown_has_its_title_and_empty_parts_have_none(caplog):
    caplog.set_level("INFO", logger="cloze")
    show({"pair loss": "0.500", "saved in": "out"}, {"Pairs": ["a | b", "c | d"], "Words": []})
    assert caplog.messages == ["\n  Pair loss  0.500\n  Saved in   out", "\nPairs:\n  a | b\n  c | d\n"]
