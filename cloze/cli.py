"""Run a script's main() with the settings of the command line: logging, one-line errors, exit codes."""

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

# Characters kept at each end of a longer error message, which may quote a value as long as a recipe.
MAX_MESSAGE_HALF = 1_000


def run_script(main: Callable, argv: Sequence[str] | None = None) -> None:
    """Call ``main(model_args, data_args, training_args)`` with the settings that its annotations declare.

    A UserError becomes one line on stderr and exit code 2; a signal becomes the exit code of ``signals.exit_code``.
    """
    argv = sys.argv[1:] if argv is None else argv
    secrets = find_secrets(argv)
    with handling_signals(exit_immediately):
        start_logging(secrets)
        # Trackers upload the command line.
        sys.argv = [redact(argument, secrets) for argument in sys.argv]
        try:
            with errors_in_one_line(secrets):
                settings = parse(argv, settings_of(main))
                check_docstrings()
                model_args, _, args = settings
                # A recipe may contain tokens, too.
                secrets |= {token for token in (model_args.token, args.hub_token) if token}
                lock = lock_output_dir(args.output_dir, dry_run=args.dry_run, prepare_only=args.prepare_only)
                with lock, destroying_process_group():
                    if args.report_to:
                        # This imports the libraries of models and data sets.
                        from cloze.training.trackers import check_login

                        check_login(args)
                    main(*settings)
                    # The run is complete: a late signal must not change the exit code.
                    ignore_signals()
        finally:
            # Kill persistent data-loader workers: they ignore the SIGTERM that Python sends them at exit, before it
            # waits for them. To torch's handler of SIGCHLD, their death would be an error.
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            for worker in multiprocessing.active_children():
                if worker.daemon:
                    worker.kill()


def check_docstrings() -> None:
    """Raise UserError for python -OO, which removes the docstrings that transformers reads from its models."""
    if sys.flags.optimize > 1:
        raise UserError("transformers cannot build a model without docstrings: start python without -OO")


@contextmanager
def errors_in_one_line(secrets: set[str]) -> Iterator[None]:
    """Turn a UserError into exit code 2 and one line on stderr."""
    try:
        yield
    except UserError as error:
        # An error in a data-loader worker begins with a traceback.
        message = redact(" ".join(str(error).rpartition("UserError: ")[2].split()), secrets)
        if len(message) > 2 * MAX_MESSAGE_HALF:
            message = f"{message[:MAX_MESSAGE_HALF]} ... {message[-MAX_MESSAGE_HALF:]}"
        print("error:", message, file=sys.stderr)
        sys.exit(2)


def start_logging(secrets: set[str]) -> None:
    """Log the messages of the package to stdout, without secrets."""
    handler = logging.StreamHandler(sys.stdout)
    handler.setFormatter(RedactingFormatter(secrets))
    log = logging.getLogger("cloze")
    log.setLevel(logging.INFO)
    log.handlers = [handler]
