"""run_plm.py from the command line: its figures by hand with transformers, its ways to read text, its mistakes."""

import json
import math

import numpy as np
import pytest
import torch
from torch.nn.functional import cross_entropy
from transformers import AutoTokenizer, XLNetLMHeadModel

from cloze.config.permutation_arguments import MAX_SPAN_LENGTH, PLM_PROBABILITY
from cloze.data.collators import example_rng
from cloze.data.permutation import draw_order, draw_spans
from tests.utils import check_card_continues

MODEL = "d_model=16,n_layer=2,n_head=2,d_inner=32,dropout=0"


@pytest.fixture
def text(texts, tmp_path):
    path = tmp_path / "text.txt"
    path.write_text("\n\n".join("\n".join(texts[begin : begin + 3]) for begin in range(0, 90, 3)))
    return path


@pytest.fixture
def held_out(texts, tmp_path):
    path = tmp_path / "held-out.txt"
    path.write_text("\n\n".join("\n".join(texts[begin : begin + 3]) for begin in range(300, 330, 3)))
    return path


@pytest.fixture
def train(run_plm_script, text, held_out):
    """``train(out, ...)`` trains a tiny XLNet and evaluates it; it gives the output."""

    def run(out, *argv, do_eval=True):
        code, printed, errors = run_plm_script(
            "--model_type", "xlnet", "--config_overrides", MODEL, "--vocab_size", 400, "--train_file", text,
            "--max_seq_length", 48, "--do_train", "--max_steps", 4, "--learning_rate", 0.02,
            "--per_device_train_batch_size", 4, "--output_dir", out,
            *(("--do_eval", "--validation_file", held_out) if do_eval else ()), *argv,
        )  # fmt: skip
        assert code == 0, errors
        return printed

    return run


def results_of(out):
    return json.loads((out / "eval_results.json").read_text())


def evaluations_of(out):
    history = json.loads((out / "trainer_state.json").read_text())["log_history"]
    return [entry["eval_loss"] for entry in history if "eval_loss" in entry]


def losses_by_hand(out, held_out, length=48):
    """Return the losses of the predicted tokens, one at a time, from blocks made with the saved tokenizer."""
    model, tokenizer = XLNetLMHeadModel.from_pretrained(out).eval(), AutoTokenizer.from_pretrained(out)
    sep, cls, joined = tokenizer.sep_token_id, tokenizer.cls_token_id, []
    for document in held_out.read_text().split("\n\n"):
        joined += [sep] * bool(joined) + tokenizer(document, add_special_tokens=False)["input_ids"]
    found = []
    for number, begin in enumerate(range(0, len(joined), length - 2)):
        block = [*joined[begin : begin + length - 2], sep, cls]
        segments = [0] * (len(block) - 1) + [2]
        rng = example_rng(0, None, number)
        special = np.isin(block, tokenizer.all_special_ids)
        drawn = draw_spans(len(block), PLM_PROBABILITY, MAX_SPAN_LENGTH, rng)
        order = draw_order(len(block), rng).tolist()
        chosen = [place for place in range(len(block)) if drawn[place] and not special[place]]
        hidden = [tokenizer.mask_token_id if place in chosen else token for place, token in enumerate(block)]
        ranks = [rank if special[place] or place in chosen else -1 for place, rank in enumerate(order)]
        mask = [[float(i in chosen and rank <= ranks[i]) for i in range(len(block))] for rank in ranks]
        for place in chosen:
            with torch.no_grad():
                logits = model(
                    input_ids=torch.tensor([hidden]),
                    token_type_ids=torch.tensor([segments]),
                    perm_mask=torch.tensor([mask]),
                    target_mapping=torch.eye(len(block))[None, place : place + 1],
                ).logits[0, 0]
            found.append(cross_entropy(logits, torch.tensor(block[place])).item())
    return found


def test_evaluation_equals_that_by_hand_and_does_not_depend_on_training_flags(train, held_out, tmp_path):
    printed = train(tmp_path / "out", "--per_device_eval_batch_size", 8)
    results = results_of(tmp_path / "out")
    losses = losses_by_hand(tmp_path / "out", held_out)
    assert results["eval_predicted_tokens"] == len(losses) > 50
    assert results["eval_loss"] == pytest.approx(np.mean(losses), rel=1e-5)
    assert results["eval_perplexity"] == results["perplexity"] == pytest.approx(math.exp(np.mean(losses)), rel=1e-5)
    assert results["eval_bits_per_character"] > 1
    before, after = evaluations_of(tmp_path / "out")[0], results["eval_loss"]
    assert after < before
    assert results["eval_loss_change"] == pytest.approx(after - before, abs=1e-6)
    low, high = results["eval_loss_change_interval"]
    assert low < results["eval_loss_change"] < high
    for title in ("Permutation perplexity", "Predicted spans of held-out texts:", "(the text has: "):
        assert title in printed
    card = (tmp_path / "out" / "README.md").read_text()
    assert "A permutation language model, trained from a new xlnet." in card
    assert "17% of the tokens were predicted in training, in spans of up to 5; 17% in evaluations." in card
    # The same model, evaluated in other batches and before another training.
    train(tmp_path / "other", "--plm_probability", 0.4, "--max_span_length", 2, "--per_device_eval_batch_size", 3)
    assert evaluations_of(tmp_path / "other")[0] == pytest.approx(before, abs=1e-6)
    assert results_of(tmp_path / "other")["eval_predicted_tokens"] == len(losses)


@pytest.mark.parametrize(
    "argv",
    [
        ("--line_by_line", "--max_tokens_per_batch", 128),
        ("--streaming",),
        ("--max_seq_length", 33),
        ("--bf16", "--use_cpu", "--do_lower_case"),
        ("--pad_to_max_length",),
    ],
    ids=lambda argv: argv[0],
)
def test_other_ways_to_train(argv, train, tmp_path):
    train(tmp_path / "out", *argv)
    assert results_of(tmp_path / "out")["eval_loss"] < evaluations_of(tmp_path / "out")[0]


def test_named_texts_are_mixed_and_evaluated(train, text, held_out, tmp_path):
    train(
        tmp_path / "out", "--train_file", f"own={text}", f"other={held_out}", "--mixture", "own=0.7", "other=0.3",
        do_eval=False,
    )  # fmt: skip
    train(tmp_path / "two", "--do_eval", "--validation_file", f"a={held_out}", f"b={text}", do_eval=False)
    assert {"eval_a_perplexity", "eval_b_perplexity", "eval_b_predicted_tokens"} <= results_of(tmp_path / "two").keys()


def test_dry_run_and_preparation_write_no_model(train, tmp_path):
    printed = train(tmp_path / "out", "--dry_run")
    assert "nothing was trained" in printed
    assert "Memory" in printed
    assert "Prepared the data" in train(tmp_path / "out", "--prepare_only")
    assert not (tmp_path / "out" / "model.safetensors").exists()


@pytest.mark.flops
def test_throughput_has_an_mfu(train, tmp_path):
    train(tmp_path / "out", do_eval=False)
    assert 0 < json.loads((tmp_path / "out" / "train_results.json").read_text())["train_mfu"] < 1


def test_the_card_continues_a_text(train, tmp_path):
    """Without the pipeline's own text before it, and without <sep> <cls> after it."""
    train(tmp_path / "out", do_eval=False)
    check_card_continues(tmp_path / "out", "The moon")


def test_checkpoint_is_adapted(train, run_plm_script, text, held_out, tmp_path):
    """Its evaluation before training is that of its own end."""
    train(tmp_path / "out")
    code, _, errors = run_plm_script(
        "--model_name_or_path", tmp_path / "out", "--train_file", text, "--validation_file", held_out, "--do_train",
        "--do_eval", "--max_seq_length", 48, "--max_steps", 2, "--output_dir", tmp_path / "next",
    )  # fmt: skip
    assert (code, errors) == (0, "")
    assert evaluations_of(tmp_path / "next")[0] == pytest.approx(results_of(tmp_path / "out")["eval_loss"], abs=1e-6)


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (("--model_type", "bert"), "--model_type: bert has no permutation-language-modelling head: run_plm.py is for"),
        (("--plm_probability", 1), "--plm_probability 1.0 is not above 0 and below 1"),
        (
            ("--plm_probability", 0.01, "--max_seq_length", 64),
            "--plm_probability 0.01 is less than a token",
        ),
        (("--max_span_length", 0), "--max_span_length 0 is less than 1"),
        (("--max_seq_length", 16, "--max_span_length", 20), "--max_span_length 20 is more than --max_seq_length 16"),
        (("--config_overrides", "attn_type=uni"), "attn_type is uni, but a permutation needs bi"),
        (("--config_overrides", "max_position_embeddings=66"), "--config_overrides max_position_embeddings=66: "),
        (("--config_overrides", "d_model=100"), "--config_overrides d_model=100: "),
        (("--dtype", "auto"), "--dtype auto: XLNet needs float32 weights: drop the flag, or give --bf16"),
        (("--do_predict",), "--do_predict is not for this script: drop it, XLNet continues texts with generate of tr"),
        (("--max_span_length", 1025), "--max_span_length 1025 is more than --max_seq_length 1024, the default: lower"),
        (
            ("--bf16_full_eval", "--use_cpu"),
            "--bf16_full_eval is not for this script: drop it, XLNet needs float32 weights",
        ),
        (("--fp16_full_eval",), "--fp16_full_eval is not for this script: drop it, XLNet needs float32 weights"),
        (("--truncate_long_lines",), "--truncate_long_lines needs --line_by_line"),
    ],
    ids=lambda value: value[0] if isinstance(value, tuple) else "",
)
def test_mistakes_end_in_one_line(argv, message, run_plm_script, text, tmp_path):
    code, _, errors = run_plm_script(
        "--model_type", "xlnet", "--train_file", text, "--do_train", "--output_dir", tmp_path / "out", *argv
    )
    assert code == 2
    assert errors.startswith(f"error: {message}")
    assert errors.count("\n") == 1
    assert {path.name for path in tmp_path.glob("out/*")} <= {"_run.lock"}
