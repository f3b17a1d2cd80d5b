"""Test that losses after training are compared with those before it, of the same run only."""

import json

import numpy as np
import pytest

from cloze.errors import UserError
from cloze.objectives.documents import DocumentSums, change_of_loss
from cloze.training.baseline import BASELINE, changes_since, remove_baseline, sums_of, write_baseline

HISTORY = [{"step": 0, "eval_loss": 2.5}, {"step": 1, "loss": 2.0}, {"step": 9, "eval_loss": 1.5}]


def tokens_of(change):
    """Return scores of masked tokens: two examples, the first of which ends one document and begins another."""
    loss = np.array([[4.0, 6.0], [9.0, 0.0]]) + change
    documents, count = np.array([[3.0, 8.0], [9.0, -100.0]]), np.array([[2.0, 2.0], [3.0, 0.0]])
    by_example = {"loss": loss.sum(1), "count": count.sum(1)}
    return by_example | {"documents": documents, "document_loss": loss, "document_count": count}


def pairs_of(change):
    loss = np.array([0.5, 0.75, 0.25]) + change
    return {"loss": loss, "count": np.ones(3), "documents": np.array([[1.0], [1.0], [4.0]])}


def test_objectives_are_added_up_by_document():
    scores = {"law": {"mlm_": tokens_of(0), "nsp_": pairs_of(0)}, "wiki": {"mlm_": tokens_of(1)}}
    assert sums_of(scores) == {
        "law": {"mlm_": DocumentSums([4, 6, 9], [2, 2, 3]), "nsp_": DocumentSums([1.25, 0.25], [2, 1])},
        "wiki": {"mlm_": DocumentSums([5, 7, 10], [2, 2, 3])},
    }


def test_scores_without_documents_have_no_sums():
    """Neither those of classified texts, nor those of an objective that does not divide its examples by document."""
    joined = {"loss": np.ones(2), "count": np.ones(2), "documents": np.array([[1.0, 2.0], [3.0, -100.0]])}
    assert sums_of({"": {"a": {"loss": np.ones(2), "count": np.ones(2)}, "b": joined}}) == {"": {}}


def test_changes_have_the_names_of_their_losses(tmp_path):
    scores = {"law": {"mlm_": tokens_of(0), "nsp_": pairs_of(0)}, "": {"": tokens_of(0)}}
    write_baseline(str(tmp_path), scores, 2.5)
    after = {"law": {"mlm_": tokens_of(-0.5), "nsp_": pairs_of(0.25)}, "": {"": tokens_of(0)}}
    changes = changes_since(str(tmp_path), after, HISTORY)
    assert changes.keys() == {"eval_law_mlm_loss", "eval_law_nsp_loss", "eval_mlm_loss", "eval_nsp_loss", "eval_loss"}
    assert changes["eval_mlm_loss"] == changes["eval_law_mlm_loss"]
    assert changes["eval_law_mlm_loss"].value == pytest.approx(-1.5 / 7)
    assert changes["eval_law_nsp_loss"] == pytest.approx((0.25, 0.25, 0.25))
    assert changes["eval_loss"] == (0, 0, 0)
    sums = [sums_of(each)["law"]["mlm_"] for each in (scores, after)]
    assert changes["eval_law_mlm_loss"] == change_of_loss(*sums, np.random.default_rng(0))


@pytest.mark.parametrize(
    "history",
    [[], HISTORY[1:], [{"step": 0, "eval_loss": 2.5000001}], [{"step": 0, "eval_loss": None}]],
    ids=["none", "no evaluation before training", "another run's", "not finite"],
)
def test_baseline_of_another_run_is_ignored(history, tmp_path):
    write_baseline(str(tmp_path), {"": {"": tokens_of(0)}}, 2.5)
    assert changes_since(str(tmp_path), {"": {"": tokens_of(0)}}, history) == {}


def test_other_masks_have_no_change(tmp_path):
    write_baseline(str(tmp_path), {"": {"": tokens_of(0)}, "law": {"": tokens_of(0)}}, 2.5)
    other = tokens_of(0)
    other["document_count"] = other["document_count"][::-1]
    assert changes_since(str(tmp_path), {"": {"": other}, "law": {"": tokens_of(0)}}, HISTORY).keys() == {
        "eval_law_loss"
    }
    assert changes_since(str(tmp_path), {"wiki": {"": tokens_of(0)}}, HISTORY) == {}


@pytest.mark.parametrize("content", [None, "", '{"loss": 2.5, "su'])
def test_absent_or_damaged_baseline_is_ignored(content, tmp_path):
    if content is not None:
        (tmp_path / BASELINE).write_text(content)
    assert changes_since(str(tmp_path), {"": {"": tokens_of(0)}}, HISTORY) == {}


def test_baseline_is_replaced_whole_and_removed(tmp_path):
    remove_baseline(str(tmp_path))
    for loss in (2.5, 3.5):
        write_baseline(str(tmp_path), {"": {"": tokens_of(0)}}, loss)
        assert [path.name for path in tmp_path.iterdir()] == [BASELINE]
        assert json.loads((tmp_path / BASELINE).read_text())["loss"] == loss
    remove_baseline(str(tmp_path))
    write_baseline(str(tmp_path), {"": {}}, 2.5)
    assert list(tmp_path.iterdir()) == []


def test_baseline_that_cannot_be_written_is_an_error(tmp_path):
    (tmp_path / f"{BASELINE}.aside").mkdir()
    with pytest.raises(UserError, match=f"{BASELINE} cannot be written"):
        write_baseline(str(tmp_path), {"": {"": tokens_of(0)}}, 2.5)
