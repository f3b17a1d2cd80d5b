"""The weights of new tokens, added or of another tokenizer, are the mean over the weights of their pieces."""

import copy
import json
import shutil

import pytest
import torch
from tokenizers import Tokenizer, models
from tokenizers.pre_tokenizers import ByteLevel
from tokenizers.processors import RobertaProcessing
from transformers import (
    AutoModelForMaskedLM,
    AutoModelForPreTraining,
    BertConfig,
    BertTokenizer,
    ModernBertConfig,
    ModernBertForMaskedLM,
    PreTrainedTokenizerFast,
    RobertaTokenizer,
    XLMRobertaConfig,
    XLMRobertaForMaskedLM,
    XLMRobertaTokenizer,
)

from cloze.config.arguments import ModelArguments
from cloze.errors import UserError
from cloze.inference.session import fill_masks_in_text, load_trained
from cloze.models.loading import load_config, load_model, sync_config_with_tokenizer
from cloze.models.sparse_prediction import predict_masked_positions
from cloze.models.vocabulary import find_rows
from cloze.objectives.metrics import MASKED_TOKENS
from cloze.tasks.masked_lm import MASKED_LM
from cloze.tasks.pretraining import PRETRAINING
from cloze.text.corpus import FileCorpus
from cloze.tokenization.loading import load_tokenizer
from cloze.tokenization.replacement import replace_tokenizer
from tests.utils import BERT_LIKE, FAMILIES, PAIR_FAMILIES, SAMPLE, TASKS

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


@pytest.mark.parametrize(("task", "family"), CASES)
def test_rows_of_another_vocabulary_are_kept_or_means(task, family, checkpoint_with_biases, other, tmp_path):
    """A vocabulary of the same size and of a smaller one, in each architecture, also after saving and loading."""
    path = checkpoint_with_biases(family, task)
    own = load_tokenizer(ModelArguments(model_name_or_path=path), None)
    model_args, config, _ = found(path, task=task)
    before = load_model(model_args, config, task, 0).state_dict()
    for size in (500, 423):
        tokenizer = other((FAMILIES | PAIR_FAMILIES)[family][0], size)
        config = load_config(model_args, task)
        rows = find_rows(model_args, config, tokenizer, own)
        model = load_model(model_args, config, task, 0, rows)
        kept = tokenizer.get_vocab().keys() & own.get_vocab().keys()
        assert len(rows.pieces) == model.config.vocab_size == len(tokenizer) == size
        assert 50 < len(kept) == size - len(rows.new) <= size - 5
        changed = [name for name, weights in before.items() if 500 in weights.shape]
        assert len(changed) >= 3
        for name in changed:
            dim = before[name].shape.index(500)
            after = model.state_dict()[name].movedim(dim, 0)
            assert len(after) == size
            old, new = ([each.get_vocab()[token] for token in kept] for each in (own, tokenizer))
            assert torch.equal(after[new], before[name].movedim(dim, 0)[old])
            means = torch.stack([before[name].movedim(dim, 0)[rows.pieces[number]].mean(0) for number in rows.new])
            torch.testing.assert_close(after[list(rows.new)], means, atol=1e-6, rtol=1e-6)
        model.save_pretrained(tmp_path / str(size))
        saved, loading = task.auto_model.from_pretrained(tmp_path / str(size), output_loading_info=True)
        assert not any(loading.values())
        assert all(torch.equal(weights, model.state_dict()[name]) for name, weights in saved.state_dict().items())
        assert saved.config.pad_token_id == tokenizer.pad_token_id == own.pad_token_id
        assert saved.get_input_embeddings().padding_idx == model.get_input_embeddings().padding_idx


@pytest.fixture(scope="session")
def other(tokenizers, tmp_path_factory):
    """``other(kind, size)`` is a tokenizer like the checkpoint's, trained on half of its text."""
    corpus = FileCorpus((SAMPLE / "music.txt", SAMPLE / "oceans.txt"))
    cache = tmp_path_factory.mktemp("other-tokenizers")
    return lambda kind, size: replace_tokenizer(tokenizers[kind], [corpus], size, None, cache, overwrite=False)


def test_special_tokens_that_move_take_config_and_padding_along(tokenizers, tmp_path):
    """ModernBERT has its special tokens at the end, and a padding index in its embeddings."""
    own = RobertaTokenizer()
    letters = {letter: number for number, letter in enumerate(sorted(ByteLevel.alphabet()))}
    names = {
        "bos_token": "<s>",
        "eos_token": "</s>",
        "pad_token": "<pad>",
        "unk_token": "<unk>",
        "mask_token": "<mask>",
    }
    vocabulary = letters | {name: number for number, name in enumerate(names.values(), 400)}
    backend = Tokenizer(models.BPE(vocabulary, []))
    backend.pre_tokenizer, backend.decoder = own.backend_tokenizer.pre_tokenizer, own.backend_tokenizer.decoder
    backend.post_processor = RobertaProcessing(("</s>", 401), ("<s>", 400))
    own = PreTrainedTokenizerFast(tokenizer_object=backend, cls_token="<s>", sep_token="</s>", **names)
    config = ModernBertConfig(**FAMILIES["modernbert"][1], vocab_size=405)
    sync_config_with_tokenizer(config, own)
    ModernBertForMaskedLM(config).save_pretrained(tmp_path / "model")
    own.save_pretrained(tmp_path / "model")
    tokenizer = replace_tokenizer(own, [FileCorpus((SAMPLE / "music.txt",))], 300, None, tmp_path, False)
    assert [tokenizer.convert_tokens_to_ids(name) for name in names.values()] == [295, 296, 297, 298, 299]
    assert [tokenizer("a")["input_ids"][number] for number in (0, -1)] == [295, 296]
    model_args = ModelArguments(model_name_or_path=str(tmp_path / "model"))
    config = load_config(model_args, MASKED_LM)
    rows = find_rows(model_args, config, tokenizer, own)
    assert rows.pieces[295:] == [[400], [401], [402], [403], [404]]
    model = load_model(model_args, config, MASKED_LM, 0, rows)
    ids = [model.config.bos_token_id, model.config.eos_token_id, model.config.pad_token_id, model.config.cls_token_id]
    assert ids == [295, 296, 297, 295]
    assert model.get_input_embeddings().padding_idx == 297


def test_xlm_roberta_keeps_the_ids_that_count_positions(tokenizers, tmp_path):
    """Its mask is the last token, and moves with the size; its padding, 1, does not."""
    pieces = sorted(tokenizers["unigram"].get_vocab().keys() - set(tokenizers["unigram"].all_special_tokens))
    special = [(token, 0.0) for token in ("<s>", "<pad>", "</s>", "<unk>")]
    own = XLMRobertaTokenizer(vocab=[*special, *((piece, -6.0) for piece in pieces), ("<mask>", 0.0)])
    config = XLMRobertaConfig(**BERT_LIKE, vocab_size=len(own))
    sync_config_with_tokenizer(config, own)
    XLMRobertaForMaskedLM(config).save_pretrained(tmp_path / "model")
    tokenizer = replace_tokenizer(own, [FileCorpus((SAMPLE / "music.txt",))], 300, None, tmp_path, False)
    model_args = ModelArguments(model_name_or_path=str(tmp_path / "model"))
    config = load_config(model_args, MASKED_LM)
    before = load_model(model_args, config, MASKED_LM, 0)
    rows = find_rows(model_args, config, tokenizer, own)
    assert rows.pieces[:4] == [[0], [1], [2], [3]]
    assert rows.pieces[tokenizer.mask_token_id] == [own.mask_token_id] != [tokenizer.mask_token_id]
    model = load_model(model_args, load_config(model_args, MASKED_LM), MASKED_LM, 0, rows).eval()
    kept = [number for number in range(4, 300) if number not in rows.new][:5]
    ids = torch.tensor([[0, *kept, 2, 1, 1]])
    old = torch.tensor([[rows.pieces[number][0] for number in ids[0].tolist()]])
    mask = (ids != 1).long()
    states = model.base_model(ids, attention_mask=mask)[0], before.eval().base_model(old, attention_mask=mask)[0]
    assert torch.equal(*states), "the encoder sees the same"


@pytest.mark.parametrize(
    ("kind", "token"), [("wordpiece", "tidepools"), ("byte_level", "\u0120tidepools"), ("unigram", "\u2581tidepools")]
)
def test_pieces_keep_the_mark_of_a_word(kind, token, tokenizers, tmp_path):
    """For example, the piece of a word's beginning is the one with the space before it."""
    own = tokenizers[kind]
    settings = json.loads(own.backend_tokenizer.to_str())
    vocabulary = settings["model"]["vocab"]
    if kind == "unigram":
        vocabulary[:] = [[token, -1.0] if each[0] == "\u2581the" else each for each in vocabulary]
    else:
        number = vocabulary.pop("the" if kind == "wordpiece" else "\u0120of")
        vocabulary[token] = number
        settings["model"].get("merges", [])[:] = []
    changed = PreTrainedTokenizerFast(tokenizer_object=Tokenizer.from_str(json.dumps(settings)))
    config = BertConfig(vocab_size=500)
    rows = find_rows(ModelArguments(model_name_or_path="there"), config, changed, own)
    assert list(rows.new.values()) == ["tidepools"]
    pieces = own.convert_ids_to_tokens(rows.pieces[next(iter(rows.new))])
    assert "".join(pieces).replace("##", "") == token
    assert pieces == own.tokenize(" tidepools")


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
