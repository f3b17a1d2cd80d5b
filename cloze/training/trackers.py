"""Check experiment trackers before the model is loaded, and report their errors in one line."""

import functools
import importlib
import logging
from collections.abc import Callable

from transformers import TrainerCallback
from transformers.integrations import get_reporting_integration_callbacks

from cloze.config.arguments import TrainingArguments
from cloze.errors import UserError
from cloze.system.processes import on_first_process
from cloze.training.base import BaseTrainer

logger = logging.getLogger(__name__)


def check_login(training_args: TrainingArguments) -> None:
    """Raise UserError if ``--report_to`` names wandb and its login fails; with ``--report_to all``, drop wandb.

    Other trackers are not checked: some need no login, the rest cannot be checked without starting a run.
    """
    trackers = training_args.report_to or []
    if "wandb" not in trackers or training_args.prepare_only:
        return
    is_first = training_args.process_index == 0  # also initializes the process group
    problem = on_first_process(find_wandb_problem)
    if problem is None:
        return
    if not reports_to_all(training_args):
        raise UserError(f"--report_to wandb: {problem}: run wandb login, or set WANDB_MODE=offline, or drop it")
    training_args.report_to = [name for name in trackers if name != "wandb"]
    if is_first:
        warn_of_left_out("wandb", problem)


def find_wandb_problem() -> str | None:
    """Return why wandb cannot be used, None if it can."""
    try:
        wandb = importlib.import_module("wandb")
        if wandb.setup().settings.mode in ("offline", "dryrun", "disabled") or wandb.login(verify=True, prompt=False):
            return None
    except Exception as error:  # wandb raises anything for network and settings
        return in_one_line(error)
    return "not logged in"


def guard_trackers(trainer: BaseTrainer) -> None:
    """Report errors of trackers as user errors; with ``--report_to all``, drop the tracker with a warning."""
    trackers = trainer.args.report_to or []
    kinds = {kind: name for name in trackers for kind in get_reporting_integration_callbacks([name])}
    for callback in trainer.callback_handler.callbacks:
        if type(callback) in kinds:
            # These set up a tracker; on_log does if nothing is trained.
            for event in ("on_train_begin", "on_log"):
                setattr(callback, event, guarded(getattr(callback, event), trainer, callback, kinds[type(callback)]))


def guarded(event: Callable, trainer: BaseTrainer, callback: TrainerCallback, name: str) -> Callable:
    """Wrap an event of a tracker's callback to report its errors."""

    @functools.wraps(event)
    def run(*args, **kwargs):
        try:
            return event(*args, **kwargs)
        except Exception as error:
            if not reports_to_all(trainer.args):
                raise UserError(f"--report_to {name}: {in_one_line(error)}: check its settings, or drop it") from error
            warn_of_left_out(name, in_one_line(error))
            # A new list: the handler is iterating over the old one.
            handler = trainer.callback_handler
            handler.callbacks = [other for other in handler.callbacks if other is not callback]

    return run


def reports_to_all(training_args: TrainingArguments) -> bool:
    """Return whether ``--report_to all`` was given."""
    return training_args.resolved.get("report_to") in ("all", ["all"])


def warn_of_left_out(name: str, problem: str) -> None:
    """Warn that a tracker is dropped."""
    logger.warning("dropping tracker %s: %s", name, problem)


def in_one_line(error: Exception) -> str:
    """Format an error on one line of at most 300 characters."""
    return " ".join(str(error).split())[:300].rstrip(".") or type(error).__name__
