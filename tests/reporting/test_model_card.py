"""Test the model card: metadata of the Hub, figures, curves, and no secret settings."""

from types import SimpleNamespace

import numpy as np
import yaml
from huggingface_hub import ModelCard
from transformers import AutoModelForMaskedLM, AutoModelForNextSentencePrediction, AutoModelForPreTraining

from cloze.config.arguments import ModelArguments, TrainingArguments
from cloze.config.data_arguments import DataTrainingArguments, NextSentenceArguments, PretrainingDataArguments
from cloze.reporting.model_card import write_model_card
from cloze.tasks.masked_lm import MASKED_LM
from cloze.tasks.next_sentence import NEXT_SENTENCE
from cloze.tasks.pretraining import PRETRAINING


def card_of(folder, task, lines, shown, model_args, data_args, training_args, model, evaluated=None) -> str:
    context = SimpleNamespace(
        task=task, tokenizer=None, model_args=model_args, data_args=data_args, training_args=training_args
    )
    write_model_card(folder / "README.md", context, model, lines, shown, evaluated or {})
    return (folder / "README.md").read_text()


def test_model_card_has_hub_metadata_and_results(checkpoint, tmp_path):
    model = AutoModelForMaskedLM.from_pretrained(checkpoint("bert"))
    model_args = ModelArguments(model_name_or_path="bert-base-uncased", token="hf_secret")
    training_args = TrainingArguments(output_dir=str(tmp_path), hub_token="hf_secret")
    lines = {"masked perplexity": "20.09 before, 7.39 after", "saved in": "a path that is nobody's business"}
    shown = {"Words hidden": ["the [MASK] of the moon\n    light 100%   (the text has: light)"]}
    card = card_of(tmp_path, MASKED_LM, lines, shown, model_args, DataTrainingArguments(), training_args, model)
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
    assert "\nA masked language model, trained from bert-base-uncased.\n" in card
    assert f'pipeline("fill-mask", model="{tmp_path}")' in card
    assert "\n## Words hidden\n\nthe [MASK] of the moon\n    light 100%   (the text has: light)\n" in card
    assert "15% of the tokens were masked in training, 15% in evaluations." in card


def test_model_card_of_next_sentence_has_no_pipeline_tag(pair_checkpoint, tmp_path):
    """The Hub has no tag for pairs, and the card does not mention masks."""
    model = AutoModelForNextSentencePrediction.from_pretrained(pair_checkpoint("bert"))
    model_args = ModelArguments(model_type="bert", token="hf_secret")
    training_args = TrainingArguments(output_dir=str(tmp_path), hub_token="hf_secret")
    lines = {"pair F1": "0.125 before, 0.800 after", "training texts": "2 texts (a|b 50%, c 50%)"}
    shown = {"Pairs": ["a | b\n    in order: 9%   (they are not)"]}
    data_args = NextSentenceArguments(nsp_probability=0.4)
    card = card_of(tmp_path, NEXT_SENTENCE, lines, shown, model_args, data_args, training_args, model)
    assert yaml.safe_load(card.split("---\n")[1]) == {"library_name": "transformers", "tags": ["bert"]}
    assert "\nA next sentence model, trained from a new bert.\n" in card
    assert f'AutoModelForNextSentencePrediction.from_pretrained("{tmp_path}")' in card
    assert "| pair F1 | 0.125 before, 0.800 after |" in card
    assert "| training texts | 2 texts (a&#124;b 50%, c 50%) |" in card
    assert "\n## Pairs\n\na | b\n    in order: 9%   (they are not)\n" in card
    assert "40% of the pairs were random." in card
    assert "mask" not in card
    assert "hf_secret" not in card


def test_model_card_of_both_objectives(pair_checkpoint, tmp_path):
    model = AutoModelForPreTraining.from_pretrained(pair_checkpoint("bert"))
    training_args = TrainingArguments(output_dir=str(tmp_path))
    model_args = ModelArguments(model_name_or_path=pair_checkpoint("bert"))
    data_args = PretrainingDataArguments(mlm_probability=0.2, pair_objective="sop")
    card = card_of(tmp_path, PRETRAINING, {}, {}, model_args, data_args, training_args, model)
    metadata = yaml.safe_load(card.split("---\n")[1])
    assert metadata == {"library_name": "transformers", "tags": ["bert"], "pipeline_tag": "fill-mask"}
    assert "\nA masked language and next sentence model, trained from" in card
    assert "20% of the tokens were masked in training, 15% in evaluations. 50% of the pairs were swapped." in card


def test_model_card_describes_schedules(checkpoint, tmp_path):
    model = AutoModelForMaskedLM.from_pretrained(checkpoint("bert"))
    training_args = TrainingArguments(output_dir=str(tmp_path))
    data_args = DataTrainingArguments(
        mlm_probability=0.3, final_mlm_probability=0.1, max_seq_length=64, sequence_length_schedule="16:16:64"
    )
    card = card_of(tmp_path, MASKED_LM, {}, {}, ModelArguments(model_type="bert"), data_args, training_args, model)
    assert "30% of the tokens were masked in training at first and 10% at last, 15% in evaluations. Blocks" in card
    assert "Blocks were cut into 16, then 16, then 64 tokens, each for an equal part of the steps." in card


def test_model_card_shows_curves_if_present(checkpoint, tmp_path):
    """The relative path is also valid on the Hub, where both files are at the top."""
    model = AutoModelForMaskedLM.from_pretrained(checkpoint("bert"))
    training_args = TrainingArguments(output_dir=str(tmp_path))
    arguments = (MASKED_LM, {}, {}, ModelArguments(model_type="bert"), DataTrainingArguments(), training_args, model)
    assert "![" not in card_of(tmp_path, *arguments)
    (tmp_path / "curves.png").touch()
    assert "\n\n![Training curves](curves.png)\n\n" in card_of(tmp_path, *arguments)


def test_the_metadata_has_the_evaluation_and_the_data_set(pair_checkpoint, tmp_path):
    """The Hub's own library reads the metadata back."""
    model = AutoModelForPreTraining.from_pretrained(pair_checkpoint("bert"))
    training_args = TrainingArguments(output_dir=str(tmp_path / "out"))
    data_args = PretrainingDataArguments(dataset_name="org/books")
    evaluated = {
        "mlm_perplexity": ("masked perplexity", 7.389),
        "nsp_loss": ("pair loss", np.float64(0.25)),
        "nsp_accuracy": ("pair accuracy", 0.875),
        "mlm_accuracy": ("masked accuracy", 0.5),
    }
    model_args = ModelArguments(model_type="bert")
    card_of(tmp_path, PRETRAINING, {}, {}, model_args, data_args, training_args, model, evaluated)
    data = ModelCard.load(tmp_path / "README.md").data
    assert data.datasets == "org/books"
    assert data.metrics == ["perplexity", "accuracy"]
    assert data.model_name == "out"
    found = [(each.metric_type, each.metric_name, each.metric_value) for each in data.eval_results]
    assert found == [
        ("perplexity", "masked perplexity", 7.389),
        ("loss", "pair loss", 0.25),
        ("accuracy", "pair accuracy", 0.875),
        ("accuracy", "masked accuracy", 0.5),
    ]
    assert {(each.task_type, each.dataset_type, each.dataset_name) for each in data.eval_results} == {
        ("fill-mask", "org/books", "org/books")
    }


def test_the_evaluation_on_files_names_none_of_them(pair_checkpoint, tmp_path):
    model = AutoModelForNextSentencePrediction.from_pretrained(pair_checkpoint("bert"))
    training_args = TrainingArguments(output_dir=str(tmp_path))
    arguments = (ModelArguments(model_type="bert"), NextSentenceArguments(), training_args, model)
    card = card_of(tmp_path, NEXT_SENTENCE, {}, {}, *arguments, {"f1": ("pair F1", 0.8)})
    (result,) = ModelCard(card).data.eval_results
    assert (result.task_type, result.dataset_type, result.dataset_name) == (
        "next-sentence-prediction",
        "text",
        "held-out text",
    )
    assert "datasets" not in yaml.safe_load(card.split("---\n")[1])
