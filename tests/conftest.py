"""Tiny tokenizers and models made in-process; no network, and caches of our own."""

import os
import tempfile
from pathlib import Path

# Read by the libraries when they are imported.
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["HF_HOME"] = tempfile.mkdtemp(prefix="cloze-tests-")
os.environ["CUDA_VISIBLE_DEVICES"] = ""

import pytest
import torch
from transformers import CONFIG_MAPPING, AutoModelForMaskedLM, BertTokenizer, DebertaV2Tokenizer, RobertaTokenizer

import run_mlm
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


@pytest.fixture(scope="session")
def texts():
    return [line for path in sorted(SAMPLE.glob("*.txt")) for line in path.read_text().splitlines() if line]


@pytest.fixture(scope="session")
def tokenizers(texts):
    """One small tokenizer of each kind: wordpiece, byte_level, unigram."""
    kinds = {"wordpiece": BertTokenizer, "byte_level": RobertaTokenizer, "unigram": DebertaV2Tokenizer}
    return {name: kind().train_new_from_iterator([texts], vocab_size=500) for name, kind in kinds.items()}


@pytest.fixture(scope="session")
def checkpoint(tokenizers, tmp_path_factory):
    """``checkpoint(family)`` is the path of a tiny model with random weights and its tokenizer, made once."""
    folder = tmp_path_factory.mktemp("checkpoints")

    def make(family: str) -> str:
        path = folder / family
        if not path.exists():
            kind, settings = FAMILIES[family]
            config = CONFIG_MAPPING[family](**settings)
            fit_config(config, tokenizers[kind])
            torch.manual_seed(0)
            AutoModelForMaskedLM.from_config(config).save_pretrained(path)
            tokenizers[kind].save_pretrained(path)
        return str(path)

    return make


@pytest.fixture
def run_mlm_script(capsys):
    """Drive run_mlm.py as from the command line; gives its exit code, stdout and stderr."""

    def run(*argv) -> tuple[int, str, str]:
        code = 0
        try:
            run_script(run_mlm.main, [str(argument) for argument in argv])
        except SystemExit as exit_:
            code = exit_.code
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return run
