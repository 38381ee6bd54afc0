# make demo    the whole thing on this machine, with an account at the end
# make test    every test, JOBS at a time (5: most of them wait for other processes), each fault once
# make lint    format, style, types, import contracts, vocabulary, size of modules and packages
# make check   lint, then test
# make cover   the tests under coverage, 95 % of the branches of bus, emitter and store
# make faults  each fault test N times (N=20), with repeated kills
# make fuzz    any bytes into the codec for SECONDS (900), guided by atheris where it installs
# make compat  the emitter and the truth test on the oldest transformers supported; with peft
# make test-trackers  hosted callbacks against those in the training process, of each tracker;
#                ARGS=--write-table writes the result into docs/reference/trackers.md
# make test-compose   the stack of compose.yaml in a container engine, some minutes
# make bench   every measurement, as a table
# make bench-trackers   what trackers cost a training, in its process and hosted
# make dashboards  the dashboards of Grafana anew, from deploy/grafana/source (Python 3.11)
#
# Each sets up .venv first if it is not there; PYTHON=python3.12 chooses another interpreter.

PYTHON ?= python3
VENV := .venv
COMPAT := .venv-compat
TRACKERS := .venv-trackers
BIN := $(VENV)/bin
PIP := -m pip --disable-pip-version-check --quiet install
N ?= 20
JOBS ?= 5
SECONDS ?= 900
RUNNER := python -m
PARALLEL = -n $(JOBS) --dist worksteal
ARGS ?=
DEPENDS := pyproject.toml constraints.txt

.PHONY: demo test lint check cover faults fuzz compat test-trackers test-compose bench bench-trackers \
  dashboards clean
.DEFAULT_GOAL := check

demo: $(VENV)/.demo
	$(BIN)/lineside demo $(ARGS)

test: $(VENV)/.dev
	@echo "The whole suite takes some 14 minutes on two cores; ARGS='tests/bus' runs a part of it."
	$(BIN)/$(RUNNER) pytest $(PARALLEL) $(ARGS)

lint: $(VENV)/.dev
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy -p lineside
	$(BIN)/mypy tests benchmarks
	$(BIN)/lint-imports --no-logo
	$(BIN)/python .ci/vocabulary.py
	@git ls-files '*.py' | xargs -n1 dirname | grep -v '^tests\|versions$$' | sort | uniq -c | awk \
	  '$$1 > 16 {print $$2 " has " $$1 " modules, 16 at most"; bad = 1} END {exit bad}'
	@git ls-files '*.py' '*.js' '*.css' | xargs wc -l | awk \
	  '$$2 != "total" && $$1 > 400 {print $$2 " has " $$1 " lines, 400 at most"; bad = 1} END {exit bad}'

check: lint test

cover: $(VENV)/.dev
	$(BIN)/coverage erase
	$(MAKE) test RUNNER='coverage run -m'
	$(BIN)/coverage combine --quiet
	$(BIN)/coverage report --skip-covered --fail-under=95

faults: $(VENV)/.dev
	LINESIDE_FAULT_REPEATS=$(N) $(BIN)/python -m pytest $(PARALLEL) -m fault $(ARGS)

fuzz: $(VENV)/.dev
	-$(BIN)/python $(PIP) --only-binary :all: atheris
	$(BIN)/python -m tests.bus.protocol.fuzz $(SECONDS)

compat: $(COMPAT)/.ready
	$(COMPAT)/bin/python -m pytest tests/test_truth.py tests/emitter/test_callback_*.py \
	  tests/emitter/training/test_train_errors.py \
	  tests/emitter/test_checkpoint_callback.py \
	  tests/test_resume_from_archive.py::test_losses_and_weights_are_the_same_bit_for_bit \
	  $(foreach it,leader pauses learning_rate sigterm,tests/emitter/control/test_$(it).py) $(ARGS)

test-trackers: $(TRACKERS)/.ready
	$(TRACKERS)/bin/python -m pytest tests/trackers $(ARGS)

test-compose: $(VENV)/.dev
	COMPOSE_TESTS=1 $(BIN)/python -m pytest tests/compose $(ARGS)

bench: $(VENV)/.dev
	$(BIN)/python -m benchmarks $(ARGS)

bench-trackers: $(TRACKERS)/.ready
	$(TRACKERS)/bin/python -m benchmarks.trackers $(ARGS)

dashboards: $(VENV)/.dev
	$(BIN)/python -m deploy.grafana.source

clean:
	rm -rf $(VENV) $(COMPAT) $(TRACKERS) build dist *.egg-info coverage .coverage* .lineside \
	  .mypy_cache .ruff_cache .pytest_cache .import_linter_cache

$(BIN)/python:
	$(PYTHON) -m venv $(VENV)

$(VENV)/.demo: $(DEPENDS) | $(BIN)/python
	@echo "Installing torch, transformers and the server's packages into $(VENV): some minutes, once."
	$(BIN)/python $(PIP) -c constraints.txt -e '.[demo]'
	touch $@

$(VENV)/.dev: $(DEPENDS) | $(BIN)/python
	@echo "Installing the packages of all tests into $(VENV): some minutes, once."
	$(BIN)/python $(PIP) -c constraints.txt -e '.[dev,postgres]'
	touch $(VENV)/.demo $@

# What the old transformers needs older than constraints.txt has it, pip may choose.
$(COMPAT)/.ready: $(DEPENDS)
	$(PYTHON) -m venv $(COMPAT)
	grep -vE '^(transformers|huggingface|tokenizers|hf-)' constraints.txt > $(COMPAT)/constraints.txt
	$(COMPAT)/bin/python $(PIP) -c $(COMPAT)/constraints.txt -e '.[demo]' 'transformers==4.56.*' \
	  peft pytest pytest-timeout psutil
	touch $@

# The trackers pin other versions than constraints.txt.
$(TRACKERS)/.ready: pyproject.toml tests/trackers/requirements.txt tests/trackers/constraints.txt
	$(PYTHON) -m venv $(TRACKERS)
	@echo "Installing all trackers into $(TRACKERS): some minutes, once."
	$(TRACKERS)/bin/python $(PIP) -c tests/trackers/constraints.txt -r tests/trackers/requirements.txt \
	  -e '.[demo]'
	touch $@
