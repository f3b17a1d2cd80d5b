"""Add Muon to the optimizers of transformers, and check the optimizer's settings."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from transformers.training_args import OptimizerNames

from cloze.errors import UserError

MUON = "muon"
ADAMW = ("adamw_torch", "adamw_torch_fused")
OPTIMIZERS = [*(name.value for name in OptimizerNames), MUON]
# Set by accelerate launch.
SHARDING = ("ACCELERATE_USE_FSDP", "ACCELERATE_USE_DEEPSPEED")


def has_own_groups(args: Any) -> bool:
    """Return whether the parameter groups are the project's, not the Trainer's two."""
    return args.optim == MUON or args.embedding_learning_rate is not None


def check_optimizer(args: Any) -> None:
    """Raise UserError for settings that contradict the optimizer of the training arguments."""
    is_muon = args.optim == MUON
    if args.muon_learning_rate is not None and not is_muon:
        raise UserError("--muon_learning_rate needs --optim muon: add it, or drop the rate")
    if args.embedding_learning_rate is not None and args.optim not in (*ADAMW, MUON):
        known = f"{', '.join(ADAMW)} or {MUON}"
        raise UserError(f"--embedding_learning_rate needs --optim {known}: change --optim, or drop the rate")
    for name in ("optim_args", "optim_target_modules"):
        if is_muon and getattr(args, name) is not None:
            raise UserError(f"--optim muon does not use --{name}: drop it, or choose another optimizer")
    is_sharded = args.fsdp or args.deepspeed or any(os.environ.get(name) == "true" for name in SHARDING)
    if has_own_groups(args) and is_sharded:
        flag = "--optim muon" if is_muon else "--embedding_learning_rate"
        raise UserError(f"{flag} does not support FSDP or DeepSpeed: drop it, or run one process per GPU without them")


@contextmanager
def known_to_transformers(args: Any) -> Iterator[None]:
    """Call Muon AdamW temporarily: transformers refuses names that it does not know."""
    optim = args.optim
    if optim == MUON:
        args.optim = ADAMW[0]
    yield
    if optim == MUON:
        args.optim = MUON
