# make train       trains the quickstart's model, end to end
# make corpora     prepares corpora of all kinds from raw text, pictures and web pages, and trains on them
# make paper       tests the paper's claims by small trainings: 35 minutes; CLAIMS=few-shot,reading SEEDS=3 choose
# make test        the tests; make test-all also the slow ones
# make check       style, types, layers, spelling
# make docs        the documentation as a site, in site/
# make benchmark   measurements of speed, memory and the model's behavior
#
# The first use creates .venv and installs what is needed into it, the plugin itself editable. PYTHON chooses the
# interpreter of .venv: make test PYTHON=python3.12

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/installed
# A file's tests share what is costly to set up, so they stay in one process; in their order, the long ones are not last.
PARALLEL := --numprocesses logical --maxprocesses 4 --dist loadfile --no-loadscope-reorder

.PHONY: train corpora paper test test-all check docs benchmark clean

train: $(INSTALLED)
	PATH="$(CURDIR)/$(BIN):$$PATH" bash examples/quickstart/run.sh

corpora: $(INSTALLED)
	PATH="$(CURDIR)/$(BIN):$$PATH" bash examples/corpora/run.sh

paper: $(INSTALLED)
	$(BIN)/python examples/paper/run.py $(if $(CLAIMS),--claims $(CLAIMS)) $(if $(SEEDS),--seeds $(SEEDS))

test: $(INSTALLED)
	$(BIN)/python -m pytest $(PARALLEL) -m "not slow"

test-all: $(INSTALLED)
	$(BIN)/python -m pytest $(PARALLEL)

check: $(INSTALLED)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/codespell
	$(BIN)/mypy
	$(BIN)/lint-imports

docs: $(INSTALLED)
	$(BIN)/python -W ignore docs/generate_options.py
	$(BIN)/python docs/generate_commands.py
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

benchmark: $(INSTALLED)
	$(BIN)/python -m tests.benchmarks

clean:
	rm -rf $(VENV) build site *.egg-info

# Made again when what is to be installed has changed.
$(INSTALLED): setup.py pyproject.toml constraints.txt $(wildcard fairseq_hook/*.py)
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 12))' || { \
	  echo "Python 3.11 or 3.12 is needed, and $(PYTHON) is '$$($(PYTHON) --version 2>&1)':" \
	       "make $(MAKECMDGOALS) PYTHON=python3.12" >&2; exit 1; }
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --disable-pip-version-check -c constraints.txt -e ".[fairseq,dev,curation,evaluation,huggingface,serve,page,lm-eval,lora,remote,quickstart,docs]"
	touch $@
