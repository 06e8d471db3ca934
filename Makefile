# `make demo` and `make test` are all a fresh machine with Python 3.11, git and make needs.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# On Linux the package index's own torch brings several GB of CUDA. For the CPU build, name PyTorch's CPU index:
#   make demo TORCH_INDEX=https://download.pytorch.org/whl/cpu
TORCH_INDEX ?=
TORCH := $(shell sed -n 's/^torch==/torch==/p' constraints.txt)
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check
# Tests are bound to two processes; each keeps to one thread so that they do not fight.
TEST_ENV := OMP_NUM_THREADS=1

.PHONY: demo test test-slow lint types format install gpu-packs gpu-check clean

demo: $(VENV)/.ready-all
	$(BIN)/fptk demo

test: $(VENV)/.ready-dev lint types
	$(TEST_ENV) $(BIN)/python -m pytest -n 2 -m "not slow and not gpu"

test-slow: $(VENV)/.ready-dev
	$(BIN)/python -m pytest -m "slow or gpu"

lint: $(VENV)/.ready-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

# mypy cannot follow the folder mapping of setup.cfg, so it gets the package laid out as it will be installed.
types: $(VENV)/.ready-dev
	@rm -rf build/types && mkdir -p build/types/fptk
	@ln -s $(CURDIR)/toolkit/* $(CURDIR)/models $(CURDIR)/export $(CURDIR)/calibration $(CURDIR)/benchmarks build/types/fptk/
	MYPYPATH=build/types $(BIN)/mypy -p fptk

format: $(VENV)/.ready-dev
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

install: $(VENV)/.ready-dev

# torch goes first: with it in place the other packages' ranges are satisfied and pip fetches no second build of it.
$(VENV)/.torch: constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(PIP) $(TORCH) $(if $(TORCH_INDEX),--index-url $(TORCH_INDEX))
	@touch $@

$(VENV)/.ready-all: $(VENV)/.torch setup.cfg pyproject.toml constraints.txt
	$(PIP) -c constraints.txt -e '.[all]'
	@touch $@

$(VENV)/.ready-dev: $(VENV)/.torch setup.cfg pyproject.toml constraints.txt
	$(PIP) -c constraints.txt -e '.[all,dev]'
	@touch $@ $(VENV)/.ready-all

# Faces, wheels, ONNX files and weights for gpu-check on an offline machine; docs/how-to/gpu-check.md.
#   make gpu-packs DATA='faces/train more-faces/train' VAL=faces/val
PACKS ?= build/gpu-packs

gpu-packs: $(VENV)/.ready-dev
	$(BIN)/python -m fptk.workflows.gpu_packs $(DATA:%=--data %) --val $(VAL) --out $(PACKS)

# With the machine's own Python: there is no network to fill a .venv from, and its PyTorch is the one that knows its GPU.
OUT ?= build/gpu-check
MINUTES ?= 9.5

gpu-check:
	$(PYTHON) -P toolkit/workflows/gpu_check.py --packs $(PACKS) --out $(OUT) --minutes $(MINUTES) $(GPU_CHECK)

clean:
	rm -rf $(VENV) build dist *.egg-info .mypy_cache .ruff_cache .pytest_cache
