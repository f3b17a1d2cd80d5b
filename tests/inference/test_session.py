"""Interactive predictions: only with trained heads, and equal to the predictions of the scripts."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from transformers import (
    AutoModel,
    AutoModelForMaskedLM,
    AutoModelForNextSentencePrediction,
    AutoModelForPreTraining,
    GPT2Config,
)

from cloze.errors import UserError
from cloze.inference.session import (
    MAX_CHARACTERS,
    MAX_MASKS,
    fill_masks_in_text,
    judge_texts,
    load_trained,
    short_names,
)
from cloze.tasks.masked_lm import MASKED_LM
from cloze.tasks.next_sentence import NEXT_SENTENCE
from cloze.tasks.pretraining import PRETRAINING
from tests.utils import TASKS


@pytest.fixture
def saved(pair_checkpoint, tmp_path):
    """``saved(family, auto_model)`` is a checkpoint saved from that class, with varied weights."""

    def save(family, auto_model):
        path = tmp_path / f"{family}-{auto_model.__name__}"
        shutil.copytree(pair_checkpoint(family), path)
        model = auto_model.from_pretrained(path)
        torch.manual_seed(3)
        with torch.no_grad():
            for weights in model.parameters():
                weights.add_(torch.randn_like(weights) * 0.5)
        model.save_pretrained(path)
        return str(path)

    return save


@pytest.mark.parametrize(
    ("family", "auto_model", "task"),
    [
        ("bert", AutoModelForMaskedLM, MASKED_LM),
        ("bert", AutoModelForNextSentencePrediction, NEXT_SENTENCE),
        ("bert", AutoModelForPreTraining, PRETRAINING),
        ("albert", AutoModelForPreTraining, PRETRAINING),
        ("albert", AutoModelForMaskedLM, MASKED_LM),
        ("fnet", AutoModelForNextSentencePrediction, NEXT_SENTENCE),
        ("electra", AutoModelForMaskedLM, MASKED_LM),
    ],
)
def test_loaded_heads_are_those_of_the_checkpoint(family, auto_model, task, saved):
    """Not all heads of the architecture: BERT's next-sentence head is untrained after run_mlm.py."""
    trained = load_trained(saved(family, auto_model), TASKS)
    assert trained.task is task
    assert trained.max_seq_length == 66
    assert trained.stats.endswith("million parameters, 500 tokens in the vocabulary, input of up to 66 tokens")
    assert not trained.model.training


@pytest.mark.parametrize("auto_model", [AutoModel, AutoModelForPreTraining])
def test_checkpoint_without_a_head_is_refused(auto_model, saved):
    """ELECTRA's pretraining head is the discriminator, which predicts no tokens."""
    with pytest.raises(UserError, match=r"electra.*: Electra.* has no head for masked tokens or next sentences: train"):
        load_trained(saved("electra", auto_model), TASKS)


def test_checkpoint_with_missing_head_weights_is_refused(saved):
    path = saved("bert", AutoModelForMaskedLM)
    file = Path(path) / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"architectures": ["BertForPreTraining"]}))
    with pytest.raises(UserError, match=r"are missing \(.*cls.seq_relationship.weight.*\): train the model first"):
        load_trained(path, TASKS)


def test_loading_errors_name_no_flags_of_other_scripts(saved, tmp_path):
    with pytest.raises(UserError, match=r"^nowhere: no model: give a folder with a config.json"):
        load_trained("nowhere", TASKS)
    GPT2Config(n_layer=1, n_embd=8, n_head=1).save_pretrained(tmp_path / "gpt2")
    with pytest.raises(UserError, match=f"^{tmp_path}/gpt2: gpt2 has no masked-language-modelling head: use an enco"):
        load_trained(str(tmp_path / "gpt2"), TASKS)
    path = saved("bert", AutoModelForMaskedLM)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (tmp_path / path / name).unlink()
    with pytest.raises(UserError, match=f"^{path}: no tokenizer could be loaded .*\\)$"):
        load_trained(path, TASKS)


class Evil:
    def __init__(self, path):
        self.path = str(path)

    def __reduce__(self):
        return open, (self.path, "w")


def test_loading_executes_neither_pickles_nor_remote_code(saved, tmp_path):
    path = tmp_path / saved("bert", AutoModelForMaskedLM)
    (path / "model.safetensors").unlink()
    torch.save({"bert.embeddings.word_embeddings.weight": Evil(tmp_path / "executed")}, path / "pytorch_model.bin")
    with pytest.raises(UserError, match=f"^{path}: the weights cannot be loaded"):
        load_trained(str(path), TASKS)
    (path / "config.json").write_text('{"model_type": "mine", "auto_map": {"AutoConfig": "code.Config"}}')
    (path / "code.py").write_text(f"open({str(tmp_path / 'executed')!r}, 'w')\nclass Config: pass\n")
    with pytest.raises(UserError, match=f"^{path} needs custom Python code, which is not run by default$"):
        load_trained(str(path), TASKS)
    assert not (tmp_path / "executed").exists()


def test_session_fills_masks_as_the_command_line_does(saved, run_mlm_script, tmp_path):
    texts = ["The [MASK] is [MASK].", "The moon is far away. " * 30 + "The [MASK] is far away. " * 3]
    (tmp_path / "lines.txt").write_text("\n".join(texts))
    path = saved("bert", AutoModelForMaskedLM)
    argv = ("--model_name_or_path", path, "--do_predict", "--test_file", tmp_path / "lines.txt")
    assert run_mlm_script(*argv, "--output_dir", tmp_path / "out")[0] == 0
    trained = load_trained(path, TASKS)
    lines = [json.loads(line) for line in (tmp_path / "out" / "predictions.jsonl").read_text().splitlines()]
    for text, line in zip(texts, lines, strict=True):
        found = fill_masks_in_text(trained, text, 5)
        assert len(found) == text.count("[MASK]")
        for mask, expected in zip(found, line["fillings"], strict=True):
            assert [filling.token for filling in mask] == [filling["token"] for filling in expected]
            probabilities = [filling["probability"] for filling in expected]
            assert [filling.probability for filling in mask] == pytest.approx(probabilities, abs=1e-6)


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("", "The text is empty: write some words"),
        (" \n", "The text is empty: write some words"),
        ("[MASK] \ud83d", "The text contains an unpaired surrogate"),
        ("The moon is far.", r"No word is hidden: write \[MASK\]"),
        ("The [mask] is far.", r"No word is hidden: write \[MASK\]"),
        ("[MASK] " * (MAX_MASKS + 1), "21 words are hidden: hide at most 20"),
        ("[MASK]" + "x" * MAX_CHARACTERS, "The text has 20,006 characters: shorten it to 20,000"),
    ],
)
def test_session_reports_texts_it_cannot_fill(text, problem, saved):
    with pytest.raises(UserError, match=problem):
        fill_masks_in_text(load_trained(saved("bert", AutoModelForMaskedLM), TASKS), text, 5)


@pytest.mark.parametrize(
    ("family", "auto_model"),
    [
        ("bert", AutoModelForNextSentencePrediction),
        ("bert", AutoModelForPreTraining),
        ("fnet", AutoModelForNextSentencePrediction),
    ],
)
def test_session_judges_pairs_as_the_command_line_does(family, auto_model, saved, run_nsp_script, tmp_path):
    pairs = [("The moon is far.", "It is cold there."), ("The moon is far. " * 30, "Salt melts ice.")]
    rows = (json.dumps({"sentence_a": a, "sentence_b": b}) for a, b in pairs)
    (tmp_path / "pairs.jsonl").write_text("\n".join(rows))
    path = saved(family, auto_model)
    argv = ("--model_name_or_path", path, "--do_predict", "--test_file", tmp_path / "pairs.jsonl")
    assert run_nsp_script(*argv, "--output_dir", tmp_path / "out")[0] == 0
    lines = (tmp_path / "out" / "predictions.jsonl").read_text().splitlines()
    expected = [json.loads(line)["not_next_probability"] for line in lines]
    trained = load_trained(path, TASKS)
    found = [judge_texts(trained, *pair) for pair in pairs]
    assert [probability for probability, _ in found] == pytest.approx(expected, abs=1e-6)
    # A hundred times the tolerance: random weights differ little, and depend on a vocabulary trained in each process.
    assert abs(expected[0] - expected[1]) > 1e-4
    assert [cut for _, cut in found] == [False, True]


@pytest.mark.parametrize(
    ("pair", "problem"),
    [
        (("The moon is far.", " "), "The text is empty: write some words"),
        (("x" * (MAX_CHARACTERS + 1), "The moon is far."), "The text has 20,001 characters: shorten it"),
        (("The moon is far.", "\u200b"), "The pair: the tokenizer finds no token in one of the two texts"),
    ],
)
def test_session_reports_pairs_it_cannot_judge(pair, problem, saved):
    with pytest.raises(UserError, match=problem):
        judge_texts(load_trained(saved("bert", AutoModelForNextSentencePrediction), TASKS), *pair)


def test_model_names_are_the_shortest_unique_path_ends(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    for folder in ("one/out", "two/out", "two/other", "hub/model"):
        (tmp_path / folder).mkdir(parents=True)
    names = ["one/out", f"{tmp_path}/two/out", "./two/other", "two/../one/out", "google/bert", "else/model"]
    assert short_names(names) == {
        "one/out": "one/out",
        "two/out": f"{tmp_path}/two/out",
        "other": "./two/other",
        "google/bert": "google/bert",
        "else/model": "else/model",
    }
    assert short_names(["."]) == {tmp_path.name: "."}
    assert list(short_names(["x/hub/model", "hub/model"]).values()) == ["x/hub/model", "hub/model"]
