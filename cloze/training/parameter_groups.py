"""Divide the parameters of a model into groups with learning rates of their own."""

import logging
from collections import defaultdict
from collections.abc import Collection
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedModel

from cloze.config.arguments import TrainingArguments
from cloze.config.optimizers import MUON
from cloze.errors import UserError
from cloze.training.muon import MuonWithAdamW

logger = logging.getLogger(__name__)


def muon_and_settings(args: TrainingArguments) -> tuple[type[MuonWithAdamW], dict[str, Any]]:
    """Return the class of --optim muon and its arguments, without the parameters."""
    betas = (args.adam_beta1, args.adam_beta2)
    return MuonWithAdamW, {"lr": args.learning_rate, "betas": betas, "eps": args.adam_epsilon, "fused": True}


def make_groups(model: PreTrainedModel, decaying: Collection[str], args: TrainingArguments) -> list[dict[str, Any]]:
    """Return the parameter groups for --optim muon or --embedding_learning_rate; each parameter is in one.

    The first group has --learning_rate, which is logged.

    Args:
        model: the model.
        decaying: the names of the parameters with weight decay.
        args: the training arguments.

    Raises:
        UserError: if Muon finds no matrices.
    """
    embeddings = find_embeddings(model) if args.embedding_learning_rate is not None else set()
    matrices = find_matrices(model, decaying) if args.optim == MUON else set()
    if matrices:
        own, total = sum(each.numel() for each in matrices), model.num_parameters(only_trainable=True)
        logger.info("Muon: %s of %s weights; AdamW: the others", f"{own:,}", f"{total:,}")
    members = defaultdict(list)
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            kind = "embeddings" if parameter in embeddings else "matrices" if parameter in matrices else "rest"
            members[kind, name in decaying].append(parameter)
    muon_rate = args.learning_rate if args.muon_learning_rate is None else args.muon_learning_rate
    settings: dict[str, dict[str, Any]] = {
        "rest": {"lr": args.learning_rate},
        "embeddings": {"lr": args.embedding_learning_rate},
        "matrices": {"lr": muon_rate, "muon": True},
    }
    return [
        {"params": members[kind, decays], "weight_decay": args.weight_decay if decays else 0.0, **own}
        for kind, own in settings.items()
        for decays in (True, False)
        if members[kind, decays]
    ]


def find_embeddings(model: PreTrainedModel) -> set[torch.Tensor]:
    """Return the weights of all embeddings and of the output layer, which may be one of them."""
    weights = {module.weight for module in model.modules() if isinstance(module, nn.Embedding)}
    output = model.get_output_embeddings()
    return weights if output is None else weights | {output.weight}


def find_matrices(model: PreTrainedModel, decaying: Collection[str]) -> set[torch.Tensor]:
    """Return the weights of two dimensions in the model's lists of layers, without embeddings and biases."""
    stacks = [module for module in model.base_model.modules() if isinstance(module, nn.ModuleList)]
    modules = [module for stack in stacks for module in stack.modules() if not isinstance(module, nn.Embedding)]
    layers = {parameter for module in modules for parameter in module.parameters(recurse=False)}
    found: set[torch.Tensor] = {
        parameter
        for name, parameter in model.named_parameters()
        if name in decaying and parameter in layers and parameter.ndim == 2
    }
    if not found:
        raise UserError(f"--optim muon: {type(model).__name__} has no layers with matrices: choose another optimizer")
    return found
