"""predictions.jsonl has a line of valid JSON for each row of a test file, whatever its columns contain."""

import datetime
import decimal
import json
from types import SimpleNamespace

import pytest

from cloze.inference.next_sentence import pair_of
from cloze.inference.predictions import save_predictions


@pytest.mark.parametrize(
    ("value", "label"), [("1.0", 1), (1.0, 1), (" 0 ", 0), ("0.0", 0), (0, 0), (None, None), ("", None), (" ", None)]
)
def test_pair_labels_read_alike_from_all_formats(value, label):
    """With missing labels, a table has 1.0 for 1, and a .csv file has it as a string."""
    assert pair_of({"sentence_a": "a", "sentence_b": "b", "label": value}, "here").label == (
        label if label is None else str(label)
    )


@pytest.fixture
def written(tmp_path):
    """``written(rows, predictions)`` returns the lines of predictions.jsonl."""
    trainer = SimpleNamespace(args=SimpleNamespace(output_dir=tmp_path), is_world_process_zero=lambda: True)

    def write(rows, predictions) -> list[str]:
        save_predictions(trainer, "Classified", rows, predictions, {})
        return (tmp_path / "predictions.jsonl").read_text(encoding="utf-8").splitlines()

    return write


def test_pair_rows_without_text_give_nulls(written):
    """Otherwise, later predictions would be assigned to the wrong rows."""
    rows = [(None, {"text": None}), ("a", {"text": "a", "id": 7}), (None, {"text": " "}), ("b", {"text": "b"})]
    lines = list(map(json.loads, written(rows, [{"prediction": 0, "share": 0.5}, {"prediction": 1, "share": 0.7}])))
    assert lines == [
        {"text": None, "row": 0, "prediction": None, "share": None},
        {"text": "a", "id": 7, "row": 1, "prediction": 0, "share": 0.5},
        {"text": " ", "row": 2, "prediction": None, "share": None},
        {"text": "b", "row": 3, "prediction": 1, "share": 0.7},
    ]


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (datetime.datetime(2024, 5, 3, 12), "2024-05-03 12:00:00"),
        (datetime.date(2024, 5, 3), "2024-05-03"),
        (decimal.Decimal("1.50"), "1.50"),
        ([1.5, float("nan"), {"a": float("-inf")}], [1.5, None, {"a": None}]),
        ("half a surrogate \ud83d", "half a surrogate \ud83d"),
        ("Käse 🦑", "Käse 🦑"),
    ],
)
def test_predictions_are_valid_json(value, expected, written):
    (line,) = written([("a", {"text": "a", "other": value})], [{"prediction": 0}])
    assert json.loads(line, parse_constant=pytest.fail)["other"] == expected


def test_predictions_of_an_earlier_run_are_replaced(written):
    """The predictions of one model may be the next model's test file."""
    (line,) = written([("a", {"text": "a", "row": 5, "prediction": 1})], [{"prediction": 0}])
    assert json.loads(line) == {"text": "a", "row": 0, "prediction": 0}
