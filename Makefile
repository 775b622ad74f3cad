# Two commands do everything on a fresh machine with Python and make: `make demo` and `make test`.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
PROOF := $(VENV)/.proof
export PIP_DISABLE_PIP_VERSION_CHECK = 1
# Set, each of the many processes that tests start would compile mpaudit anew.
export PYTHONDONTWRITEBYTECODE =
export TF_CPP_MIN_LOG_LEVEL ?= 3
export CUDA_VISIBLE_DEVICES ?=

.PHONY: demo test test-all lint accuracy corpus bench bench-runtime docs gpu clean

$(READY): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --constraint constraints.txt --editable '.[dev,torch]' tensorflow-cpu
	$(BIN)/pip install --quiet --constraint constraints.txt --no-deps tf_keras  # asks for tensorflow; the line above has its CPU build
	touch $(READY)

$(PROOF): $(READY)
	$(BIN)/pip install --quiet --constraint constraints.txt --editable '.[proof]'
	$(BIN)/pip install --quiet --constraint constraints.txt --target $(VENV)/triton triton  # apart: TensorFlow bears it in no process
	touch $(PROOF)

# $(call step,arguments of mpaudit,expected exit code): show a command, run it in demo/, check its code
define step
	@printf '\n\033[1m$$ mpaudit %s\033[0m\n' "$(1)"
	@cd demo && ../$(BIN)/mpaudit $(1); code=$$?; \
	  test $$code -eq $(2) || { echo "expected exit code $(2), got $$code"; exit 1; }
endef

demo: $(READY)  ## The article's two scripts, from broken to proven
	@rm -rf demo && mkdir demo && cp fixtures/article/*.py demo
	$(call step,check article_pytorch.py,1)
	$(call step,check article_pytorch.py --fix --unsafe-fixes,0)
	$(call step,run --device cpu -o broken.mpa run_pytorch.py,1)
	$(call step,explain 'step() has already been called since the last update()',0)
	$(call step,run --device cpu --fix -o repaired.mpa run_pytorch.py,0)
	$(call step,report repaired.mpa,0)
	$(call step,check article_tensorflow.py,1)
	$(call step,check article_tensorflow.py --fix --unsafe-fixes,0)
	$(call step,run -o unmixed.mpa run_tensorflow.py,0)
	$(call step,report unmixed.mpa,0)
	$(call step,run --fix -o mixed.mpa run_tensorflow.py,0)
	$(call step,report mixed.mpa,0)
	@printf '\nThe scripts, repaired, and the traces are in demo/.\n'

test: lint  ## Lint, types and the fast tests
	$(BIN)/pytest -n 2 --dist worksteal -m "not slow and not gpu"

test-all: lint $(PROOF)  ## Everything that needs no GPU; every fix is run
	$(BIN)/pytest -n 2 --dist worksteal -m "not gpu"

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

accuracy: $(READY)  ## How many mistakes put into correct code are seen, at the right place
	$(BIN)/python -m tests.accuracy

corpus: $(READY)  ## The check on pinned packages, compared with verdicts read by hand
	$(BIN)/python -m tests.accuracy.corpus

bench: $(READY)  ## Speed, against other tools in the same run; some of them take minutes
	$(BIN)/python -m tests.benchmarks

bench-runtime: $(READY)  ## What watching a run costs, against other tools in the same run
	$(BIN)/python -m tests.benchmarks.runtime

docs: $(READY)  ## The documentation site, in build/site/site
	$(BIN)/pip install --quiet --constraint constraints.txt --editable '.[docs]'
	$(BIN)/python docs/pages.py build/site
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --quiet --strict --config-file build/site/mkdocs.yml

gpu: $(READY)  ## What only a CUDA device can show
	CUDA_VISIBLE_DEVICES=0 $(BIN)/pytest -m gpu
	CUDA_VISIBLE_DEVICES=0 $(BIN)/python -m tests.benchmarks.runtime --device cuda

clean:
	rm -rf $(VENV) demo build
