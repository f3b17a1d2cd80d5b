"""run_mlm.py from end to end, through its front door."""

import gzip
import json
import math
import re
import shutil
import subprocess
import sys
from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModel, AutoModelForMaskedLM, AutoTokenizer

import run_mlm
from cloze.config.arguments import TrainingArguments
from cloze.config.parser import parse, settings_of
from cloze.data.collators import Padding
from cloze.data.samplers import EpochDataset, ResumableBatchSampler
from cloze.reporting.history import evaluations_of
from cloze.training.context import padding_of, start_process
from cloze.training.trainer import PretrainingTrainer
from tests.utils import FAMILIES, SAMPLE, slow_but

TINY = "hidden_size=16,num_hidden_layers=2,num_attention_heads=2,intermediate_size=32,max_position_embeddings=66"


@pytest.fixture
def out(tmp_path):
    return tmp_path / "out"


@pytest.fixture
def train(run_mlm_script, checkpoint, out):
    """``train(...)`` adapts a tiny BERT to the sample with these further arguments; returns its output."""

    def run(*argv, model=None, text=SAMPLE) -> str:
        model = model or ("--model_name_or_path", checkpoint("bert"))
        code, printed, errors = run_mlm_script(
            *model, "--train_file", text, "--max_seq_length", 32, "--do_train", "--output_dir", out, *argv
        )
        assert code == 0, errors
        return printed

    return run


def history(out) -> list[dict]:
    return json.loads((out / "trainer_state.json").read_text())["log_history"]


@pytest.mark.parametrize("family", slow_but(["bert", "modernbert"], FAMILIES))
def test_run_mlm_trains_every_architecture_two_steps(family, checkpoint, train, out):
    train("--do_eval", "--max_steps", 2, model=("--model_name_or_path", checkpoint(family)))
    before, after = load_file(f"{checkpoint(family)}/model.safetensors"), load_file(out / "model.safetensors")
    assert before.keys() == after.keys()
    assert any(not torch.equal(before[name], after[name]) for name in before)
    assert 0 < json.loads((out / "eval_results.json").read_text())["eval_loss"] < 8


def test_upstream_tutorial_command_trains(run_mlm_script, checkpoint, out, texts, tmp_path):
    """The command of the tutorials, flag for flag, with fewer steps; the disk does not fill up with checkpoints."""
    for name, lines in {"train": texts[:200], "validation": texts[200:230]}.items():
        (tmp_path / f"{name}.txt").write_text("\n".join(lines))
    code, printed, errors = run_mlm_script(
        "--model_name_or_path", checkpoint("bert"), "--max_seq_length", 64, "--line_by_line",
        "--train_file", tmp_path / "train.txt", "--validation_file", tmp_path / "validation.txt",
        "--do_train", "--do_eval", "--max_steps", 10, "--save_steps", 2, "--output_dir", out,
    )  # fmt: skip
    assert (code, errors) == (0, ""), "neither warnings nor progress bars where the output is no terminal"
    assert sorted(path.name for path in out.glob("checkpoint-*")) == ["checkpoint-10", "checkpoint-8"]
    assert "Training text: 200 documents" in printed
    assert "Held-out text: 30 documents" in printed


def scaled(checkpoint, path, factor):
    """Return a checkpoint whose head multiplies the logits by a factor."""
    model = AutoModelForMaskedLM.from_pretrained(checkpoint)
    model.cls.predictions.transform.LayerNorm.weight.data.mul_(factor)
    model.save_pretrained(path)
    AutoTokenizer.from_pretrained(checkpoint).save_pretrained(path)
    return path


def test_overflowing_metrics_are_written_as_valid_json(train, checkpoint, out, tmp_path, monkeypatch):
    """The same holds for a run that resumes from them."""
    get_norm = PretrainingTrainer._get_grad_norm
    monkeypatch.setattr(
        PretrainingTrainer, "_get_grad_norm", lambda *args, **kwargs: math.inf * get_norm(*args, **kwargs)
    )
    model = ("--model_name_or_path", scaled(checkpoint("bert"), tmp_path / "huge", 1e5))
    settings = ("--do_eval", "--max_steps", 2, "--save_steps", 1, "--logging_steps", 1)
    train(*settings, model=model)
    shutil.rmtree(out / "checkpoint-2")
    printed = train(*settings, model=model)
    assert "1.80e+308 before, 1.80e+308 after" in printed

    def refuse(constant):
        raise AssertionError(constant)

    files = [*out.rglob("*.json")]
    assert {path.name for path in files} >= {"eval_results.json", "all_results.json", "trainer_state.json"}
    for path in files:
        json.loads(path.read_text(), parse_constant=refuse)
    assert json.loads((out / "eval_results.json").read_text())["perplexity"] == sys.float_info.max
    assert [entry["grad_norm"] for entry in history(out) if "loss" in entry] == [None] * 2


def test_nan_model_neither_evaluates_nor_predicts(run_mlm_script, checkpoint, out, tmp_path):
    model = scaled(checkpoint("bert"), tmp_path / "nan", math.nan)
    (tmp_path / "lines.txt").write_text("The [MASK] rises.\n")
    argv = ("--model_name_or_path", model, "--train_file", SAMPLE, "--max_seq_length", 32, "--output_dir", out)
    for task in (("--do_eval",), ("--do_predict", "--test_file", tmp_path / "lines.txt")):
        code, _, errors = run_mlm_script(*argv, *task)
        assert code == 2
        assert "error: the model outputs NaN or infinity for some texts" in errors
        assert errors.count("\n") == 1
    assert not (out / "predictions.jsonl").exists()


@pytest.mark.flops
def test_output_files_have_upstream_names_and_keys(train, out):
    train("--do_eval", "--max_steps", 4, "--logging_steps", 1, "--max_eval_samples", 20)
    results = json.loads((out / "eval_results.json").read_text())
    assert results["eval_samples"] == 20
    assert results["perplexity"] == pytest.approx(math.exp(results["eval_loss"]))
    assert 0 <= results["eval_accuracy"] <= 1
    training = json.loads((out / "train_results.json").read_text())
    assert {"train_loss", "train_runtime", "train_samples", "train_tokens_per_second"} <= training.keys()
    assert (results | training).items() <= json.loads((out / "all_results.json").read_text()).items()
    steps = [entry for entry in history(out) if "loss" in entry]
    assert [entry["step"] for entry in steps] == [1, 2, 3, 4]
    for entry, prefix in [*((entry, "") for entry in steps), (training, "train_")]:
        assert entry[f"{prefix}tokens_per_second"] > 0
        assert 0.5 < entry[f"{prefix}non_padding_fraction"] <= 1
        assert 0 < entry[f"{prefix}mfu"] < 1
    train("--max_steps", 5, "--logging_steps", 2, "--overwrite_output_dir")
    assert [entry["step"] for entry in history(out) if "loss" in entry] == [1, 2, 4, 5], "the first and the last too"


def test_tokens_are_counted_without_padding(train, out, tmp_path):
    (tmp_path / "text.txt").write_text("one two\nthree hundred\n" * 8)
    train("--line_by_line", "--num_train_epochs", 2, "--per_device_train_batch_size", 4, text=tmp_path / "text.txt")
    tokenizer = AutoTokenizer.from_pretrained(out)
    lengths = [len(tokenizer(line)["input_ids"]) for line in ("one two", "three hundred")]
    results = json.loads((out / "train_results.json").read_text())
    assert results["train_tokens"] == 2 * 8 * sum(lengths)
    # Each batch has lines of one kind, padded to a multiple of 4.
    assert results["train_non_padding_fraction"] == round(
        sum(lengths) / sum(-(-length // 4) * 4 for length in lengths), 4
    )
    assert results["train_non_padding_fraction"] < 1


@pytest.fixture
def epochs_drawn(monkeypatch):
    """The batches of each epoch, as they are drawn while training."""
    counts = {}
    set_epoch = ResumableBatchSampler.set_epoch

    def count(self, epoch, *args):
        set_epoch(self, epoch, *args)
        counts[epoch] = len(self)

    monkeypatch.setattr(ResumableBatchSampler, "set_epoch", count)
    return counts


@pytest.mark.parametrize("accumulation", [1, 3])
def test_token_budget_determines_steps_and_schedule(accumulation, train, out, epochs_drawn):
    """transformers#26827: the rate falls to zero at the last step, and not before; all lines are trained on in each
    epoch."""
    train(
        "--line_by_line", "--max_tokens_per_batch", 600, "--gradient_accumulation_steps", accumulation,
        "--num_train_epochs", 2, "--max_train_samples", 300, "--logging_steps", 1, "--learning_rate", 0.01,
        "--save_strategy", "no",
    )  # fmt: skip
    assert set(epochs_drawn) == {0, 1}
    assert 12 < epochs_drawn[0] == epochs_drawn[1] < 16
    steps = 2 * -(-epochs_drawn[0] // accumulation)
    entries = [entry for entry in history(out) if "loss" in entry]
    assert [entry["step"] for entry in entries] == list(range(1, steps + 1))
    rates = [0.01 * (steps - step) / steps for step in range(steps)]
    assert [entry["learning_rate"] for entry in entries] == pytest.approx(rates)
    assert entries[-1]["epoch"] == 2
    assert json.loads((out / "train_results.json").read_text())["train_non_padding_fraction"] > 0.9


def test_fewer_examples_than_processes_are_an_error(run_mlm_script, checkpoint, out, tmp_path, monkeypatch):
    (tmp_path / "text.txt").write_text("one two\nthree\n")
    monkeypatch.setattr(TrainingArguments, "world_size", property(lambda self: 3))
    code, _, errors = run_mlm_script(
        "--model_name_or_path", checkpoint("bert"), "--train_file", tmp_path / "text.txt", "--line_by_line",
        "--do_train", "--max_steps", 1, "--output_dir", out,
    )  # fmt: skip
    assert (code, errors) == (2, "error: 2 examples for 3 processes: give more text, or use fewer processes\n")


def test_data_seed_determines_the_order(train, monkeypatch):
    """Masks depend on the seed."""
    taken, get = [], EpochDataset.__getitem__
    monkeypatch.setattr(EpochDataset, "__getitem__", lambda self, key: taken.append(key) or get(self, key))
    orders = []
    for seed, data_seed in ((1, 5), (2, 5), (1, 6)):
        taken.clear()
        train("--max_steps", 2, "--seed", seed, "--data_seed", data_seed, "--overwrite_output_dir")
        orders.append(list(taken))
    assert orders[0] == orders[1] != orders[2]


def settings(argv):
    argv = f"--model_type bert --train_file a.txt --do_train --max_steps 1 --output_dir out {argv}"
    return parse(argv.split(), settings_of(run_mlm.main))


def test_process_uses_one_gpu(caplog):
    """Flat positions of masked tokens cannot be scattered over several."""
    _, data_args, training_args = settings("")
    for count in (1, 2):
        training_args._n_gpu = count
        caplog.clear()
        start_process(data_args, training_args)
        assert training_args.n_gpu == 1
        assert ("2 GPUs visible, 1 in use: launch with accelerate launch --num_processes 2" in caplog.text) == (
            count == 2
        )


@pytest.mark.parametrize(
    ("argv", "expected"),
    [
        ("", Padding(4, 66, omit_mask=True)),
        ("--bf16 --use_cpu", Padding(8, 66, omit_mask=True)),
        ("--pad_to_max_length", Padding(4, 66, fixed=True, omit_mask=True)),
    ],
)
def test_batches_are_padded_for_the_device(argv, expected, checkpoint):
    _, data_args, training_args = settings(argv)
    context = SimpleNamespace(data_args=data_args, training_args=training_args, max_seq_length=66)
    assert padding_of(context, AutoModelForMaskedLM.from_pretrained(checkpoint("bert"))) == expected


def test_nan_losses_are_logged_unfiltered():
    """Without it, no step waits for the GPU to check the loss; NaN is still detected."""
    assert settings("")[2].logging_nan_inf_filter is False


def test_evaluation_before_training_uses_the_same_masks(train, checkpoint, out, tmp_path, run_mlm_script):
    """The log, the summary and the model card show the effect of training."""
    printed = train("--do_eval", "--max_steps", 60, "--learning_rate", 1e-2)
    evaluations = [entry for entry in history(out) if "eval_loss" in entry]
    before, after = evaluations[0], evaluations[-1]
    assert before["step"] == 0
    assert after["eval_loss"] < before["eval_loss"] - 0.5
    change = f"{math.exp(before['eval_loss']):,.2f} before, {math.exp(after['eval_loss']):,.2f} after"
    assert change in printed
    assert change in (out / "README.md").read_text()
    # The original, evaluated by itself on the same held-out documents, has the figure from before.
    code, _, _ = run_mlm_script(
        "--model_name_or_path", checkpoint("bert"), "--train_file", SAMPLE, "--max_seq_length", 32, "--do_eval",
        "--output_dir", tmp_path / "original",
    )  # fmt: skip
    assert code == 0
    alone = json.loads((tmp_path / "original" / "eval_results.json").read_text())
    assert alone["eval_loss"] == before["eval_loss"]


@pytest.mark.parametrize(
    ("argv", "used"),
    [
        ([], True),
        (["--tokenizer_backend", "nanotoken"], True),
        (["--tokenizer_backend", "tokenizers"], False),
        (["--whole_word_mask"], False),
    ],
    ids=str,
)
def test_nanotoken_is_used_where_possible(argv, used, train, tmp_path):
    printed = train("--max_steps", 1, "--cache_dir", tmp_path / "cache", *argv)
    assert ("Tokenizing with nanotoken" in printed) is used
    assert "TOKENIZER" not in printed


def test_mlm_evaluation_does_not_depend_on_batch_size_and_repeats(run_mlm_script, checkpoint, tmp_path):
    """transformers#39241: means of batch means, and masks drawn anew."""
    losses = []
    for number, batch_size in enumerate((1, 7, 64, 64)):
        out = tmp_path / str(number)
        code, _, errors = run_mlm_script(
            "--model_name_or_path", checkpoint("bert"), "--validation_file", SAMPLE, "--line_by_line", "--do_eval",
            "--per_device_eval_batch_size", batch_size, "--max_seq_length", 32, "--output_dir", out,
            "--max_eval_samples", 150, "--seed", number,
        )  # fmt: skip
        assert code == 0, errors
        losses.append(json.loads((out / "eval_results.json").read_text())["eval_loss"])
    assert losses[2] == losses[3], "to the last digit, whatever the seed"
    assert losses[0] == pytest.approx(losses[2], rel=1e-6)
    assert losses[1] == pytest.approx(losses[2], rel=1e-6)


def test_mlm_step_does_not_depend_on_accumulation(train, out):
    """transformers#47688: loss and gradient that grow with the micro-batches. Lines, so that masked counts are
    unequal."""
    runs = {}
    for batch_size, accumulation in ((16, 1), (4, 4), (2, 8)):
        train(
            "--line_by_line", "--per_device_train_batch_size", batch_size,
            "--gradient_accumulation_steps", accumulation, "--max_steps", 3, "--logging_steps", 1,
            "--learning_rate", 0.5, "--optim", "sgd", "--overwrite_output_dir", "--save_strategy", "no",
        )  # fmt: skip
        logs = [(entry["loss"], entry["grad_norm"]) for entry in history(out) if "loss" in entry]
        runs[batch_size] = logs, load_file(out / "model.safetensors")
    whole_logs, whole_weights = runs[16]
    assert len(whole_logs) == 3
    for logs, weights in (runs[4], runs[2]):
        for cut, whole in zip(logs, whole_logs, strict=True):
            assert cut == pytest.approx(whole, rel=2e-5)
        for name, weight in weights.items():
            torch.testing.assert_close(weight, whole_weights[name], rtol=1e-4, atol=1e-5)


@pytest.mark.slow
def test_saved_model_gives_the_same_logits_in_a_fresh_process(train, out):
    train("--max_steps", 2)
    tokenizer = AutoTokenizer.from_pretrained(out)
    inputs = tokenizer("The moon and the [MASK].", return_tensors="pt")
    expected = AutoModelForMaskedLM.from_pretrained(out).eval()(**inputs).logits.detach()
    code = f"""
import torch
from transformers import AutoModelForMaskedLM, AutoTokenizer, pipeline
inputs = AutoTokenizer.from_pretrained({str(out)!r})("The moon and the [MASK].", return_tensors="pt")
torch.save(AutoModelForMaskedLM.from_pretrained({str(out)!r}).eval()(**inputs).logits.detach(), {str(out / "logits")!r})
print(len(pipeline("fill-mask", model={str(out)!r})("The moon and the [MASK].")))
"""
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "5"
    assert torch.equal(torch.load(out / "logits"), expected)


def test_resolved_recipe_reproduces_the_weights(train, run_mlm_script, out, tmp_path):
    train("--max_steps", 3, "--warmup_steps", 0.1, "--whole_word_mask", "--token", "hf_secret")
    assert "hf_secret" not in (out / "recipe.yaml").read_text() + (out / "README.md").read_text()
    code, _, errors = run_mlm_script(out / "recipe.yaml", "--output_dir", tmp_path / "again")
    assert (code, errors) == (0, "")
    first, second = load_file(out / "model.safetensors"), load_file(tmp_path / "again" / "model.safetensors")
    assert all(torch.equal(first[name], second[name]) for name in first)


@pytest.mark.parametrize(
    ("model_type", "tokenizer_class"), [("bert", "BertTokenizer"), ("roberta", "RobertaTokenizer")]
)
def test_from_scratch_trains_a_tokenizer_that_the_models_vocabulary_fits(train, out, model_type, tokenizer_class):
    printed = train(
        "--max_steps", 2, "--vocab_size", 700, model=("--model_type", model_type, "--config_overrides", TINY)
    )  # fmt: skip
    model, tokenizer = AutoModelForMaskedLM.from_pretrained(out), AutoTokenizer.from_pretrained(out)
    assert type(tokenizer).__name__ == tokenizer_class
    assert len(tokenizer) == model.config.vocab_size == model.get_input_embeddings().num_embeddings == 700
    assert model.config.pad_token_id == tokenizer.pad_token_id
    assert model.config.hidden_size == 16
    assert f"{tokenizer_class}, 700 tokens" in printed


@pytest.mark.parametrize("flags", [[], ["--line_by_line", "--gradient_accumulation_steps", 2], ["--streaming"]])
def test_mlm_run_resumes_exactly(flags, train, out, texts, tmp_path):
    """transformers#11284: resuming in the middle of an epoch, after the first, on the wrong data."""
    (tmp_path / "text.txt").write_text("\n".join(texts[:23]))
    argv = [*flags, "--max_steps", 12, "--save_steps", 5, "--logging_steps", 1, "--learning_rate", 1e-2]
    argv += ["--per_device_train_batch_size", 4]
    train(*argv, text=tmp_path / "text.txt")
    whole, weights = history(out), load_file(out / "model.safetensors")
    assert flags == ["--streaming"] or (whole[9]["epoch"] > 1 and whole[9]["epoch"] % 1)
    (out / "checkpoint-12").rename(tmp_path / "checkpoint-12")  # as if killed after step 10
    printed = train(*argv, text=tmp_path / "text.txt")
    assert f"Resuming from {out / 'checkpoint-10'}" in printed
    steps = [entry for entry in whole if "loss" in entry]
    assert [entry["loss"] for entry in history(out) if "loss" in entry] == [entry["loss"] for entry in steps]
    again = load_file(out / "model.safetensors")
    assert all(torch.equal(weights[name], again[name]) for name in weights)
    # Training is complete, and a run without training steps overwrites no figures.
    results, card = (out / "train_results.json").read_text(), (out / "README.md").read_text()
    assert "Training is already complete" in train(*argv, text=tmp_path / "text.txt")
    assert ((out / "train_results.json").read_text(), (out / "README.md").read_text()) == (results, card)


def test_finished_epochs_are_not_repeated_on_resuming(train, out):
    argv = ["--num_train_epochs", 1, "--max_train_samples", 64, "--lr_scheduler_type", "constant"]
    train(*argv)
    weights, kept = (out / "model.safetensors").read_bytes(), sorted(out.glob("checkpoint-*"))
    assert "Training is already complete" in train(*argv)
    assert (out / "model.safetensors").read_bytes() == weights
    assert sorted(out.glob("checkpoint-*")) == kept == [out / "checkpoint-8"]


def test_auto_find_batch_size_halves_the_batch(train, monkeypatch):
    compute_loss, sizes = PretrainingTrainer.compute_loss, []

    def with_little_memory(self, model, inputs, *args, **kwargs):
        sizes.append(len(inputs["input_ids"]))
        if sizes[-1] > 4:
            raise RuntimeError("CUDA out of memory.")
        return compute_loss(self, model, inputs, *args, **kwargs)

    monkeypatch.setattr(PretrainingTrainer, "compute_loss", with_little_memory)
    train("--auto_find_batch_size", "--max_steps", 3)
    assert sizes[0] == 8
    assert sizes[-3:] == [4, 4, 4]


def test_overwrite_output_dir_starts_afresh(train, out):
    train("--max_steps", 4, "--save_steps", 2)
    train("--max_steps", 3, "--save_steps", 2, "--overwrite_output_dir")
    assert sorted(path.name for path in out.glob("checkpoint-*")) == ["checkpoint-2", "checkpoint-3"]


def test_new_modernbert_is_saved(train, out):
    """Its layer types follow from the number of its layers, which the overrides change."""
    small = "hidden_size=16,num_hidden_layers=2,num_attention_heads=2,intermediate_size=32"
    train("--max_steps", 1, "--vocab_size", 300, model=("--model_type", "modernbert", "--config_overrides", small))
    config = AutoModelForMaskedLM.from_pretrained(out).config
    assert (config.num_hidden_layers, len(config.layer_types)) == (2, 2)


def test_unequal_document_lengths_are_warned_about(train, texts, tmp_path):
    """A stray blank line makes two documents of a file of lines."""
    (tmp_path / "text.txt").write_text("\n".join([*texts[:90], "", *texts[90:180]]))
    assert "warning: held-out documents have " in train("--do_eval", "--max_steps", 1, text=tmp_path / "text.txt")
    assert "held-out documents have " not in train("--do_eval", "--max_steps", 1, "--overwrite_output_dir")


@pytest.mark.curves
def test_best_checkpoint_is_kept_beside_the_newest(train, out):
    """The learning rate rises until training diverges, so an early checkpoint is the best."""
    printed = train(
        "--do_eval", "--max_steps", 16, "--save_steps", 2, "--eval_strategy", "steps", "--eval_steps", 2,
        "--load_best_model_at_end", "--save_total_limit", 1, "--learning_rate", 2.0, "--warmup_steps", 16,
    )  # fmt: skip
    evaluations = {
        entry["step"]: entry["eval_loss"] for entry in history(out) if "eval_loss" in entry and entry["step"]
    }
    best = min(evaluations, key=evaluations.get)
    assert best < 16
    assert {path.name for path in out.glob("checkpoint-*")} == {f"checkpoint-{best}", "checkpoint-16"}
    assert json.loads((out / "eval_results.json").read_text())["eval_loss"] == pytest.approx(evaluations[best])
    # The evaluation of the best model, loaded at the end, is not one of step 16.
    steps = [entry["step"] for entry in evaluations_of(history(out))]
    assert steps == [*range(0, 17, 2)]
    rows = [line for line in printed.splitlines() if re.match(r"[* ] +\d+ +\d+\.\d\d ", line)]
    assert [int(row[1:].split()[0]) for row in rows] == steps
    assert [row for row in rows if row[0] == "*"] == [rows[best // 2]]
    assert f"{evaluations[best]:.3f}" in rows[best // 2]
    assert (out / "curves.png").read_bytes().startswith(b"\x89PNG")
    assert "![Training curves](curves.png)" in (out / "README.md").read_text()


def test_checkpoint_without_a_head_is_reported(train, checkpoint, tmp_path):
    bare = tmp_path / "bare"
    AutoModel.from_pretrained(checkpoint("bert")).save_pretrained(bare)
    AutoTokenizer.from_pretrained(checkpoint("bert")).save_pretrained(bare)
    printed = train("--max_steps", 1, model=("--model_name_or_path", bare))
    assert "new weights, not loaded from" in printed
    assert "cls.predictions.transform.dense.weight" in printed
    assert "new weights, not loaded from" not in train("--max_steps", 1, "--overwrite_output_dir")


def test_tables_folders_and_compressed_files_form_one_corpus(train, texts, tmp_path):
    folder = tmp_path / "corpus"
    folder.mkdir()
    with gzip.open(folder / "a.jsonl.gz", "wt", encoding="utf-8") as file:
        file.writelines(json.dumps({"text": text, "id": n}) + "\n" for n, text in enumerate(texts[:40]))
    (folder / "b.csv").write_text('id,text\n1,한국어 문장과 😀 العربية\n2,"two\nlines"\n', encoding="utf-8-sig")
    (folder / "c.txt").write_bytes(b"first\r\nsecond\r\n")
    assert "Training text: 44 documents" in train("--max_steps", 1, text=folder)


def test_streaming_trains_and_evaluates_in_bounded_memory(train, out):
    train(
        "--streaming", "--validation_file", SAMPLE / "music.txt", "--do_eval", "--max_steps", 6, "--max_eval_samples", 9
    )
    results = json.loads((out / "eval_results.json").read_text())
    assert results["eval_masked_tokens"] > 0
    assert history(out)[-1]["step"] == 6


def test_held_out_documents_depend_on_the_seed(train):
    shown = [train("--do_eval", "--max_steps", 1, "--overwrite_output_dir", "--seed", seed) for seed in (1, 2)]
    examples = [next(line for line in out.splitlines() if line.startswith("An example:")) for out in shown]
    assert examples[0] != examples[1]


@pytest.mark.parametrize("family", ["bert", "roberta", "deberta-v2"])
def test_whole_words_are_masked_in_every_kind_of_tokenizer(family, train, checkpoint, out):
    flags = ("--whole_word_mask", "--eval_whole_word_mask", "--do_eval", "--max_steps", 1)
    train(*flags, model=("--model_name_or_path", checkpoint(family)))
    assert json.loads((out / "eval_results.json").read_text())["eval_masked_tokens"] > 50


def test_whole_word_masking_without_spaces_is_warned_about(train, tmp_path):
    (tmp_path / "text.txt").write_text("春眠不覺曉處處聞啼鳥夜來風雨聲花落知多少\n" * 50, encoding="utf-8")
    tokenizer_from_text = ("--model_type", "roberta", "--config_overrides", TINY, "--vocab_size", 300)
    printed = train("--whole_word_mask", "--max_steps", 1, model=tokenizer_from_text, text=tmp_path / "text.txt")
    assert "warning: --whole_word_mask masks whole sentences" in printed
