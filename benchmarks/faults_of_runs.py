"""Faults while a run is under way: another run, signals, output that goes away, full disks, waits."""

import os
import re
import shlex
import signal
import socket
import sys

from fault_runs import (
    LAST,
    LOSS,
    Case,
    Outcome,
    fault,
    line_with,
    nothing_lost,
    one_line,
    require,
    require_code,
    same_result,
    small_disk,
)

SCRIPTS = ("run_mlm.py", "run_nsp.py", "run_pretraining.py", "run_classification.py")
# 64 million weights, which cost little to train and a moment to save.
UNSAVED = shlex.split(
    "--config_overrides hidden_size=32,num_hidden_layers=1,num_attention_heads=2,intermediate_size=64,"
    "max_position_embeddings=2000000 --max_steps 3 --save_strategy no --do_eval false"
)
# Evaluations of a second and more: before step 1, after step 10 and at the end.
EVALUATED = shlex.split(
    "--max_steps 12 --eval_strategy steps --eval_steps 10 --validation_file sample --max_seq_length 16 "
    "--per_device_eval_batch_size 1"
)

# Two runs in one output_dir


def refuse_beside(case: Case, script: str) -> Outcome:
    """Start a second run while the first is in the middle; the first has to end as if nothing had happened."""
    first = case.train().wait_for_step().send(signal.SIGSTOP)
    second = case.train(script=script)
    outcome = one_line(second, socket.gethostname(), str(first.pid))
    require(re.search(r"\d:\d\d", outcome.line), second, "the line does not say when the first was started")
    same_result(first.send(signal.SIGCONT), case.undisturbed(), case.folder / "out")
    return outcome


@fault("lock", "a second start of the same command")
def second_start(case: Case) -> Outcome:
    return refuse_beside(case, "run_mlm.py")


@fault("lock", "another script in the same output_dir")
def other_script(case: Case) -> Outcome:
    return refuse_beside(case, "run_nsp.py")


@fault("lock", "kill -9 of the first, then the command again")
def start_after_kill(case: Case) -> Outcome:
    case.train().wait_for_step().kill()
    second = case.train()
    outcome = same_result(second, case.undisturbed(), case.folder / "out")
    line_with(second, "checkpoint-10")
    return outcome


# The end of a run that saves no checkpoints


def stop_at_the_end(case: Case, moment) -> Outcome:
    run = case.train(*UNSAVED).wait_for_step(LAST)
    run.wait_for(lambda: moment(case.folder / "out")).send(signal.SIGTERM)
    return nothing_lost(case, run, *UNSAVED)


@fault("saving", "SIGTERM after the last step, without checkpoints")
def stopped_after_training(case: Case) -> Outcome:
    return stop_at_the_end(case, lambda out: True)


@fault("saving", "SIGTERM while the model is saved, without checkpoints")
def stopped_in_final_save(case: Case) -> Outcome:
    return stop_at_the_end(case, lambda out: {path.name for path in out.glob("*")} - {"recipe.yaml"})


@fault("saving", "a config.json alone in the output_dir")
def config_alone(case: Case) -> Outcome:
    case.write("out/config.json", '{"model_type": "bert"}')
    return same_result(case.train(), case.undisturbed(), case.folder / "out")


# Output that goes away


@fault("output", "the pipe is closed, as by | head")
def closed_pipe(case: Case) -> Outcome:
    reader, writer = os.pipe()
    run = case.start(case.command(), output=writer, stderr=writer)
    os.close(writer)
    with open(reader) as lines:
        for line in lines:
            if LOSS in line:
                break
    return nothing_lost(case, run)


@fault("output", "the pipe of stdout is closed before the start")
def pipe_closed_before(case: Case) -> Outcome:
    reader, writer = os.pipe()
    os.close(reader)
    run = case.start(case.command(), output=writer)
    os.close(writer)
    return nothing_lost(case, run)


@fault("output", "a log on a full disk from the start (/dev/full)")
def full_log(case: Case) -> Outcome:
    with open("/dev/full", "wb") as full:
        return nothing_lost(case, case.start(case.command(), output=full.fileno()))


@fault("output", "the disk under the log fills up")
def log_fills_up(case: Case) -> Outcome:
    folder = case.folder / "small"
    into_log = ["sh", "-c", f'exec "$@" >"{folder}/log"', "sh"]
    return nothing_lost(case, case.start(small_disk(folder, 4, [*into_log, *case.command()])))


@fault("output", "the terminal is closed")
def closed_terminal(case: Case) -> Outcome:
    ours, theirs = os.openpty()
    command = ["setsid", "--ctty", *case.command()]
    run = case.start(command, output=theirs, stdin=theirs, stderr=theirs, start_new_session=False)
    os.close(theirs)
    printed = b""
    while printed.count(LOSS.encode()) < 5:
        printed += os.read(ours, 1000)
    os.close(ours)
    return nothing_lost(case, run)


@fault("output", "SIGHUP")
def hang_up(case: Case) -> Outcome:
    run = case.train().wait_for_step().send(signal.SIGHUP).end()
    require_code(run, 75)
    return nothing_lost(case, run)


@fault("output", "SIGHUP under nohup")
def hang_up_under_nohup(case: Case) -> Outcome:
    run = case.start(["nohup", *case.command()]).wait_for_step().send(signal.SIGHUP)
    return same_result(run, case.undisturbed(), case.folder / "out")


# Signals while Python imports


def signal_early(case: Case, number: int, code: int, scripts=("run_mlm.py",)) -> Outcome:
    for script in scripts:
        for seconds in (0.2, 1.0):
            # In CPU time: on a busy machine, seconds may end before the first line.
            run = case.train(script=script)
            run.wait_for(lambda run=run, seconds=seconds: run.cpu_so_far() >= seconds).send(number).end()
            require_code(run, code)
            require("error:" not in run.output, run, "an error")
    return Outcome(run, " ".join(run.lines) or "(nothing printed)")


@fault("imports", "SIGTERM while Python imports, four scripts")
def terminated_early(case: Case) -> Outcome:
    return signal_early(case, signal.SIGTERM, 75, SCRIPTS)


@fault("imports", "SIGUSR1 while Python imports")
def warned_early(case: Case) -> Outcome:
    return signal_early(case, signal.SIGUSR1, 75)


@fault("imports", "Ctrl-C while Python imports")
def interrupted_early(case: Case) -> Outcome:
    return signal_early(case, signal.SIGINT, 130)


# Signals in an evaluation


def stop_in_evaluation(case: Case, began) -> Outcome:
    """Send SIGTERM in an evaluation: it may not end, and is done again by the same command."""
    run = case.train(*EVALUATED)
    run.wait_for(lambda: began(run))
    # Some batches into it.
    begun = run.cpu_so_far()
    run.wait_for(lambda: run.cpu_so_far() > begun + 0.2)
    evaluated = run.output.count("held-out ")
    require_code(run.send(signal.SIGTERM).end(), 75)
    require(run.output.count("held-out ") == evaluated, run, "the evaluation went on to its end")
    return nothing_lost(case, run, *EVALUATED)


@fault("evaluation", "SIGTERM in the evaluation before the first step")
def stopped_in_first_evaluation(case: Case) -> Outcome:
    return stop_in_evaluation(case, lambda run: "Model: " in run.output)


@fault("evaluation", "SIGTERM in an evaluation while training")
def stopped_in_evaluation(case: Case) -> Outcome:
    return stop_in_evaluation(case, lambda run: run.output.count(LOSS) == 10)


@fault("evaluation", "SIGTERM in the last evaluation")
def stopped_in_last_evaluation(case: Case) -> Outcome:
    return stop_in_evaluation(case, lambda run: (case.folder / "out" / "train_results.json").exists())


# Waits


@fault("waits", "the cache's lock is held by a suspended process")
def suspended_holder(case: Case) -> Outcome:
    flags = ["--train_file", case.write_text(times=200), "--prepare_only"]
    holder = case.train(*flags)
    holder.wait_for(lambda: [path for path in (case.folder / "cache").rglob("*") if path.is_file()])
    holder.send(signal.SIGSTOP)
    run = case.train(*flags, out="other")
    run.wait_for(lambda: re.search("wait", run.output, re.IGNORECASE), seconds=60)
    line = line_with(run, "wait", re.escape(str(case.folder / "cache")))
    holder.kill()
    require_code(run.end(), 0)
    return Outcome(run, line)


def wait_for_others(case: Case, rank: int) -> Outcome:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = str(server.getsockname()[1])
    stale = {"WORLD_SIZE": "2", "RANK": str(rank), "LOCAL_RANK": "0", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    run = case.start(case.command(), environment=stale)
    run.wait_for(lambda: re.search("wait", run.output, re.IGNORECASE), seconds=60)
    return Outcome(run, line_with(run, "wait", f"WORLD_SIZE|127.0.0.1|{port}"))


@fault("waits", "WORLD_SIZE and RANK 0 left in the environment")
def stale_rank_0(case: Case) -> Outcome:
    return wait_for_others(case, 0)


@fault("waits", "WORLD_SIZE and RANK 1 left in the environment")
def stale_rank_1(case: Case) -> Outcome:
    return wait_for_others(case, 1)


# What else ended in a traceback


@fault("tracebacks", "a full disk at the model card")
def full_disk_at_model_card(case: Case) -> Outcome:
    run = case.train().wait_for_step()
    (case.folder / "out/README.md").symlink_to("/dev/full")
    require_code(run.end(), 0, 2)
    saved, expected = ((folder / "model.safetensors") for folder in (case.folder / "out", case.undisturbed()))
    require(saved.exists() and saved.read_bytes() == expected.read_bytes(), run, "the model is not saved")
    return Outcome(run, run.last_words()) if run.code == 0 else one_line(run, "README.md")


@fault("tracebacks", "an ASCII stdout")
def ascii_stdout(case: Case) -> Outcome:
    text = case.write("λόγος.txt", "".join(f"Ἐν ἀρχῇ ἦν ὁ λόγος {number % 9}.\n" for number in range(400)))
    run = case.start(case.command("--train_file", text), environment={"PYTHONIOENCODING": "ascii"})
    return same_result(run, case.undisturbed("--train_file", text), case.folder / "out")


@fault("tracebacks", "python -OO")
def without_docstrings(case: Case) -> Outcome:
    for script in (*SCRIPTS, "app.py"):
        require_code(case.start([sys.executable, "-OO", script, "--help"]).end(), 0)
    run = case.start([sys.executable, "-OO", *case.command()[1:]]).end()
    if run.code == 2:  # transformers builds its models with docstrings
        return one_line(run, "-OO")
    return same_result(run, case.undisturbed(), case.folder / "out")
