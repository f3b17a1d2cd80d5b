"""Store the losses of documents before training, to compare with those after it when the run has been resumed."""

import json
from pathlib import Path

import numpy as np

from cloze.objectives.documents import Change, DocumentSums, change_of_loss, sum_by_document
from cloze.objectives.metrics import prefix_of
from cloze.training import checkpoints

# In output_dir; the Trainer does not push files whose names begin with _ to the Hub.
BASELINE = "_baseline.json"

# By held-out set, objective prefix and name, [examples] or [examples, parts].
Scores = dict[str, dict[str, dict[str, np.ndarray]]]


def sums_of(scores: Scores) -> dict[str, dict[str, DocumentSums]]:
    """Return the sums by document, by held-out set and objective prefix.

    Objectives whose scores do not say which document a target belongs to are left out.
    """
    return {
        name: {
            prefix: sum_by_document(each["documents"], *parts)
            for prefix, each in by_prefix.items()
            if (parts := _parts_of(each)) is not None
        }
        for name, by_prefix in scores.items()
    }


def _parts_of(scores: dict[str, np.ndarray]) -> tuple[np.ndarray, np.ndarray] | None:
    """Return losses and counts of the parts of each example, [examples, parts], or None."""
    if "document_loss" in scores:
        return scores["document_loss"], scores["document_count"]
    if "documents" in scores and scores["documents"].shape[1] == 1:
        return scores["loss"][:, None], scores["count"][:, None]
    return None


def write_baseline(output_dir: str, scores: Scores, loss: float) -> None:
    """Write the sums of the evaluation before training, and its loss, which identifies it; nothing without documents.

    Raises:
        UserError: if the file cannot be written.
    """
    path, sums = Path(output_dir) / BASELINE, sums_of(scores)
    if not any(sums.values()):
        return
    text = json.dumps({"loss": loss, "sums": sums})
    with checkpoints.writing(path, len(text)), checkpoints.replacing(path) as file:
        file.write(text)


def remove_baseline(output_dir: str) -> None:
    """Delete the file of an earlier run."""
    (Path(output_dir) / BASELINE).unlink(missing_ok=True)


def changes_since(output_dir: str, scores: Scores, history: list[dict]) -> dict[str, Change]:
    """Return the change of each loss since the evaluation before training, by the metric's name.

    Args:
        output_dir: folder of the file.
        scores: of the evaluation after training.
        history: the Trainer's ``log_history``.

    Returns:
        The changes; none if the file is absent, damaged or of another run, or for a set whose masks differ.
    """
    try:
        baseline = json.loads((Path(output_dir) / BASELINE).read_text())
    except (OSError, ValueError):
        return {}
    before = next((entry for entry in history if "eval_loss" in entry and entry["step"] == 0), {})
    if before.get("eval_loss") != baseline["loss"]:
        return {}
    changes = {}
    for name, by_prefix in sums_of(scores).items():
        for prefix, after in by_prefix.items():
            stored = baseline["sums"].get(name, {}).get(prefix)
            # The same draws for each loss, whichever sets there are.
            change = stored and change_of_loss(DocumentSums(*stored), after, np.random.default_rng(0))
            # The metrics of the first set have names without the set's, too.
            for key in {name, ""} if name == next(iter(scores)) else {name}:
                if change:
                    changes[f"eval_{prefix_of(key)}{prefix}loss"] = change
    return changes
