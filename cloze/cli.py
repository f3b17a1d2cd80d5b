"""Run a script's main() with the settings of the command line: logging, errors in one line, exit codes."""

import logging
import multiprocessing
import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

from cloze.config.parser import parse, settings_of
from cloze.config.redaction import RedactingFormatter, find_secrets, redact
from cloze.errors import UserError
from cloze.system.locks import lock_output_dir
from cloze.system.processes import destroying_process_group
from cloze.system.signals import exit_immediately, handling_signals, ignore_signals

# Of an error, on each side of what is left out: it may repeat a value, which can be as long as a recipe.
MAX_MESSAGE_HALF = 1_000


def run_script(main: Callable, argv: Sequence[str] | None = None) -> None:
    """Call ``main(model_args, data_args, training_args)`` with settings of the classes that its annotations name.

    A UserError becomes one line on stderr and exit code 2; a signal, that of signals.exit_code.
    """
    argv = sys.argv[1:] if argv is None else argv
    secrets = find_secrets(argv)
    with handling_signals(exit_immediately):
        start_logging(secrets)
        # Trackers send the command line along.
        sys.argv = [redact(argument, secrets) for argument in sys.argv]
        try:
            with errors_in_one_line(secrets):
                settings = parse(argv, settings_of(main))
                check_docstrings()
                model_args, _, args = settings
                # A recipe may have one, too.
                secrets |= {token for token in (model_args.token, args.hub_token) if token}
                lock = lock_output_dir(args.output_dir, dry_run=args.dry_run, prepare_only=args.prepare_only)
                with lock, destroying_process_group():
                    if args.report_to:
                        # Models and data sets are imported with it.
                        from cloze.training.trackers import check_login

                        check_login(args)
                    main(*settings)
                    # All is done, and the exit code is to say so.
                    ignore_signals()
        finally:
            # Data-loader workers that outlive an epoch: at its exit, Python would send them the signal that they leave
            # to it, and wait for their end. To torch's handler, their death would be an error.
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            for worker in multiprocessing.active_children():
                if worker.daemon:
                    worker.kill()


def check_docstrings() -> None:
    """Raise UserError for python -OO: transformers reads the docstrings of its models, which are left out then."""
    if sys.flags.optimize > 1:
        raise UserError("transformers cannot build a model without docstrings: start python with -O at most, not -OO")


@contextmanager
def errors_in_one_line(secrets: set[str]) -> Iterator[None]:
    """End the process with exit code 2 and one line on stderr where a UserError is raised."""
    try:
        yield
    except UserError as error:
        # From a data-loader worker it comes with a traceback in front.
        message = redact(" ".join(str(error).rpartition("UserError: ")[2].split()), secrets)
        if len(message) > 2 * MAX_MESSAGE_HALF:
            message = f"{message[:MAX_MESSAGE_HALF]} ... {message[-MAX_MESSAGE_HALF:]}"
        print("error:", message, file=sys.stderr)
        sys.exit(2)


def start_logging(secrets: set[str]) -> None:
    """Log what the package reports to stdout, without the secrets."""
    handler = logging.StreamHandler(sys.stdout)
    handler.setFormatter(RedactingFormatter(secrets))
    log = logging.getLogger("cloze")
    log.setLevel(logging.INFO)
    log.handlers = [handler]
