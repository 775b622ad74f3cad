# Two commands do everything on a fresh machine with Python and make: `make demo` and `make test`.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
export PIP_DISABLE_PIP_VERSION_CHECK = 1
export TF_CPP_MIN_LOG_LEVEL ?= 3
export CUDA_VISIBLE_DEVICES ?=

.PHONY: demo test test-all lint gpu clean

$(READY): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --constraint constraints.txt --editable '.[dev,torch]' tensorflow-cpu
	touch $(READY)

demo: $(READY)  ## The article's two scripts, from broken to proven
	@sh fixtures/article/demo.sh $(BIN)/mpaudit

test: lint  ## Lint, types and the fast tests
	$(BIN)/pytest -n 2 --dist worksteal -m "not slow and not gpu"

test-all: lint  ## Everything that needs no GPU
	$(BIN)/pytest -n 2 --dist worksteal -m "not gpu"

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

gpu: $(READY)  ## What only a CUDA device can show
	CUDA_VISIBLE_DEVICES=0 $(BIN)/pytest -m gpu

clean:
	rm -rf $(VENV) demo
