"""Test the recipes for clusters: Slurm with a stand-in, accelerate's configs by accelerate, Kubernetes as text.

benchmarks/slurm_cluster.sh tests them on a real Slurm.
"""

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml
from accelerate.commands.launch import _validate_launch_command, launch_command_parser
from transformers import AutoModelForMaskedLM

import run_mlm
from cloze.config.parser import parse, settings_of
from tests.utils import FAMILIES, ROOT, SAMPLE, run_in_own_session, start

CLUSTER, ACCELERATE = ROOT / "recipes" / "cluster", ROOT / "recipes" / "accelerate"

# A stand-in for srun: starts the tasks on nodes in name only, and returns the highest exit code.
SRUN = """
import json, os, pathlib, subprocess, sys
argv = sys.argv[1:]
flags = [argv.pop(0) for argument in list(argv) if argument.startswith("--") and argv[0] == argument]
nodes, tasks = int(os.environ["SLURM_NNODES"]), int(os.environ["SLURM_NTASKS"])
children = []
for rank in range(tasks):
    node, local = divmod(rank, tasks // nodes)
    place = {"SLURM_PROCID": str(rank), "SLURM_LOCALID": str(local), "SLURM_NODEID": str(node)}
    children.append(subprocess.Popen(argv, env=os.environ | place))
folder = pathlib.Path(os.environ["NOTES"])
(folder / "srun.json").write_text(json.dumps({"flags": flags, "pids": [child.pid for child in children]}))
sys.exit(max(child.wait() for child in children))
"""
SCONTROL = """
import os, pathlib, sys
if sys.argv[1:3] == ["show", "hostnames"]:
    print(*os.environ["HOSTS"].split(), sep="\\n")
else:
    with (pathlib.Path(os.environ["NOTES"]) / "scontrol").open("a") as notes:
        print(*sys.argv[1:], file=notes)
"""
# The task: records its environment, and exits with its code of CODES, or with 75 after a signal.
TASK = """
import json, os, pathlib, signal, sys, time
told = []
signal.signal(signal.SIGUSR1, lambda number, frame: told.append(number))
rank = int(os.environ["RANK"])
seen = {"pid": os.getpid(), "argv": sys.argv[1:], "environment": dict(os.environ)}
note = pathlib.Path(os.environ["NOTES"]) / f"task-{rank}"
note.write_text(json.dumps(seen))
note.rename(note.with_suffix(".json"))
codes = os.environ["CODES"].split()
deadline = time.monotonic() + 30
while codes[rank] == "wait" and not told and time.monotonic() < deadline:
    time.sleep(0.01)
sys.exit(75 if told else int(codes[rank]))
"""


@pytest.fixture
def sbatch(tmp_path):
    """Return a function that starts the batch script as Slurm does, without waiting for it."""
    for name, text in {"srun": SRUN, "scontrol": SCONTROL}.items():
        path = tmp_path / "bin" / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(f"#!{sys.executable}\n{text}")
        path.chmod(0o755)
    (tmp_path / "task.py").write_text(TASK)
    started = []

    def start(*argv, nodes=1, codes="0 0", hosts="node-a node-b", **environment):
        kept = ("HOME", "LD_LIBRARY_PATH", "HF_HOME", "CUDA_VISIBLE_DEVICES")
        process = subprocess.Popen(
            ["bash", CLUSTER / "slurm.sbatch", *map(str, argv)],
            cwd=ROOT,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            env={name: os.environ[name] for name in kept if name in os.environ}
            | {
                "PATH": f"{tmp_path / 'bin'}:{os.environ['PATH']}",
                "PYTHON": sys.executable,
                "NOTES": str(tmp_path),
                "CODES": codes,
                "HOSTS": hosts,
                "SLURM_JOB_ID": "1234567",
                "SLURM_JOB_NODELIST": "node-[a-b]",
                "SLURM_NNODES": str(nodes),
                "SLURM_NTASKS": str(len(codes.split())),
                "SLURM_CPUS_PER_TASK": "3",
            }
            | environment,
        )
        started.append(process)
        return process

    yield start
    for process in started:
        process.kill()
        process.communicate()


def tasks(tmp_path, count):
    """Return the records of the tasks when all have started."""
    paths = [tmp_path / f"task-{rank}.json" for rank in range(count)]
    deadline = time.monotonic() + 30
    while not all(path.exists() for path in [*paths, tmp_path / "srun.json"]):
        assert time.monotonic() < deadline, "the tasks have not started"
        time.sleep(0.01)
    return [json.loads(path.read_text()) for path in paths]


def requeued(tmp_path):
    path = tmp_path / "scontrol"
    return path.read_text().splitlines() if path.exists() else []


@pytest.mark.parametrize(
    ("nodes", "codes", "local"), [(1, "0", [0]), (1, "0 0", [0, 1]), (2, "0 0", [0, 0]), (2, "0 0 0 0", [0, 1, 0, 1])]
)
def test_slurm_tasks_know_their_rank(nodes, codes, local, sbatch, tmp_path):
    process = sbatch(tmp_path / "task.py", nodes=nodes, codes=codes)
    assert process.wait(30) == 0, process.stdout.read()
    count = len(local)
    for rank, seen in enumerate(tasks(tmp_path, count)):
        environment = seen["environment"]
        assert {name: environment[name] for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE")} == {
            "RANK": str(rank),
            "WORLD_SIZE": str(count),
            "LOCAL_RANK": str(local[rank]),
            "LOCAL_WORLD_SIZE": str(count // nodes),
        }
        assert environment["MASTER_ADDR"] == "node-a"
        assert environment["MASTER_PORT"] == "24567", "from the job id, below the ephemeral ports"
        assert environment["HF_HUB_OFFLINE"] == "1"
        assert environment["OMP_NUM_THREADS"] == "3"
    assert requeued(tmp_path) == []


def test_slurm_script_keeps_the_users_settings(sbatch, tmp_path):
    own = {"HF_HOME": str(tmp_path / "a folder"), "HF_HUB_OFFLINE": "0"}
    assert sbatch(tmp_path / "task.py", codes="0", **own).wait(30) == 0
    assert tasks(tmp_path, 1)[0]["environment"].items() >= own.items()


def test_slurm_script_passes_arguments_unchanged(sbatch, tmp_path):
    argv = ["--train_file", "shards/*.txt", "two words", "$HOME", "it's", '"quoted"', "", "back\\slash", "a\nb"]
    assert sbatch(tmp_path / "task.py", *argv).wait(30) == 0
    assert [seen["argv"] for seen in tasks(tmp_path, 2)] == [argv, argv]


@pytest.mark.parametrize(
    ("codes", "code"), [("0 0", 0), ("2 2", 2), ("0 1", 1), ("130 130", 130), ("75 75", 75), ("0 75", 75)]
)
@pytest.mark.parametrize("nodes", [1, 2])
def test_slurm_job_requeues_on_exit_code_75_only(codes, code, nodes, sbatch, tmp_path):
    assert sbatch(tmp_path / "task.py", codes=codes, nodes=nodes).wait(30) == code
    assert requeued(tmp_path) == (["requeue 1234567"] if code == 75 else [])


@pytest.mark.parametrize("nodes", [1, 2])
def test_slurm_signal_reaches_the_script(nodes, sbatch, tmp_path):
    """Slurm signals the processes that srun started, so they must not be shells."""
    process = sbatch(tmp_path / "task.py", codes="wait wait", nodes=nodes)
    pids = [seen["pid"] for seen in tasks(tmp_path, 2)]
    assert pids == json.loads((tmp_path / "srun.json").read_text())["pids"]
    for pid in pids:
        os.kill(pid, signal.SIGUSR1)
    assert process.wait(30) == 75
    assert requeued(tmp_path) == ["requeue 1234567"]


def test_slurm_script_requests_resources(sbatch, tmp_path):
    text = (CLUSTER / "slurm.sbatch").read_text()
    asked = dict(re.findall(r"^#SBATCH --([\w-]+)=?(.*)$", text, re.M))
    assert asked["ntasks-per-node"] == asked["gres"].removeprefix("gpu:"), "a task for each GPU"
    assert re.fullmatch(r"USR1@\d+", asked["signal"]), "to the tasks; B: would send it to the shell"
    assert {"requeue", "time"} <= asked.keys()
    assert asked["open-mode"] == "append", "a job that is run again must not overwrite its log"
    last = text.rindex("#SBATCH")
    assert all(line.startswith("#") for line in text[:last].splitlines()), "sbatch stops reading at the first command"
    assert sbatch(tmp_path / "task.py").wait(30) == 0
    tasks(tmp_path, 2)
    flags = json.loads((tmp_path / "srun.json").read_text())["flags"]
    assert {"--kill-on-bad-exit=0", "--cpus-per-task=3"} <= set(flags)


@pytest.mark.slow
def test_slurm_tasks_train_together(sbatch, checkpoint, tmp_path):
    """torch and accelerate read the variables that the script sets."""
    out = tmp_path / "out"
    process = sbatch(
        "run_mlm.py", "--model_name_or_path", checkpoint("bert"), "--train_file", SAMPLE, "--max_seq_length", 32,
        "--do_train", "--max_steps", 2, "--use_cpu", "--output_dir", out, hosts="localhost", SLURM_CPUS_PER_TASK="1",
    )  # fmt: skip
    printed, _ = process.communicate(timeout=120)
    assert process.returncode == 0, printed
    assert sorted(path.name for path in out.glob("checkpoint-2/rng_state*")) == ["rng_state_0.pth", "rng_state_1.pth"]
    assert printed.count("Training examples:") == 1, "only one process logs it"


def test_signal_to_all_processes_spares_data_loader_workers(checkpoint, tmp_path):
    """Slurm sends SIGTERM to the workers too, while the current step still needs their batches."""
    log = tmp_path / "log"
    process = start(
        "run_mlm", "--model_name_or_path", checkpoint("bert"), "--train_file", SAMPLE, "--max_seq_length", 32,
        "--do_train", "--max_steps", 100_000, "--logging_steps", 1, "--use_cpu", "--dataloader_num_workers", 2,
        "--output_dir", tmp_path / "out", log=log, target=run_in_own_session,
    )  # fmt: skip
    while process.is_alive() and "\ntrain " not in (log.read_text() if log.exists() else ""):
        time.sleep(0.01)
    os.killpg(process.pid, signal.SIGTERM)
    process.join(60)
    assert process.exitcode == 75, log.read_text()
    assert len(list((tmp_path / "out").glob("checkpoint-*"))) == 1


# Kubernetes


@pytest.fixture(scope="module")
def manifests():
    documents = yaml.safe_load_all((CLUSTER / "kubernetes-job.yaml").read_text())
    return {document["kind"]: document for document in documents}


def test_kubernetes_commands_parse(manifests, tmp_path, monkeypatch):
    """The commands parse unchanged, except for missing paths, and bf16, which needs a GPU."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "recipe.yaml").write_text(manifests["ConfigMap"]["data"]["recipe.yaml"])
    pod = manifests["Job"]["spec"]["template"]["spec"]
    prepare, train = pod["initContainers"][0]["command"], pod["containers"][0]["command"]
    assert prepare[:2] == ["python", "run_mlm.py"]
    assert prepare[3:] == ["--prepare_only"]
    assert train[0] == "torchrun"
    assert train[3:5] == prepare[1:3], "the same script and recipe"
    assert train[5:] == ["--bf16"]
    (mount,) = (mount for mount in pod["containers"][0]["volumeMounts"] if mount["name"] == "settings")
    assert prepare[2] == f"{mount['mountPath']}/recipe.yaml"
    for flags in (prepare[3:], [*train[5:], "--use_cpu"]):
        _, data_args, training_args = parse(["recipe.yaml", *flags], settings_of(run_mlm.main))
        assert training_args.do_train
        for path in (data_args.train_file, training_args.output_dir):
            assert str(path).lstrip("['").startswith("/shared/"), "or the next pod would not find it"


def test_kubernetes_job_retries_except_user_errors(manifests):
    spec = manifests["Job"]["spec"]
    pod = spec["template"]["spec"]
    assert pod["restartPolicy"] == "Never", "podFailurePolicy allows no other"
    mistake, disruption = spec["podFailurePolicy"]["rules"]
    assert mistake["action"] == "FailJob"
    assert mistake["onExitCodes"] == {"containerName": "prepare", "operator": "In", "values": [2]}
    assert disruption["action"] == "Ignore"
    assert disruption["onPodConditions"] == [{"type": "DisruptionTarget", "status": "True"}]
    assert spec["backoffLimit"] > 0


def test_kubernetes_pod_has_resources_and_shared_memory(manifests):
    pod = manifests["Job"]["spec"]["template"]["spec"]
    prepare, train = pod["initContainers"][0], pod["containers"][0]
    gpus = int(train["resources"]["limits"]["nvidia.com/gpu"])
    assert f"--nproc_per_node={gpus}" in train["command"]
    assert "resources" not in prepare, "the text is prepared without GPUs"
    environment = {variable["name"]: variable["value"] for variable in train["env"]}
    assert environment["HF_HUB_OFFLINE"] == "1"
    assert int(environment["TORCH_ELASTIC_SHUTDOWN_TIMEOUT"]) < pod["terminationGracePeriodSeconds"]
    assert (prepare["env"], prepare["volumeMounts"]) == (train["env"], train["volumeMounts"])
    volumes = {volume["name"]: volume for volume in pod["volumes"]}
    places = {mount["mountPath"]: volumes[mount["name"]] for mount in train["volumeMounts"]}
    assert places["/dev/shm"]["emptyDir"]["medium"] == "Memory"
    assert "persistentVolumeClaim" in places["/shared"]
    assert environment["HF_HOME"].startswith("/shared/")
    assert places["/settings"]["configMap"]["name"] == manifests["ConfigMap"]["metadata"]["name"]


def test_kubernetes_job_tokens_per_step_match_its_comment(manifests):
    text = manifests["ConfigMap"]["data"]["recipe.yaml"]
    settings = yaml.safe_load(text)
    blocks, gpus, length, tokens = re.search(r"# (\d+) blocks x (\d+) GPUs x (\d+) = ([\d,]+) tokens", text).groups()
    assert int(blocks) == settings["per_device_train_batch_size"]
    assert int(length) == settings["max_seq_length"]
    assert f"--nproc_per_node={gpus}" in manifests["Job"]["spec"]["template"]["spec"]["containers"][0]["command"]
    assert int(blocks) * int(gpus) * int(length) == int(tokens.replace(",", ""))


# accelerate launch
CONFIGS = sorted(path.name for path in ACCELERATE.glob("*.yaml"))
# accelerate shards models over accelerators only; this script makes it take two CPU processes for two accelerators. It
# exits without torch's destructors, because gloo's sometimes abort ("terminate called without an active exception").
AS_IF_ON_GPUS = """
import os, sys
sys.path.insert(0, {root!r})
os.environ["ACCELERATE_TORCH_DEVICE"] = "cpu"
from accelerate.state import PartialState
from accelerate.utils import DistributedType
PartialState._prepare_backend = lambda *_: ("gloo", DistributedType.MULTI_GPU)
import run_mlm
from cloze.cli import run_script
run_script(run_mlm.main)
sys.stdout.flush()
os._exit(0)
"""


def launch_arguments(config, *argv):
    """Return the settings of accelerate launch as it resolves them."""
    command = ["--config_file", str(ACCELERATE / config), *argv, "run_mlm.py", "--output_dir", "out"]
    args, _, _ = _validate_launch_command(launch_command_parser().parse_args(command))
    return args


@pytest.mark.parametrize("config", CONFIGS)
def test_accelerate_accepts_the_config_files(config):
    args = launch_arguments(config, "--num_processes", "8")
    chosen = {"ddp.yaml": "multi_gpu", "fsdp.yaml": "use_fsdp", "deepspeed-zero2.yaml": "use_deepspeed"}[config]
    assert [name for name in ("multi_gpu", "use_fsdp", "use_deepspeed") if getattr(args, name)] == [chosen]
    assert (args.num_processes, args.num_machines, args.mixed_precision) == (8, 1, "no")
    known = vars(launch_command_parser().parse_args(["run_mlm.py"]))
    settings = yaml.safe_load((ACCELERATE / config).read_text())
    for name, value in {**settings.get("fsdp_config", {}), **settings.get("deepspeed_config", {})}.items():
        assert name in known, "accelerate would ignore it"
        assert getattr(args, name) == value


@pytest.mark.parametrize("config", CONFIGS)
def test_accelerate_config_needs_num_processes(config):
    with pytest.raises(ValueError, match="num_processes"):
        launch_arguments(config)


def test_fsdp_layer_names_are_those_of_the_models(checkpoint):
    text = (ACCELERATE / "fsdp.yaml").read_text()
    named = set(re.findall(r"\w+Layer\b|TransformerBlock", text))
    for family in set(FAMILIES) - {"albert", "deberta-v2"}:  # not tested with FSDP
        model = AutoModelForMaskedLM.from_pretrained(checkpoint(family))
        assert named & {type(module).__name__ for module in model.modules()}, family


@pytest.fixture
def launch(checkpoint, tmp_path):
    """Return a function that trains a tiny BERT with two processes and returns its losses by step."""

    def run(config, script, *argv):
        out = tmp_path / Path(config).stem
        command = [
            sys.executable, "-m", "accelerate.commands.launch", "--config_file", ACCELERATE / config,
            "--num_processes", 2, "--main_process_port", 0, script, *SETTINGS, "--per_device_train_batch_size", 4,
            "--model_name_or_path", checkpoint("bert"), "--output_dir", out, *argv,
        ]  # fmt: skip
        environment = os.environ | {"OMP_NUM_THREADS": "1"}
        done = subprocess.run(
            list(map(str, command)), cwd=ROOT, env=environment, capture_output=True, text=True, timeout=240
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return losses(out)

    return run


SETTINGS = (
    "--train_file", SAMPLE, "--max_seq_length", 32, "--do_train", "--do_eval", "--max_steps", 4, "--logging_steps", 1,
    "--learning_rate", 0.01, "--save_steps", 2, "--train_sampling_strategy", "random",
)  # fmt: skip


def losses(out):
    history = json.loads((out / "trainer_state.json").read_text())["log_history"]
    found = {entry["step"]: entry["loss"] for entry in history if "loss" in entry}
    return found | {f"evaluated at {entry['step']}": entry["eval_loss"] for entry in history if "eval_loss" in entry}


@pytest.fixture
def by_one_process(run_mlm_script, checkpoint, tmp_path):
    code, _, errors = run_mlm_script(
        *SETTINGS, "--per_device_train_batch_size", 8, "--model_name_or_path", checkpoint("bert"),
        "--output_dir", tmp_path / "one",
    )  # fmt: skip
    assert code == 0, errors
    return losses(tmp_path / "one")


@pytest.mark.slow
def test_accelerate_config_trains_as_one_process(launch, by_one_process):
    assert launch("ddp.yaml", "run_mlm.py", "--use_cpu") == pytest.approx(by_one_process, rel=1e-5)


@pytest.mark.slow
def test_fsdp_trains_as_one_process_and_resumes(launch, by_one_process, tmp_path):
    script = tmp_path / "as_if_on_gpus.py"
    script.write_text(AS_IF_ON_GPUS.format(root=str(ROOT)))
    assert launch("fsdp.yaml", script) == pytest.approx(by_one_process, rel=1e-5)
    out = tmp_path / "fsdp"
    tied = AutoModelForMaskedLM.from_pretrained(out)
    assert tied.get_input_embeddings().weight is tied.get_output_embeddings().weight
    assert "## Most confident wrong guesses of " in (out / "README.md").read_text(), "made by all processes together"
    for path in sorted(out.glob("checkpoint-4/*")):
        path.unlink()
    (out / "checkpoint-4").rmdir()
    (out / "model.safetensors").unlink()
    assert launch("fsdp.yaml", script) == pytest.approx(by_one_process, rel=1e-5)
