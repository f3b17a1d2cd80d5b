"""Check a run without training (--dry_run): raise its errors, estimate memory, disk and time."""

import logging
import shutil
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from itertools import chain, cycle, islice
from pathlib import Path
from statistics import median

import numpy as np
import torch
from accelerate.utils import send_to_device
from transformers import TrainerCallback

from cloze.config.recipes import recipe_of
from cloze.data.samplers import ResumableBatchSampler
from cloze.data.splits import DatasetSplits
from cloze.errors import UserError
from cloze.models.loading import describe_model
from cloze.system.output import format_lines
from cloze.system.storage import gigabytes
from cloze.training.context import RunContext
from cloze.training.memory import (
    available_memory,
    estimate_memory,
    out_of_memory_as_user_error,
    smaller_batches,
    to_device,
)
from cloze.training.output_dir import check_disk
from cloze.training.stream import TextStream
from cloze.training.trainer import PretrainingTrainer

logger = logging.getLogger(__name__)

# Typical batches to time.
TIMED = 3


def dry_run(trainer: PretrainingTrainer, context: RunContext, splits: DatasetSplits) -> None:
    """Raise the errors that the run would, without training; log its settings and its use of memory, disk and time.

    The trial steps change the weights in memory; nothing is saved.
    """
    if trainer.is_fsdp_enabled or trainer.is_deepspeed_enabled:
        raise UserError("--dry_run does not support FSDP or DeepSpeed: drop --dry_run, or run it without them")
    args = trainer.args
    lines = {"model": describe_model(trainer.model, context.model_args), **splits.stats}
    if args.do_train:
        written, free = check_disk(args, trainer.save_total_limit, trainer.model.num_parameters())
        with out_of_memory_as_user_error(smaller_batches(trainer)):
            lines |= try_training(trainer, context)
        lines["disk"] = f"at most about {gigabytes(written)}, of {gigabytes(free)} free, in {args.output_dir}"
    if args.do_eval:
        with out_of_memory_as_user_error(f"halve --per_device_eval_batch_size {args.per_device_eval_batch_size}"):
            lines["evaluation"] = f"at most about {readable(time_evaluation(trainer))} each"
    lines["cache"] = f"{describe_cache(context.cache)}: the run reuses it"
    if args.resolved.get("push_to_hub"):
        lines["hub"] = "not checked: that would create the repository"
    if trainer.is_world_process_zero():
        logger.info("\n%s", recipe_of(context.model_args, context.data_args, args).rstrip())
        logger.info("\n%s", format_lines(lines))
        logger.info("Dry run: nothing was trained, nothing was written to %s", args.output_dir)
    # One process must not remove a folder that another still reads.
    trainer.accelerator.wait_for_everyone()


class Measured(Exception):  # noqa: N818 - not an error
    """Leave the Trainer before its first step."""


def try_training(trainer: PretrainingTrainer, context: RunContext) -> dict[str, str]:
    """Return the result of ``measure_training``, called after all that the Trainer does before the first step.

    Training ends there; trackers and progress bars do not start.
    """
    lines: dict[str, str] = {}

    class MeasureCallback(TrainerCallback):
        def on_train_begin(self, args, state, control, **kwargs):
            trainer.is_loading = False
            lines.update(measure_training(trainer, context))
            raise Measured

    for callback in list(trainer.callback_handler.callbacks):
        trainer.remove_callback(callback)
    trainer.add_callback(MeasureCallback)
    with suppress(Measured):
        trainer.train(resume_from_checkpoint=context.checkpoint and str(context.checkpoint))
    return lines


def measure_training(trainer: PretrainingTrainer, context: RunContext) -> dict[str, str]:
    """Return the estimates by title, from two steps with the longest batch and the times of typical batches."""
    args, available, steps = trainer.args, available_memory(trainer.args.device), trainer.state.max_steps
    stream, steps_an_epoch = trainer.stream, trainer.steps_in_epoch
    done = trainer.progress.step
    if isinstance(stream, TextStream):
        candidates, ordinary = stream_batches(trainer, stream, context.max_seq_length)
        tokens = float(np.mean([count_tokens(batch) for batch in ordinary])) * args.gradient_accumulation_steps
        counted = f"{steps:,}"
    else:
        # Measure a whole epoch, though the run may resume in the middle of one.
        stream.sampler.set_epoch(0)
        candidates, ordinary = longest_batches(stream.sampler), ordinary_batches(stream.sampler)
        total = int(stream.sampler.examples.lengths(0).sum())
        tokens = total / steps_an_epoch / args.world_size
        counted = f"{steps:,}; {steps_an_epoch:,} per epoch of {total:,} tokens"
    memories = [estimate_memory(trainer, batch, available) for batch in candidates]
    memory, longest = max(zip(memories, candidates, strict=True), key=lambda pair: pair[0].total)
    token_seconds, step_seconds = time_training(trainer, longest, ordinary)
    seconds = token_seconds * tokens + step_seconds
    rate = tokens * args.world_size / seconds
    left = f"about {readable(seconds * max(steps - done, 0))}, without evaluations and saving"
    if args.max_train_hours is not None:
        hours = args.max_train_hours - trainer.progress.seconds / 3600
        counted = f"about {done + int(3600 * hours / seconds):,} within --max_train_hours"
        left = f"{readable(3600 * hours)} of training, by --max_train_hours"
    resumed = f"; resuming at step {done:,}, from {context.checkpoint}" if context.checkpoint else ""
    return {
        "steps": counted + resumed,
        "longest batch": f"{len(longest)} examples of up to {len(longest[0]['input_ids'])} tokens",
        "memory": f"{memory}, of {gigabytes(available)} on {args.device}",
        "speed": f"about {rate:,.0f} tokens/s without padding, {readable(seconds)} per step",
        "time": left,
    }


def sizes_of(batches: ResumableBatchSampler) -> tuple[np.ndarray, np.ndarray]:
    """Return the number of examples and the padded length of each batch, both [batches]."""
    lengths = batches.padded_lengths(batches.examples.lengths(batches.epoch))[batches.order]
    # reduceat also reduces the gaps between spans: every second result is dropped.
    longest = np.maximum.reduceat(np.append(lengths, 0), batches.spans.ravel())[::2]
    return np.diff(batches.spans)[:, 0], longest


def examples_of(batches: ResumableBatchSampler, number: int) -> list[dict]:
    """Return the examples of a batch, longest first."""
    begin, end = batches.spans[number]
    examples = [batches.examples[batches.epoch, example] for example in batches.order[begin:end].tolist()]
    return sorted(examples, key=lambda example: -len(example["input_ids"]))


def longest_batches(batches: ResumableBatchSampler) -> list[list[dict]]:
    """Return the one or two batches that may take the most memory.

    They have the most positions, or the most pairs of positions, which some attention implementations keep.
    """
    counts, lengths = sizes_of(batches)
    positions, squares = counts * lengths, counts * lengths**2
    numbers = [np.lexsort([squares, positions])[-1], np.lexsort([positions, squares])[-1]]
    return [examples_of(batches, number) for number in dict.fromkeys(numbers)]


def ordinary_batches(batches: ResumableBatchSampler) -> list[list[dict]]:
    """Return batches at evenly spaced ranks between the smallest and the largest."""
    counts, lengths = sizes_of(batches)
    order = np.argsort(counts * lengths, kind="stable")
    ranks = (np.arange(TIMED) + 0.5) / TIMED * len(order)
    return [examples_of(batches, number) for number in order[ranks.astype(int)]]


def stream_batches(
    trainer: PretrainingTrainer, stream: TextStream, length: int
) -> tuple[list[list[dict]], list[list[dict]]]:
    """Return a batch of examples of the maximum length, and the first batches of the stream."""
    ordinary = [batch for batch, _ in islice(stream.batches.batches_of(0), TIMED)]
    budget = trainer.args.max_tokens_per_batch
    size = trainer.batch_settings().batch_size if budget is None else budget // length
    examples = islice(cycle(chain.from_iterable(ordinary)), size)
    return [[lengthen(example, length) for example in examples]], ordinary


def lengthen(example: dict, length: int) -> dict:
    """Repeat an example until it has ``length`` tokens."""
    return {name: np.resize(value, length) if np.ndim(value) else value for name, value in example.items()}


def count_tokens(batch: Sequence[dict]) -> int:
    """Return the number of tokens in a batch, without padding."""
    return sum(len(example["input_ids"]) for example in batch)


def time_training(trainer: PretrainingTrainer, longest: list[dict], ordinary: list[list[dict]]) -> tuple[float, float]:
    """Return seconds per non-padding token of forward and backward, and seconds of the optimizer's step."""
    model = trainer.model_wrapped

    def pass_through(batch: list[dict]) -> None:
        trainer.training_step(model, *to_device(trainer, batch))

    def update() -> None:
        trainer.optimizer.step()
        model.zero_grad()

    # The second pass takes the most memory, as the optimizer's state exists by then, and is warmed up.
    for _ in range(2):
        pass_through(longest)
        step_seconds = seconds_of(trainer, update)
    times = [seconds_of(trainer, pass_through, batch) / count_tokens(batch) for batch in ordinary]
    return median(times), step_seconds


def time_evaluation(trainer: PretrainingTrainer) -> float:
    """Return the seconds of an evaluation, an upper bound: all batches count as the first, the longest."""
    size, dataset = trainer.args.eval_batch_size, trainer.eval_dataset
    examples = [dataset[number] for number in range(min(size, len(dataset)))]
    inputs = send_to_device(trainer.data_collator(examples), trainer.args.device)
    trainer.model.eval()
    with trainer.accelerator.autocast():
        for _ in range(2):  # the first is a warm-up
            seconds = seconds_of(trainer, trainer.prediction_step, trainer.model, inputs, False)
    return seconds * -(-len(dataset) // (size * trainer.args.world_size))


def seconds_of(trainer: PretrainingTrainer, action: Callable, *args) -> float:
    """Return the seconds that an action takes, with the work that it queues on the device."""
    wait = torch.accelerator.synchronize if trainer.args.device.type != "cpu" else lambda: None
    wait()
    start = time.perf_counter()
    action(*args)
    wait()
    return time.perf_counter() - start


def describe_cache(cache: Path) -> str:
    """Format the path of the cache, its size, and the free disk space."""
    size = sum(path.stat().st_size for path in cache.rglob("*") if path.is_file())
    return f"{cache} ({gigabytes(size)}, {gigabytes(shutil.disk_usage(cache).free)} free)"


def readable(seconds: float) -> str:
    """Format seconds in the largest unit of which there are at least two."""
    for unit, size in {"days": 86_400, "hours": 3_600, "minutes": 60}.items():
        if seconds >= 2 * size:
            return f"{seconds / size:.1f} {unit}"
    return f"{seconds:.3g} s"
