"""Tiny tokenizers and models made in-process; no network, and caches of our own."""

import copy
import os
import tempfile
from pathlib import Path

# Read by the libraries when they are imported.
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["HF_HOME"] = tempfile.mkdtemp(prefix="cloze-tests-")
os.environ["CUDA_VISIBLE_DEVICES"] = ""

import pytest
import torch
from transformers import (
    CONFIG_MAPPING,
    AutoModelForMaskedLM,
    AutoModelForPreTraining,
    BertTokenizer,
    DebertaV2Tokenizer,
    RobertaTokenizer,
)

import run_classification
import run_mlm
import run_nsp
import run_pretraining
from cloze import report
from cloze.commandline import run_script
from cloze.modeling import fit_config

# Models this small gain nothing from threads, which on a busy machine wait for each other.
torch.set_num_threads(1)

SAMPLE = Path(__file__).parent.parent / "sample"

# Two layers of 16, small enough to train in a moment; no dropout, so that runs can be compared.
NO_DROPOUT = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
BERT_LIKE = {
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 32,
    "max_position_embeddings": 66,
}
FAMILIES = {
    "bert": ("wordpiece", BERT_LIKE | NO_DROPOUT),
    "distilbert": (
        "wordpiece",
        {
            "dim": 16,
            "n_layers": 2,
            "n_heads": 2,
            "hidden_dim": 32,
            "max_position_embeddings": 66,
            "dropout": 0.0,
            "attention_dropout": 0.0,
        },
    ),
    "roberta": ("byte_level", BERT_LIKE | NO_DROPOUT),
    "electra": ("wordpiece", BERT_LIKE | NO_DROPOUT | {"embedding_size": 16}),
    "albert": ("unigram", BERT_LIKE | NO_DROPOUT | {"embedding_size": 8}),
    "modernbert": ("byte_level", BERT_LIKE | {"max_position_embeddings": 64, "local_attention": 16}),
    "deberta-v2": (
        "unigram",
        BERT_LIKE | NO_DROPOUT | {"relative_attention": True, "pos_att_type": ["p2c", "c2p"], "position_buckets": 16},
    ),
}
# Those with heads for masked tokens and for pairs; FNet knows neither attention nor its dropout.
PAIR_FAMILIES = {
    "bert": FAMILIES["bert"],
    "ernie": ("wordpiece", BERT_LIKE | NO_DROPOUT),
    "fnet": (
        "wordpiece",
        {name: value for name, value in BERT_LIKE.items() if name != "num_attention_heads"}
        | {"hidden_dropout_prob": 0.0},
    ),
    "megatron-bert": ("wordpiece", BERT_LIKE | NO_DROPOUT),
    "mobilebert": (
        "wordpiece",
        BERT_LIKE | NO_DROPOUT | {"embedding_size": 8, "intra_bottleneck_size": 16, "num_feedforward_networks": 1},
    ),
    "albert": FAMILIES["albert"],
    "big_bird": ("unigram", BERT_LIKE | NO_DROPOUT | {"attention_type": "original_full"}),
}


@pytest.fixture(autouse=True)
def figures_only_where_they_are_looked_at(request, monkeypatch):
    """To draw the curves of a run takes longer than to train a model this small: tests that need them are marked."""
    if request.node.get_closest_marker("curves") is None:
        monkeypatch.setattr(report, "draw_curves", lambda history, best_step, figures, path: path.touch())


@pytest.fixture(scope="session")
def texts():
    return [line for path in sorted(SAMPLE.glob("*.txt")) for line in path.read_text().splitlines() if line]


@pytest.fixture(scope="session")
def tokenizers(texts):
    """One small tokenizer of each kind: wordpiece, byte_level, unigram."""
    kinds = {"wordpiece": BertTokenizer, "byte_level": RobertaTokenizer, "unigram": DebertaV2Tokenizer}
    return {name: kind().train_new_from_iterator([texts], vocab_size=500) for name, kind in kinds.items()}


def truncating(tokenizer):
    """A tokenizer.json may come with truncation and padding switched on."""
    tokenizer = copy.deepcopy(tokenizer)
    tokenizer.backend_tokenizer.enable_truncation(8)
    tokenizer.backend_tokenizer.enable_padding(length=64)
    return tokenizer


def checkpoint_maker(auto_model, tokenizers, folder):
    """``make(family)`` is the path of a tiny model with random weights and its tokenizer, made once."""

    def make(family: str) -> str:
        path = folder / family
        if not path.exists():
            kind, settings = (FAMILIES | PAIR_FAMILIES)[family]
            config = CONFIG_MAPPING[family](**settings)
            fit_config(config, tokenizers[kind])
            torch.manual_seed(0)
            auto_model.from_config(config).save_pretrained(path)
            tokenizers[kind].save_pretrained(path)
        return str(path)

    return make


@pytest.fixture(scope="session")
def checkpoint(tokenizers, tmp_path_factory):
    """``checkpoint(family)`` has a head for masked tokens."""
    return checkpoint_maker(AutoModelForMaskedLM, tokenizers, tmp_path_factory.mktemp("checkpoints"))


@pytest.fixture(scope="session")
def pair_checkpoint(tokenizers, tmp_path_factory):
    """``pair_checkpoint(family)`` has the heads for masked tokens and for pairs, of one of PAIR_FAMILIES."""
    return checkpoint_maker(AutoModelForPreTraining, tokenizers, tmp_path_factory.mktemp("pair-checkpoints"))


def driver(main, capsys):
    """Drive a script as from the command line; gives its exit code, stdout and stderr."""

    def run(*argv) -> tuple[int, str, str]:
        code = 0
        try:
            run_script(main, [str(argument) for argument in argv])
        except SystemExit as exit_:
            code = exit_.code
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return run


@pytest.fixture
def run_mlm_script(capsys):
    return driver(run_mlm.main, capsys)


@pytest.fixture
def run_classification_script(capsys):
    return driver(run_classification.main, capsys)


@pytest.fixture
def run_nsp_script(capsys):
    return driver(run_nsp.main, capsys)


@pytest.fixture
def run_pretraining_script(capsys):
    return driver(run_pretraining.main, capsys)
