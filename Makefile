# `make run` boots Linux on our own two-stage MMU; `make test` checks everything. Both stand on `make setup`.
# Hundreds of commands are started here: where nothing is kept, each compiles the package's sources anew.
unexport PYTHONDONTWRITEBYTECODE
PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
STAMP  := $(VENV)/.installed
SOAK_CASES := 500000

.PHONY: setup run run-arm64 run-riscv64-hw run-x86_64 demo test quick soak fuzz emulators hypervisors lint types layers guests monitors docs tour inspect conform bench guard mutants lock clean

setup: $(STAMP)

$(STAMP): requirements.lock pyproject.toml packages.txt scripts/packages.sh
	@sh scripts/packages.sh
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@echo "installing the Python packages of requirements.lock into $(VENV)"
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements.lock
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation -e .
	@touch $@

run: setup
	@$(BIN)/stage2 fetch linux-riscv64
	@$(BIN)/stage2 run examples/linux-riscv64.toml

# Debian's arm64 kernel on QEMU's board, whose emulated MMU walks our tables: 200 forks and 100 MB of a file.
run-arm64: setup
	@$(BIN)/stage2 fetch linux-aarch64
	@$(BIN)/stage2 run --populate lazy --page-size 4k examples/linux-aarch64.toml \
		--cmdline "earlycon panic=-1 cryptomgr.notests stage2.work=full"

# A RISC-V guest on QEMU's board instead, whose emulated MMU walks our tables: 200 forks and 100 MB of a file.
run-riscv64-hw: setup
	@$(BIN)/stage2 fetch linux-riscv64
	@$(BIN)/stage2 run --engine qemu --populate lazy --page-size 4k examples/linux-riscv64.toml \
		--cmdline "earlycon=sbi console=hvc0 panic=-1 cryptomgr.notests stage2.work=full"

# The same of an x86-64 guest under SVM.
run-x86_64: setup
	@$(BIN)/stage2 fetch linux-x86_64
	@$(BIN)/stage2 run --engine qemu --populate lazy --page-size 4k examples/linux-x86_64.toml \
		--cmdline "console=ttyS0 panic=-1 cryptomgr.notests stage2.work=full"

demo: setup
	@$(BIN)/stage2 demo

# A file of tests stays on one process: its machines and compiled kernels are shared within it.
# `make test SEED=7` draws other examples; without it every run draws the same.
PYTEST := $(BIN)/python -m pytest --numprocesses auto --dist loadfile --no-loadscope-reorder $(if $(SEED),--seed $(SEED))

# What needs no other is done beside it.
test: setup
	@$(MAKE) --no-print-directory --jobs 2 --output-sync=target lint types layers emulators hypervisors
	@$(PYTEST)
	@$(BIN)/python -m benchmarks.guard

# What a change breaks soonest: the tests of the rooms it touches, then all that compile nothing. docs/testing.md
quick: setup
	@$(BIN)/ruff check --no-cache .
	@$(PYTEST) --quick

# By chance and for hours: other examples each time, twenty times as many, and a long comparison with the emulators.
soak: setup
	@seed=$(or $(SEED),$$(od -An -N3 -tu4 /dev/urandom | tr -d ' ')); \
	echo "make soak SEED=$$seed repeats this"; \
	HYPOTHESIS_PROFILE=soak $(PYTEST) -o faulthandler_timeout=0 --seed $$seed && $(BIN)/stage2 conform --seed $$seed --cases $(SOAK_CASES)

# Damaged VM files and device trees through `stage2 check` and `show`, and damaged dumps: docs/testing.md.
MINUTES ?= 1
fuzz: setup
	@$(BIN)/python scripts/fuzz_check.py toml --minutes $(MINUTES) --seed $(or $(SEED),0)
	@$(BIN)/python scripts/fuzz_check.py trees --minutes $(MINUTES) --seed $(or $(SEED),0)
	@if $(BIN)/python -c "import atheris" 2>/dev/null; then for kind in core lime avml gzip; do \
		$(BIN)/python scripts/fuzz_dumps.py $$kind --minutes $(MINUTES) --seed $(or $(SEED),1) || exit 1; done; \
		else echo "dumps are not fuzzed: pip install atheris"; fi

# QEMU and Bochs of the Debian release that this machine is not, for the conformance suite. Where they cannot be had a
# line says so, and only in CI that is a failure.
emulators: setup
	@$(BIN)/stage2 fetch emulators || test -z "$$CI"

# The same for Xen, OpenSBI and U-Boot, which the tests of `stage2 layout` look at, and for Xen and Linux's KVM, whose
# tables those of `stage2 walk` and its siblings look at.
hypervisors: setup
	@$(BIN)/stage2 fetch hypervisors || test -z "$$CI"

lint: setup
	@$(BIN)/ruff check --no-cache .
	@$(BIN)/ruff format --check .

types: setup
	@$(BIN)/mypy

layers: setup
	@$(BIN)/lint-imports

# The bundled guests are checked in as bytes; this makes them anew, and a test compares.
guests:
	@sh scripts/guests.sh src/stage2/vm/guests

# The same for the monitors that run in emulated machines.
monitors:
	@sh scripts/monitors.sh src/stage2/machines/monitors

# The documentation as a site, build/docs/index.html; nothing is fetched. Dead links are errors.
docs: setup
	@PYTHONPATH=src $(BIN)/python -m sphinx -q -W --keep-going -b html -d build/docs-cache docs build/docs
	@echo "build/docs/index.html"

# The notebook with what its cells show; a test runs it too.
tour: setup
	@$(BIN)/python scripts/tour.py

# The same for the notebook that looks into a dump; Debian is booted on QEMU to make one.
inspect: setup
	@$(BIN)/stage2 fetch linux-x86_64
	@$(BIN)/python scripts/inspect_notebook.py

# Every figure of docs/performance.md, in about ten minutes. The peers live in an environment of their own.
PEERS := build/peers/bin/python
bench: setup
	@$(BIN)/stage2 fetch linux-riscv64
	@$(BIN)/stage2 fetch linux-aarch64
	@test -x $(PEERS) || { $(PYTHON) -m venv build/peers && \
		$(PEERS) -m pip install --quiet --disable-pip-version-check volatility3==2.28.2 memprocfs==5.19.0; }
	@$(BIN)/python -m benchmarks --peers $(PEERS) --json docs/images/performance.json --report docs/performance.md

# Speed against the plain C twins, alone on the machine: docs/benchmarks.md.
guard: setup
	@$(BIN)/python -m benchmarks.guard

# The long form of the conformance suite; it writes the page with the counts, the same with any number of processes.
JOBS ?= $(shell nproc)
conform: emulators
	@$(BIN)/stage2 conform --long --jobs $(JOBS) --report docs/conformance.md

# Mutants of rules, WHAT=formats or prove (docs/testing.md). Cosmic Ray lives in an environment of its own.
MUTANTS ?= 420
WHAT    ?= formats
mutants: setup
	@test -x build/mutants/bin/cosmic-ray || { $(PYTHON) -m venv build/mutants && \
		build/mutants/bin/python -m pip install --quiet --disable-pip-version-check cosmic-ray==8.7.0; }
	@build/mutants/bin/python scripts/mutants/draw.py --what $(WHAT) --count $(MUTANTS) --seed $(or $(SEED),10) \
		--output build/drawn.jsonl
	@PYTHONPATH=src $(BIN)/python scripts/mutants/run.py build/drawn.jsonl --what $(WHAT) --report build/mutants.txt

# The lock names versions and hashes, no registry.
lock: setup
	@$(BIN)/uv pip compile --quiet --universal --python-version 3.11 --extra unicorn --extra cluster --extra dumps --extra live --group dev \
		--generate-hashes --no-emit-index-url --no-emit-find-links --no-header --no-annotate \
		--output-file requirements.lock pyproject.toml scripts/build-requirements.txt

clean:
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache .hypothesis
