"""Find training steps that wait for the GPU."""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import torch
from sides import Bench, our_trainer
from transformers import PrinterCallback, TrainerCallback

from cloze.models.trials import ValueReads


class WaitCallback(TrainerCallback):
    """Watch the steps after the first one: waiting for a GPU is an error, reads of values are counted.

    Attributes:
        stack: to leave, also if training fails.
        reads: counts the reads, on any device.
    """

    def __init__(self):
        self.stack, self.reads = ExitStack(), ValueReads()

    def on_step_begin(self, args, state, control, **kwargs):
        # After the log of the first step.
        if state.global_step == 1:
            self.stack.enter_context(self.reads)
            if args.device.type == "cuda":
                self.stack.enter_context(no_waiting())

    def on_step_end(self, args, state, control, **kwargs):
        # Before the log of the last step.
        if state.global_step == state.max_steps:
            self.stack.close()


@contextmanager
def no_waiting() -> Iterator[None]:
    """Let operations that wait for the GPU fail within the context."""
    torch.cuda.set_sync_debug_mode("error")
    try:
        yield
    finally:
        torch.cuda.set_sync_debug_mode("default")


def find_waits(bench: Bench) -> dict:
    """Train on full blocks, without logging; return whether a step after the first one waits for the device."""
    watch = WaitCallback()
    # In the order of the text, because its last block is padded: BERT then reads its mask.
    trainer = our_trainer(
        bench, bench.model, max_steps=4, per_device_train_batch_size=8, train_sampling_strategy="sequential"
    )
    trainer.add_callback(watch)
    trainer.remove_callback(PrinterCallback)
    try:
        with watch.stack:
            trainer.train()
    except RuntimeError as error:
        return {"error": str(error), "ok": False}
    return {"reads": watch.reads.count, "ok": watch.reads.count == 0}
