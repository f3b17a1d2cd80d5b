"""Predictions for [MASK] equal a plain forward of the model, for each mask, in texts of any length."""

import json
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from transformers import AutoModelForMaskedLM, AutoModelForPreTraining, AutoTokenizer

from cloze.inference.fill_mask import MAX_LOGGED, fill_masks, predict_words, readable, windows_of
from cloze.models.sparse_prediction import predict_masked_positions
from cloze.objectives.metrics import MASKED_TOKENS
from tests.utils import SAMPLE

ROOM = 32
TEXTS = [
    "The [MASK] is far.",
    "[MASK] melts ice, and a [MASK] of it keeps [MASK] for a whole winter.",
    "A tide comes [MASK]",
]


@pytest.fixture
def asked(checkpoint, pair_checkpoint):
    """``asked(family, auto_model)`` is a model that selects positions, its plain copy, and the tokenizer."""

    def load(family, auto_model=AutoModelForMaskedLM):
        path = (checkpoint if auto_model is AutoModelForMaskedLM else pair_checkpoint)(family)
        models = [auto_model.from_pretrained(path).eval() for _ in range(2)]
        for model in models:
            torch.manual_seed(1)
            with torch.no_grad():
                for weights in model.parameters():
                    # With the small initial weights, all tokens would be about equally probable.
                    weights.add_(torch.randn_like(weights) * 0.5)
        predict_masked_positions(models[0], MASKED_TOKENS.logits, ROOM)
        return *models, AutoTokenizer.from_pretrained(path)

    return load


@torch.no_grad()
def asked_directly(model, tokenizer, ids, top_k) -> list[list[tuple[str, float]]]:
    """Tokens and probabilities of a plain forward for each mask in ids [length]."""
    logits = MASKED_TOKENS.logits_of(model(input_ids=torch.tensor(ids)[None]))[0]
    found = []
    for place in np.flatnonzero(np.array(ids) == tokenizer.mask_token_id):
        best = logits[place].softmax(-1).topk(top_k)
        rows = zip(best.indices.tolist(), best.values.tolist(), strict=True)
        found.append([(readable(tokenizer, token), probability) for token, probability in rows])
    return found


def assert_fillings(fillings, expected):
    assert len(fillings) == len(expected)
    for masks, masks_expected in zip(fillings, expected, strict=True):
        assert [[f.token for f in mask] for mask in masks] == [[token for token, _ in mask] for mask in masks_expected]
        probabilities = [f.probability for mask in masks for f in mask]
        assert probabilities == pytest.approx([p for mask in masks_expected for _, p in mask], abs=1e-6)


@pytest.mark.parametrize(
    ("family", "auto_model"),
    [
        ("bert", AutoModelForMaskedLM),
        ("roberta", AutoModelForMaskedLM),
        ("albert", AutoModelForMaskedLM),
        ("deberta-v2", AutoModelForMaskedLM),
        ("bert", AutoModelForPreTraining),
    ],
)
def test_fill_masks_equals_a_direct_forward(family, auto_model, asked):
    model, plain, tokenizer = asked(family, auto_model)
    # As in training: the first token of a word contains the space before it.
    direct = [text.replace(" [MASK]", tokenizer.mask_token).replace("[MASK]", tokenizer.mask_token) for text in TEXTS]
    expected = [asked_directly(plain, tokenizer, tokenizer(text)["input_ids"], 5) for text in direct]
    assert [len(masks) for masks in expected] == [1, 3, 1]
    for texts in (TEXTS, direct):
        assert_fillings(fill_masks(model, tokenizer, texts, 5, ROOM), expected)


def test_fill_masks_pads_to_full_length_without_attention_mask(asked):
    """FNet mixes padding with text: as in training, all texts are padded to the maximum length."""
    model, plain, tokenizer = asked("fnet")
    padded = [tokenizer(text, padding="max_length", max_length=ROOM)["input_ids"] for text in TEXTS]
    expected = [asked_directly(plain, tokenizer, ids, 3) for ids in padded]
    assert_fillings(fill_masks(model, tokenizer, TEXTS, 3, ROOM), expected)


def test_fill_masks_does_not_depend_on_batches(asked):
    model, _, tokenizer = asked("bert")
    texts = [f"{'far ' * (number * 7 % 40)}[MASK] {'sun ' * (number % 5)}[MASK]" for number in range(11)]
    one_by_one = fill_masks(model, tokenizer, texts, 4, ROOM, batch_size=1)
    expected = [[[(f.token, f.probability) for f in mask] for mask in masks] for masks in one_by_one]
    assert [len(masks) for masks in expected] == [2] * 11
    assert len({tuple(mask) for masks in expected for mask in masks}) > 11
    assert_fillings(fill_masks(model, tokenizer, texts, 4, ROOM, batch_size=4), expected)
    assert_fillings(fill_masks(model, tokenizer, texts[::-1], 4, ROOM, batch_size=4)[::-1], expected)


@pytest.mark.parametrize("family", ["bert", "roberta"])
def test_long_text_masks_are_filled_from_surrounding_tokens(family, asked):
    model, plain, tokenizer = asked(family)
    words = (SAMPLE / "music.txt").read_text().split()[:200]
    for place in (0, 3, 100, 102, 199):
        words[place] = tokenizer.mask_token
    text = " ".join(words).replace(f" {tokenizer.mask_token}", tokenizer.mask_token)
    first, *ids, last = tokenizer(text)["input_ids"]
    room, expected = ROOM - 2, []
    for place in np.flatnonzero(np.array(ids) == tokenizer.mask_token_id):
        start = min(max(place - room // 2, 0), len(ids) - room)
        window = ids[start : start + room]
        # The window may contain other masks, which are filled from other windows.
        number = window[: place - start].count(tokenizer.mask_token_id)
        expected.append(asked_directly(plain, tokenizer, [first, *window, last], 3)[number])
    assert len(expected) == 5
    assert_fillings(fill_masks(model, tokenizer, [text], 3, ROOM), [expected])


@pytest.mark.parametrize(
    ("length", "places", "windows"),
    [
        (8, [1, 6], [(0, 8, [1, 6])]),
        (9, [0, 1, 4, 7, 8], [(0, 8, [0]), (0, 8, [1]), (0, 8, [4]), (1, 9, [6]), (1, 9, [7])]),
        (30, [2, 15, 28], [(0, 8, [2]), (11, 19, [4]), (22, 30, [6])]),
        (5, [], [(0, 5, [])]),
        (30, [], []),
    ],
)
def test_windows_are_centred_on_the_mask(length, places, windows):
    ids = np.arange(100, 100 + length)
    ids[places] = 4
    found = windows_of(0, ids, 4, 8)
    assert [(window.ids.tolist(), window.positions.tolist()) for window in found] == [
        (ids[start:stop].tolist(), inside) for start, stop, inside in windows
    ]


def test_fill_masks_computes_logits_at_masks_only(asked):
    model, _, tokenizer = asked("bert")
    shapes = []
    model.register_forward_hook(lambda module, args, output: shapes.append(tuple(output.logits.shape)))
    fill_masks(model, tokenizer, [*TEXTS, "far " * 99 + "[MASK] and [MASK]"], 2, ROOM, batch_size=4)
    # The two windows of the long text come first, then the shorter texts.
    assert shapes == [(1, 2 + 3 + 1, 500), (1, 1, 500)]


def test_predicted_tokens_are_decoded(tokenizers):
    byte_level, wordpiece = tokenizers["byte_level"], tokenizers["wordpiece"]
    assert readable(byte_level, byte_level.convert_tokens_to_ids("Ġthe")) == "the"
    # A bare space, and the first byte of an é.
    assert readable(byte_level, byte_level.convert_tokens_to_ids("Ġ")) == "Ġ"
    assert readable(byte_level, byte_level.convert_tokens_to_ids("Ã")) == "Ã"
    assert readable(wordpiece, wordpiece.convert_tokens_to_ids("##s")) == "##s"
    unigram = tokenizers["unigram"]
    assert readable(unigram, unigram.convert_tokens_to_ids("▁the")) == "the"


def predictions(folder):
    return [json.loads(line) for line in (folder / "predictions.jsonl").read_text(encoding="utf-8").splitlines()]


def test_do_predict_fills_in_the_lines_of_a_file(run_mlm_script, checkpoint, tmp_path):
    texts = [*TEXTS, "Ein <mask> im Käse. [MASK]", *(f"Number {n} is [MASK]." for n in range(20))]
    (tmp_path / "lines.txt").write_text("\n\n".join(texts), encoding="utf-8")
    code, printed, errors = run_mlm_script(
        "--model_name_or_path", checkpoint("roberta"), "--do_predict", "--test_file", tmp_path / "lines.txt",
        "--top_k", 3, "--per_device_eval_batch_size", 5, "--output_dir", tmp_path / "out",
    )  # fmt: skip
    assert (code, errors) == (0, "")
    model = AutoModelForMaskedLM.from_pretrained(checkpoint("roberta"))
    tokenizer = AutoTokenizer.from_pretrained(checkpoint("roberta"))
    predict_masked_positions(model, MASKED_TOKENS.logits, 65)
    expected = fill_masks(model, tokenizer, texts, 3, 65)
    lines = predictions(tmp_path / "out")
    assert [line["text"] for line in lines] == texts
    assert [len(line["fillings"]) for line in lines] == [1, 3, 1, 2] + [1] * 20
    for line, masks in zip(lines, expected, strict=True):
        for mask, fillings in zip(line["fillings"], masks, strict=True):
            assert [filling["token"] for filling in mask] == [filling.token for filling in fillings]
            probabilities = [filling["probability"] for filling in mask]
            assert probabilities == pytest.approx([filling.probability for filling in fillings], abs=1e-6)
    second = lines[1]["fillings"]
    shown = "\n".join("    " + ", ".join(f"{f['token']} {f['probability']:.0%}" for f in mask) for mask in second)
    assert f"  {TEXTS[1]}\n{shown}\n" in printed
    assert texts[MAX_LOGGED - 1] in printed
    assert texts[MAX_LOGGED] not in printed
    assert f"Filled in 24 lines (20 shown): {tmp_path}/out/predictions.jsonl" in printed


def test_run_trains_evaluates_and_predicts_with_the_trained_model(run_mlm_script, checkpoint, tmp_path, monkeypatch):
    """A model trained on one sentence knows its words; a later --do_predict gives the same."""
    (tmp_path / "text.txt").write_text("the moon is far away\n" * 40)
    (tmp_path / "table.csv").write_text("number,body\n1,the moon [MASK] far away\n2,\n3,[MASK] moon is [MASK] away\n")
    argv = ("--do_predict", "--test_file", tmp_path / "table.csv", "--text_column", "body", "--top_k", 2)
    out = tmp_path / "out"
    code, printed, errors = run_mlm_script(
        "--model_name_or_path", checkpoint("bert"), "--train_file", tmp_path / "text.txt", "--do_train", "--do_eval",
        "--validation_file", tmp_path / "text.txt", "--line_by_line", "--max_steps", 60, "--learning_rate", 0.02,
        "--mlm_probability", 0.3, "--cache_dir", tmp_path / "cache", "--output_dir", out, *argv,
    )  # fmt: skip
    assert (code, errors) == (0, "")
    lines = predictions(out)
    texts = ["the moon [MASK] far away", "", "[MASK] moon is [MASK] away"]
    assert [(line["row"], line["number"], line["body"]) for line in lines] == [
        (0, "1", texts[0]),
        (1, "2", ""),
        (2, "3", texts[2]),
    ]
    assert lines[1]["fillings"] is None
    assert [[mask[0]["token"] for mask in line["fillings"]] for line in lines[::2]] == [["is"], ["the", "far"]]
    assert "Filled in 2 lines; rows without text: 1" in printed
    assert printed.index("the moon [MASK] far away\n    is ") < printed.index("Masked perplexity")
    monkeypatch.chdir(tmp_path)
    code, printed, errors = run_mlm_script("--model_name_or_path", out, *argv)
    assert (code, errors) == (0, "")
    fillings = [line["fillings"] or [] for line in predictions(tmp_path / "trainer_output")]
    assert [[mask[0]["token"] for mask in masks] for masks in fillings] == [["is"], [], ["the", "far"]]


@pytest.mark.parametrize("first", [True, False])
def test_prediction_with_several_processes_is_written_by_the_first(first, asked, tmp_path, caplog):
    model, _, tokenizer = asked("bert")
    forwards = []
    model.register_forward_hook(lambda *_: forwards.append(1))
    args = SimpleNamespace(per_device_eval_batch_size=2, output_dir=tmp_path)
    trainer = SimpleNamespace(model=model, processing_class=tokenizer, args=args, is_world_process_zero=lambda: first)
    caplog.set_level("INFO")
    predict_words(trainer, [(text, {"text": text}) for text in [*TEXTS, "\U00012000 is [MASK]"]], 2, ROOM)
    assert len(forwards) == 2
    assert (tmp_path / "predictions.jsonl").exists() == first
    assert "--test_file: 2.6% of the tokens are [UNK]: the tokenizer" in caplog.text
    assert ("Filled in 4 lines" in caplog.text) == first
