"""run_clm.py --do_predict writes each row's continuation and log-likelihoods, as plain transformers has them."""

import json
import math

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, BertConfig, BertForMaskedLM, BertLMHeadModel

from cloze.inference.continuations import CONTEXT, MAX_LOGGED, begin_of, decode_after, perplexity
from cloze.models.loading import sync_config_with_tokenizer
from tests.utils import BERT_LIKE, SAMPLE, start_together

TEXTS = ["The moon is far.", "Salt melts ice, and", "A", "A tide comes in twice a day because the sea follows the moon"]


@pytest.fixture
def predict(run_clm_script, tmp_path):
    """``predict(model, text or rows, *flags)`` returns exit code, stdout, stderr and the lines of predictions.jsonl."""

    def run(model, texts, *argv):
        name = "rows.jsonl" if isinstance(texts[0], dict) else "lines.txt"
        lines = [json.dumps(text) if isinstance(text, dict) else text for text in texts]
        (tmp_path / name).write_text("\n".join(lines), encoding="utf-8")
        code, printed, errors = run_clm_script(
            "--model_name_or_path", model, "--do_predict", "--test_file", tmp_path / name, "--max_new_tokens", 8,
            "--output_dir", tmp_path / "out", *argv,
        )  # fmt: skip
        return code, printed, errors, predictions(tmp_path / "out")

    return run


def predictions(folder):
    path = folder / "predictions.jsonl"
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()] if path.exists() else []


def save(model, tokenizer, path):
    torch.manual_seed(1)
    with torch.no_grad():
        for weights in model.parameters():
            # With the small initial weights, all tokens would be about equally probable.
            weights.add_(torch.randn_like(weights) * 0.3)
    model.save_pretrained(path)
    tokenizer.save_pretrained(path)
    return str(path)


@pytest.fixture(scope="module")
def gpt2(causal_checkpoint, tokenizers, tmp_path_factory):
    """A tiny GPT-2 with 64 positions, whose tokenizer adds no special tokens."""
    model = AutoModelForCausalLM.from_pretrained(causal_checkpoint("gpt2"))
    return save(model, tokenizers["gpt2"], tmp_path_factory.mktemp("gpt2"))


@pytest.fixture(scope="module")
def encoders(tokenizers, tmp_path_factory):
    """Two tiny BERTs: trained with a causal mask, and as a masked language model."""
    paths = []
    for model_class in (BertLMHeadModel, BertForMaskedLM):
        config = BertConfig(**BERT_LIKE, is_decoder=model_class is BertLMHeadModel)
        sync_config_with_tokenizer(config, tokenizers["wordpiece"])
        path = tmp_path_factory.mktemp(model_class.__name__)
        paths.append(save(model_class(config), tokenizers["wordpiece"], path))
    return paths


@torch.no_grad()
def assert_equals_plain(line, text, path, start, end):
    """Compare a line with plain transformers: a forward over the whole text, and greedy steps without a cache."""
    model, tokenizer = AutoModelForCausalLM.from_pretrained(path).eval(), AutoTokenizer.from_pretrained(path)
    ids = tokenizer(text, add_special_tokens=False)["input_ids"]
    scores = model(input_ids=torch.tensor([[start, *ids]])).logits[0].log_softmax(-1)
    expected = [scores[place, token].item() for place, token in enumerate(ids)]
    assert [each["token"] for each in line["tokens"]] == tokenizer.convert_ids_to_tokens(ids)
    assert [each["log_likelihood"] for each in line["tokens"]] == pytest.approx(expected, abs=1e-5)
    assert line["log_likelihood"] == pytest.approx(sum(expected), abs=1e-4)
    assert line["perplexity"] == pytest.approx(math.exp(-sum(expected) / len(ids)), rel=1e-5)
    whole = list(ids)
    for _ in range(8):
        token = int(model(input_ids=torch.tensor([[start, *whole]])).logits[0, -1].argmax())
        if token == end:
            break
        whole.append(token)
    whole_text, before = (tokenizer.decode(part, skip_special_tokens=True) for part in (whole, ids))
    assert before + line["continuation"] == whole_text


def test_predictions_equal_plain_transformers(gpt2, predict):
    texts = [*TEXTS, *(f"Number {number} is" for number in range(20))]
    code, printed, errors, lines = predict(gpt2, texts, "--per_device_eval_batch_size", 5)
    assert (code, errors) == (0, "")
    assert [(line["row"], line["text"]) for line in lines] == list(enumerate(texts))
    end = AutoTokenizer.from_pretrained(gpt2).eos_token_id
    for line in lines[:6]:
        assert_equals_plain(line, line["text"], gpt2, end, end)
    shown = " ".join(lines[1]["continuation"].split())
    assert f"\n  {TEXTS[1]}\n    {shown}\n" in printed
    assert f"  {texts[MAX_LOGGED - 1]}\n" in printed
    assert f"  {texts[MAX_LOGGED]}\n" not in printed
    scores = [each["log_likelihood"] for line in lines for each in line["tokens"]]
    assert f"Continued 24 texts (20 shown), perplexity {math.exp(-np.mean(scores)):,.2f}: " in printed


def test_an_encoder_trained_causally_starts_texts_with_cls(encoders, predict):
    causal, masked = encoders
    tokenizer = AutoTokenizer.from_pretrained(causal)
    code, _, errors, lines = predict(causal, TEXTS)
    assert (code, errors) == (0, "")
    for line, text in zip(lines, TEXTS, strict=True):
        assert_equals_plain(line, text, causal, tokenizer.cls_token_id, tokenizer.sep_token_id)
    code, _, errors, _ = predict(masked, TEXTS)
    assert code == 2
    assert errors.startswith(
        f"error: --model_name_or_path {masked} was saved as BertForMaskedLM, not as BertLMHeadModel"
    )


def test_rows_keep_their_columns_and_empty_ones_get_nulls(gpt2, predict):
    rows = [{"id": 1, "body": " A tide "}, {"id": 2, "body": ""}, {"id": 3, "body": None}, {"id": 4, "body": "A tide"}]
    code, printed, errors, lines = predict(gpt2, rows, "--text_column", "body")
    assert (code, errors) == (0, "")
    assert [(line["id"], line["body"], line["row"]) for line in lines] == [
        (1, " A tide ", 0),
        (2, "", 1),
        (3, None, 2),
        (4, "A tide", 3),
    ]
    names = ("continuation", "log_likelihood", "perplexity", "tokens")
    assert [lines[1][name] for name in names] == [lines[2][name] for name in names] == [None] * 4
    assert lines[0]["continuation"] == lines[3]["continuation"] != ""
    assert "Continued 2 texts, perplexity" in printed
    assert "; rows without text: 2: " in printed


def test_samples_depend_on_seed_and_row_only(gpt2, predict):
    argv = ("--do_sample", "--temperature", 1.5, "--top_p", 0.9, "--top_k", 100)
    rows = [{"text": text} for text in TEXTS]
    *_, errors, lines = predict(gpt2, rows, *argv, "--seed", 3)
    assert errors == ""
    expected = [line["continuation"] for line in lines]
    # Without the other rows, each in its place, in batches of one.
    alone = [{"text": ""}, rows[1], {"text": ""}, rows[3]]
    *_, lines = predict(gpt2, alone, *argv, "--seed", 3, "--per_device_eval_batch_size", 1)
    assert [line["continuation"] for line in lines] == [None, expected[1], None, expected[3]]
    *_, lines = predict(gpt2, rows, *argv, "--seed", 4)
    assert all(line["continuation"] != own for line, own in zip(lines, expected, strict=True))


def test_long_texts_are_scored_whole_and_continued_from_their_end(gpt2, predict):
    tokenizer, model = AutoTokenizer.from_pretrained(gpt2), AutoModelForCausalLM.from_pretrained(gpt2).eval()
    text = " ".join((SAMPLE / "music.txt").read_text().split()[:100])
    ids = tokenizer(text)["input_ids"]
    code, printed, errors, (line, short) = predict(gpt2, [text, "A tide"])
    assert (code, errors) == (0, "")
    assert (
        "warning: 1 of 2 texts are continued from their last 56 tokens only: --max_seq_length 64 has to hold "
        "--max_new_tokens 8, too\n"
    ) in printed
    assert len(line["tokens"]) == len(ids) > 64
    assert f"  ... {text[-CONTEXT:]}\n" in printed
    with torch.no_grad():
        new = model.generate(torch.tensor([ids[-56:]]), max_new_tokens=8, do_sample=False, pad_token_id=0)[0, 56:]
    assert line["continuation"] == tokenizer.decode(new, skip_special_tokens=True)
    assert len(short["tokens"]) == len(tokenizer("A tide")["input_ids"])


@pytest.mark.parametrize(
    ("rows", "argv", "problem"),
    [
        ([""], (), "has no text: give texts to continue"),
        ([{"a": "one", "b": "two"}], (), "cannot determine which column holds the text: give --text_column NAME"),
        ([{"a": "one"}], ("--text_column", "b"), "--text_column b is not in"),
        ([{"text": "one"}, {"a": "two"}], (), "no column 'text' (columns: a)"),
        (TEXTS, ("--max_new_tokens", 63), "--max_new_tokens 63 does not fit into the model's input of 64 tokens"),
        (TEXTS, ("--max_new_tokens", 0), "--max_new_tokens 0 is less than 1"),
        (TEXTS, ("--temperature", 0.7), "--temperature 0.7 needs --do_sample: add it, or drop the flag"),
        (TEXTS, ("--top_k", 5), "--top_k 5 needs --do_sample"),
        (TEXTS, ("--do_sample", "--temperature", 0), "--temperature 0.0 is less than 0.01: drop --do_sample"),
        (TEXTS, ("--do_sample", "--top_p", 1.5), "--top_p 1.5 is not above 0 and at most 1"),
        (TEXTS, ("--do_sample", "--top_k", 0), "--top_k 0 is less than 1: omit it"),
    ],
)
def test_bad_input_is_reported_in_one_line(rows, argv, problem, gpt2, predict):
    code, printed, errors, lines = predict(gpt2, rows, *argv)
    assert (code, lines) == (2, [])
    assert errors.startswith("error: ")
    assert problem in errors
    assert len(errors.splitlines()) == 1
    assert "Model:" not in printed


def test_duplicated_columns_are_an_error(gpt2, run_clm_script, tmp_path):
    (tmp_path / "rows.csv").write_text("text,text\none,two\n")
    code, _, errors = run_clm_script(
        "--model_name_or_path", gpt2, "--do_predict", "--test_file", tmp_path / "rows.csv", "--output_dir",
        tmp_path / "out", "--max_new_tokens", 8,
    )  # fmt: skip
    assert code == 2
    assert "2 columns are named text" in errors


def test_a_long_prompt_keeps_its_end_after_the_template():
    ids = np.arange(10, 20)
    assert begin_of(ids, (2,), (), 11).tolist() == [2, *range(10, 20)]
    assert begin_of(ids, (2,), (), 10).tolist() == list(range(10, 20))
    assert begin_of(ids, (2,), (), 3).tolist() == [17, 18, 19]
    assert begin_of(ids, (4, 5), (4, 5), 12).tolist() == [4, 5, *range(10, 20)]
    assert begin_of(ids, (4, 5), (4, 5), 5).tolist() == [4, 5, 17, 18, 19]


def test_a_continuation_begins_with_the_space_before_it(tokenizers):
    wordpiece = tokenizers["wordpiece"]
    ids, new, part = (
        np.array(wordpiece.convert_tokens_to_ids(tokens)) for tokens in (["the", "sea"], ["the", "sea"], ["##s", "the"])
    )
    assert decode_after(wordpiece, ids, new) == " the sea"
    assert decode_after(wordpiece, ids, part) == "s the"
    assert decode_after(wordpiece, ids, np.array([], dtype=np.int64)) == ""


def test_perplexity():
    assert perplexity(np.log([0.5, 0.125])) == pytest.approx(4)
    assert perplexity(np.array([-1e4])) == math.inf


@pytest.mark.slow
@pytest.mark.parametrize("count", [1, 3])
def test_processes_share_the_rows(count, gpt2, predict, tmp_path):
    argv = ("--do_sample", "--max_new_tokens", 8, "--seed", 3)
    *_, expected = predict(gpt2, TEXTS[:count], *argv)
    assert len(expected) == count
    processes = start_together(
        "run_clm", "--model_name_or_path", gpt2, "--do_predict", "--test_file", tmp_path / "lines.txt",
        "--output_dir", tmp_path / "shared", *argv, log=tmp_path / "log", processes=2,
    )  # fmt: skip
    for process in processes:
        process.join()
    assert [process.exitcode for process in processes] == [0, 0], (tmp_path / "log.0").read_text()
    found = predictions(tmp_path / "shared")
    assert [line["continuation"] for line in found] == [line["continuation"] for line in expected]
    assert [line["log_likelihood"] for line in found] == pytest.approx([line["log_likelihood"] for line in expected])
