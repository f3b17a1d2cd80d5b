"""Helpers of the tests: tiny models, and scripts run here or in processes of their own."""

import copy
import errno
import gc
import importlib
import multiprocessing
import os
import signal
import socket
import sys
from collections.abc import Callable, Collection
from datetime import timedelta
from pathlib import Path

import pytest
import torch
from torch.distributed import distributed_c10d
from transformers import CONFIG_MAPPING, AutoModelForCausalLM, AutoTokenizer, pipeline

from cloze.cli import run_script
from cloze.models.flops import Flops
from cloze.models.loading import sync_config_with_tokenizer
from cloze.system.output import tolerate_output_errors
from cloze.tasks.masked_lm import MASKED_LM
from cloze.tasks.next_sentence import NEXT_SENTENCE
from cloze.tasks.pretraining import PRETRAINING

ROOT = Path(__file__).parent.parent
SAMPLE = ROOT / "sample"

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
# Families with heads for masked tokens and for pairs; FNet has no attention, and no dropout of it.
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

# Decoders; they have a tokenizer without a template and without a padding token.
CAUSAL_FAMILIES = {
    "gpt2": (
        "gpt2",
        {
            "n_embd": 16,
            "n_layer": 2,
            "n_head": 2,
            "n_positions": 64,
            "resid_pdrop": 0.0,
            "embd_pdrop": 0.0,
            "attn_pdrop": 0.0,
        },
    )
}
# Of run_plm.py: two layers of 16, without dropout.
XLNET = {"d_model": 16, "n_layer": 2, "n_head": 2, "d_inner": 32, "dropout": 0.0}

# Of app.py.
TASKS = (PRETRAINING, NEXT_SENTENCE, MASKED_LM)


def slow_but(quick: Collection, parameters: Collection) -> list:
    """Return the parameters of a matrix; all but the quick ones are of the slow tier."""
    rows = {each: each if isinstance(each, tuple) else (each,) for each in parameters}
    return [pytest.param(*row, marks=() if each in quick else pytest.mark.slow) for each, row in rows.items()]


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
            kind, settings = (FAMILIES | PAIR_FAMILIES | CAUSAL_FAMILIES)[family]
            config = CONFIG_MAPPING[family](**settings)
            sync_config_with_tokenizer(config, tokenizers[kind])
            torch.manual_seed(0)
            auto_model.from_config(config).save_pretrained(path)
            tokenizers[kind].save_pretrained(path)
        return str(path)

    return make


def driver(main, capsys):
    """Run a script as from the command line; return its exit code, stdout and stderr."""

    def run(*argv) -> tuple[int, str, str]:
        capsys.readouterr()  # what fixtures printed
        code = 0
        try:
            run_script(main, [str(argument) for argument in argv])
        except SystemExit as exit_:
            code = exit_.code
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return run


@torch.no_grad()
def check_card_continues(folder: Path, beginning: str) -> None:
    """Run the code in the model card of a folder: it continues these tokens, as transformers' generate does."""
    begin, end = (line.strip() for line in (folder / "README.md").read_text().split("\n\n    ")[1].splitlines()[:2])
    assert begin == "from transformers import pipeline"
    model, tokenizer = AutoModelForCausalLM.from_pretrained(folder).eval(), AutoTokenizer.from_pretrained(folder)
    ids = torch.tensor([tokenizer(beginning, add_special_tokens=False)["input_ids"]])
    torch.manual_seed(0)
    (found,) = eval(end, {"pipeline": pipeline})
    torch.manual_seed(0)
    # The pipeline's defaults.
    whole = model.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=20, do_sample=True, temperature=0.7)
    # Some tokenizers lower-case, and some drop the space before a word.
    texts = found["generated_text"], tokenizer.decode(whole[0], skip_special_tokens=True)
    new, expected = (text.lower().partition("the moon")[2].strip() for text in texts)
    assert new == expected != ""


def skip_curves(replace: Callable) -> None:
    summary = importlib.import_module("cloze.reporting.summary")
    replace(summary, "draw_curves", lambda history, best_step, figures, sets, path: path.touch())


def skip_fsync(replace: Callable) -> None:
    replace(os, "fsync", lambda descriptor: None)


def skip_flops(replace: Callable) -> None:
    """Neither count the FLOPs of a model nor measure the peak of the device."""
    replace(importlib.import_module("cloze.training.run"), "count_flops", lambda model, masks: Flops(1, 1, 1, 1))
    replace(importlib.import_module("cloze.training.trainer"), "peak_flops", lambda device, dtype: 1e12)


# By the marker of the tests that look at them; each takes setattr or its like.
EXTRAS = {"curves": skip_curves, "fsync": skip_fsync, "flops": skip_flops}


# A server that has imported the scripts; processes are forked from it.
CONTEXT = multiprocessing.get_context("forkserver")
SCRIPTS = ("run_classification", "run_clm", "run_mlm", "run_nsp", "run_pretraining")
# What their main() imports.
MODULES = (
    *("comparison.runner", "reporting.summary", "training.run"),
    *("tasks.causal_lm", "tasks.classification", "tasks.masked_lm", "tasks.pretraining"),
)
CONTEXT.set_forkserver_preload([*SCRIPTS, *(f"cloze.{name}" for name in MODULES), "tests.preload"])


def start(
    script: str, *argv, log: Path, environment: dict[str, str] | None = None, target: Callable | None = None
) -> multiprocessing.Process:
    """Start ``script argv`` in a process whose output goes to the end of a file; ``target`` is called for ``run``."""
    process = CONTEXT.Process(target=target or run, args=(script, list(map(str, argv)), log, environment or {}))
    process.start()
    return process


def start_together(
    script: str, *argv, log: Path, processes: int = 2, patience: float = 600, target: Callable | None = None
) -> list[multiprocessing.Process]:
    """Start processes of one group, as a launcher does; they wait for each other for a limited number of seconds."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    shared = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "WORLD_SIZE": processes, "LOCAL_WORLD_SIZE": processes}
    shared["PATIENCE"] = patience
    return [
        start(
            script,
            *argv,
            "--use_cpu",
            log=log.with_suffix(f".{rank}"),
            environment={name: str(value) for name, value in (shared | {"RANK": rank, "LOCAL_RANK": rank}).items()},
            target=target,
        )
        for rank in range(processes)
    ]


def run(script: str, argv: list[str], log: Path, environment: dict[str, str]) -> None:
    # As in conftest.py.
    gc.freeze()
    for skip in EXTRAS.values():
        skip(setattr)
    output = os.open(log, os.O_CREAT | os.O_WRONLY | os.O_APPEND)
    os.dup2(output, 1)
    os.dup2(output, 2)
    tolerate_output_errors()
    sys.stdout.reconfigure(line_buffering=True)
    # If it is unset, accelerate sets the number of threads of several processes, with a warning.
    os.environ.update(environment | {"OMP_NUM_THREADS": "1"})
    torch.set_num_threads(1)
    # Data-loader workers are forked, as from a command line; otherwise they would have their own server.
    multiprocessing.set_start_method("fork", force=True)
    # --ddp_timeout sets this if there are GPUs.
    distributed_c10d.default_pg_timeout = timedelta(seconds=float(os.environ.get("PATIENCE", 600)))
    module = importlib.import_module(script)
    module.run_script(module.main, argv)


def run_in_own_session(script: str, argv: list[str], log: Path, environment: dict[str, str]) -> None:
    """Run the script in its own process group: a signal to the group reaches only it and its data-loader workers."""
    os.setsid()
    run(script, argv, log, environment)


def run_muon_in_float32(script: str, argv: list[str], log: Path, environment: dict[str, str]) -> None:
    """Run the script; Muon multiplies in float32 also on CPUs that are faster in bfloat16."""
    importlib.import_module("cloze.training.muon").matmul_dtype = lambda device: torch.float32
    run(script, argv, log, environment)


def run_noting_collectives(script: str, argv: list[str], log: Path, environment: dict[str, str]) -> None:
    """Run the script, and write + to a file beside the log before each collective, and - after it."""
    notes = open(log.with_name(f"{log.name}.collectives"), "w", buffering=1)  # noqa: SIM115

    def noting(collective):
        def call(*args, **kwargs):
            notes.write("+\n")
            result = collective(*args, **kwargs)
            notes.write("-\n")
            return result

        return call

    for name in ("barrier", "all_reduce", "all_gather", "broadcast", "all_gather_object", "broadcast_object_list"):
        setattr(torch.distributed, name, noting(getattr(torch.distributed, name)))
    run(script, argv, log, environment)


def run_until_evaluation(script: str, argv: list[str], log: Path, environment: dict[str, str]) -> None:
    """Run the script until, in training, the second process receives a signal in the third batch of an evaluation."""
    trainer_class = importlib.import_module("cloze.training.trainer").PretrainingTrainer
    predict, batches = trainer_class.prediction_step, []

    def signalled(trainer, *args, **kwargs):
        batches.extend([1] * (trainer.state.global_step > 0))
        if len(batches) == 3 and environment["RANK"] == "1":
            os.kill(os.getpid(), signal.SIGUSR1)
        if trainer.state.global_step:
            print("batch", len(batches), "of step", trainer.state.global_step)
        return predict(trainer, *args, **kwargs)

    trainer_class.prediction_step = signalled
    run(script, argv, log, environment)


def run_with_full_disk(script: str, argv: list[str], log: Path, environment: dict[str, str]) -> None:
    """Run the script; the first process finds no room for what it writes of a checkpoint beside the Trainer."""
    trainer_class = importlib.import_module("cloze.training.trainer").PretrainingTrainer
    write = trainer_class.write_state

    def full(trainer, *args):
        if environment["RANK"] == "0":
            raise OSError(errno.ENOSPC, "No space left on device")
        write(trainer, *args)

    trainer_class.write_state = full
    run(script, argv, log, environment)
