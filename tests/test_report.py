"""What a user reads at the end: true figures, whole words, and no settings that are secret."""

import numpy as np
import pytest
import torch
import yaml
from transformers import AutoModelForMaskedLM

from cloze.arguments import DataTrainingArguments, ModelArguments, TrainingArguments
from cloze.report import fill_in, is_word, summarise_run, write_model_card

METRICS = {
    "train_runtime": 12.3,
    "train_tokens": 123_456,
    "train_tokens_per_second": 10_000.0,
    "eval_loss": 2.0,
    "eval_accuracy": 0.25,
    "perplexity": 7.389,
}
HISTORY = [
    {"step": 0, "eval_loss": 3.0, "eval_accuracy": 0.125},
    {"step": 1, "loss": 3.5},
    {"step": 9, "loss": 2.125},
]


def test_the_summary_has_the_first_and_the_last_of_each():
    lines = summarise_run(HISTORY, METRICS, {"model": "BERT"}, "results")
    assert lines == {
        "model": "BERT",
        "training": "12 s, 123,456 real tokens, 10,000 a second",
        "training loss": "3.500 at step 1, 2.125 at step 9",
        "masked perplexity": "20.09 before, 7.39 after",
        "masked accuracy": "12.5% before, 25.0% after",
        "saved in": "results",
    }


def test_the_summary_of_an_evaluation_alone_speaks_of_nothing_else():
    lines = summarise_run([], {name: METRICS[name] for name in ("eval_loss", "eval_accuracy", "perplexity")}, {}, "out")
    assert lines == {"masked perplexity": "7.39", "masked accuracy": "25.0%"}


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


def test_the_card_has_the_hubs_metadata_and_the_figures(checkpoint, tmp_path):
    model = AutoModelForMaskedLM.from_pretrained(checkpoint("bert"))
    model_args = ModelArguments(model_name_or_path="bert-base-uncased", token="hf_secret")
    training_args = TrainingArguments(output_dir=str(tmp_path), hub_token="hf_secret")
    lines = {"masked perplexity": "20.09 before, 7.39 after", "saved in": "a path that is nobody's business"}
    write_model_card(tmp_path / "README.md", lines, [], model_args, DataTrainingArguments(), training_args, model)
    card = (tmp_path / "README.md").read_text()
    metadata = yaml.safe_load(card.split("---\n")[1])
    assert metadata == {
        "library_name": "transformers",
        "pipeline_tag": "fill-mask",
        "tags": ["bert"],
        "base_model": "bert-base-uncased",
    }
    assert "| masked perplexity | 20.09 before, 7.39 after |" in card
    assert "hf_secret" not in card
    assert "nobody" not in card
