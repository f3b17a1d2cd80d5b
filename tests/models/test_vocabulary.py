"""The weights of tokens added to a tokenizer are the mean over the weights of their pieces."""

import copy
import json
import shutil

import pytest
import torch
from transformers import AutoModelForMaskedLM, AutoModelForPreTraining, BertTokenizer, XLMRobertaTokenizer

from cloze.config.arguments import ModelArguments
from cloze.errors import UserError
from cloze.inference.session import fill_masks_in_text, load_trained
from cloze.models.loading import load_config, load_model
from cloze.models.sparse_prediction import predict_masked_positions
from cloze.models.vocabulary import find_rows
from cloze.objectives.metrics import MASKED_TOKENS
from cloze.tasks.masked_lm import MASKED_LM
from cloze.tasks.pretraining import PRETRAINING
from cloze.tokenization.added_words import add_words
from cloze.tokenization.loading import load_tokenizer
from tests.utils import FAMILIES, PAIR_FAMILIES, TASKS

WORDS = ["tidepools", "remdesivir"]


@pytest.fixture
def longer(tokenizers, tmp_path):
    """``longer(kind, words)`` is the path of a tokenizer with words added."""

    def make(kind="wordpiece", words=WORDS):
        tokenizer = copy.deepcopy(tokenizers[kind])
        tokenizer.add_tokens(words)
        tokenizer.save_pretrained(tmp_path / "longer")
        return str(tmp_path / "longer")

    return make


def found(model_path, tokenizer_path=None, task=MASKED_LM):
    """Arguments, config and new tokens, as in set_up."""
    model_args = ModelArguments(model_name_or_path=str(model_path), tokenizer_name=tokenizer_path)
    config = load_config(model_args, task)
    return model_args, config, find_rows(model_args, config, load_tokenizer(model_args, None))


def resized(model_path, tokenizer_path, task):
    model_args, config, rows = found(model_path, tokenizer_path, task)
    return load_model(model_args, config, task, 0, rows)


CASES = [pytest.param(MASKED_LM, family, id=family) for family in FAMILIES | PAIR_FAMILIES]
CASES += [pytest.param(PRETRAINING, family, id=f"{family}-both") for family in PAIR_FAMILIES]


@pytest.mark.parametrize(("task", "family"), CASES)
def test_new_token_weights_are_the_mean_of_their_pieces(task, family, checkpoint_with_biases, longer, tmp_path):
    """In embeddings, head and biases of each architecture, also after saving and loading."""
    path = checkpoint_with_biases(family, task)
    kind = (FAMILIES | PAIR_FAMILIES)[family][0]
    model = resized(path, longer(kind), task)
    own = load_tokenizer(ModelArguments(model_name_or_path=path), None)
    model_args, config, _ = found(path, task=task)
    before = load_model(model_args, config, task, 0).state_dict()
    grown = 0
    for name, weights in model.state_dict().items():
        assert 500 not in weights.shape
        if 502 in weights.shape:
            grown += 1
            dim = weights.shape.index(502)
            assert torch.equal(weights.narrow(dim, 0, 500), before[name])
            for number, word in enumerate(WORDS, 500):
                pieces = own(word, add_special_tokens=False)["input_ids"]
                assert len(pieces) > 2
                expected = torch.stack([before[name].select(dim, piece) for piece in pieces]).mean(0)
                torch.testing.assert_close(weights.select(dim, number), expected)
    assert grown == sum(500 in weights.shape for weights in before.values()) >= 3
    model.save_pretrained(tmp_path / "saved")
    saved, loading = task.auto_model.from_pretrained(tmp_path / "saved", output_loading_info=True)
    assert not any(loading.values())
    assert saved.config.vocab_size == 502
    predict_masked_positions(saved, MASKED_TOKENS.logits, 16)
    logits = MASKED_TOKENS.logits_of(saved(torch.tensor([[500, 501, 7]]), masked_positions=torch.tensor([1])))
    assert logits.shape == (1, 1, 502)


MARKS = {"wordpiece": "", "byte_level": "\N{LATIN CAPITAL LETTER G WITH DOT ABOVE}", "unigram": "\u2581"}


@pytest.mark.parametrize("family", [*FAMILIES, "xlm-roberta"])
def test_weights_of_words_in_the_vocabulary_are_the_mean_of_their_pieces(family, checkpoint_with_biases, tmp_path):
    """With the mark of a word's beginning, in input rows, output rows and biases."""
    path = xlm_roberta(checkpoint_with_biases, tmp_path) if family == "xlm-roberta" else None
    path = path or checkpoint_with_biases(family, MASKED_LM)
    mark = MARKS[FAMILIES[family][0] if family in FAMILIES else "unigram"]
    model_args, config, _ = found(path)
    own = load_tokenizer(model_args, None)
    size, words = len(own), [f"{mark}{word}" for word in WORDS]
    rows = find_rows(model_args, config, add_words(own, words), own)
    before = load_model(model_args, config, MASKED_LM, 0).state_dict()
    grown = {name: each for name, each in resized_to(rows, path).items() if each.shape != before[name].shape}
    assert len(grown) >= 3
    for number, word in enumerate(words, size):
        pieces = [piece.id for piece in own.backend_tokenizer.model.tokenize(word)]
        assert len(pieces) > 1
        for name, weights in grown.items():
            dim = weights.shape.index(size + 2)
            expected = before[name].index_select(dim, torch.tensor(pieces)).double().mean(dim)
            torch.testing.assert_close(weights.select(dim, number).double(), expected, rtol=0, atol=1e-6)
            assert torch.equal(weights.narrow(dim, 0, size), before[name])


def resized_to(rows, path):
    model_args, config, _ = found(path)
    return load_model(model_args, config, MASKED_LM, 0, rows).state_dict()


def xlm_roberta(checkpoint_with_biases, tmp_path):
    """Make a checkpoint with the weights of roberta, and a vocabulary of Unigram."""
    path = checkpoint_with_biases("roberta", MASKED_LM)
    settings = json.loads((tmp_path / "biased" / "config.json").read_text())
    (tmp_path / "biased" / "config.json").write_text(json.dumps(settings | {"model_type": "xlm-roberta"}))
    special = [(token, 0.0) for token in ("<s>", "<pad>", "</s>", "<unk>")]
    pieces = [(f"{mark}{letter}", -6.0) for mark in ("", "\u2581") for letter in "abcdefghijklmnopqrstuvwxyz"]
    rest = [(f"\u2581unused{number}", -9.0) for number in range(500 - len(special + pieces) - 1)]
    for file in tmp_path.glob("biased/*token*"):
        file.unlink()
    XLMRobertaTokenizer(vocab=[*special, *pieces, *rest, ("<mask>", 0.0)]).save_pretrained(path)
    return path


@pytest.fixture
def checkpoint_with_biases(checkpoint, pair_checkpoint, tmp_path):
    """Checkpoints without zeros, so that means differ."""

    def make(family, task):
        path = tmp_path / "biased"
        shutil.copytree((checkpoint if task is MASKED_LM else pair_checkpoint)(family), path)
        auto_model = AutoModelForMaskedLM if task is MASKED_LM else AutoModelForPreTraining
        model = auto_model.from_pretrained(path)
        with torch.no_grad():
            for weights in model.parameters():
                weights.add_(torch.randn_like(weights))
        model.save_pretrained(path)
        return str(path)

    return make


@pytest.mark.parametrize("kind", ["wordpiece", "byte_level", "unigram"])
def test_tokenizer_longer_than_its_model_is_accepted(kind, checkpoint, longer, tmp_path):
    """transformers#1413: the pieces equal those of the model's own tokenizer in a folder of its own."""
    family = {"wordpiece": "bert", "byte_level": "roberta", "unigram": "albert"}[kind]
    tokenizer = longer(kind)
    apart = found(checkpoint(family), tokenizer)[2]
    shutil.copytree(checkpoint(family), tmp_path / "both")
    shutil.copytree(tokenizer, tmp_path / "both", dirs_exist_ok=True)
    assert found(tmp_path / "both")[2] == apart
    assert apart.new == dict(enumerate(WORDS, 500))
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (tmp_path / "both" / name).unlink()
    assert found(tmp_path / "both", tokenizer)[2] == apart, "of a model without a tokenizer"


def test_longer_vocabulary_file_adds_tokens(checkpoint, tokenizers, tmp_path):
    """Words appended to vocab.txt are not among the tokenizer's added tokens."""
    vocabulary = tokenizers["wordpiece"].get_vocab() | {"tidepools": 500, "##pools": 501}
    BertTokenizer(vocab=vocabulary, do_lower_case=False).save_pretrained(tmp_path / "longer")
    rows = found(checkpoint("bert"), str(tmp_path / "longer"))[2]
    assert rows.new == {500: "tidepools", 501: "pools"}
    own = tokenizers["wordpiece"]
    assert rows.pieces[500] == own("tidepools", add_special_tokens=False)["input_ids"]
    inside = own.convert_ids_to_tokens(rows.pieces[501])
    assert all(piece.startswith("##") for piece in inside)
    assert own.convert_tokens_to_string(["a", *inside]) == "apools"
    shutil.copytree(checkpoint("bert"), tmp_path / "both")
    shutil.copytree(tmp_path / "longer", tmp_path / "both", dirs_exist_ok=True)
    with pytest.raises(
        UserError, match=r"both: the tokenizer has 502 tokens, the model's .* as --tokenizer_name\), or train"
    ):
        found(tmp_path / "both")


def test_tokens_without_known_pieces_get_the_overall_mean(checkpoint, longer, caplog):
    caplog.set_level("INFO", "cloze")
    model = resized(checkpoint("bert"), longer(words=["tidepools", "\u2603"]), MASKED_LM)
    weights = model.get_input_embeddings().weight
    torch.testing.assert_close(weights[501], weights[:500].mean(0))
    assert caplog.messages[-2] == (
        "Vocabulary: 2 new tokens (tidepools, \u2603) get the mean weights of their pieces; 1 without known pieces: "
        "the mean of all tokens"
    )


def test_embedding_with_spare_rows_is_not_resized(checkpoint, longer):
    """For example an embedding rounded up for the GPU."""
    model_args, config, _ = found(checkpoint("bert"))
    config.vocab_size = 512
    tokenizer = load_tokenizer(ModelArguments(model_name_or_path=longer()), None)
    assert find_rows(model_args, config, tokenizer) is None


def test_words_added_to_the_own_tokenizer_take_spare_rows(checkpoint, tokenizers):
    """The spare rows were never trained."""
    model_args, config, _ = found(checkpoint("bert"))
    config.vocab_size = 512
    own = tokenizers["wordpiece"]
    rows = find_rows(model_args, config, add_words(own, WORDS), own)
    assert rows.new == dict(enumerate(WORDS, 500))
    assert rows.pieces[500:502] == own(WORDS, add_special_tokens=False)["input_ids"]
    assert rows.pieces[:500] + rows.pieces[502:] == [[number] for number in range(512) if number not in (500, 501)]
    assert find_rows(model_args, config, own, own) is None


def test_different_tokenizer_is_not_an_extension(checkpoint, longer, tokenizers, tmp_path, caplog):
    tokenizer = longer("unigram")
    with pytest.raises(UserError, match=r"longer: the tokenizer has 502 tokens.*: use the model's own"):
        found(checkpoint("bert"), tokenizer)
    tokenizers["unigram"].save_pretrained(tmp_path / "other")
    assert found(checkpoint("bert"), str(tmp_path / "other"))[2] is None
    assert f"--tokenizer_name {tmp_path / 'other'} does not fit the model's embeddings: " in caplog.text
    assert f"of the 500 tokens of {checkpoint('bert')} have a different id or none; leave the flag out" in caplog.text
    caplog.clear()
    assert found(checkpoint("bert"), checkpoint("bert"))[2] is None
    assert "does not fit the model's embeddings" not in caplog.text


def test_resized_model_resumes_exactly_and_predicts(checkpoint, longer, run_mlm_script, tmp_path):
    text = tmp_path / "text.txt"
    text.write_text("\n".join(f"The tidepools of day {number} are [MASK]." for number in range(24)))
    tokenizer = longer()
    argv = ("--model_name_or_path", checkpoint("bert"), "--tokenizer_name", tokenizer, "--train_file", text,
            "--do_train", "--max_steps", 2, "--save_steps", 1, "--max_seq_length", 32)  # fmt: skip
    whole, resumed = tmp_path / "whole", tmp_path / "resumed"
    assert run_mlm_script(*argv, "--output_dir", whole)[0] == 0
    shutil.copytree(whole / "checkpoint-1", resumed / "checkpoint-1")
    assert f"Resuming from {resumed}/checkpoint-1" in run_mlm_script(*argv, "--output_dir", resumed)[1]
    assert (whole / "model.safetensors").read_bytes() == (resumed / "model.safetensors").read_bytes()
    trained = load_trained(str(whole), TASKS)
    assert trained.model.config.vocab_size == len(trained.tokenizer) == 502
    shutil.copytree(checkpoint("bert"), tmp_path / "both")
    shutil.copytree(tokenizer, tmp_path / "both", dirs_exist_ok=True)
    assert len(fill_masks_in_text(load_trained(str(tmp_path / "both"), TASKS), "The [MASK] of tidepools.", 5)[0]) == 5
