"""Trackers that runs report to: those that cannot be used are found before the model is loaded, or end in one line."""

import functools
import importlib
import logging
from collections.abc import Callable

from transformers import Trainer, TrainerCallback
from transformers.integrations import get_reporting_integration_callbacks

from cloze.config.arguments import TrainingArguments
from cloze.errors import UserError
from cloze.system.processes import on_first_process

logger = logging.getLogger(__name__)


def check_login(training_args: TrainingArguments) -> None:
    """Raise UserError if wandb is to be reported to, and does not let us; of ``--report_to all`` it is left out.

    Other trackers are not asked: some need no login, and none can be asked without beginning a run.
    """
    if "wandb" not in training_args.report_to or training_args.prepare_only:
        return
    is_first = training_args.process_index == 0  # starts the processes, too
    problem = on_first_process(find_wandb_problem)
    if problem is None:
        return
    if not reports_to_all(training_args):
        raise UserError(f"--report_to wandb: {problem}: run wandb login, or set WANDB_MODE=offline, or drop it")
    training_args.report_to = [name for name in training_args.report_to if name != "wandb"]
    if is_first:
        warn_of_left_out("wandb", problem)


def find_wandb_problem() -> str | None:
    try:
        wandb = importlib.import_module("wandb")
        if wandb.context().settings.mode in ("offline", "dryrun", "disabled") or wandb.login(verify=True, prompt=False):
            return None
    except Exception as error:  # whatever the network and its own settings bring
        return in_one_line(error)
    return "nobody is logged in"


def guard_trackers(trainer: Trainer) -> None:
    """Let an error of a tracker end the run in one line; of ``--report_to all`` the tracker is left out instead."""
    kinds = {kind: name for name in trainer.args.report_to for kind in get_reporting_integration_callbacks([name])}
    for callback in trainer.callback_handler.callbacks:
        if type(callback) in kinds:
            # Those that set a tracker up: the latter where nothing is trained.
            for event in ("on_train_begin", "on_log"):
                setattr(callback, event, guarded(getattr(callback, event), trainer, callback, kinds[type(callback)]))


def guarded(event: Callable, trainer: Trainer, callback: TrainerCallback, name: str) -> Callable:
    @functools.wraps(event)
    def run(*args, **kwargs):
        try:
            return event(*args, **kwargs)
        except Exception as error:
            if not reports_to_all(trainer.args):
                raise UserError(f"--report_to {name}: {in_one_line(error)}: see its settings, or drop it") from error
            warn_of_left_out(name, in_one_line(error))
            # A new list, as the handler is on its way through the old one.
            handler = trainer.callback_handler
            handler.callbacks = [other for other in handler.callbacks if other is not callback]

    return run


def reports_to_all(training_args: TrainingArguments) -> bool:
    return training_args.resolved.get("report_to") in ("all", ["all"])


def warn_of_left_out(name: str, problem: str) -> None:
    logger.warning("TRACKER: %s cannot be used and is left out: %s", name, problem)


def in_one_line(error: Exception) -> str:
    return " ".join(str(error).split())[:300].rstrip(".") or type(error).__name__
