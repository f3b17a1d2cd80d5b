"""Estimate the peak memory of training."""

import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace

import psutil
import torch
from accelerate.utils import send_to_device
from accelerate.utils.memory import should_reduce_batch_size
from transformers.training_args import OptimizerNames

from cloze.config.optimizers import MUON
from cloze.errors import UserError
from cloze.system.storage import gigabytes
from cloze.training.parameter_groups import find_matrices
from cloze.training.trainer import PretrainingTrainer

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Memory:
    """Hold the bytes on a device at the start of a backward pass, without temporary buffers of operations."""

    weights: int
    gradients: int
    optimizer: int
    activations: int = 0

    @property
    def total(self) -> int:
        """Return the sum in bytes."""
        return sum(vars(self).values())

    def __str__(self) -> str:
        parts = ", ".join(f"{name} {gigabytes(size)}" for name, size in vars(self).items())
        return f"about {gigabytes(self.total)} per device ({parts})"


def estimate_memory(trainer: PretrainingTrainer, batch: Sequence[dict], available: int) -> Memory:
    """Return the memory of training on batches like this one.

    A process that exceeds the memory of the CPU is killed: the batch is tried only if an estimate from its first two
    examples fits.

    Raises:
        UserError: if it exceeds ``available`` bytes.
    """
    memory = without_batch(trainer)
    if len(batch) > 2:
        one, two = (saved_for_backward(trainer, batch[:count]) for count in (1, 2))
        check_fits(trainer, replace(memory, activations=one + (len(batch) - 1) * (two - one)), available)
    memory = replace(memory, activations=saved_for_backward(trainer, batch))
    check_fits(trainer, memory, available)
    return memory


def without_batch(trainer: PretrainingTrainer) -> Memory:
    """Return the memory of weights, gradients and optimizer."""
    parameters = list(trainer.model.parameters())
    gradients = sum(parameter.nbytes for parameter in parameters if parameter.requires_grad)
    # The average of --ema_decay is in float32.
    averages = 0 if trainer.average is None else 4 * sum(each.numel() for each in parameters if each.requires_grad)
    return Memory(
        weights=sum(tensor.nbytes for tensor in [*parameters, *trainer.model.buffers()]) + averages,
        # Several processes average gradients in buffers of the same size.
        gradients=gradients * min(trainer.args.world_size, 2),
        optimizer=round(gradients * optimizer_values(trainer)),
    )


def optimizer_values(trainer: PretrainingTrainer) -> float:
    """Return the optimizer's state values per weight, from a step on a matrix; 2, as for Adam, if that fails."""
    if trainer.args.optim == MUON:
        # One for Muon's momentum, two for AdamW.
        matrices = find_matrices(trainer.model, trainer.get_decay_parameter_names(trainer.model))
        return 2 - sum(matrix.numel() for matrix in matrices) / trainer.model.num_parameters(only_trainable=True)
    matrix = torch.zeros(256, 256, device=trainer.args.device, dtype=trainer.model.dtype, requires_grad=True)
    matrix.grad = torch.zeros_like(matrix)
    try:
        optimizer_class, settings = trainer.get_optimizer_cls_and_kwargs(trainer.args, trainer.model)
        optimizer = optimizer_class([matrix], **settings)
        optimizer.step()
    except Exception as error:  # optimizers for whole models raise anything
        name = OptimizerNames(trainer.args.optim).value
        logger.info("Memory of --optim %s estimated as Adam's: %s", name, error)
        return 2
    state = [value for value in optimizer.state[matrix].values() if torch.is_tensor(value) and value.numel() > 1]
    return sum(value.nbytes for value in state) / matrix.nbytes


def saved_for_backward(trainer: PretrainingTrainer, batch: Sequence[dict]) -> int:
    """Return the bytes that the forward of a batch keeps for its backward, without weights and buffers."""
    inputs, num_items = to_device(trainer, batch)
    kept = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    trainer.model.train()
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor), trainer.accelerator.autocast():
        # The loss keeps the graph alive, so that no address is reused.
        loss = trainer.compute_loss(trainer.model, inputs, num_items_in_batch=num_items)
    for tensor in [*trainer.model.parameters(), *trainer.model.buffers()]:
        kept.pop(tensor.untyped_storage().data_ptr(), None)
    del loss
    return sum(kept.values())


def to_device(trainer: PretrainingTrainer, batch: Sequence[dict]) -> tuple[dict[str, torch.Tensor], torch.Tensor]:
    """Collate a batch on the trainer's device; return it and its number of targets, [objectives]."""
    inputs = send_to_device(trainer.data_collator(list(batch)), trainer.args.device)
    return inputs, trainer.count_targets([inputs])


def available_memory(device: torch.device) -> int:
    """Return the bytes that are free or already held by this process."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0] + torch.cuda.memory_reserved(device)
    return psutil.virtual_memory().available + psutil.Process().memory_info().rss


def check_fits(trainer: PretrainingTrainer, memory: Memory, available: int) -> None:
    """Raise UserError if the memory exceeds the available bytes."""
    if memory.total > available:
        raise UserError(
            f"the longest batch needs {memory}, but {gigabytes(available)} are available: {smaller_batches(trainer)}"
        )


def smaller_batches(trainer: PretrainingTrainer) -> str:
    """Return advice against batches that are too large."""
    args = trainer.args
    if args.max_tokens_per_batch is not None:
        return f"halve --max_tokens_per_batch {args.max_tokens_per_batch}, or lower --max_seq_length"
    if args.per_device_train_batch_size == 1:
        return "lower --max_seq_length, or use a smaller model"
    return (
        f"halve --per_device_train_batch_size {args.per_device_train_batch_size} and double "
        f"--gradient_accumulation_steps {args.gradient_accumulation_steps}"
    )


@contextmanager
def out_of_memory_as_user_error(cure: str) -> Iterator[None]:
    """Turn an out-of-memory error into a UserError with this cure."""
    try:
        yield
    except RuntimeError as error:
        if isinstance(error, torch.OutOfMemoryError) or should_reduce_batch_size(error):
            raise UserError(f"out of memory: {cure}") from None
        raise
