"""--new_tokenizer: a checkpoint with a vocabulary for other text, from the first loss to the last checkpoint."""

import json
import random
import shutil

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoTokenizer, BertTokenizer

from cloze.inference.session import fill_masks_in_text, load_trained
from cloze.models import resizing
from cloze.models.resizing import average_rows
from cloze.tokenization import adaptation
from cloze.tokenization.properties import fingerprint
from tests.utils import FAMILIES, SAMPLE, TASKS, slow_but, start_together

LETTERS = "აბგდევზთიკლმ"


@pytest.fixture
def text(tmp_path):
    """Lines of 20 words, each of which has two successors."""
    rng = random.Random(0)
    words = ["".join(rng.choices(LETTERS, k=rng.randint(3, 5))) for _ in range(20)]
    successors = {word: rng.sample(words, 2) for word in words}
    lines = []
    for _ in range(600):
        line = [rng.choice(words)]
        while len(line) < 7:
            line += rng.choices(successors[line[-1]], [9, 1])
        lines.append(" ".join(line))
    path = tmp_path / "text.txt"
    path.write_text("\n".join(lines))
    return path


@pytest.fixture
def flags(text, checkpoint, tmp_path):
    """``flags(name)`` trains a checkpoint for three steps in a folder of that name, with a new tokenizer."""
    return lambda name, family="bert": (
        "--model_name_or_path", checkpoint(family), "--new_tokenizer", "--vocab_size", 350, "--train_file", text,
        "--line_by_line", "--max_seq_length", 48, "--do_train", "--do_eval", "--max_steps", 3, "--save_steps", 1,
        "--save_total_limit", 9, "--cache_dir", tmp_path / "cache", "--output_dir", tmp_path / name,
    )  # fmt: skip


def evaluations(out):
    history = json.loads((out / "trainer_state.json").read_text())["log_history"]
    return [entry["eval_loss"] for entry in history if "eval_loss" in entry]


@pytest.mark.parametrize("family", slow_but(["bert"], FAMILIES))
def test_run_reports_trains_and_saves_the_new_vocabulary(family, flags, run_mlm_script, tmp_path):
    code, log, _ = run_mlm_script(*flags("out", family))
    assert code == 0
    assert f"tokens, trained on {tmp_path}/text.txt" in log
    assert f"per character, at the beginning of {tmp_path}/text.txt" in log
    assert "tokens replace the checkpoint's: " in log
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "out")
    trained = load_trained(str(tmp_path / "out"), TASKS)
    assert fingerprint(trained.tokenizer) == fingerprint(tokenizer)
    assert trained.model.config.vocab_size == len(tokenizer) <= 350
    assert len(fill_masks_in_text(trained, f"The {tokenizer.mask_token}.", 3)[0]) == 3


def test_resumed_run_takes_the_tokenizer_of_its_checkpoint(flags, run_mlm_script, monkeypatch, tmp_path):
    """To the same weights, without the cache."""
    assert run_mlm_script(*flags("whole"))[0] == 0
    shutil.copytree(tmp_path / "whole" / "checkpoint-1", tmp_path / "resumed" / "checkpoint-1")
    shutil.rmtree(tmp_path / "cache")
    monkeypatch.delattr(adaptation, "replace_tokenizer")
    code, log, error = run_mlm_script(*flags("resumed"))
    assert code == 0, error
    assert f"Resuming from {tmp_path}/resumed/checkpoint-1" in log
    one, two = (load_file(tmp_path / name / "model.safetensors") for name in ("whole", "resumed"))
    assert all(torch.equal(weights, two[name]) for name, weights in one.items())
    assert evaluations(tmp_path / "whole")[-1] == evaluations(tmp_path / "resumed")[-1]


def test_checkpoint_without_the_flag_is_not_resumed_with_it(flags, run_mlm_script, tmp_path):
    argv = (*flags("out"), "--train_file", SAMPLE / "music.txt")
    assert run_mlm_script(*[flag for flag in argv if flag != "--new_tokenizer"])[0] == 0
    code, _, log = run_mlm_script(*argv)
    assert code == 2
    assert "new_tokenizer False (not True)" in log or "new_tokenizer True (not False)" in log


def test_tokenizer_is_prepared_for_dry_and_real_runs(flags, run_mlm_script, tmp_path):
    assert "Saved the trained tokenizer" in run_mlm_script(*flags("out"), "--prepare_only")[1]
    code, log, error = run_mlm_script(*flags("out"), "--dry_run")
    assert code == 0, error
    assert "Reusing the trained tokenizer" in log
    assert "tokens replace the checkpoint's" in log
    assert "Reusing the trained tokenizer" in run_mlm_script(*flags("out"))[1]


def test_streamed_text_is_read_up_to_a_limit(flags, text, run_mlm_script, monkeypatch, tmp_path):
    monkeypatch.setattr(adaptation, "FIRST_CHARS", 1_000)
    argv = (*flags("out"), "--streaming", "--validation_file", text)
    code, log, error = run_mlm_script(*argv)
    assert code == 0, error
    assert f"trained on the first 1,000 characters of {text}" in log


def test_both_objectives_train_with_a_new_tokenizer(flags, pair_checkpoint, run_pretraining_script):
    argv = [flag for flag in flags("out") if flag != "--line_by_line"]
    argv[1] = pair_checkpoint("bert")
    code, log, error = run_pretraining_script(*argv, "--train_file", SAMPLE / "music.txt")
    assert code == 0, error
    assert "tokens replace the checkpoint's" in log


@pytest.mark.slow
def test_two_processes_train_one_tokenizer(flags, tmp_path):
    processes = start_together("run_mlm", *flags("two"), log=tmp_path / "log")
    for process in processes:
        process.join()
    log = (tmp_path / "log.0").read_text()
    assert [process.exitcode for process in processes] == [0, 0], log
    assert log.count("\nVocabulary: ") == 1


@pytest.mark.slow
def test_means_start_from_a_lower_loss_than_random_rows(text, run_mlm_script, monkeypatch, tmp_path):
    """The checkpoint knows the text as letters; most tokens of the new tokenizer are words."""
    names = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *LETTERS, *(f"##{letter}" for letter in LETTERS)]
    vocabulary = {name: number for number, name in enumerate(names)}
    BertTokenizer(vocab=vocabulary, do_lower_case=False).save_pretrained(tmp_path / "letters")
    sizes = "hidden_size=32,num_hidden_layers=2,num_attention_heads=2,intermediate_size=64,max_position_embeddings=66"
    common = (
        "--train_file", text, "--line_by_line", "--max_seq_length", 64, "--do_train", "--do_eval", "--save_strategy",
        "no", "--learning_rate", 5e-3, "--per_device_train_batch_size", 32, "--cache_dir", tmp_path / "cache",
    )  # fmt: skip
    own = ("--model_type", "bert", "--config_overrides", sizes, "--tokenizer_name", tmp_path / "letters")
    assert run_mlm_script(*own, *common, "--max_steps", 200, "--output_dir", tmp_path / "own")[0] == 0
    replaced = ("--model_name_or_path", tmp_path / "own", "--new_tokenizer", "--vocab_size", 130, *common)
    code, log, _ = run_mlm_script(*replaced, "--max_steps", 20, "--output_dir", tmp_path / "means")
    assert code == 0
    assert "88 tokens replace the checkpoint's: 29 keep their weights, 59 get the mean" in log

    def random_rows(weights, pieces, dim):
        rows = average_rows(weights, pieces, dim)
        for number, found in enumerate(pieces):
            if len(found) > 1:
                rows.select(dim, number).normal_(0, 0.02 if weights.dim() > 1 else 0)
        return rows

    monkeypatch.setattr(resizing, "average_rows", random_rows)
    assert run_mlm_script(*replaced, "--max_steps", 20, "--output_dir", tmp_path / "random")[0] == 0
    means, others = evaluations(tmp_path / "means"), evaluations(tmp_path / "random")
    assert means[0] < others[0] - 0.1
    assert means[-1] < others[-1]
