# Every target does its own set-up: a virtual environment in .venv with pinned versions, and a warm kernel cache.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP_FLAGS := --quiet --disable-pip-version-check

.PHONY: run test lint warm bench bench-kernels soak docs clean

run: $(VENV)/kernels
	@$(BIN)/bot4 run

# Tests with whole engines run one at a time: an engine wants the machine for itself. The last run has the kernels with
# bounds checks, compiled into a cache of their own.
WORKERS ?= 2
CHECKED := $(addprefix tests/test_,$(addsuffix .py,units maths book ingest_frames ingest_json ingest_sequence decoding \
	validation validation_kraken integrity features orders ledger gate execution execution_maker execution_hash \
	execution_sessions matching_book matching_exchange matching_account matching_margin flow shm_ring shm_histogram \
	journal pump pump_trips pump_journal pump_stamps pump_successors checked_mode momentum))
SESSIONS = $(shell grep -l mark.session tests/test_*.py)
test: $(VENV)/fuzzer
	@$(MAKE) --no-print-directory --jobs 2 lint $(VENV)/kernels $(VENV)/kernels-checked
	$(BIN)/python -m pytest -n $(WORKERS) --dist loadfile -m "not session"
	$(BIN)/python -m pytest -m session $(SESSIONS)
	NUMBA_BOUNDSCHECK=1 $(BIN)/python -m pytest -n $(WORKERS) --dist loadfile $(CHECKED)

lint: $(VENV)/ready
	$(BIN)/ruff check .
	$(BIN)/mypy

warm: $(VENV)/kernels

# All suites; fails when one does. `make bench SUITES=rings FULL=--full` for one of them, longer.
SUITES ?= rings decode ingest book journal features inference decision strategies kill console
bench: $(VENV)/kernels $(VENV)/peers
	@failed=; for suite in $(SUITES); do $(BIN)/bot4 bench $$suite $(FULL) || failed="$$failed $$suite"; echo; done; \
		test -z "$$failed" || { echo "failed:$$failed"; exit 1; }

# The long suites in turn, for so many hours; 0 shows what they have done so far. `make soak SUITE=kills` for one of them.
HOURS ?= 1
soak: $(VENV)/kernels $(VENV)/kernels-checked $(VENV)/fuzzer
	@$(BIN)/python -m tools.soak --hours $(HOURS) $(addprefix --suite ,$(SUITE))

# The pages that are made from the source; a test says when one is stale.
docs: $(VENV)/ready
	@$(BIN)/python -m tools.docs

# The main kernels, each by itself, with pytest-benchmark.
bench-kernels: $(VENV)/kernels
	$(BIN)/python -m pytest tests/test_bench_kernels.py --benchmark-enable --benchmark-only

# What the suites compare with; a suite says which peer it left out.
$(VENV)/peers: $(VENV)/ready
	@for extra in bench parsers; do \
		$(BIN)/pip install $(PIP_FLAGS) --constraint constraints.txt --editable ".[$$extra]" \
			|| echo "some peers could not be installed ($$extra); the benches leave them out"; \
	done
	@touch $@

# The suite that follows coverage says when it was left out.
$(VENV)/fuzzer: $(VENV)/ready
	@$(BIN)/pip install $(PIP_FLAGS) --constraint constraints.txt --editable '.[fuzz]' \
		|| echo "atheris could not be installed; coverage-guided fuzzing is left out"
	@touch $@

# The interpreter is asked for by what the project needs; a missing one is said in one sentence.
$(VENV)/ready: setup.cfg pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info[:2] != (3, 11))' \
		|| { echo "Bot4 needs Python 3.11; set PYTHON=/path/to/python3.11"; exit 2; }
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/pip install $(PIP_FLAGS) --constraint constraints.txt --editable '.[test]'
	@touch $@

# One process compiles every kernel before any fleet starts; another may compile those with checks beside it: they lie
# in folders of their own.
KERNEL_FOLDERS := engine shm procs models tools/bench tools/soak tools/latency
KERNEL_FILES := $(shell find $(KERNEL_FOLDERS) -name '*.py' 2>/dev/null)
$(VENV)/kernels: $(VENV)/ready $(KERNEL_FILES)
	@$(BIN)/python -m procs.warm
	@$(BIN)/python -c 'import tools.bench.suites, tools.soak.suites, tools.latency.jitter_kernels'
	@touch $@

$(VENV)/kernels-checked: $(VENV)/ready $(KERNEL_FILES)
	@NUMBA_BOUNDSCHECK=1 $(BIN)/python -m procs.warm
	@touch $@

clean:
	rm -rf $(VENV) build var *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
