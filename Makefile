PYTHON ?= python3

.PHONY: quickstart test test-all lint docs check-docs

# Trains a small BERT from scratch on the bundled sample: two CPU cores, minutes, no network once installed.
quickstart: .venv/installed
	.venv/bin/python run_mlm.py recipes/quickstart/mlm.yaml

# The quick tier, in two processes.
test: .venv/installed-test
	.venv/bin/python -m pytest --numprocesses 2 --dist worksteal

# And the slow one, with the page of app.py in a browser: needs chromium and chromedriver on the PATH.
test-all: .venv/installed-test-app
	.venv/bin/python -m pytest --numprocesses 2 --dist worksteal -m ""

# Types of the page, too, which needs Gradio.
lint: .venv/installed-test-app
	.venv/bin/ruff check .
	.venv/bin/ruff format --check .
	.venv/bin/mypy

# The site, in site/; warnings are errors.
docs: .venv/installed-docs
	.venv/bin/python -m docs.make_flags
	NO_MKDOCS_2_WARNING=1 .venv/bin/python -m mkdocs build --strict --quiet

# Runs the commands of the documentation that are marked as quick, offline, in a copy of the checkout.
check-docs: .venv/installed-test
	.venv/bin/python -m docs.check_commands

.venv/installed: requirements.txt
	test -d .venv || $(PYTHON) -m venv .venv
	.venv/bin/python -m pip install -q -r requirements.txt
	touch $@

.venv/installed-test: .venv/installed requirements-test.txt
	.venv/bin/python -m pip install -q -r requirements-test.txt
	touch $@

.venv/installed-test-app: .venv/installed-test requirements-app.txt requirements-test-app.txt
	.venv/bin/python -m pip install -q -r requirements-test-app.txt
	touch $@

.venv/installed-docs: .venv/installed requirements-docs.txt
	.venv/bin/python -m pip install -q -r requirements-docs.txt
	touch $@
