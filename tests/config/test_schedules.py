"""Check which schedules are accepted, and that the errors name flag and cure."""

import re
from fractions import Fraction

import pytest

from cloze.config.arguments import TrainingArguments
from cloze.config.data_arguments import DataTrainingArguments, PretrainingDataArguments, check_together
from cloze.config.schedules import parse_fractions, parse_lengths
from cloze.errors import UserError


@pytest.mark.parametrize(
    ("schedule", "lengths"), [("64:128", (64, 128)), ("16:32", (16, 32)), ("8:8:64:128", (8, 8, 64, 128))]
)
def test_lengths(schedule, lengths):
    assert parse_lengths(schedule, lengths[-1]) == lengths
    assert DataTrainingArguments(max_seq_length=lengths[-1], sequence_length_schedule=schedule).lengths == lengths


def test_growing_lengths_need_a_fixed_batch_size(tmp_path):
    """Memory may run out only at the longest ones; the Trainer would then train its first steps again."""
    text = DataTrainingArguments(**TEXT, max_seq_length=32, sequence_length_schedule="16:32")
    check_together(text, trained(tmp_path))
    with pytest.raises(UserError, match="--sequence_length_schedule and --auto_find_batch_size exclude each other"):
        check_together(text, trained(tmp_path, auto_find_batch_size=True))


@pytest.mark.parametrize(
    ("schedule", "problem"),
    [
        ("128", "is not a list of lengths: give two or more, such as 64:128"),
        ("64,128", "is not a list of lengths"),
        ("64:128:", "is not a list of lengths"),
        ("-64:128", "is not a list of lengths"),
        ("64:256", "does not end with --max_seq_length: give --max_seq_length 256"),
        ("4:128", ": 4 is too short: give 8 or more"),
        ("0:128", ": 0 is too short"),
        ("48:128", ": 48 does not divide 128: give lengths such as 64:128:256"),
        ("64:32:128", ": 64 does not divide 32"),
    ],
)
def test_other_lengths_are_refused(schedule, problem):
    with pytest.raises(UserError) as error:
        DataTrainingArguments(max_seq_length=128, sequence_length_schedule=schedule)
    assert str(error.value).startswith(f"--sequence_length_schedule {schedule}")
    assert problem in str(error.value)


def test_lengths_need_a_maximum_and_blocks():
    with pytest.raises(UserError, match="--sequence_length_schedule 64:128 does not end with --max_seq_length: give"):
        DataTrainingArguments(sequence_length_schedule="64:128")
    with pytest.raises(UserError, match="cuts blocks, not lines: drop it, or --line_by_line"):
        DataTrainingArguments(max_seq_length=128, sequence_length_schedule="64:128", line_by_line=True)


def trained(tmp_path, **settings):
    return TrainingArguments(str(tmp_path), do_train=True, **({"max_steps": 5} | settings))


TEXT = {"train_file": ["a.txt"]}


@pytest.mark.parametrize(
    ("schedule", "fractions"),
    [("0.5:1", [0.5, 1]), (".25:0.25:1.0", [0.25, 0.25, 1]), ("0.1:0.9:1", [Fraction(1, 10), Fraction(9, 10), 1])],
)
def test_fractions(schedule, fractions):
    assert parse_fractions(schedule) == tuple(fractions)


@pytest.mark.parametrize(
    "schedule", ["1", "0.5", "0:1", "0.5:2", "0.5:0.25", "0.5,1", "half:1", "-0.5:1", "0.5:1:", ".:1"]
)
def test_other_fractions_are_refused(schedule, tmp_path):
    args = trained(tmp_path, batch_size_schedule=schedule)
    with pytest.raises(UserError, match=f"^--batch_size_schedule {re.escape(schedule)} is not a list of fractions"):
        check_together(DataTrainingArguments(**TEXT), args)


@pytest.mark.parametrize(
    ("settings", "text", "problem"),
    [
        ({"max_steps": -1}, {}, "needs a number of steps: add --max_steps N"),
        ({"max_steps": -1, "max_train_hours": 1}, {}, "and --max_train_hours exclude each other"),
        ({"auto_find_batch_size": True}, {}, "and --auto_find_batch_size exclude each other: drop one of them"),
        ({}, {"streaming": True}, "and --streaming exclude each other: drop one of them"),
        ({"per_device_train_batch_size": 6}, {}, ": 0.25 of 1 batches of 6 examples is not a whole number"),
        ({"max_tokens_per_batch": 512}, {}, ": 0.25 of 1 batches is not a whole number: raise --gradient_accum"),
    ],
)
def test_fractions_that_do_not_fit_are_refused(settings, text, problem, tmp_path):
    args = trained(tmp_path, batch_size_schedule="0.25:1", **settings)
    with pytest.raises(UserError, match="--batch_size_schedule") as error:
        check_together(DataTrainingArguments(**TEXT, **text), args)
    assert problem in str(error.value)


@pytest.mark.parametrize(
    "settings",
    [
        {"per_device_train_batch_size": 4},
        {"per_device_train_batch_size": 6, "gradient_accumulation_steps": 4},
        {"per_device_train_batch_size": 1, "gradient_accumulation_steps": 4, "max_tokens_per_batch": 512},
    ],
)
def test_fractions_that_fit(settings, tmp_path):
    check_together(DataTrainingArguments(**TEXT), trained(tmp_path, batch_size_schedule="0.25:0.5:1", **settings))


@pytest.mark.parametrize("share", [0.0, 1.0, -0.1])
def test_final_rate_is_a_share(share):
    with pytest.raises(UserError, match=f"--final_mlm_probability {share} is not above 0 and below 1"):
        DataTrainingArguments(final_mlm_probability=share)


@pytest.mark.parametrize(
    "settings",
    [
        DataTrainingArguments(train_file=["a.txt"], final_mlm_probability=0.1),
        DataTrainingArguments(train_file=["a.txt"], max_seq_length=32, sequence_length_schedule="16:32"),
        PretrainingDataArguments(train_file=["a.txt"], final_mlm_probability=0.1),
    ],
)
def test_a_run_that_ends_by_time_has_no_schedule(settings, tmp_path):
    check_together(settings, TrainingArguments(str(tmp_path), do_train=True, max_steps=5))
    timed = TrainingArguments(str(tmp_path), do_train=True, max_train_hours=1)
    with pytest.raises(UserError, match="and --max_train_hours exclude each other, as the number of steps must be kno"):
        check_together(settings, timed)
