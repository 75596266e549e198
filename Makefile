# make install, make demo, make test: all that a fresh machine needs. make help lists the rest.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
# torch comes first, so that pip does not choose for you. A machine with an NVIDIA driver takes the newest build that fits
# pyproject.toml; any other takes one pinned version. On Linux without a GPU, save the download of the CUDA libraries with
# TORCH_ARGS="--index-url <PyTorch's index of CPU wheels>".
HAS_CUDA := $(shell command -v nvidia-smi >/dev/null 2>&1 && nvidia-smi -L >/dev/null 2>&1 && echo yes)
TORCH ?= $(if $(HAS_CUDA),torch>=2.10,torch==2.13.0)
TORCH_ARGS ?=
# Large pages for large blocks: 1.4 to 2 times faster CPU steps on Linux, no effect elsewhere.
export THP_MEM_ALLOC_ENABLE ?= 1

.PHONY: help install demo test test-slow cuda-check arm-check gpu-test benchmarks lint format twin torture clean

help:
	@echo "make install    virtual environment in $(VENV) with everything"
	@echo "make demo       fine-tune the shipped twin with the shipped reward; writes runs/demo/report.html"
	@echo "make test       the test suite"
	@echo "make test-slow  full-size golden arrays and other long checks"
	@echo "make torture    kills, faults of disks, damaged and hostile files, in numbers; goes on where it was"
	@echo "make cuda-check compile the CUDA kernels for every architecture; needs nvcc, no GPU"
	@echo "make arm-check  build the CPU kernels for ARM and run them under qemu-user, where both are there"
	@echo "make gpu-test   on a machine with a GPU: CUDA tests, memory check, benchmarks"
	@echo "make benchmarks fused operations against their references on this machine"
	@echo "make lint       ruff and mypy"
	@echo "make twin       the whole pipeline from nothing, resumable at every stage"

install: $(VENV)/.installed

$(VENV)/.installed: pyproject.toml
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -c "import torch" 2>/dev/null || $(BIN)/python -m pip install --quiet "$(TORCH)" $(TORCH_ARGS)
	$(BIN)/python -m pip install --quiet -e ".[dev]"
	-$(BIN)/python -m pip install --quiet "pyspng>=0.1.2" "ninja>=1.11"
	touch $@

demo: install
	$(BIN)/python -m paper_result_analyses.pipeline pipeline=demo

twin: install
	$(BIN)/python -m paper_result_analyses.pipeline pipeline=twin

# Films and the viewer: their tests skip themselves without these.
$(VENV)/.tools: $(VENV)/.installed
	-$(BIN)/python -m pip install --quiet -e ".[tools]"
	touch $@

test: install $(VENV)/.tools
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n auto -m "not slow"

test-slow: install
	$(BIN)/python -m pytest -m slow

torture: install
	$(BIN)/python -m tests.torture.run

NVCC ?= $(or $(shell command -v nvcc),/usr/local/cuda/bin/nvcc)
cuda-check: install
	@for source in eg3d/ops/*/cuda.cu; do \
	  echo "$$source"; \
	  $(NVCC) $$($(BIN)/python -c "from eg3d.ops.extension import CUDA_FLAGS; print(*CUDA_FLAGS)") \
	    -c $$source -o /dev/null || exit 1; \
	done

# The kernels as NEON runs them; Debian: g++-aarch64-linux-gnu and qemu-user.
arm-check: install
	$(BIN)/python -m pytest -rs tests/ops/test_architectures.py -k neon

gpu-test: install
	EG3D_OPS=native $(BIN)/python -m pytest -m gpu
	if command -v compute-sanitizer >/dev/null; then \
	  EG3D_OPS=native compute-sanitizer --error-exitcode 1 $(BIN)/python -m pytest -m gpu tests/ops; fi
	$(MAKE) benchmarks

benchmarks: install
	for part in density points rays; do $(BIN)/python -m benchmarks.$$part || exit 1; done

lint: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy eg3d reward_model_training dataset_preprocessing paper_result_analyses sculpting_nerf benchmarks

format: install
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

clean:
	rm -rf runs data .pytest_cache .ruff_cache .mypy_cache
