# What a newcomer types. Everything is installed in .venv, nothing elsewhere but Kafka's jars (~/.cache/hitl-stream).

PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
LOCK := $(wildcard requirements/dev.txt)
EXTRAS := console,demo,docs,notify,postgres,sentiment,test,lint
COMPILE := $(BIN)/uv pip compile --universal --generate-hashes --upgrade --quiet --no-header --python-version 3.11 \
	--no-emit-index-url --no-emit-find-links pyproject.toml

DEMO_SECONDS ?= 60
DEMO_ARGS ?=
PYTEST_ARGS ?=
PYTEST_JOBS ?= 2
BENCH_ARGS ?=

.DEFAULT_GOAL := help
.PHONY: help venv kafka test lint docs demo bench bench-desk bench-kill bench-console bench-monitor vigilance-proof dashboards-proof faults screenshots behaviours requirements

help:  ## show this
	@grep -hE '^[a-z-]+:.*## ' $(firstword $(MAKEFILE_LIST)) | sort | awk -F ':.*## ' '{printf "  make %-16s %s\n", $$1, $$2}'

venv: $(STAMP)  ## create .venv with everything the other targets need

$(STAMP): pyproject.toml $(LOCK)
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
ifeq ($(LOCK),)
	$(BIN)/python -m pip install --quiet --editable ".[$(EXTRAS)]"
else
	$(BIN)/python -m pip install --quiet --require-hashes --requirement $(LOCK)
	$(BIN)/python -m pip install --quiet --no-deps --editable .
endif
	@touch $@

kafka: $(STAMP)  ## fetch Kafka's jars for the tests, if Java and Maven are there
	@if command -v java >/dev/null && command -v mvn >/dev/null; then \
		$(BIN)/python -m hitl_stream.dev.broker fetch || { [ "$$CI" != true ] && echo "kafka: skipped, see above"; }; \
	elif [ "$$CI" = true ] && [ -z "$$HITL_KAFKA" ]; then \
		echo "kafka: CI=true promises a Kafka, but there is no java or no mvn in PATH" >&2; exit 1; \
	else \
		echo "kafka: skipped, no java or no mvn in PATH; tests that need a real Kafka skip unless HITL_KAFKA names one"; \
	fi

test: $(STAMP) kafka  ## run all tests: make test PYTEST_ARGS="-k route -x"
	$(BIN)/python -m pytest -n $(PYTEST_JOBS) --durations 30 --durations-min 10 $(PYTEST_ARGS)

lint: $(STAMP)  ## check style and types
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy

docs: $(STAMP)  ## build the documentation into build/docs; fails on a link that leads nowhere
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

demo: $(STAMP)  ## run everything on this machine for DEMO_SECONDS (60)
	$(BIN)/hitl demo --seconds $(DEMO_SECONDS) $(DEMO_ARGS)

bench: $(STAMP) kafka  ## measure throughput and latency: make bench BENCH_ARGS=--write keeps the table
	$(BIN)/python benchmarks/run.py $(BENCH_ARGS)

bench-console: $(STAMP) kafka  ## measure how long a reviewer waits, in a real browser
	$(BIN)/python benchmarks/console.py $(BENCH_ARGS)

dashboards-proof: $(STAMP) kafka  ## ask every query of dashboards and rules of a Prometheus beside a demo
	$(BIN)/python benchmarks/dashboards.py $(BENCH_ARGS)

vigilance-proof: $(STAMP)  ## judge simulated reviewers and gates by the code that judges real ones
	$(BIN)/python benchmarks/vigilance.py $(BENCH_ARGS)

bench-kill: $(STAMP) kafka  ## measure how long a kill switch takes: make bench-kill BENCH_ARGS=--write keeps the table
	$(BIN)/python benchmarks/kill.py $(BENCH_ARGS)

bench-desk: $(STAMP) kafka  ## measure one desk: restore with 100,000 items, verdicts a second
	$(BIN)/python benchmarks/desk.py $(BENCH_ARGS)

bench-monitor: $(STAMP) kafka  ## measure one monitor: lag at 2,000 judgements a second, memory, restoring
	$(BIN)/python benchmarks/monitor.py $(BENCH_ARGS)

faults: $(STAMP) kafka  ## break things on purpose, the long dose; writes docs/results/faults.md
	$(BIN)/python -m pytest tests/faults tests/kafka/test_restart.py --dose=full --results -s $(PYTEST_ARGS)

screenshots: $(STAMP)  ## look at the console beside a demo and write docs/img, light and dark
	$(BIN)/python -m pytest tests/browser/test_demo_console.py tests/browser/test_demo_batches.py --screenshots $(PYTEST_ARGS)

behaviours: $(STAMP)  ## show which test shows which behaviour of the specification
	$(BIN)/python -m tests.behaviours

requirements: $(STAMP)  ## lock requirements/*.txt anew from pyproject.toml
	$(BIN)/python -m pip install --quiet uv
	$(COMPILE) --output-file requirements/run.txt >/dev/null
	$(COMPILE) $(foreach extra,console demo docs notify postgres sentiment test lint,--extra $(extra)) --output-file requirements/dev.txt >/dev/null
