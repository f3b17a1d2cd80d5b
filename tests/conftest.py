"""Fixtures: tiny tokenizers and models made in-process; no network, and caches of our own."""

import gc
import os
import tempfile

# Read by the libraries when they are imported.
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["HF_HOME"] = tempfile.mkdtemp(prefix="cloze-tests-")
os.environ["CUDA_VISIBLE_DEVICES"] = ""

import pytest
import torch
from transformers import (
    AutoModelForCausalLM,
    AutoModelForMaskedLM,
    AutoModelForPreTraining,
    DebertaV2Tokenizer,
    GPT2Tokenizer,
    RobertaTokenizer,
    XLNetConfig,
    XLNetLMHeadModel,
)

import run_classification
import run_clm
import run_mlm
import run_nsp
import run_plm
import run_pretraining
from cloze.text.corpus import FileCorpus
from cloze.tokenization.training import train_unigram, train_wordpiece
from tests.utils import EXTRAS, SAMPLE, XLNET, checkpoint_maker, driver

# Models this small gain nothing from threads, which on a busy machine wait for each other.
torch.set_num_threads(1)


def pytest_ignore_collect(collection_path, config):
    """Leave out the page's tests where slow ones are deselected: gradio and selenium need not be installed."""
    return True if collection_path.name == "app" and config.option.markexpr == "not slow" else None


def pytest_collection_finish():
    """Spare the imported libraries from garbage collection: the Trainer asks for one in each run, of 0.3 seconds."""
    gc.collect()
    gc.freeze()


@pytest.fixture(autouse=True)
def _no_slow_extras(request, monkeypatch):
    """Skip what takes longer than training a tiny model, unless marked: curves, waiting for the disk, FLOPs."""
    for name, skip in EXTRAS.items():
        if request.node.get_closest_marker(name) is None:
            skip(monkeypatch.setattr)


@pytest.fixture(scope="session")
def texts():
    return [line for path in sorted(SAMPLE.glob("*.txt")) for line in path.read_text().splitlines() if line]


@pytest.fixture(scope="session")
def tokenizers(texts):
    """One small tokenizer of each kind: wordpiece, byte_level, unigram, gpt2; the same in every process.

    The library's trainers of WordPiece and Unigram break ties in the order of a hash map, which differs by process.
    """
    unigram = DebertaV2Tokenizer().train_new_from_iterator([texts], vocab_size=500)
    pieces = sorted(unigram.get_vocab().keys() - set(unigram.all_special_tokens))
    special = [(token, 0.0) for token in ("[PAD]", "[UNK]", "[SEP]", "[CLS]", "[MASK]")]
    return {
        "wordpiece": train_wordpiece([FileCorpus(tuple(sorted(SAMPLE.glob("*.txt"))))], 500, lower_case=True),
        "byte_level": RobertaTokenizer().train_new_from_iterator([texts], vocab_size=500),
        "unigram": DebertaV2Tokenizer(vocab=special + [(piece, -6.0) for piece in pieces]),
        "gpt2": GPT2Tokenizer().train_new_from_iterator([texts], vocab_size=500),
    }


@pytest.fixture(scope="session")
def xlnet_tokenizer():
    return train_unigram([FileCorpus(tuple(sorted(SAMPLE.glob("*.txt"))))], 500, lower_case=False)


@pytest.fixture(scope="session")
def xlnet(xlnet_tokenizer):
    """``xlnet()`` is a tiny model with random weights, large enough that its predictions differ."""

    def make() -> XLNetLMHeadModel:
        torch.manual_seed(0)
        return XLNetLMHeadModel(XLNetConfig(vocab_size=len(xlnet_tokenizer), initializer_range=0.3, **XLNET)).eval()

    return make


@pytest.fixture(scope="session")
def xlnet_checkpoint(xlnet, xlnet_tokenizer, tmp_path_factory):
    """``xlnet_checkpoint(family)`` has the model and the tokenizer above."""
    path = tmp_path_factory.mktemp("xlnet")
    xlnet().save_pretrained(path)
    xlnet_tokenizer.save_pretrained(path)
    return lambda family: str(path)


@pytest.fixture(scope="session")
def checkpoint(tokenizers, tmp_path_factory):
    """``checkpoint(family)`` has a head for masked tokens."""
    return checkpoint_maker(AutoModelForMaskedLM, tokenizers, tmp_path_factory.mktemp("checkpoints"))


@pytest.fixture(scope="session")
def causal_checkpoint(tokenizers, tmp_path_factory):
    """``causal_checkpoint(family)`` has a head for next tokens, of one of CAUSAL_FAMILIES."""
    return checkpoint_maker(AutoModelForCausalLM, tokenizers, tmp_path_factory.mktemp("causal-checkpoints"))


@pytest.fixture(scope="session")
def pair_checkpoint(tokenizers, tmp_path_factory):
    """``pair_checkpoint(family)`` has the heads for masked tokens and for pairs, of one of PAIR_FAMILIES."""
    return checkpoint_maker(AutoModelForPreTraining, tokenizers, tmp_path_factory.mktemp("pair-checkpoints"))


@pytest.fixture
def run_mlm_script(capsys):
    return driver(run_mlm.main, capsys)


@pytest.fixture
def run_clm_script(capsys):
    return driver(run_clm.main, capsys)


@pytest.fixture
def run_classification_script(capsys):
    return driver(run_classification.main, capsys)


@pytest.fixture
def run_nsp_script(capsys):
    return driver(run_nsp.main, capsys)


@pytest.fixture
def run_plm_script(capsys):
    return driver(run_plm.main, capsys)


@pytest.fixture
def run_pretraining_script(capsys):
    return driver(run_pretraining.main, capsys)
