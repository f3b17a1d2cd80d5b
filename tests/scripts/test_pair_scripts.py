"""run_nsp.py and run_pretraining.py from end to end, through their front doors."""

import json
import math
import random

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from transformers import (
    AutoModel,
    AutoModelForMaskedLM,
    AutoModelForNextSentencePrediction,
    AutoModelForPreTraining,
    AutoModelForSequenceClassification,
    AutoTokenizer,
)

import cloze.data.nsp
import run_pretraining
from cloze.config.parser import parse, settings_of
from cloze.data.collators import Padding
from cloze.data.samplers import BatchSettings, EpochDataset, ResumableBatchSampler
from cloze.tasks.next_sentence import NEXT_SENTENCE
from cloze.tasks.pretraining import PRETRAINING
from cloze.training.context import set_up
from tests.utils import PAIR_FAMILIES, SAMPLE, slow_but

# One layer of weights large enough that a relation of two tokens is found in a few seconds.
QUICK = (
    "hidden_size=64,num_hidden_layers=1,num_attention_heads=4,intermediate_size=256,max_position_embeddings=16,"
    "initializer_range=0.15,hidden_dropout_prob=0.0,attention_probs_dropout_prob=0.0"
)


@pytest.fixture
def out(tmp_path):
    return tmp_path / "out"


@pytest.fixture
def scripts(run_nsp_script, run_pretraining_script):
    return {"nsp": run_nsp_script, "pretraining": run_pretraining_script}


@pytest.fixture
def train(scripts, pair_checkpoint, out):
    """``train(script, ...)`` trains a tiny BERT on the sample with these further arguments; returns its output."""

    def run(script, *argv, model=None, text=SAMPLE) -> str:
        code, printed, errors = scripts[script](
            "--model_name_or_path", model or pair_checkpoint("bert"), "--train_file", text, "--sentence_per_line",
            "--max_seq_length", 48, "--do_train", "--output_dir", out, *argv,
        )  # fmt: skip
        assert code == 0, errors
        return printed

    return run


def history(out) -> list[dict]:
    return json.loads((out / "trainer_state.json").read_text())["log_history"]


def results(out, name="eval") -> dict:
    return json.loads((out / f"{name}_results.json").read_text())


def assert_drawn(out):
    assert (out / "curves.png").read_bytes().startswith(b"\x89PNG")
    assert "![Training curves](curves.png)" in (out / "README.md").read_text()


def judgements(out) -> list[dict]:
    return [json.loads(line) for line in (out / "predictions.jsonl").read_text().splitlines()]


ARCHITECTURES = [("nsp", family) for family in PAIR_FAMILIES if family in NEXT_SENTENCE.model_types]
ARCHITECTURES += [("pretraining", family) for family in PAIR_FAMILIES]
QUICK_ARCHITECTURES = [("nsp", "bert"), ("pretraining", "bert"), ("pretraining", "albert")]


@pytest.mark.parametrize(("script", "family"), slow_but(QUICK_ARCHITECTURES, ARCHITECTURES))
def test_pair_scripts_train_every_architecture_two_steps(script, family, train, pair_checkpoint, out):
    train(script, "--do_eval", "--max_steps", 2, "--learning_rate", 1e-2, model=pair_checkpoint(family))
    before, after = load_file(f"{pair_checkpoint(family)}/model.safetensors"), load_file(out / "model.safetensors")
    heads = [name for name in after if "seq_relationship" in name or "sop_classifier" in name]
    assert heads
    assert all(not torch.equal(before[name], after[name]) for name in heads)
    assert 0 < results(out)["eval_loss"] < 12


@pytest.mark.parametrize("family", slow_but(["bert"], NEXT_SENTENCE.model_types))
def test_trained_pair_model_loads_in_every_auto_class(family, train, pair_checkpoint, out):
    train("pretraining", "--max_steps", 1, model=pair_checkpoint(family))
    weights = load_file(out / "model.safetensors")
    for auto_model in (
        AutoModelForMaskedLM,
        AutoModelForNextSentencePrediction,
        AutoModelForSequenceClassification,
        AutoModel,
    ):
        model, loading = auto_model.from_pretrained(out, output_loading_info=True)
        new = {"classifier.weight", "classifier.bias"} if "Classification" in auto_model.__name__ else set()
        assert set(loading["missing_keys"]) == new
        prefix = (
            "" if auto_model is not AutoModel else f"{AutoModelForPreTraining.from_pretrained(out).base_model_prefix}."
        )
        state = model.state_dict()
        shared = [name for name in state if f"{prefix}{name}" in weights]
        assert len(shared) > 20
        assert all(torch.equal(state[name], weights[f"{prefix}{name}"]) for name in shared)


@pytest.mark.curves
def test_both_objectives_log_losses_and_accuracies_apart(train, out):
    train("pretraining", "--do_eval", "--max_steps", 7, "--logging_steps", 3, "--gradient_accumulation_steps", 2)
    steps = [entry for entry in history(out) if "loss" in entry]
    assert [entry["step"] for entry in steps] == [1, 3, 6, 7]
    for entry in steps:
        assert entry["loss"] == pytest.approx(entry["mlm_loss"] + entry["nsp_loss"], rel=1e-6)
        assert 5 < entry["mlm_loss"] < 8
        assert 0.4 < entry["nsp_loss"] < 1.2
        assert 0 <= entry["mlm_accuracy"] <= 0.5
        assert 0 < entry["nsp_accuracy"] < 1
    evaluation = results(out)
    assert evaluation["eval_loss"] == pytest.approx(evaluation["eval_mlm_loss"] + evaluation["eval_nsp_loss"])
    assert evaluation["perplexity"] == pytest.approx(math.exp(evaluation["eval_mlm_loss"]))
    assert {"eval_mlm_accuracy", "eval_nsp_accuracy", "eval_nsp_f1", "eval_nsp_is_next"} <= evaluation.keys()
    assert_drawn(out)


@pytest.mark.parametrize("script", ["nsp", "pretraining"])
def test_pair_step_does_not_depend_on_accumulation(script, train, out):
    """transformers#47688, for two counts at once: pairs, and masked tokens, which are unequal from batch to batch."""
    runs = {}
    for batch_size, accumulation in ((16, 1), (4, 4), (2, 8)):
        train(
            script, "--pair_strategy", "sentence", "--per_device_train_batch_size", batch_size,
            "--gradient_accumulation_steps", accumulation, "--max_steps", 3, "--logging_steps", 1,
            "--learning_rate", 0.5, "--optim", "sgd", "--overwrite_output_dir", "--save_strategy", "no",
        )  # fmt: skip
        names = {"loss", "grad_norm", "accuracy", "mlm_loss", "nsp_loss", "mlm_accuracy", "nsp_accuracy"}
        logs = [{key: entry[key] for key in names & entry.keys()} for entry in history(out) if "loss" in entry]
        runs[batch_size] = logs, load_file(out / "model.safetensors")
    whole_logs, whole_weights = runs[16]
    assert len(whole_logs) == 3
    assert len(whole_logs[0]) == {"nsp": 3, "pretraining": 6}[script]
    for logs, weights in (runs[4], runs[2]):
        for cut, whole in zip(logs, whole_logs, strict=True):
            assert cut == pytest.approx(whole, rel=5e-5)
        for name, weight in weights.items():
            torch.testing.assert_close(weight, whole_weights[name], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("family", ["bert", "fnet"])
def test_pair_evaluation_does_not_depend_on_batch_size_and_repeats(family, scripts, pair_checkpoint, tmp_path):
    """FNet has no attention mask: what is padding to it depends on the batch unless all are padded alike."""
    found = []
    for number, batch_size in enumerate((1, 7, 64, 64)):
        out = tmp_path / str(number)
        code, _, errors = scripts["pretraining"](
            "--model_name_or_path", pair_checkpoint(family), "--validation_file", SAMPLE, "--do_eval",
            "--pair_strategy", "sentence", "--per_device_eval_batch_size", batch_size, "--max_seq_length", 48,
            "--output_dir", out, "--max_eval_samples", 90, "--seed", number,
        )  # fmt: skip
        assert code == 0, errors
        found.append({name: results(out)[f"eval_{name}"] for name in ("mlm_loss", "nsp_loss", "nsp_accuracy")})
    assert found[2] == found[3], "to the last digit, whatever the seed"
    assert found[0] == pytest.approx(found[2], rel=1e-6)
    assert found[1] == pytest.approx(found[2], rel=1e-6)


@pytest.mark.parametrize(
    ("strategy", "flags"),
    [
        ("segment", ["--per_device_train_batch_size", 3]),
        ("sentence", ["--per_device_train_batch_size", 3]),
        ("segment", ["--max_tokens_per_batch", 150, "--gradient_accumulation_steps", 2]),
    ],
)
def test_pair_run_resumes_exactly(strategy, flags, train, out, texts, tmp_path):
    """transformers#11284, with pairs drawn anew: stopped in the middle of the second and of the third epoch, which
    have other pairs, and more or fewer of them."""
    (tmp_path / "text.txt").write_text("\n\n".join("\n".join(texts[i : i + 6]) for i in range(0, 48, 6)))
    argv = ["pretraining", "--pair_strategy", strategy, "--max_steps", 36, "--save_steps", 3, "--logging_steps", 1]
    argv += ["--learning_rate", 1e-2, "--save_total_limit", 99, *flags]
    train(*argv, text=tmp_path / "text.txt")
    whole, weights = [entry for entry in history(out) if "loss" in entry], load_file(out / "model.safetensors")
    keys = ("step", "epoch", "loss", "mlm_loss", "nsp_loss", "mlm_accuracy", "nsp_accuracy", "learning_rate")
    for epoch in (2, 1):
        stop = max(step for step in range(3, 36, 3) if epoch < whole[step - 1]["epoch"] < epoch + 1)
        for step in range(stop + 3, 37, 3):
            (out / f"checkpoint-{step}").rename(tmp_path / f"{epoch}-{step}")  # as if killed after ``stop``
        assert f"Resuming from {out / f'checkpoint-{stop}'}" in train(*argv, text=tmp_path / "text.txt")
        again = [entry for entry in history(out) if "loss" in entry]
        assert [[entry[key] for key in keys] for entry in again] == [[entry[key] for key in keys] for entry in whole]
        final = load_file(out / "model.safetensors")
        assert all(torch.equal(weights[name], final[name]) for name in weights)


@pytest.mark.parametrize("flags", [["--per_device_train_batch_size", 3], ["--max_tokens_per_batch", 150]])
def test_pair_epoch_trains_on_each_pair_once(flags, train, out, texts, tmp_path, monkeypatch):
    """Though there are more or fewer than in the first, by which the Trainer counts the steps; the last epoch ends
    where the steps do, and the learning rate with them."""
    (tmp_path / "text.txt").write_text("\n\n".join("\n".join(texts[i : i + 6]) for i in range(0, 60, 6)))
    taken, drawn, get, set_epoch = [], {}, EpochDataset.__getitem__, ResumableBatchSampler.set_epoch

    def draw(self, epoch, *args):
        set_epoch(self, epoch, *args)
        drawn[epoch] = self.num_steps, len(self.examples.lengths(epoch))

    monkeypatch.setattr(EpochDataset, "__getitem__", lambda self, key: taken.append(key) or get(self, key))
    monkeypatch.setattr(ResumableBatchSampler, "set_epoch", draw)
    train(
        "pretraining", "--num_train_epochs", 4, "--gradient_accumulation_steps", 2, "--logging_steps", 1,
        "--learning_rate", 0.01, "--save_strategy", "no", *flags, text=tmp_path / "text.txt",
    )  # fmt: skip
    assert len({count for _, count in drawn.values()}) > 1
    for epoch in sorted(drawn)[:-1]:
        numbers = [number for examples_for_epoch, number in taken if examples_for_epoch == epoch]
        assert sorted(numbers) == list(range(drawn[epoch][1]))
    entries = [entry for entry in history(out) if "loss" in entry]
    steps = 4 * drawn[0][0]
    assert [entry["step"] for entry in entries] == list(range(1, steps + 1))
    rates = [0.01 * (steps - step) / steps for step in range(steps)]
    assert [entry["learning_rate"] for entry in entries] == pytest.approx(rates)
    assert 3 < entries[-1]["epoch"] < 5


def test_held_out_pairs_are_grouped_by_length(sets_of):
    """Pairs are sorted by length, longest first, to reduce padding; a limit selects the first pairs of the text."""
    for limit in (None, 9):
        argv = ("--max_eval_samples", limit) if limit else ()
        held_out = sets_of("--max_seq_length", 66, "--short_seq_probability", 1, *argv).validation[""]
        pairs = [held_out[place] for place in range(len(held_out))]
        lengths = [len(pair["input_ids"]) for pair in pairs]
        assert lengths == sorted(lengths, reverse=True)
        assert sorted(pair["example"] for pair in pairs) == list(range(limit or len(held_out)))
        assert lengths[0] > lengths[-1]


@pytest.fixture
def sets_of(pair_checkpoint, out):
    """``sets_of(...)`` are the examples that run_pretraining.py makes of the sample with these further arguments."""

    def make(*argv):
        argv = (
            "--model_name_or_path", pair_checkpoint("bert"), "--train_file", SAMPLE, "--sentence_per_line",
            "--max_seq_length", 48, "--do_train", "--do_eval", "--output_dir", out, *argv,
        )  # fmt: skip
        return PRETRAINING.make_splits(
            set_up(PRETRAINING, *parse(list(map(str, argv)), settings_of(run_pretraining.main)))
        )

    return make


def ids_of(examples, keys) -> list[tuple]:
    pairs = [examples[key] for key in keys]
    return [
        (pair["input_ids"].tolist(), pair["token_type_ids"].tolist(), pair["next_sentence_label"]) for pair in pairs
    ]


def test_pairs_are_drawn_anew_each_epoch_and_reproducibly(sets_of):
    first, again, other = sets_of(), sets_of(), sets_of("--data_seed", 7)
    drawn = [ids_of(first.train, [(epoch, number) for number in range(300)]) for epoch in (0, 1, 2)]
    assert drawn == [ids_of(again.train, [(epoch, number) for number in range(300)]) for epoch in (0, 1, 2)]
    shared = {str(pair) for pair in drawn[0]} & {str(pair) for pair in drawn[1]}
    assert len(shared) < 30
    assert ids_of(other.train, [(0, number) for number in range(300)]) != drawn[0]
    evaluation = ids_of(first.validation[""], range(len(first.validation[""])))
    assert evaluation == ids_of(again.validation[""], range(len(again.validation[""])))


@pytest.mark.parametrize("strategy", ["segment", "sentence"])
def test_every_sentence_is_used_in_every_epoch(strategy, sets_of):
    """The number of segment pairs differs between epochs."""
    train = sets_of("--pair_strategy", strategy).train
    counts = [len(train.examples_for_epoch(epoch)) for epoch in range(12)]
    assert (len(set(counts)) > 1) == (strategy == "segment")
    assert max(counts) < 1.2 * min(counts)
    assert len(train) == counts[0]
    batches = ResumableBatchSampler(
        train, BatchSettings("group_by_length", 16, accumulation=2), Padding().padded_lengths, seed=0
    )
    for epoch, count in enumerate(counts):
        batches.set_epoch(epoch)
        assert sorted(key for batch in batches for key in batch) == [(epoch, number) for number in range(count)]


def test_evaluation_pairs_are_the_same_for_every_seed(sets_of):
    one, two = (sets_of("--validation_file", SAMPLE / "music.txt", "--seed", seed).validation[""] for seed in (1, 2))
    assert ids_of(one, range(len(one))) == ids_of(two, range(len(two)))


@pytest.mark.parametrize("strategy", ["segment", "sentence"])
def test_pairs_fit_max_seq_length_with_special_tokens(strategy, sets_of):
    """transformers#12188. Pairs that were cut fill max_seq_length to the last token."""
    examples = sets_of("--pair_strategy", strategy, "--max_seq_length", 24).train.examples_for_epoch(0)
    assert examples.lengths.max() == 24
    assert set(examples.lengths[examples.cut > 0]) == {24}
    for number in range(50):
        ids = examples[number]["input_ids"].tolist()
        assert len(ids) == examples.lengths[number]
        assert (ids.count(examples.template.prefix[0]), ids.count(examples.template.suffix[0])) == (1, 2)


# What is learnt


NUMBERS = [
    "one",
    "two",
    "three",
    "four",
    "five",
    "six",
    "seven",
    "eight",
    "nine",
    "ten",
    "eleven",
    "twelve",
    "thirteen",
    "fourteen",
    "fifteen",
    "sixteen",
    "seventeen",
    "eighteen",
    "nineteen",
    "twenty",
    "thirty",
    "forty",
    "fifty",
    "sixty",
]


def numbered_documents(count: int, seed: int) -> str:
    """Return documents of twelve numbered sentences, each with the next number."""
    rng = random.Random(seed)
    documents = []
    for _ in range(count):
        first = rng.randrange(len(NUMBERS))
        documents.append("\n".join(f"page {NUMBERS[(first + n) % len(NUMBERS)]}" for n in range(12)))
    return "\n\n".join(documents)


@pytest.fixture
def learn(scripts, out, tmp_path):
    """Train run_nsp.py from scratch on numbered documents; return the results on others."""

    def run() -> dict:
        for name, count in (("train", 200), ("validation", 60)):
            (tmp_path / f"{name}.txt").write_text(numbered_documents(count, seed=count))
        code, _, errors = scripts["nsp"](
            "--model_type", "bert", "--config_overrides", QUICK, "--vocab_size", 150, "--do_train", "--do_eval",
            "--train_file", tmp_path / "train.txt", "--validation_file", tmp_path / "validation.txt",
            "--sentence_per_line", "--pair_strategy", "sentence", "--max_seq_length", 16, "--max_steps", 250,
            "--per_device_train_batch_size", 64, "--learning_rate", 1e-3, "--warmup_steps", 20,
            "--save_strategy", "no", "--output_dir", out,
        )  # fmt: skip
        assert code == 0, errors
        return results(out)

    return run


def test_next_sentence_prediction_learns_order_with_correct_labels(learn, scripts, out, tmp_path):
    """google-research/bert#125, inverted labels: the model is reloaded, and its first output is the chance of B
    following A."""
    evaluation = learn()
    assert evaluation["eval_pairs"] == 660
    assert evaluation["eval_accuracy"] > 0.95
    assert 0.42 < evaluation["eval_is_next"] < 0.58
    model, tokenizer = AutoModelForNextSentencePrediction.from_pretrained(out), AutoTokenizer.from_pretrained(out)
    pairs = [(f"page {NUMBERS[n]}", f"page {NUMBERS[n + step]}") for n in range(20) for step in (1, 3)]
    with torch.no_grad():
        inputs = tokenizer(*map(list, zip(*pairs, strict=True)), padding=True, return_tensors="pt")
        chances = model(**inputs).logits.softmax(-1)
    found = chances.argmax(-1).view(20, 2)
    assert (found[:, 0] == 0).float().mean() > 0.9, "0 is IsNext"
    assert (found[:, 1] == 1).float().mean() > 0.9, "1 is random"
    # The command line gives the same answers.
    table = "".join(f"{a},{b},{number % 2}\n" for number, (a, b) in enumerate(pairs))
    (tmp_path / "pairs.csv").write_text(f"sentence_a,sentence_b,label\n{table}")
    code, printed, errors = scripts["nsp"](
        "--model_name_or_path", out, "--do_predict", "--test_file", tmp_path / "pairs.csv", "--output_dir", out,
    )  # fmt: skip
    assert (code, errors) == (0, "")
    lines = judgements(out)
    assert [(line["sentence_a"], line["sentence_b"]) for line in lines] == pairs
    assert [line["is_next_probability"] for line in lines] == pytest.approx(chances[:, 0].tolist(), abs=1e-6)
    assert [line["not_next_probability"] for line in lines] == pytest.approx(chances[:, 1].tolist(), abs=1e-6)
    assert [line["prediction"] for line in lines] == chances.argmax(-1).tolist()
    accuracy = np.mean([line["prediction"] == line["label"] for line in lines])
    assert results(out, "predict")["predict_accuracy"] == accuracy
    assert f"accuracy {accuracy:.4f}" in printed


def test_next_sentence_prediction_learns_nothing_from_shuffled_labels(learn, monkeypatch):
    """Only the order of sentences determines the labels: length, position and type do not leak them."""
    draw_pairs = cloze.data.nsp.draw_pairs

    def shuffled(tokens, sentences, template, settings, rng, word_starts):
        pairs = draw_pairs(tokens, sentences, template, settings, rng, word_starts)
        rng.shuffle(pairs.labels)
        return pairs

    monkeypatch.setattr(cloze.data.nsp, "draw_pairs", shuffled)
    assert 0.42 < learn()["eval_accuracy"] < 0.58


# Pairs of a stream


@pytest.mark.parametrize("script", ["nsp", "pretraining"])
@pytest.mark.parametrize("argv", [["--max_tokens_per_batch", 200], ["--dataloader_num_workers", 2]])
def test_pair_scripts_train_on_a_stream(script, argv, train, out):
    printed = train(
        script, "--streaming", "--validation_file", SAMPLE / "music.txt", "--do_eval", "--max_steps", 6, *argv
    )
    assert history(out)[-1]["step"] == 6
    assert 0 < results(out)["eval_loss"] < 12
    assert "3 more files, streamed" in printed
    assert "pairs of" in next(line for line in printed.splitlines() if line.startswith("Training examples"))
    assert "Pair with label 1, B is random" in printed


# Summary of the text, and reports


@pytest.mark.curves
def test_pair_report_shows_counts_and_lengths(train, out):
    printed = train("nsp", "--do_eval", "--max_steps", 1, "--pair_strategy", "sentence")
    lines = {line.partition(": ")[0]: line for line in printed.splitlines()}
    # 342 articles: all sentences but the last of each begin a pair.
    assert "342 of 360 documents" in lines["Training text"]
    pairs, sentences = (
        int(lines["Training examples"].split(": ")[1].split(f" {word}")[0].split(" of ")[-1].replace(",", ""))
        for word in ("pairs", "sentences")
    )
    assert pairs == sentences - 342
    assert "IsNext" in lines["Held-out examples"]
    assert "% of 48" in lines["Training examples"]
    assert "of the tokens cut off" in lines["Training examples"]
    assert lines["Pair with label 0, B follows A"].count("[SEP]") == 2
    assert lines["Pair with label 1, B is random"].count("[SEP]") == 2
    assert "Pair accuracy" in printed
    before = next(entry for entry in history(out) if entry["step"] == 0)
    assert f"\nheld-out     0    0.00  {before['eval_loss']:6.3f}  {before['eval_accuracy']:8.1%}  " in printed
    assert_drawn(out)
    assert "in order: " in printed


def test_one_sentence_documents_are_reported(train, tmp_path, texts):
    (tmp_path / "text.txt").write_text("\n\n".join([*texts[:7], "\n".join(texts[7:30])]))
    printed = train("nsp", "--max_steps", 1, text=tmp_path / "text.txt")
    assert "7 documents of one sentence can only start a random pair" in printed
    printed = train(
        "nsp", "--pair_objective", "sop", "--max_steps", 1, "--overwrite_output_dir", text=tmp_path / "text.txt"
    )
    assert "7 documents of one sentence left out" in printed
    assert "Pair with label 1, A follows B" in printed


def test_too_many_random_pairs_are_warned_about(train, tmp_path, texts):
    """Of 150 documents of one sentence, all pairs are random; one of 20 sentences cannot make up for it."""
    (tmp_path / "text.txt").write_text("\n\n".join([*texts[:150], "\n".join(texts[150:170])]))
    warned = "% of the pairs are random, but --nsp_probability is 0.5"
    assert warned in train("nsp", "--max_steps", 1, text=tmp_path / "text.txt")
    assert "of the pairs are random" not in train("nsp", "--max_steps", 1, "--overwrite_output_dir")


def test_sentence_order_needs_one_document_only(train, tmp_path, texts, out):
    (tmp_path / "text.jsonl").write_text(json.dumps({"text": "\n".join(texts[:20])}))
    argv = ("--validation_file", tmp_path / "text.jsonl", "--do_eval", "--max_steps", 1)
    printed = train(
        "nsp", "--pair_objective", "sop", "--pair_strategy", "sentence", *argv, text=tmp_path / "text.jsonl"
    )
    assert "1 documents" in printed
    assert results(out)["eval_pairs"] == 19


def test_new_head_weights_are_reported(train, checkpoint, tmp_path):
    """With a masked language model, the pooler and the second head are new; with a bare encoder, both heads are."""
    printed = train("pretraining", "--max_steps", 1, model=checkpoint("bert"))
    (line,) = [line for line in printed.splitlines() if line.startswith("warning: new weights, not loaded from")]
    assert "bert.pooler.dense.weight" in line
    assert "cls.seq_relationship.weight" in line
    assert "cls.predictions" not in line
    bare = tmp_path / "bare"
    AutoModel.from_pretrained(checkpoint("bert")).save_pretrained(bare)
    AutoTokenizer.from_pretrained(checkpoint("bert")).save_pretrained(bare)
    printed = train("pretraining", "--max_steps", 1, "--overwrite_output_dir", model=bare)
    assert "cls.predictions.transform.dense.weight" in printed
    assert "cls.seq_relationship.weight" in printed


def test_user_pairs_are_judged(scripts, pair_checkpoint, out, tmp_path):
    """Labels may be unknown, and texts too long; the results equal the output of the model itself."""
    rows = [
        {"sentence_a": "The moon is far.", "sentence_b": "The sun is farther.", "label": 0},
        {"sentence_a": "The moon is far. " * 20, "sentence_b": "Salt.", "label": 1},
        {"sentence_a": "Salt melts ice.", "sentence_b": "The sun is far.", "label": None},
        {"sentence_a": "A tide comes in.", "sentence_b": "A tide goes out.", "label": "1"},
    ]
    # Rows without one of the texts also have a line, but no prediction.
    rows[1:1] = [{"sentence_a": None, "sentence_b": "Salt.", "label": 1}]
    rows[4:4] = [{"sentence_a": "Salt.", "sentence_b": " "}]
    rows = [row | {"id": f"number {number}"} for number, row in enumerate(rows)]
    (tmp_path / "pairs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    code, printed, errors = scripts["nsp"](
        "--model_name_or_path", pair_checkpoint("bert"), "--do_predict", "--test_file", tmp_path / "pairs.jsonl",
        "--max_seq_length", 48, "--per_device_eval_batch_size", 3, "--output_dir", out,
    )  # fmt: skip
    assert (code, errors) == (0, "")
    assert "1 of 4 pairs exceed 48 tokens and are truncated" in printed
    lines = judgements(out)
    assert [line["label"] for line in lines] == [0, 1, 1, None, None, 1]
    assert [(line["row"], line["id"]) for line in lines] == [(number, f"number {number}") for number in range(6)]
    for number in (4, 1):
        row, line = rows.pop(number), lines.pop(number)
        assert (line["sentence_a"], line["sentence_b"]) == (row["sentence_a"], row["sentence_b"])
        assert [line[name] for name in ("is_next_probability", "not_next_probability", "prediction")] == [None] * 3
    assert all(line["is_next_probability"] + line["not_next_probability"] == 1 for line in lines)
    model = AutoModelForNextSentencePrediction.from_pretrained(pair_checkpoint("bert"))
    tokenizer = AutoTokenizer.from_pretrained(pair_checkpoint("bert"))
    for row, line in zip(rows, lines, strict=True):
        inputs = tokenizer(
            row["sentence_a"], row["sentence_b"], truncation="longest_first", max_length=48, return_tensors="pt"
        )
        with torch.no_grad():
            expected = model(**inputs).logits.softmax(-1)[0, 1].item()
        assert line["not_next_probability"] == pytest.approx(expected, abs=1e-6)
    known = [line for line in lines if line["label"] is not None]
    metrics = results(out, "predict")
    assert metrics["predict_pairs"] == 3
    assert metrics["predict_accuracy"] == np.mean([line["prediction"] == line["label"] for line in known])
    losses = [-math.log(line["not_next_probability" if line["label"] else "is_next_probability"]) for line in known]
    assert metrics["predict_loss"] == pytest.approx(np.mean(losses), rel=1e-5)


def test_pair_with_an_empty_text_is_not_judged(scripts, pair_checkpoint, out, tmp_path):
    (tmp_path / "pairs.csv").write_text("sentence_a,sentence_b\nThe moon.,\u200b\n", encoding="utf-8")
    code, _, errors = scripts["nsp"](
        "--model_name_or_path", pair_checkpoint("bert"), "--do_predict", "--test_file", tmp_path / "pairs.csv",
        "--output_dir", out,
    )  # fmt: skip
    assert code == 2
    assert "pairs.csv, line 2: the tokenizer finds no token in one of the two texts" in errors
    assert not (out / "predictions.jsonl").exists()


def test_user_pairs_without_labels_are_judged(scripts, pair_checkpoint, out, tmp_path):
    (tmp_path / "pairs.csv").write_text("sentence_a,sentence_b\nThe moon is far.,The \U00012000 is farther.\n")
    argv = ("--model_name_or_path", pair_checkpoint("bert"), "--do_predict", "--output_dir", out)
    code, printed, errors = scripts["nsp"](*argv, "--test_file", tmp_path / "pairs.csv")
    assert (code, errors) == (0, "")
    assert judgements(out)[0]["label"] is None
    assert not (out / "predict_results.json").exists()
    assert "Classified 1 pairs" in printed
    assert "warning: --test_file: 9.1% of the tokens are [UNK]: the tokenizer" in printed
