"""Check that dry runs and --prepare_only report what the run does, and leave nothing but the cache."""

import json
import re
import shutil
from collections import namedtuple
from contextlib import nullcontext
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import nn

import run_mlm
from cloze.config import parser
from cloze.data.collators import Padding
from cloze.data.samplers import BatchSettings, EpochDataset, ResumableBatchSampler
from cloze.errors import UserError
from cloze.system.locks import without_new_folders
from cloze.training import dry_run as dry_run_module
from cloze.training import memory
from cloze.training import run as training
from cloze.training.dry_run import examples_of, lengthen, longest_batches, ordinary_batches, readable, sizes_of
from cloze.training.memory import Memory, saved_for_backward
from cloze.training.trainer import PretrainingTrainer
from tests.utils import SAMPLE

TINY = "hidden_size=16,num_hidden_layers=2,num_attention_heads=2,intermediate_size=32,max_position_embeddings=66"


@pytest.fixture
def out(tmp_path):
    return tmp_path / "out"


@pytest.fixture
def script(run_mlm_script, checkpoint, out, capsys):
    """Return a function that runs run_mlm.py on the sample with a tiny BERT: exit code, stdout, stderr."""
    model = checkpoint("bert")
    capsys.readouterr()

    def run(*argv):
        return run_mlm_script(
            "--model_name_or_path", model, "--train_file", SAMPLE, "--max_seq_length", 32, "--do_train",
            "--output_dir", out, *argv,
        )  # fmt: skip

    return run


@pytest.fixture
def dry_run(script):
    """Return a function that makes a dry run and returns the printed table as a dict."""

    def run(*argv) -> dict[str, str]:
        code, printed, errors = script("--dry_run", *argv)
        assert code == 0, errors
        return table_in(printed)

    return run


@pytest.fixture
def reckoned(monkeypatch):
    """Collect the results of ``estimate_memory``."""
    given = []
    reckon = dry_run_module.estimate_memory
    monkeypatch.setattr(dry_run_module, "estimate_memory", lambda *args: given.append(reckon(*args)) or given[-1])
    return given


def table_in(printed: str) -> dict[str, str]:
    return dict(re.findall(r"^  ([A-Z][\w -]*?)  +(\S.*)$", printed, re.M))


def recipe_in(printed: str) -> str:
    return printed[printed.index("# model\n") : printed.index("\n\n  Model ")]


def snapshot(folder):
    return {
        str(path.relative_to(folder)): (path.stat().st_mtime_ns, path.read_bytes() if path.is_file() else None)
        for path in folder.rglob("*")
    }


def steps_of(text: str) -> list[int]:
    return [int(number.replace(",", "")) for number in re.findall(r"[\d,]*\d", text)]


# The report


@pytest.mark.parametrize(
    "argv",
    [
        ["--num_train_epochs", 2, "--max_train_samples", 100],
        ["--num_train_epochs", 1, "--gradient_accumulation_steps", 3, "--line_by_line"],
        ["--num_train_epochs", 2, "--line_by_line", "--max_tokens_per_batch", 600, "--max_train_samples", 200],
        ["--max_steps", 7, "--per_device_train_batch_size", 3],
    ],
    ids=str,
)
def test_dry_run_steps_and_tokens_equal_the_run(argv, dry_run, script, out):
    steps, steps_an_epoch, tokens = steps_of(dry_run(*argv)["Steps"])
    code, printed, errors = script(*argv, "--save_strategy", "no", "--logging_strategy", "epoch")
    assert code == 0, errors
    assert "Reusing the prepared corpus" in printed
    state = json.loads((out / "trainer_state.json").read_text())
    assert steps == state["max_steps"] == state["global_step"]
    trained = json.loads((out / "train_results.json").read_text())["train_tokens"]
    if "--max_steps" in argv:
        assert steps_an_epoch > steps
    else:
        epochs = argv[argv.index("--num_train_epochs") + 1]
        assert steps == epochs * steps_an_epoch
        assert trained == epochs * tokens


def test_estimated_memory_of_weights_gradients_and_adam(dry_run, checkpoint, reckoned):
    """BERT of 2 layers of 16, feed-forward 32, 500 words, 66 positions, with buffers of position and segment ids."""
    layer = 4 * (16 * 16 + 16) + (16 * 32 + 32) + (32 * 16 + 16) + 2 * (16 + 16)
    weights = (500 + 66 + 2) * 16 + 2 * 16 + 2 * layer + (16 * 16 + 16) + 2 * 16 + 500
    assert weights == sum(tensor.numel() for tensor in load_file(f"{checkpoint('bert')}/model.safetensors").values())
    dry_run()
    (memory,) = reckoned
    buffers = 2 * 8 * 66
    assert (memory.weights, memory.gradients, memory.optimizer) == (4 * weights + buffers, 4 * weights, 8 * weights)
    assert memory.total == 16 * weights + buffers + memory.activations


def test_estimated_memory_counts_averaged_weights(dry_run, reckoned):
    dry_run("--dtype", "bfloat16")
    dry_run("--dtype", "bfloat16", "--ema_decay", "0.9")
    assert reckoned[1].weights - reckoned[0].weights == 4 * 14_372


@pytest.mark.parametrize(
    ("flags", "a_weight", "values"),
    [
        (["--optim", "sgd"], 4, 0),
        (["--optim", "rmsprop"], 4, 1),
        (["--optim", "adamw_torch"], 4, 2),
        (["--dtype", "bfloat16"], 2, 2),
        (["--optim", "adafactor"], 4, 2 / 256),
        # Two layers have matrices of 4 x 16 x 16 and 2 x 16 x 32 weights.
        (["--optim", "muon"], 4, 2 - 2 * 2_048 / 14_372),
    ],
    ids=str,
)
def test_estimated_memory_of_other_optimizers_and_dtypes(flags, a_weight, values, dry_run, reckoned):
    dry_run(*flags)
    (memory,) = reckoned
    assert memory.gradients == a_weight * 14_372
    assert memory.optimizer == round(memory.gradients * values)


def test_estimated_memory_counts_ddp_buckets(dry_run, reckoned, monkeypatch):
    trainer_args = {"gradients": 100, "world_size": 2}
    trainer = SimpleNamespace(
        model=nn.Linear(5, 5, bias=False),
        args=SimpleNamespace(world_size=trainer_args["world_size"]),
        average=None,
    )
    monkeypatch.setattr(memory, "optimizer_values", lambda trainer: 2)
    assert memory.without_batch(trainer) == Memory(weights=100, gradients=200, optimizer=200)


def test_unknown_optimizer_memory_is_estimated_as_adam(caplog):
    caplog.set_level("INFO")

    def refuse(*_):
        raise ValueError("it wants a whole model")

    args = SimpleNamespace(device=torch.device("cpu"), optim="lomo")
    trainer = SimpleNamespace(
        model=SimpleNamespace(dtype=torch.float32), args=args, get_optimizer_cls_and_kwargs=refuse
    )
    assert memory.optimizer_values(trainer) == 2
    assert "Memory of --optim lomo estimated as Adam's: it wants a whole model" in caplog.text


@pytest.mark.parametrize("count", [1, 7])
def test_estimated_activations_count_saved_tensors_once(count):
    """Linear, ReLU, linear keep the input and the output of the ReLU, shared by two operations, and no weights."""
    model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2))
    model.register_buffer("scale", torch.ones(2))
    trainer = SimpleNamespace(
        model=model,
        accelerator=SimpleNamespace(autocast=nullcontext),
        args=SimpleNamespace(device="cpu"),
        data_collator=lambda examples: {"x": torch.ones(len(examples), 4)},
        count_targets=lambda batches: None,
        compute_loss=lambda model, inputs, num_items_in_batch: (model(inputs["x"]) * model.scale).sum(),
    )
    # The product with the buffer keeps only the buffer, which needs no gradient.
    assert saved_for_backward(trainer, [{}] * count) == count * 4 * (4 + 8)


def test_estimated_activations_grow_with_batch_and_shrink_with_checkpointing(dry_run, reckoned):
    for flags in (["--per_device_train_batch_size", 4], [], ["--gradient_checkpointing"]):
        dry_run(*flags)
    small, whole, checkpointed = (memory.activations for memory in reckoned)
    assert 1.8 < whole / small < 2.2
    assert checkpointed < 0.5 * whole


def test_recipe_is_printed_as_the_run_writes_it(script, out, tmp_path):
    _, printed, _ = script("--dry_run", "--max_steps", 2, "--token", "a-secret-token", "--learning_rate", "1e-4")
    script("--max_steps", 2, "--learning_rate", "1e-4")
    assert recipe_in(printed) == (out / "recipe.yaml").read_text().rstrip()
    assert "a-secret-token" not in printed
    assert "dry_run" not in recipe_in(printed)


def test_dry_run_reports_time_disk_and_cache(dry_run, out, tmp_path):
    report = dry_run("--max_steps", 10, "--do_eval", "--cache_dir", tmp_path / "cache")
    assert re.fullmatch(r"about \S+ (s|minutes|hours|days), without evaluations and saving", report["Time"])
    assert re.fullmatch(r"at most about \S+ s each", report["Evaluation"])
    weights = 4 * 14_372
    # Two checkpoints, a third before the oldest is deleted, each three times the weights; and the model.
    assert report["Disk"].startswith(f"at most about {3 * 3 * weights / 1e6 + weights / 1e6:.1f} MB, of ")
    assert str(out) in report["Disk"]
    size = sum(path.stat().st_size for path in (tmp_path / "cache").rglob("*") if path.is_file())
    assert report["Cache"].startswith(f"{tmp_path / 'cache' / 'cloze'} ({size / 1e6:.1f} MB, ")
    assert "8 examples of up to 32 tokens" in report["Longest batch"]


def test_dry_run_reports_the_resumed_checkpoint(dry_run, script, out):
    assert script("--max_steps", 4, "--save_steps", 2)[0] == 0
    report = dry_run("--max_steps", 4)
    assert report["Steps"].endswith(f"; resuming at step 4, from {out / 'checkpoint-4'}")
    assert report["Time"].startswith("about 0 s")
    assert "resuming" not in dry_run("--max_steps", 4, "--overwrite_output_dir")["Steps"]


def test_dry_run_of_a_stream_uses_full_length_examples(dry_run, tmp_path, monkeypatch):
    sizes = []
    compute_loss = PretrainingTrainer.compute_loss

    def stop_callback(self, model, inputs, *args, **kwargs):
        sizes.append(tuple(inputs["input_ids"].shape))
        return compute_loss(self, model, inputs, *args, **kwargs)

    monkeypatch.setattr(PretrainingTrainer, "compute_loss", stop_callback)
    (tmp_path / "text.txt").write_text("one two\nthree hundred\n" * 20)
    flags = ["--streaming", "--line_by_line", "--max_steps", 5, "--whole_word_mask"]
    report = dry_run(*flags, "--train_file", tmp_path / "text.txt")
    assert report["Steps"] == "5"
    assert report["Longest batch"] == "8 examples of up to 32 tokens"
    assert (8, 32) in sizes
    assert max(sizes) == (8, 32)


def test_dry_run_of_evaluation_and_other_scripts(
    run_nsp_script, run_pretraining_script, run_clm_script, run_mlm_script, pair_checkpoint, out
):
    common = ("--model_name_or_path", pair_checkpoint("bert"), "--max_seq_length", 32, "--output_dir", out, "--dry_run")
    text = ("--train_file", SAMPLE, "--do_eval")
    for script in (run_nsp_script, run_pretraining_script, run_clm_script):
        code, printed, errors = script(*common, *text, "--do_train")
        assert code == 0, errors
        assert {"Memory", "Time", "Evaluation"} <= table_in(printed).keys()
    code, printed, errors = run_mlm_script(*common, *text)
    assert code == 0, errors
    assert "Evaluation" in table_in(printed)
    assert not {"Memory", "Time", "Steps"} & table_in(printed).keys()
    assert not out.exists()


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.0123, "0.0123 s"), (119, "119 s"), (150, "2.5 minutes"), (9e4, "25.0 hours"), (4e5, "4.6 days")],
)
def test_durations_are_readable(seconds, text):
    assert readable(seconds) == text


# The longest batch


class Texts:
    """Return examples of these lengths."""

    def __init__(self, lengths):
        self.lengths = np.array(lengths)

    def __len__(self):
        return len(self.lengths)

    def __getitem__(self, number):
        return {"input_ids": np.arange(self.lengths[number]), "example": number}


LENGTHS = np.random.default_rng(0).integers(3, 60, 203)
SETTINGS = [
    BatchSettings("group_by_length", 8),
    BatchSettings("group_by_length", 8, accumulation=3, processes=2),
    BatchSettings("group_by_length", 8, drop_last=True),
    BatchSettings("random", 8),
    BatchSettings("sequential", 300),
    BatchSettings("group_by_length", 8, max_tokens=600),
    BatchSettings("group_by_length", 8, max_tokens=500, processes=3),
]


@pytest.fixture(params=SETTINGS, ids=str)
def batches(request):
    widths = Padding(multiple=4, longest=62).padded_lengths
    return ResumableBatchSampler(EpochDataset(lambda epoch: Texts(LENGTHS)), request.param, widths, seed=3)


def all_keys(batches):
    """Return the batches of all processes, which take them in turn."""
    ranks = [
        ResumableBatchSampler(batches.examples, batches.settings, batches.padded_lengths, batches.seed, rank)
        for rank in range(batches.settings.processes)
    ]
    return [keys for turn in zip(*ranks, strict=True) for keys in turn]


def shape_of(batch, widths=Padding(multiple=4, longest=62).padded_lengths):  # noqa: B008
    return len(batch), int(widths(np.array([len(example["input_ids"]) for example in batch]).max()))


def test_dry_run_finds_the_longest_batch(batches):
    shapes = [shape_of([batches.examples[key] for key in keys]) for keys in all_keys(batches)]
    assert shapes == list(zip(*map(np.ndarray.tolist, sizes_of(batches)), strict=True))
    found = [shape_of(batch) for batch in longest_batches(batches)]
    assert max(count * width for count, width in shapes) == max(count * width for count, width in found)
    assert max(count * width**2 for count, width in shapes) == max(count * width**2 for count, width in found)
    assert len(found) <= 2
    for batch in longest_batches(batches):
        assert len(batch[0]["input_ids"]) == max(len(example["input_ids"]) for example in batch)


def test_dry_run_batch_equals_a_batch_of_the_run(batches):
    for number, keys in enumerate(all_keys(batches)):
        assert {example["example"] for example in examples_of(batches, number)} == {key[1] for key in keys}


def thirds(sizes):
    """Return the smallest and the largest batch of each third."""
    parts = np.array_split(np.sort(sizes), 3) if len(sizes) > 2 else [sizes]
    return [part.min() for part in parts], [part.max() for part in parts]


def test_dry_run_samples_batches_over_the_epoch(batches):
    places = sorted(np.prod(shape_of(batch)) for batch in ordinary_batches(batches))
    assert len(places) == 3
    counts, widths = sizes_of(batches)
    assert len(counts) < 3 or all(
        below <= place <= above for place, below, above in zip(places, *thirds(counts * widths), strict=True)
    )


def test_dry_run_repeats_an_example_to_a_length():
    example = {"input_ids": np.array([2, 7, 3]), "word_starts": np.array([True, False, True]), "example": 5, "epoch": 0}
    longer = lengthen(example, 7)
    assert longer["input_ids"].tolist() == [2, 7, 3, 2, 7, 3, 2]
    assert longer["word_starts"].tolist() == [True, False, True, True, False, True, True]
    assert (longer["example"], longer["epoch"]) == (5, 0)


# Errors of the run


Usage = namedtuple("Usage", "total used free")
MISTAKES = {
    "file": ["--train_file", "nowhere.txt"],
    "optimizer": ["--optim", "adamw_anyprecision"],
    "schedule": ["--lr_scheduler_kwargs", '{"strange": 1}'],
    "checkpoint": ["--resume_from_checkpoint", "nowhere"],
    "length": ["--max_seq_length", 999],
    "budget": ["--max_tokens_per_batch", 16],
    "processes": [],
    "disk": [],
}


@pytest.mark.parametrize("name", MISTAKES)
def test_dry_run_meets_the_errors_of_the_run(name, script, monkeypatch, out):
    if name == "disk":
        monkeypatch.setattr(shutil, "disk_usage", lambda path: Usage(10, 10, 0))
    if name == "processes":
        monkeypatch.setattr(run_mlm.TrainingArguments, "world_size", property(lambda self: 10_000))
    errors = []
    for flags in (["--dry_run"], []):
        code, _, error = script(*MISTAKES[name], *flags)
        assert code == 2
        errors.append(error.splitlines()[-1])
        assert flags == [] or not out.exists()
    assert errors[0] == errors[1]
    assert errors[0].startswith("error: ")


@pytest.mark.parametrize(
    ("flags", "cure"),
    [
        ([], "halve --per_device_train_batch_size 8 and double --gradient_accumulation_steps 1"),
        (["--max_tokens_per_batch", 64], "halve --max_tokens_per_batch 64, or lower --max_seq_length"),
        (["--per_device_train_batch_size", 1], "lower --max_seq_length, or use a smaller model"),
    ],
    ids=str,
)
@pytest.mark.parametrize(
    "error", [torch.OutOfMemoryError("CUDA out of memory."), "DefaultCPUAllocator: can't allocate memory"]
)
def test_out_of_memory_is_one_line_with_remedy(error, flags, cure, script, out, monkeypatch):
    def fail(*_, **__):
        raise error if isinstance(error, Exception) else RuntimeError(error)

    monkeypatch.setattr(PretrainingTrainer, "training_step", fail)
    code, _, errors = script("--dry_run", *flags)
    assert (code, errors) == (2, f"error: out of memory: {cure}\n")
    assert not out.exists()


def test_dry_run_finds_the_batch_size_of_the_run(dry_run, monkeypatch):
    step = PretrainingTrainer.training_step

    def with_little_memory(self, model, inputs, *args, **kwargs):
        if len(inputs["input_ids"]) > 4:
            raise RuntimeError("CUDA out of memory.")
        return step(self, model, inputs, *args, **kwargs)

    monkeypatch.setattr(PretrainingTrainer, "training_step", with_little_memory)
    report = dry_run("--auto_find_batch_size", "--num_train_epochs", 1)
    assert report["Longest batch"] == "4 examples of up to 32 tokens"
    assert steps_of(report["Steps"])[0] == 1213


def ending(script, *argv):
    """Return the exit code, or the error."""
    try:
        return script(*argv)[0]
    except Exception as error:
        return repr(error)


def test_dry_run_meets_an_unresumable_checkpoint(script, out):
    assert script("--max_steps", 2, "--save_steps", 1)[0] == 0
    (out / "checkpoint-2" / "model.safetensors").write_bytes(b"broken")
    ends = [ending(script, "--max_steps", 4, *flags) for flags in (["--dry_run"], [])]
    assert ends[0] == ends[1] != 0


def test_other_errors_are_not_taken_for_out_of_memory(script, monkeypatch):
    def fail(*_, **__):
        raise RuntimeError("a bug")

    monkeypatch.setattr(PretrainingTrainer, "training_step", fail)
    with pytest.raises(RuntimeError, match="a bug"):
        script("--dry_run")


def test_batch_beyond_memory_is_refused_before_the_trial(script, monkeypatch, reckoned):
    """On a CPU, the attempt would kill the process."""
    sizes = []
    compute_loss = PretrainingTrainer.compute_loss

    def stop_callback(self, model, inputs, *args, **kwargs):
        sizes.append(len(inputs["input_ids"]))
        return compute_loss(self, model, inputs, *args, **kwargs)

    monkeypatch.setattr(PretrainingTrainer, "compute_loss", stop_callback)
    flags = ("--dry_run", "--per_device_train_batch_size", 64)
    assert script(*flags)[0] == 0
    assert max(sizes) == 64
    (needed,) = reckoned
    sizes.clear()
    monkeypatch.setattr(dry_run_module, "available_memory", lambda device: needed.total // 2)
    code, _, errors = script(*flags)
    assert code == 2
    assert re.search(
        r"the longest batch needs about [\d.]+ MB per device \(weights .*\), but [\d.]+ MB are available: halve", errors
    )
    assert sizes == [1, 2]


def test_dry_run_compares_its_estimate_with_free_memory(script, monkeypatch, reckoned):
    assert script("--dry_run")[0] == 0
    for room, code in ((reckoned[0].total, 0), (reckoned[0].total - 1, 2)):
        monkeypatch.setattr(dry_run_module, "available_memory", lambda device, room=room: room)
        # The same masks each time, by the seed.
        assert script("--dry_run")[0] == code


def test_sharded_weights_are_refused_by_dry_run(script, monkeypatch):
    original = dry_run_module.dry_run

    def share_out(trainer, *args):
        trainer.is_fsdp_enabled = True
        original(trainer, *args)

    monkeypatch.setattr(training, "dry_run", share_out)
    code, _, errors = script("--dry_run")
    assert code == 2
    assert "--dry_run does not support FSDP or DeepSpeed" in errors


# Files


def test_dry_run_leaves_no_files(script, tmp_path):
    before = sorted(tmp_path.rglob("*"))
    code, printed, _ = script("--dry_run", "--do_eval", "--max_steps", 3, "--output_dir", tmp_path / "new" / "folder")
    assert code == 0
    assert "nothing was trained" in printed
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.parametrize("flags", [[], ["--overwrite_output_dir"], ["--train_file", "nowhere.txt"]], ids=str)
def test_dry_run_changes_no_files(flags, script, checkpoint, out, tmp_path):
    assert script("--max_steps", 2, "--save_steps", 1)[0] == 0
    (out / "notes.txt").write_text("mine")
    before, model = snapshot(out), load_file(f"{checkpoint('bert')}/model.safetensors")
    script("--dry_run", "--do_eval", "--max_steps", 9, *flags)
    assert snapshot(out) == before
    after = load_file(f"{checkpoint('bert')}/model.safetensors")
    assert all(torch.equal(model[name], after[name]) for name in model)


def test_dry_run_removes_only_new_empty_folders(tmp_path):
    (tmp_path / "old").mkdir()
    for kept in (None, "old/new/notes.txt", "old/new/deep/notes.txt"):
        with without_new_folders(str(tmp_path / "old" / "new" / "deep")):
            (tmp_path / "old" / "new" / "deep").mkdir(parents=True)
            if kept:
                (tmp_path / kept).touch()
        assert (tmp_path / "old").exists()
        assert (tmp_path / "old" / "new").exists() == bool(kept)
        assert kept is None or (tmp_path / kept).exists()
        shutil.rmtree(tmp_path / "old" / "new", ignore_errors=True)


def test_dry_run_does_not_write_to_the_hub(dry_run, monkeypatch):
    monkeypatch.setattr(PretrainingTrainer, "init_hf_repo", lambda self: pytest.fail("a repository is made"))
    assert dry_run("--push_to_hub")["Hub"] == "not checked: that would create the repository"


# --prepare_only


@pytest.fixture
def scratch(run_mlm_script, tmp_path):
    """Return a function that runs run_mlm.py with a new model and tokenizer on its own copy of the sample."""
    text = tmp_path / "text"
    shutil.copytree(SAMPLE, text)

    def run(*argv):
        return run_mlm_script(
            "--model_type", "bert", "--config_overrides", TINY, "--vocab_size", 300, "--train_file", text,
            "--max_seq_length", 32, "--do_train", "--do_eval", "--cache_dir", tmp_path / "cache", *argv,
        )  # fmt: skip

    return run


GPU = [
    "--bf16", "--bf16_full_eval", "--tf32", "true", "--torch_compile", "--ddp_backend", "nccl",
    "--optim", "paged_adamw_8bit", "--deepspeed", "nowhere.json",
]  # fmt: skip


@pytest.mark.parametrize("flags", [GPU, ["--fp16", "--fp16_full_eval", "--tf32", "true"]], ids=["bf16", "fp16"])
def test_corpus_prepared_on_a_cpu_is_used_on_a_gpu(flags, scratch, out, tmp_path, monkeypatch):
    for name in ("make_model", "make_trainer"):
        monkeypatch.setattr(training, name, lambda *_: pytest.fail("a model is loaded"))
    code, printed, errors = scratch("--prepare_only", *flags, "--output_dir", out)
    assert code == 0, errors
    assert f"Prepared the data in {tmp_path / 'cache' / 'cloze'} (" in printed
    for fact in (
        "Tokenizer: BertTokenizer, 300 tokens",
        "Training text: 342 of 360",
        "Held-out examples: ",
        "An example: ",
    ):
        assert fact in printed
    assert not out.exists()
    monkeypatch.undo()
    prepared = snapshot(tmp_path / "cache")
    code, printed, errors = scratch(
        "--max_steps", 2, "--output_dir", tmp_path / "other", "--per_device_train_batch_size", 3, "--bf16", "--use_cpu"
    )
    assert code == 0, errors
    assert "Reusing the prepared corpus" in printed
    folders = {name: content for name, content in prepared.items() if not name.endswith(".lock")}
    assert folders.items() <= snapshot(tmp_path / "cache").items()


def test_prepare_only_ignores_checkpoints(scratch, out):
    (out / "checkpoint-5").mkdir(parents=True)
    (out / "checkpoint-5" / "trainer_state.json").write_text("broken")
    (out / "config.json").write_text("{}")
    before = snapshot(out)
    assert scratch("--prepare_only", "--output_dir", out, "--resume_from_checkpoint", "nowhere")[0] == 0
    assert snapshot(out) == before


def test_prepare_only_works_in_every_script(
    run_nsp_script, run_pretraining_script, run_clm_script, pair_checkpoint, out, monkeypatch
):
    for script in (run_nsp_script, run_pretraining_script, run_clm_script):
        code, printed, errors = script(
            "--model_name_or_path", pair_checkpoint("bert"), "--train_file", SAMPLE, "--max_seq_length", 32,
            "--do_train", "--prepare_only", "--output_dir", out,
        )  # fmt: skip
        assert code == 0, errors
        assert "Prepared the data in " in printed
    assert not out.exists()


def parse(*argv):
    return parser.parse(["--train_file", "text.txt", *argv], parser.settings_of(run_mlm.main))


def test_conflicting_flags_are_errors():
    least = ("--model_type", "bert", "--do_train", "--max_steps", "5")
    with pytest.raises(UserError, match="--prepare_only and --streaming exclude each other"):
        parse(*least, "--prepare_only", "--streaming")
    with pytest.raises(UserError, match="--dry_run and --prepare_only exclude each other"):
        parse(*least, "--prepare_only", "--dry_run")
