"""Test the summary of a run, and the samples that it shows."""

import numpy as np
import pytest
import torch
from transformers import AutoModelForNextSentencePrediction, AutoModelForPreTraining

from cloze.inference import predictions
from cloze.inference.next_sentence import judge_samples
from cloze.objectives.metrics import SENTENCE_PAIRS, figures_of
from cloze.reporting.summary import log_summary, summarise_run
from cloze.tasks.masked_lm import MASKED_LM
from cloze.tasks.next_sentence import NEXT_SENTENCE
from cloze.tasks.pretraining import PRETRAINING
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


def test_summary_has_first_and_last_values():
    lines = summarise_run(HISTORY, METRICS, {"model": "BERT"}, "results", figures_of(MASKED_LM.objectives))
    assert lines == {
        "model": "BERT",
        "training": "12 s, 123,456 tokens without padding (97.5% of the batches), 10,000 tokens/s, 41% MFU",
        "training loss": "3.500 at step 1, 2.125 at step 9",
        "masked perplexity": "20.09 before, 7.39 after",
        "masked accuracy": "12.5% before, 25.0% after",
        "saved in": "results",
    }


def test_summary_has_the_interval_of_each_loss_and_names_what_got_worse():
    """Only a rise beyond the interval is worth words."""
    sets = {"law": (-0.5, [-0.7, -0.3]), "wiki": (0.2, [0.1, 0.3]), "news": (0.2, [-0.1, 0.5])}
    before, metrics = {"step": 0, "eval_loss": 2.0}, TRAINED | {"eval_loss": 1.5}
    for name, (change, interval) in sets.items():
        own = {"mlm_loss": 2.0 + change, "mlm_perplexity": 7.0, "nsp_loss": 0.5}
        before |= {f"eval_{name}_mlm_loss": 2.0, f"eval_{name}_nsp_loss": 0.5}
        own |= {"mlm_loss_change": change, "mlm_loss_change_interval": interval}
        metrics |= {f"eval_{name}_{key}": value for key, value in own.items()}
    figures = figures_of(PRETRAINING.objectives, list(sets))
    lines = summarise_run([before], metrics, {}, "results", figures)
    assert lines["masked loss, law"] == "2.000 before, 1.500 after: -0.500 (95% interval -0.700 to -0.300)"
    assert lines["masked loss, wiki"] == "2.000 before, 2.200 after: +0.200 (95% interval +0.100 to +0.300)"
    assert lines["masked loss, news"] == "2.000 before, 2.200 after: +0.200 (95% interval -0.100 to +0.500)"
    assert lines["pair loss, law"] == "0.500 before, 0.500 after"
    assert lines["got worse"] == "masked loss, wiki"


def evaluated(metrics):
    return {name: value for name, value in metrics.items() if not name.startswith("train_")}


def test_summary_of_an_evaluation_alone():
    lines = summarise_run([], evaluated(METRICS), {}, "out", figures_of(MASKED_LM.objectives))
    assert lines == {"masked perplexity": "7.39", "masked accuracy": "25.0%"}


TRAINED = {
    "train_loss": 2.5,
    "train_runtime": 2.0,
    "train_tokens": 100,
    "train_tokens_per_second": 50.0,
    "train_non_padding_fraction": 0.5,
}


def test_summary_of_pairs():
    lines = summarise_run(PAIR_HISTORY, TRAINED | PAIR_METRICS, {}, "results", figures_of(NEXT_SENTENCE.objectives))
    assert lines == {
        "training": "2 s, 100 tokens without padding (50.0% of the batches), 50 tokens/s",
        "training loss": "0.700 at step 1, 0.500 at step 9",
        "pair loss": "0.700 before, 0.500 after",
        "pair accuracy": "50.0% before, 75.0% after",
        "pair F1": "0.125 before, 0.800 after",
        "saved in": "results",
    }
    lines = summarise_run([], PAIR_METRICS, {}, "out", figures_of(NEXT_SENTENCE.objectives))
    assert lines == {"pair loss": "0.500", "pair accuracy": "75.0%", "pair F1": "0.800"}


def test_summary_of_both_objectives_keeps_them_apart():
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
    lines = summarise_run([before], TRAINED | metrics, {}, "results", figures_of(PRETRAINING.objectives))
    assert lines == {
        "training": "2 s, 100 tokens without padding (50.0% of the batches), 50 tokens/s",
        "masked perplexity": "20.09 before, 7.39 after",
        "masked accuracy": "12.5% before, 25.0% after",
        "pair loss": "0.700 before, 0.500 after",
        "pair accuracy": "50.0% before, 75.0% after",
        "pair F1": "0.125 before, 0.800 after",
        "saved in": "results",
    }


def test_summary_without_evaluation_has_no_eval_figures():
    lines = summarise_run(PAIR_HISTORY[1:], TRAINED, {}, "results", figures_of(NEXT_SENTENCE.objectives))
    assert list(lines) == ["training", "training loss", "saved in"]


def test_samples_are_bounded(monkeypatch):
    monkeypatch.setattr(predictions, "MAX_SAMPLE_TOKENS", 100)
    examples = [{"input_ids": np.zeros(40), "number": number} for number in range(5)]
    assert [example["number"] for example in predictions.within_budget(examples)] == [0, 2, 4]
    assert len(predictions.within_budget([{"input_ids": np.zeros(400)}] * 2)) == 1, "at least one"
    assert predictions.within_budget(examples[:2]) == examples[:2]


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
def test_surest_pairs_are_the_models_own(family, pair_checkpoint, tokenizers):
    """The text of both without special tokens, the model's own probability, and the truth; one pair of each label."""
    tokenizer = tokenizers["unigram" if family == "albert" else "wordpiece"]
    model = AutoModelForPreTraining.from_pretrained(pair_checkpoint(family)).eval()
    examples = make_pairs(tokenizer, TEXTS)
    expected = {True: {}, False: {}}
    for (a, b, label), example in zip(TEXTS, examples, strict=True):
        inputs = {name: torch.tensor(example[name])[None] for name in ("input_ids", "token_type_ids")}
        chance = SENTENCE_PAIRS.logits_of(model(**inputs)).softmax(-1)[0, 0].item()
        truth = ("they are in order", "they are not")[label]
        line = f"{a} | {b}\n    in order: {chance:.0%}   ({truth})"
        found = expected[(chance > 0.5) == (label == 0)]
        found[label] = max(found.get(label, (0,)), (max(chance, 1 - chance), line))
    shown = [[line for _, line in sorted(found.values(), reverse=True)] for found in expected.values()]
    assert list(judge_samples(model, tokenizer, examples)) == shown


def test_samples_show_probability_of_is_next(pair_checkpoint, tokenizers):
    """google-research/bert#125: 0 is IsNext. A model that holds everything for random gives 0 %, the other way round
    100 %."""
    tokenizer = tokenizers["wordpiece"]
    model = AutoModelForNextSentencePrediction.from_pretrained(pair_checkpoint("bert"))
    examples = make_pairs(tokenizer, TEXTS)
    truths = ("(they are in order)", "(they are not)")
    for bias, chance, (in_order, random) in (([0.0, 99.0], "0%", (1, 0)), ([99.0, 0.0], "100%", (0, 1))):
        with torch.no_grad():
            model.cls.seq_relationship.bias[:] = torch.tensor(bias)
        guesses = judge_samples(model, tokenizer, examples)
        assert all(len(lines) == 1 and f"in order: {chance}   (" in lines[0] for lines in guesses)
        assert guesses[in_order][0].endswith(truths[0])
        assert guesses[random][0].endswith(truths[1])


def test_samples_shorten_pairs_around_their_border(pair_checkpoint, tokenizers):
    """The end of A and the beginning of B: 24 tokens of each, as the special ones in them are no text."""
    tokenizer = tokenizers["wordpiece"]
    words = tokenizer.decode(tokenizer("the " * 60)["input_ids"], skip_special_tokens=True).split()
    texts = [("moon " + " ".join(words), " ".join(words) + " sun", label) for label in (0, 1)]
    model = AutoModelForNextSentencePrediction.from_pretrained(pair_checkpoint("bert"))
    examples = make_pairs(tokenizer, texts)
    for example in examples:
        for name in ("input_ids", "token_type_ids"):
            example[name] = np.concatenate([example[name][:1], example[name][32:95], example[name][-1:]])
    right, wrong = judge_samples(model, tokenizer, examples)
    lines = right + wrong
    assert len(lines) == 2
    for line in lines:
        a, b = line.split("\n")[0].split(" | ")
        assert a.split() == ["the"] * 23
        assert b.split() == ["the"] * 24


def test_samples_have_titles(caplog):
    caplog.set_level("INFO", logger="cloze")
    log_summary({"pair loss": "0.500", "saved in": "out"}, {"Pairs": ["a | b", "c | d"]})
    assert caplog.messages == ["\n  Pair loss  0.500\n  Saved in   out", "\nPairs:\n  a | b\n  c | d"]
