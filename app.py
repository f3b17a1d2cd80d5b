#!/usr/bin/env python
"""Serve a page in the browser over trained models: masked words, next sentences, two models side by side.

    python app.py results/quickstart-mlm

Before and after training, or any others, folders or names on the Hub:

    python app.py bert-base-uncased results/adapted

The page is at a port from 7860 on, or at --port, and is seen on this machine only, unless --share makes a public link.
It needs gradio: pip install -r requirements-app.txt
"""

import argparse
import signal
import sys
from collections.abc import Sequence

from cloze.system.output import tolerate_output_errors
from cloze.system.signals import exit_immediately, exit_while_importing, ignore_signals

if __name__ == "__main__":
    # Before the imports, which take seconds
    signal.signal(signal.SIGINT, exit_while_importing)
    tolerate_output_errors()

from cloze.cli import check_docstrings, errors_in_one_line, start_logging
from cloze.config.redaction import find_secrets
from cloze.errors import UserError


class Parser(argparse.ArgumentParser):
    """Raise UserError for what cannot be parsed."""

    def error(self, message):
        raise UserError(f"{message}: --help tells more")


def main(argv: Sequence[str]) -> None:
    """Load the models and serve the page until the process ends."""
    parser = Parser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False)
    parser.add_argument("models", nargs="+", metavar="MODEL", help="folder of a trained model, or its name on the Hub")
    parser.add_argument("--port", type=int, help="port of the page; without it, a free one from 7860 on")
    parser.add_argument("--share", action="store_true", help="make a public link, through a server of Gradio's")
    args = parser.parse_args(argv)
    check_docstrings()

    # Not at the top: Gradio and models take seconds to import, which --help and a wrong flag need not wait for
    try:
        from cloze.inference.page import serve_page
    except ImportError as error:
        raise UserError(f"{error}: pip install -r requirements-app.txt, or pip install 'cloze[app]'") from None
    from transformers.utils.logging import disable_progress_bar

    from cloze.inference.session import load_trained, short_names
    from cloze.tasks.masked_lm import MASKED_LM
    from cloze.tasks.next_sentence import NEXT_SENTENCE
    from cloze.tasks.pretraining import PRETRAINING

    disable_progress_bar()
    tasks = (PRETRAINING, NEXT_SENTENCE, MASKED_LM)
    models = {shown: load_trained(name, tasks) for shown, name in short_names(args.models).items()}
    serve_page(models, args.port, args.share)


if __name__ == "__main__":
    signal.signal(signal.SIGINT, exit_immediately)
    # As a server ends, and so that Gradio closes the public link
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))
    secrets = find_secrets(sys.argv[1:])
    start_logging(secrets)
    try:
        with errors_in_one_line(secrets):
            main(sys.argv[1:])
    finally:
        # The end of Python takes a while
        ignore_signals()
