"""Test reading labelled texts from files and data sets, their classes, and their examples."""

import json
from decimal import Decimal

import datasets
import numpy as np
import pytest
from transformers import BertConfig

from cloze.config.classification_arguments import ClassificationArguments
from cloze.data.classification import LabelledExamples, check_trained, numbers_of_classes, set_classes
from cloze.data.labelled_texts import (
    LabelledText,
    check_labels,
    divide,
    find_classes,
    label_in,
    labelled_texts,
    read_labelled,
    read_test_texts,
    sample,
)
from cloze.errors import UserError
from cloze.text.corpus import FileCorpus, HubCorpus
from cloze.text.sources import find_corpora
from tests.utils import SAMPLE


def read(path, has_labels=True, **settings):
    corpus = FileCorpus((path,), settings.get("text_column"))
    return [text for text, _ in labelled_texts(corpus, ClassificationArguments(**settings), has_labels)]


def texts_with(labels):
    return [LabelledText((f"text {number}",), label, f"line {number}") for number, label in enumerate(labels)]


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("table.csv", 'label,text\nSports,"A goal, late"\nWorld,A vote\n'),
        ("table.tsv", "text\tlabel\nA goal, late\tSports\nA vote\tWorld\n"),
        ("table.jsonl", '{"text": "A goal, late", "label": "Sports"}\n{"text": "A vote", "label": "World"}\n'),
        ("table.json", '[{"text": "A goal, late", "label": "Sports"}, {"text": "A vote", "label": " World "}]'),
    ],
)
def test_labelled_tables_of_every_format_read_alike(name, content, tmp_path):
    (tmp_path / name).write_text(content)
    found = read(tmp_path / name)
    assert [(text.texts, text.label) for text in found] == [(("A goal, late",), "Sports"), (("A vote",), "World")]


def test_labelled_parquet_reads_like_csv(tmp_path):
    rows = datasets.Dataset.from_dict({"text": ["A goal", None], "label": [1.0, 0.0]})
    rows.to_parquet(tmp_path / "table.parquet")
    assert [(text.texts, text.label) for text in read(tmp_path / "table.parquet")] == [(("A goal",), "1"), (("",), "0")]


def test_text_file_lines_are_labelled_by_file_name():
    found = read(SAMPLE / "music.txt")
    assert len(found) == 959
    assert {text.label for text in found} == {"music"}
    assert found[0].texts[0].startswith("A violin string makes very little sound")
    assert found[0].where.endswith("music.txt, line 1")
    assert {text.label for text in read(SAMPLE / "music.txt", has_labels=False)} == {None}


def test_column_flags_select_label_and_second_text(tmp_path):
    (tmp_path / "pairs.csv").write_text("premise,hypothesis,gold\nIt rains,It is wet,yes\n")
    (found,) = read(tmp_path / "pairs.csv", text_column="premise", text_pair_column="hypothesis", label_column="gold")
    assert (found.texts, found.label) == (("It rains", "It is wet"), "yes")


def test_label_column_is_not_taken_for_the_text(tmp_path):
    """If there are two string columns, the one without labels is the text."""
    (tmp_path / "two.csv").write_text("headline,label\nA goal,Sports\n")
    assert read(tmp_path / "two.csv")[0].texts == ("A goal",)


def test_hub_data_set_gives_its_class_names():
    features = datasets.Features(
        {"text": datasets.Value("string"), "label": datasets.ClassLabel(names=["bad", "good"])}
    )
    rows = datasets.Dataset.from_dict({"text": ["a", "b", "c"], "label": [1, 0, -1]}, features=features)
    corpus = HubCorpus("reviews (train)", rows)
    found = [text for text, _ in labelled_texts(corpus, ClassificationArguments(dataset_name="reviews"))]
    assert [text.label for text in found] == ["good", "bad", None]
    with pytest.raises(UserError, match=r"reviews \(train\), row 2: no label"):
        read_labelled(corpus, ClassificationArguments(dataset_name="reviews"))


def test_saved_data_set_gives_its_class_names(tmp_path):
    features = datasets.Features(
        {"text": datasets.Value("string"), "label": datasets.ClassLabel(names=["bad", "good"])}
    )
    datasets.Dataset.from_dict({"text": ["a", "b"], "label": [1, 0]}, features).save_to_disk(tmp_path / "saved")
    data_args = ClassificationArguments(train_file=str(tmp_path / "saved"))
    corpus = find_corpora(data_args, do_train=True, do_eval=False).train[""]
    assert [text.label for text in read_labelled(corpus, data_args)] == ["good", "bad"]


@pytest.mark.parametrize(
    ("content", "culprit"),
    [
        ("text,kind\nA goal,Sports\n", "line 2: no column label: give --label_column NAME .columns: text, kind"),
        ("title,body,label\na,b,c\n", "which column holds the text"),
        ("text,label\nA goal,Sports\nA vote,\n", "line 3: no label"),
        ("text,label\n", "contains no texts"),
    ],
)
def test_labelled_table_errors_name_the_place(content, culprit, tmp_path):
    (tmp_path / "table.csv").write_text(content)
    with pytest.raises(UserError, match=culprit):
        read_labelled(FileCorpus((tmp_path / "table.csv",)), ClassificationArguments())


@pytest.mark.parametrize("kind", ["csv", "tsv", "json", "jsonl", "parquet", "data set"])
def test_integer_labels_are_classes_in_any_notation(kind, tmp_path):
    def labels_of(values):
        texts = [f"text {number}" for number in range(len(values))]
        if kind == "data set":
            rows = datasets.Dataset.from_dict({"text": texts, "label": values})
            found = labelled_texts(HubCorpus("rows", rows), ClassificationArguments(dataset_name="rows"))
            return [text.label for text, _ in found]
        path = tmp_path / f"table.{kind}"
        if kind == "parquet":
            datasets.Dataset.from_dict({"text": texts, "label": values}).to_parquet(path)
        elif kind in ("csv", "tsv"):
            delimiter = "," if kind == "csv" else "\t"
            lines = [("text", "label"), *zip(texts, values, strict=True)]
            path.write_text("".join(f"{text}{delimiter}{value}\n" for text, value in lines))
        else:
            rows = [{"text": text, "label": value} for text, value in zip(texts, values, strict=True)]
            path.write_text(json.dumps(rows) if kind == "json" else "\n".join(map(json.dumps, rows)))
        return [text.label for text in read(path)]

    assert labels_of([1, 0, -2]) == labels_of([1.0, 0.0, -2.0]) == labels_of(["1.0", " 0", "-2."]) == ["1", "0", "-2"]
    # Words, as a number is not written so.
    assert labels_of(["01", "1.2.3", "v1.0", "-", "1e5", "1E-50"]) == ["01", "1.2.3", "v1.0", "-", "1e5", "1E-50"]
    for values in ([1.0, 0.5], ["1.0", "0.5"], ["1", ".5"], [1.0, 1e-05], ["1", "1e-05"], ["1", "2.5e-07"]):
        with pytest.raises(UserError, match=r"(line 3|row 1|line 2): label '?[\d.e-]+'? is not a class: labels must"):
            labels_of(values)


@pytest.mark.parametrize("value", [Decimal("1"), Decimal("1.00"), 1.0, "1"])
def test_decimal_labels_with_integer_values_are_classes(value):
    assert label_in(value, "kind", "here", None) == "1"


@pytest.mark.parametrize("value", [float("nan"), float("inf"), Decimal("1.50"), [1], {"a": 1}])
def test_labels_are_words_or_integers(value):
    with pytest.raises(UserError, match=r"here: kind .* is not a class"):
        label_in(value, "kind", "here", None)


def test_empty_labelled_texts_are_counted_and_skipped(tmp_path, caplog):
    """In pairs, one empty text is enough; rows without text need no label."""
    (tmp_path / "table.csv").write_text('text,other,label\na,b,x\n"",b,y\nc," ",\n" ","",y\nd,e,y\n')
    corpus = FileCorpus((tmp_path / "table.csv",))
    found = read_labelled(corpus, ClassificationArguments(text_pair_column="other"))
    assert [(text.texts, text.label) for text in found] == [(("a", "b"), "x"), (("d", "e"), "y")]
    assert f"skipping 3 of 5 rows with an empty text, the first in {tmp_path}/table.csv, line 3" in (caplog.text)
    (tmp_path / "table.csv").write_text('text,label\n"",x\n" ",y\n')
    caplog.clear()
    with pytest.raises(UserError, match="contains no texts: it has no rows, or the text is blank in all of them"):
        read_labelled(corpus, ClassificationArguments())
    read_labelled(FileCorpus((SAMPLE / "music.txt",)), ClassificationArguments())
    assert not caplog.text


@pytest.mark.parametrize("name", ["table.parquet", "table.jsonl", "table.csv"])
def test_prediction_rows_keep_all_columns(name, tmp_path):
    """An empty text is not predicted; a label may be missing, a number, or without a name."""
    columns = {
        "id": [7, 8, 9],
        "text": ["A goal", " " if "csv" in name else None, "A vote"],
        "label": ["LABEL_1", "0", None],
    }
    rows = datasets.Dataset.from_dict(columns)
    {"parquet": rows.to_parquet, "jsonl": rows.to_json, "csv": rows.to_csv}[name.partition(".")[2]](tmp_path / name)
    data_args = ClassificationArguments(test_file=str(tmp_path / name))
    found = read_test_texts(data_args)
    assert [text and text.texts for text, _ in found] == [("A goal",), None, ("A vote",)]
    assert [row["label"] for _, row in found] == ["1", "0", None]
    assert [(int(row["id"]), row["text"]) for _, row in found] == list(zip(columns["id"], columns["text"], strict=True))


def test_prediction_rows_keep_columns_beside_the_label(tmp_path):
    (tmp_path / "table.csv").write_text("text,label,mood\na,x1,1.0\n")
    ((_, row),) = read_test_texts(ClassificationArguments(test_file=str(tmp_path / "table.csv"), label_column="mood"))
    assert row == {"text": "a", "label": "x1", "mood": "1"}


def test_label_column_equal_to_text_column_is_an_error(tmp_path):
    (tmp_path / "table.csv").write_text("text,label\na,x\n")
    with pytest.raises(UserError, match="--text_column label holds the labels or the second text"):
        read(tmp_path / "table.csv", text_column="label")


def test_unknown_label_is_an_error_with_its_place(tmp_path):
    (tmp_path / "scores.jsonl").write_text('{"text": "A goal", "label": 0.37}\n')
    with pytest.raises(UserError, match=r"line 1: label 0\.37 is not a class"):
        read(tmp_path / "scores.jsonl")


def test_blank_labels_are_missing_and_unnamed_classes_are_numbered(tmp_path):
    """transformers names class 1 without a name LABEL_1; LABEL_x and MY_LABEL_1 are names."""
    (tmp_path / "table.csv").write_text('text,label\na,LABEL_1\nb," "\nc,LABEL_x\nd, e \nf,MY_LABEL_1\n')
    assert [text.label for text in read(tmp_path / "table.csv")] == ["1", None, "LABEL_x", "e", "MY_LABEL_1"]


def test_classes_are_in_the_order_of_numbers_or_of_words():
    assert find_classes(texts_with(["10", "9", "-1", "9"]), "file") == ["-1", "9", "10"]
    assert find_classes(texts_with(["b", "10", "a"]), "file") == ["10", "a", "b"]
    assert find_classes(texts_with(["1", "--1"]), "file") == ["--1", "1"]
    with pytest.raises(UserError, match="file: all texts have the label a"):
        find_classes(texts_with(["a", "a"]), "file")


def test_label_column_with_too_many_values_is_warned_about(caplog):
    find_classes(texts_with(map(str, range(30))), "file")
    assert "30 distinct labels in 30 texts: check that --label_column" in caplog.text


def test_label_absent_from_training_is_an_error_with_its_place():
    check_labels(texts_with(["a", None]), ["a", "b"])
    with pytest.raises(UserError, match="line 1: unknown label c, the model's classes are"):
        check_labels(texts_with(["a", "c"]), ["a", "b"])


def test_held_out_labelled_texts_are_drawn_in_order():
    texts = texts_with(["a"] * 50 + ["b"] * 50)
    training, held_out = divide(texts, 20, np.random.default_rng(0))
    assert len(training) == 80
    assert sorted([*training, *held_out], key=texts.index) == texts
    assert {text.label for text in held_out} == {"a", "b"}
    some = sample(texts, 10, np.random.default_rng(0))
    assert {text.label for text in some} == {"a", "b"}
    assert sorted(some, key=texts.index) == some
    assert len(set(some)) == 10
    assert sample(texts, 100, None) == sample(texts, None, None) == texts


def test_checkpoint_with_the_same_classes_keeps_their_order():
    config = BertConfig(id2label={0: "good", 1: "bad"}, label2id={"good": 0, "bad": 1})
    set_classes(config, ["bad", "good"])
    assert config.id2label == {0: "good", 1: "bad"}
    set_classes(config, ["bad", "good", "so-so"])
    assert config.id2label == {0: "bad", 1: "good", 2: "so-so"}
    assert config.num_labels == 3


def test_multi_label_checkpoint_becomes_single_label(tmp_path):
    """Otherwise a pipeline would give other probabilities."""
    config = BertConfig(num_labels=2, problem_type="multi_label_classification")
    set_classes(config, ["0", "1"])
    assert config.problem_type == "single_label_classification"
    # And it can be saved.
    config.save_pretrained(tmp_path)


@pytest.mark.parametrize(
    "settings",
    [
        {"architectures": ["BertForMaskedLM"]},
        {"architectures": ["BertForSequenceClassification"], "num_labels": 1},
        {"architectures": ["BertForSequenceClassification"], "problem_type": "multi_label_classification"},
        {},
    ],
)
def test_prediction_with_an_untrained_head_is_refused(settings):
    check_trained(BertConfig(architectures=["BertForSequenceClassification"]), "out")
    with pytest.raises(UserError, match=r"^out is not a trained text classifier: add --do_train$"):
        check_trained(BertConfig(**settings), "out")


def test_unnamed_classes_are_called_by_number():
    assert numbers_of_classes(BertConfig(num_labels=3)) == {"0": 0, "1": 1, "2": 2}


@pytest.mark.parametrize("kind", ["wordpiece", "byte_level", "unigram"])
def test_labelled_example_equals_the_tokenizer_output(kind, tokenizers):
    tokenizer = tokenizers[kind]
    texts = [LabelledText(("A moon of many craters",), "b", ""), LabelledText(("",), None, "")]
    examples = LabelledExamples(texts, tokenizer, {"a": 0, "b": 1}, 64, with_types=True)
    assert examples[0]["input_ids"].tolist() == tokenizer("A moon of many craters")["input_ids"]
    assert examples[1]["input_ids"].tolist() == tokenizer("")["input_ids"]
    assert [example["label"] for example in examples] == [1, -100]
    assert examples.lengths.tolist() == [len(example["input_ids"]) for example in examples]


def test_labelled_texts_count_unknown_tokens(tokenizers):
    texts = [LabelledText(("moon \U00012000", "sun"), "a", ""), LabelledText(("", "moon"), "a", "")]
    examples = LabelledExamples(texts, tokenizers["wordpiece"], {"a": 0}, 64, with_types=True)
    assert examples.unknown_share == 1 / sum(len(ids) for document in examples.ids for ids in document)


@pytest.mark.parametrize("kind", ["wordpiece", "byte_level"])
def test_labelled_pair_equals_the_tokenizer_output_longest_first(kind, tokenizers):
    tokenizer = tokenizers[kind]
    a, b = "The moon", "It has many craters, and they were dug by stones that fell on it long ago"
    texts = [LabelledText((a, b), "a", "")]
    whole = LabelledExamples(texts, tokenizer, {"a": 0}, 64, with_types=True)[0]
    assert whole["input_ids"].tolist() == tokenizer(a, b)["input_ids"]
    if kind == "wordpiece":
        assert whole["token_type_ids"].tolist() == tokenizer(a, b)["token_type_ids"]
    cut = LabelledExamples(texts, tokenizer, {"a": 0}, 16, with_types=False)
    assert cut[0]["input_ids"].tolist() == tokenizer(a, b, max_length=16, truncation="longest_first")["input_ids"]
    assert "token_type_ids" not in cut[0]
    assert "next_sentence_label" not in cut[0]
    assert cut.cut == len(whole["input_ids"]) - 16
    assert cut.lengths.tolist() == [16]


def test_example_digest_depends_on_text_and_label_only(tokenizers):
    def digest(kind, *rows):
        texts = [LabelledText((text,), label, "") for text, label in rows]
        return LabelledExamples(texts, tokenizers[kind], {"a": 0, "b": 1}, 8, with_types=False).digest

    rows = ("The moon", "a"), ("The sea", "b")
    first = digest("wordpiece", *rows)
    assert first == digest("byte_level", *rows)
    others = (("The moon", "b"), rows[1]), (("the moon", "a"), rows[1]), rows[::-1], rows[:1]
    assert len({first, *(digest("wordpiece", *other) for other in others)}) == 5
