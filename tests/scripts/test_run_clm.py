"""run_clm.py from end to end, compared with plain transformers; and the detour of an encoder."""

import json
import math
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch.nn.functional import cross_entropy
from transformers import AutoModelForCausalLM, AutoModelForMaskedLM, AutoTokenizer

from tests.utils import SAMPLE, check_card_continues

END = "<|endoftext|>"


@pytest.fixture
def out(tmp_path):
    return tmp_path / "out"


@pytest.fixture
def held_out(texts, tmp_path):
    """Three documents of four lines, with a tab, two spaces in a row, and characters of several bytes."""
    documents = ["\n".join(texts[begin : begin + 4]) for begin in (300, 310, 320)]
    path = tmp_path / "held-out.txt"
    path.write_text("\n\n".join([*documents[:2], f"na\u00efve  \u6f22\u5b57\t\U0001f991 {documents[2]}"]))
    return path


@pytest.fixture
def train(run_clm_script, causal_checkpoint, out):
    """``train(...)`` adapts a tiny GPT-2 to the sample with these further arguments; returns its output."""

    def run(*argv, model=None, text=SAMPLE) -> str:
        model = model or ("--model_name_or_path", causal_checkpoint("gpt2"))
        code, printed, errors = run_clm_script(
            *model, "--train_file", text, "--max_seq_length", 32, "--do_train", "--output_dir", out, *argv
        )
        assert code == 0, errors
        return printed

    return run


def results_of(out) -> dict:
    return json.loads((out / "all_results.json").read_text())


def history(out) -> list[dict]:
    return json.loads((out / "trainer_state.json").read_text())["log_history"]


def blocks_of(text, tokenizer) -> list[list[int]]:
    """Return blocks of 32 tokens of the documents, each followed by the end-of-text token; the last is shorter."""
    joined = tokenizer("".join(document + END for document in text.split("\n\n")))["input_ids"]
    return [joined[begin : begin + 32] for begin in range(0, len(joined), 32)]


def lines_of(text, tokenizer) -> list[list[int]]:
    """Return pieces of the lines, of up to 30 tokens after an end-of-text token; the last of a line ends with one."""
    end, pieces = tokenizer.eos_token_id, []
    for line in filter(None, text.split("\n")):
        ids = tokenizer(line)["input_ids"]
        pieces += [[end, *ids[begin : begin + 30]] for begin in range(0, len(ids), 30)]
        pieces[-1].append(end)
    return pieces


@pytest.mark.parametrize(("flags", "cut"), [((), blocks_of), (("--line_by_line",), lines_of)], ids=["blocks", "lines"])
def test_measures_equal_those_of_plain_transformers(flags, cut, train, held_out, causal_checkpoint, out):
    """Of all tokens but the first of each example; the saved tokenizer is unchanged."""
    printed = train("--max_steps", 5, "--learning_rate", 1e-2, "--do_eval", "--validation_file", held_out, *flags)
    results = results_of(out)
    model, tokenizer = AutoModelForCausalLM.from_pretrained(out).eval(), AutoTokenizer.from_pretrained(out)
    loss = count = size = characters = 0
    for ids in cut(held_out.read_text(), tokenizer):
        with torch.no_grad():
            logits = model(input_ids=torch.tensor([ids])).logits[0]
        loss += cross_entropy(logits[:-1], torch.tensor(ids[1:]), reduction="sum").item()
        count += len(ids) - 1
        pieces = [
            tokenizer.backend_tokenizer.id_to_token(token) for token in ids[1:] if token != tokenizer.eos_token_id
        ]
        # Each character of a byte-level token stands for a byte.
        size += len("".join(pieces))
        # A character counts where its first byte is predicted: split ones are rare, and skipped here.
        characters += len("".join(tokenizer.decode(ids[1:], skip_special_tokens=True).split()))
    assert results["eval_tokens"] == count > 300
    assert results["eval_loss"] == pytest.approx(loss / count, rel=1e-5)
    assert results["eval_perplexity"] == results["perplexity"] == pytest.approx(math.exp(loss / count), rel=1e-5)
    assert results["eval_bits_per_byte"] == pytest.approx(loss / math.log(2) / size, rel=1e-5)
    assert results["eval_bits_per_character"] == pytest.approx(loss / math.log(2) / characters, rel=1e-2)
    before = next(entry for entry in history(out) if "eval_loss" in entry)
    # The losses of the documents are complete: no target is left out.
    assert results["eval_loss_change"] == pytest.approx(results["eval_loss"] - before["eval_loss"], rel=1e-5)
    low, high = results["eval_loss_change_interval"]
    assert low < results["eval_loss_change"] < high < 0
    own = json.loads((out / "tokenizer.json").read_text())
    assert own == json.loads(Path(causal_checkpoint("gpt2"), "tokenizer.json").read_text())
    assert "Beginnings of held-out texts, continued:\n" in printed
    card = (out / "README.md").read_text()
    assert "pipeline_tag: text-generation" in card
    assert "A causal language model, trained from " in card
    assert "type: bits_per_byte" in card


def test_evaluation_does_not_depend_on_batch_size(run_clm_script, causal_checkpoint, held_out, tmp_path):
    losses = []
    for batch_size in (1, 3, 64):
        out = tmp_path / str(batch_size)
        code, _, errors = run_clm_script(
            "--model_name_or_path", causal_checkpoint("gpt2"), "--validation_file", held_out, "--line_by_line",
            "--do_eval", "--per_device_eval_batch_size", batch_size, "--max_seq_length", 32, "--output_dir", out,
        )  # fmt: skip
        assert code == 0, errors
        losses.append(results_of(out)["eval_loss"])
    assert losses[1:] == pytest.approx([losses[0]] * 2, rel=1e-6)


def test_step_does_not_depend_on_accumulation(train, causal_checkpoint, out):
    """Lines, whose numbers of targets are unequal. A step of plain SGD at rate 1 changes weights by the gradient."""
    initial, runs = load_file(f"{causal_checkpoint('gpt2')}/model.safetensors"), []
    for batch_size, accumulation in ((16, 1), (4, 4)):
        train(
            "--line_by_line", "--per_device_train_batch_size", batch_size, "--gradient_accumulation_steps",
            accumulation, "--max_steps", 1, "--optim", "sgd", "--learning_rate", 1, "--max_grad_norm", 0,
            "--overwrite_output_dir", "--save_strategy", "no",
        )  # fmt: skip
        weights = load_file(out / "model.safetensors")
        runs.append((history(out)[0]["loss"], {name: weights[name] - initial[name] for name in weights}))
    (loss, gradients), (other_loss, other_gradients) = runs
    assert other_loss == pytest.approx(loss, rel=1e-6)
    assert max(float(gradient.abs().max()) for gradient in gradients.values()) > 1e-2
    for name, gradient in gradients.items():
        torch.testing.assert_close(other_gradients[name], gradient, rtol=0, atol=1e-6)


@pytest.mark.parametrize(
    "flags",
    [
        ("--streaming", "--validation_file", SAMPLE / "music.txt"),
        ("--train_file", f"a={SAMPLE / 'music.txt'}", f"b={SAMPLE / 'oceans.txt'}", "--mixture", "a=0.7", "b=0.3"),
        ("--max_tokens_per_batch", 128, "--line_by_line", "--truncate_long_lines", "--bf16"),
    ],
    ids=["streaming", "mixture", "budget"],
)
def test_run_clm_trains_with_the_flags_of_the_other_scripts(flags, train, out):
    train("--max_steps", 8, "--learning_rate", 1e-2, "--do_eval", "--max_eval_samples", 20, "--use_cpu", *flags)
    assert results_of(out)["eval_loss_change"] < 0
    assert AutoModelForCausalLM.from_pretrained(out).config.vocab_size == 500
    names = {key for key in results_of(out) if key.endswith("_perplexity")}
    assert names == {"eval_perplexity"} | (
        {"eval_a_perplexity", "eval_b_perplexity"} if "--mixture" in flags else set()
    )


def test_from_scratch_trains_a_byte_level_tokenizer_with_one_special_token(train, out):
    model = ("--model_type", "gpt2", "--config_overrides", "n_embd=16,n_layer=1,n_head=2,n_positions=40")
    printed = train("--max_steps", 2, "--vocab_size", 700, "--block_size", 40, model=model)
    assert "GPT2Tokenizer, 700 tokens" in printed
    model, tokenizer = AutoModelForCausalLM.from_pretrained(out), AutoTokenizer.from_pretrained(out)
    assert type(tokenizer).__name__ == "GPT2Tokenizer"
    assert len(tokenizer) == model.config.vocab_size == 700
    assert tokenizer.all_special_tokens == [END]
    assert [token.content for token in tokenizer.added_tokens_decoder.values()] == [END]
    ids = tokenizer("A na\u00efve \U0001f991")["input_ids"]
    assert tokenizer.decode(ids) == "A na\u00efve \U0001f991"
    assert tokenizer.eos_token_id not in ids
    assert (model.config.eos_token_id, model.config.pad_token_id) == (tokenizer.eos_token_id, None)
    assert "blocks of up to 40 tokens" in printed


@pytest.mark.parametrize(
    ("family", "beginning"), [("gpt2", "The moon"), ("bert", "[CLS]The moon"), ("roberta", "<s>The moon")]
)
def test_the_card_continues_a_text(family, beginning, train, causal_checkpoint, checkpoint, out):
    """After an encoder's [SEP], the pipeline would begin another text."""
    path = causal_checkpoint(family) if family == "gpt2" else checkpoint(family)
    train("--max_steps", 3, "--learning_rate", 1e-2, model=("--model_name_or_path", path))
    check_card_continues(out, beginning)


@pytest.mark.parametrize("family", ["bert", "roberta"])
def test_run_mlm_continues_from_a_causal_encoder(family, train, run_mlm_script, checkpoint, out, tmp_path):
    """The head was trained, too, and no weight is new; the blocks are those of run_mlm.py."""
    argv = ("--max_steps", 3, "--learning_rate", 1e-2, "--do_eval", "--save_strategy", "no")
    printed = train(*argv, model=("--model_name_or_path", checkpoint(family)))
    assert "encoder gets a causal mask" in printed
    assert "new weights" not in printed
    config = json.loads((out / "config.json").read_text())
    assert config["is_decoder"] is True
    _, loading = AutoModelForMaskedLM.from_pretrained(out, output_loading_info=True)
    assert (set(loading["missing_keys"]), set(loading["unexpected_keys"])) == (set(), set())
    before, after = (load_file(f"{folder}/model.safetensors") for folder in (checkpoint(family), out))
    assert before.keys() == after.keys()
    assert [name for name in before if torch.equal(before[name], after[name])] == []
    code, again, errors = run_mlm_script(
        "--model_name_or_path", out, "--train_file", SAMPLE, "--max_seq_length", 32, "--do_train",
        "--output_dir", tmp_path / "mlm", *argv,
    )  # fmt: skip
    assert code == 0, errors
    assert f"{out} was trained with a causal mask; it attends in both directions again" in again
    assert "new weights" not in again
    assert json.loads((tmp_path / "mlm" / "config.json").read_text())["is_decoder"] is False
    examples = [line for line in printed.splitlines() if line.startswith("Training examples: ")]
    assert examples == [line for line in again.splitlines() if line.startswith("Training examples: ")]
    assert (out / "tokenizer.json").read_bytes() == (tmp_path / "mlm" / "tokenizer.json").read_bytes()


@pytest.mark.parametrize("resume", [False, True], ids=["output_dir", "flag"])
def test_run_mlm_does_not_resume_a_causal_run(resume, train, run_mlm_script, checkpoint, out):
    """All settings that both scripts have are equal, and so are the names of the weights."""
    model = ("--model_name_or_path", checkpoint("bert"))
    train("--max_steps", 2, "--save_steps", 1, model=model)
    newest = out / "checkpoint-2"
    code, _, errors = run_mlm_script(
        *model, "--train_file", SAMPLE, "--max_seq_length", 32, "--do_train", "--output_dir", out, "--max_steps", 2,
        *(("--resume_from_checkpoint", newest) if resume else ()),
    )  # fmt: skip
    assert code == 2
    assert f"error: {newest} was saved as BertLMHeadModel, not as BertForMaskedLM: resume it with the script" in errors
    assert len(errors.splitlines()) == 1


def test_the_end_of_a_text_of_one_token_is_predicted(train, out, tmp_path):
    text = tmp_path / "text.txt"
    text.write_text("A")
    train("--max_steps", 1, "--do_eval", "--validation_file", text, text=text)
    assert results_of(out)["eval_tokens"] == 1
