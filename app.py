#!/usr/bin/env python
"""Serve a web page to try trained models: masked words, next sentences, two models side by side.

    python app.py results/quickstart-mlm

Compare any models, such as before and after training, by folder or Hub name:

    python app.py bert-base-uncased results/adapted

The page is visible on this machine only, unless --share creates a public link.
It needs gradio: pip install -r requirements-app.txt
"""

import argparse
import signal
import sys
from collections.abc import Sequence
from typing import NoReturn

from cloze.system.output import tolerate_output_errors
from cloze.system.signals import exit_immediately, exit_while_importing, ignore_signals

if __name__ == "__main__":
    # Before the imports, which take seconds.
    signal.signal(signal.SIGINT, exit_while_importing)
    tolerate_output_errors()

from cloze.cli import check_docstrings, errors_in_one_line, start_logging
from cloze.config.redaction import find_secrets
from cloze.errors import UserError


class Parser(argparse.ArgumentParser):
    """Report errors of the command line as UserError."""

    def error(self, message: str) -> NoReturn:
        """Raise UserError with argparse's message."""
        raise UserError(f"{message}: see --help")


def main(argv: Sequence[str]) -> None:
    """Load the models and serve the page until the process ends."""
    parser = Parser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False)
    parser.add_argument("models", nargs="+", metavar="MODEL", help="trained model: a folder or a Hub name")
    parser.add_argument("--port", type=int, help="port of the page (default: the first free one from 7860)")
    parser.add_argument("--share", action="store_true", help="create a public link through a server of Gradio")
    args = parser.parse_args(argv)
    check_docstrings()

    # Imported late: Gradio and models take seconds, which --help and wrong flags need not wait for.
    try:
        from cloze.inference.page import serve_page
    except ImportError as error:
        raise UserError(f"{error}: run pip install -r requirements-app.txt, or pip install 'cloze[app]'") from None
    from transformers.utils.logging import disable_progress_bar

    from cloze.inference.session import load_trained, short_names
    from cloze.tasks.masked_lm import MASKED_LM
    from cloze.tasks.next_sentence import NEXT_SENTENCE
    from cloze.tasks.pretraining import PRETRAINING

    disable_progress_bar()
    tasks = (PRETRAINING, NEXT_SENTENCE, MASKED_LM)
    models = {short: load_trained(name, tasks) for short, name in short_names(args.models).items()}
    serve_page(models, args.port, args.share)


if __name__ == "__main__":
    signal.signal(signal.SIGINT, exit_immediately)
    # Exits through Python, which lets Gradio close the public link.
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))
    secrets = find_secrets(sys.argv[1:])
    start_logging(secrets)
    try:
        with errors_in_one_line(secrets):
            main(sys.argv[1:])
    finally:
        # Python takes a while to exit.
        ignore_signals()
