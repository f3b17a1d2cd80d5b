"""Which worker does what of a streamed epoch, what is left of it, and how that is dealt out to others."""

from dataclasses import asdict, dataclass
from typing import Any

# Of a worker, fit for JSON: its number among the workers of all processes, its shares that are not done, as
# dictionaries, and the next epoch of which it takes one: {"worker": 0, "shares": [{"epoch": 2, ...}], "epoch": 3}.
State = dict[str, Any]


@dataclass(frozen=True)
class Share:
    """Part number ``part`` of ``parts`` of an epoch, and where in it to go on.

    A part is some shards of the text, such as files, or, where those are too few, every so-manieth chunk.

    Attributes:
        position: where the shard in which the next chunk begins stands in the order of what is read.
        document: number of the chunk's first document in that shard.
        chunk: number of the chunk in what is read, those of other parts counted.
        seen: examples made of the chunks before.
        batches: how many of the chunk's are taken, and ``settings``, how they are drawn (batching.BatchSettings).
    """

    epoch: int
    part: int
    parts: int
    position: int = 0
    document: int = 0
    chunk: int = 0
    seen: int = 0
    batches: int = 0
    settings: dict[str, Any] | None = None

    @classmethod
    def of(cls, worker: int, workers: int, epoch: int) -> "Share":
        """That of one of the workers of all processes.

        The parts go round, so that where the text is too short for all, each worker has some in one epoch or another.
        """
        return cls(epoch, (worker + epoch) % workers, workers)


def deal(states: list[list[State]] | None, processes: int, workers: int) -> list[list[State]]:
    """What each worker of each process begins with, [processes, workers]: at the very beginning, or after ``states``.

    If they are as many as before, each takes back its own. Otherwise the shares that are left are dealt out in turn,
    and all go on with the first epoch of which nobody has begun a share.
    """
    workers = max(workers, 1)
    if states is not None and [len(own) for own in states] == [workers] * processes:
        return states
    before = [state for own in states or [] for state in own]
    epoch = max((state["epoch"] for state in before), default=0)
    left = []
    for state in before:
        behind = [Share.of(state["worker"], len(before), late) for late in range(state["epoch"], epoch)]
        left += [*state["shares"], *map(asdict, behind)]
    left.sort(key=lambda share: share["epoch"])
    count = processes * workers
    dealt = [{"worker": number, "shares": left[number::count], "epoch": epoch} for number in range(count)]
    return [dealt[first : first + workers] for first in range(0, count, workers)]
