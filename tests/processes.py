"""Scripts in processes of their own, to be killed or to work together, without the seconds that imports take."""

import importlib
import multiprocessing
import os
import signal
import socket
import sys
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

import torch
from torch.distributed import distributed_c10d

from cloze.output import outlast_output

# A server that has imported the scripts; processes are forked from it.
CONTEXT = multiprocessing.get_context("forkserver")
SCRIPTS = ("run_classification", "run_mlm", "run_nsp", "run_pretraining")
# What their main() imports.
MODULES = ("block_examples", "class_predictions", "comparison", "figures", "fill_mask", "pair_examples", "predictions")
CONTEXT.set_forkserver_preload([*SCRIPTS, *(f"cloze.{name}" for name in (*MODULES, "preflight", "report"))])


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
    """Start processes that know of each other, as a launcher does, and wait so many seconds for each other at most."""
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
    output = os.open(log, os.O_CREAT | os.O_WRONLY | os.O_APPEND)
    os.dup2(output, 1)
    os.dup2(output, 2)
    outlast_output()
    sys.stdout.reconfigure(line_buffering=True)
    # Unless it is told, accelerate sets the number of threads of several processes, with a warning.
    os.environ.update(environment | {"OMP_NUM_THREADS": "1"})
    torch.set_num_threads(1)
    # Data-loader workers are forked, as from a command line; else they would have a server of their own.
    multiprocessing.set_start_method("fork", force=True)
    # What --ddp_timeout sets where there are GPUs.
    distributed_c10d.default_pg_timeout = timedelta(seconds=float(os.environ.get("PATIENCE", 600)))
    module = importlib.import_module(script)
    module.run_script(module.main, argv)


def run_until_evaluation(script: str, argv: list[str], log: Path, environment: dict[str, str]) -> None:
    """Run the script until, in training, the second process receives a signal in the third batch of an evaluation."""
    trainer_class = importlib.import_module("cloze.trainer").PretrainingTrainer
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
