"""How far a run is: what a checkpoint says beside the state of the Trainer, so that going on is exact."""

import json
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from cloze.data.samplers import BatchSettings

FILE = "progress.json"


@dataclass(frozen=True)
class Progress:
    """What a checkpoint was saved after.

    Attributes:
        step: optimizer steps taken, and ``max_steps``, out of so many.
        steps_in_epoch: those in the first epoch, with the settings of the last batches.
        epoch: the epoch to go on with, and ``past``, the stretches of it that are over (data.samplers).
        streams: where each process's streams go on, by data-loader worker, the one whose turn it is first; or None.
        data: examples and tokens of the first epoch, to tell whether the text is still the same; or None for streams.
        sums: of each process, what is summed up for the next log.
        logged: the step of the last log; and ``total_loss``, the sum of the losses of all steps until then.
        seconds: time of training.
        evaluation_due: whether an evaluation was put off by the end that came early.
        texts: the content of the training and of the validation text, each None if there is none.
    """

    step: int
    max_steps: int
    steps_in_epoch: int
    epoch: int
    past: list[tuple[BatchSettings, int]]
    streams: list[list] | None
    data: list[int] | None
    sums: list[list[float]]
    logged: int
    total_loss: float
    seconds: float
    evaluation_due: bool
    texts: list[list[list] | None] | None = None

    def write(self, checkpoint: Path) -> None:
        (checkpoint / FILE).write_text(json.dumps(asdict(self), indent=1))

    @classmethod
    def read(cls, checkpoint: Path) -> "Progress":
        progress = cls(**json.loads((checkpoint / FILE).read_text()))
        return replace(progress, past=[(BatchSettings(**settings), steps) for settings, steps in progress.past])

    def sums_of(self, process: int, processes: int) -> list[float]:
        """Those of a process; the mean of all, if they are of another number of processes."""
        if len(self.sums) == processes:
            return self.sums[process]
        return [sum(column) / len(self.sums) for column in zip(*self.sums, strict=True)]
