# flowlake: `make run` and `make test` do all their set-up; no other step is needed.
#
#   make run        set up, then `flowlake up`: this host's traffic into ./data/lake
#   make test       set up, then every test that this machine can run
#   make test-fast  the tests that need neither root nor a minute
#   make lint       ruff, mypy --strict, clang-format, generated pages
#   make bench      the benchmarks; results in bench/results/
#   make docs       write the generated pages anew
#   make clean      remove what was built

PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
PROBE  := sidecar/probe/flowlake.bpf.o sidecar/probe/flowlake_raw.bpf.o
CODEC  := schemas/_flow_codec.so
# What is built once and kept between clones.
export FLOWLAKE_TEST_CACHE ?= $(HOME)/.cache/flowlake

.PHONY: setup run test test-fast lint bench docs clean
setup: $(BIN)/.installed $(PROBE) $(CODEC)

build/system-%: infra/setup-system
	@mkdir -p build
	infra/setup-system $*
	@touch $@

$(BIN)/.installed: pyproject.toml constraints.txt build/system-run
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[lake,s3,kafka,dev]'
	@touch $@

$(PROBE) &: build/system-run $(wildcard bpf/*.c bpf/*.h bpf/Makefile)
	$(MAKE) --no-print-directory -C bpf

$(CODEC): build/system-run schemas/flow_codec.c schemas/Makefile
	$(MAKE) --no-print-directory -C schemas

run: setup
	$(BIN)/flowlake up

# Tests whose server could not be built say so and are skipped; on CI that is a failure.
test: build/system-test setup
	@infra/build-test-servers || true
	@infra/build-kafka-broker || true
	$(BIN)/python -m pytest

test-fast: build/system-test setup
	$(BIN)/python -m pytest -m 'not slow and not kernel'

lint: build/system-test setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	clang-format --dry-run --Werror $(wildcard bpf/*.c bpf/*.h bench/*.c schemas/*.c tests/schemas/*.c tests/kernel/traffic/*.c)
	$(BIN)/python -m docs.generate --check

docs: setup
	$(BIN)/python -m docs.generate

bench: build/system-test setup
	$(BIN)/python -m bench.run

clean:
	rm -rf $(VENV) build *.egg-info sidecar/probe/*.bpf.o
	$(MAKE) --no-print-directory -C bpf clean
	$(MAKE) --no-print-directory -C schemas clean
