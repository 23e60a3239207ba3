# The verbs of this project; `make` alone lists them. Every recipe calls one script, so that a machine
# without make can do the same. The last command of `run` and `demo` is exec'ed: the signal that make
# passes on (SIGTERM) or the terminal sends (Ctrl-C) reaches the product itself.
.POSIX:

.PHONY: help install run test check bench demo prove styles clean

help: ## list the verbs
	@sed -n 's/^\([a-z]*\):.*## /\1|/p' Makefile | while IFS='|' read -r verb text; do printf '  make %-8s %s\n' "$$verb" "$$text"; done

install: ## make .venv and install the pinned packages (every other verb does it when needed)
	@deploy/install-python

run: install ## start web, receiver and workers on the embedded default (SQLite, local files)
	@exec .venv/bin/python manage.py up

demo: install ## as run, with demo data and two loopback destinations
	@exec .venv/bin/python manage.py up --demo

test: ## install what is missing and run the whole suite, on SQLite and on PostgreSQL (ARGS= for pytest)
	@exec deploy/test $(ARGS)

prove: ## the proofs under faults, in full, on both databases; resumes (PROVE=crash-3/10, ARGS=)
	@exec deploy/prove $(ARGS)

check: ## format, lint, types, layers, templates, migrations, stylesheet, scripts
	@exec deploy/check

bench: ## measure, side by side with peers where they are installed
	@deploy/install-python --dev && exec .venv/bin/python -m bench $(ARGS)

styles: ## compile static/src/app.css to static/app.css (needs npm; users do not)
	@exec deploy/styles

clean: ## remove everything that can be made again; the data directory stays
	rm -rf .venv .swift node_modules staticfiles htmlcov .coverage .mypy_cache .ruff_cache .pytest_cache .import_linter_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
