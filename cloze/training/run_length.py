"""How long a run is: the settings given now decide, also when it is resumed (huggingface/transformers#7198)."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from cloze.errors import UserError
from cloze.training.progress import Progress

FLAGS = {"epochs": "num_train_epochs", "steps": "max_steps", "hours": "max_train_hours"}


class RunLength(NamedTuple):
    """``amount`` of a ``unit``: epochs, steps or hours."""

    amount: float
    unit: str

    def __str__(self) -> str:
        return f"{self.amount:,.6g} {self.unit if self.amount != 1 else self.unit.removesuffix('s')}"


def length_of(settings: Mapping[str, Any]) -> RunLength:
    """Return the length that settings ask for: hours win over steps, steps over epochs, of which 3 are the default."""
    for name in FLAGS.values():
        if not isinstance(settings.get(name), int | float | None):
            raise UserError(f"recipe.yaml of the checkpoint: {name} {settings[name]!r} is not a number")
    if settings.get("max_train_hours") is not None:
        return RunLength(settings["max_train_hours"], "hours")
    if settings.get("max_steps", -1) > 0:
        return RunLength(settings["max_steps"], "steps")
    return RunLength(settings.get("num_train_epochs", 3.0), "epochs")


def check_length(length: RunLength, checkpoint: Path) -> None:
    """Raise UserError if a run of this length is over before the checkpoint."""
    progress = Progress.read(checkpoint)
    if length.unit == "epochs":
        done = json.loads((checkpoint / "trainer_state.json").read_text())["epoch"]
    else:
        done = progress.step if length.unit == "steps" else progress.seconds / 3600
    if done > length.amount + 1e-6:
        raise UserError(
            f"--{FLAGS[length.unit]} {length.amount:g} is less than the {RunLength(done, length.unit)} of "
            f"{checkpoint}: raise it, or resume from an earlier checkpoint"
        )
