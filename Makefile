# Two commands on a fresh machine (python3, pip and make): `make demo` and `make test`.
PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
READY  := $(VENV)/.ready

.PHONY: demo test test-all test-gpu coverage compatibility release-check lint bench bench-libraries \
        bench-methods bench-methods-smoke bench-gpu gpu docs mutants fuzz clean

demo: $(READY)  ## a cat, three methods, and what excites two networks' feature maps; in demo/
	$(BIN)/captum-deconv demo --out demo

test: $(READY)  ## the tests, GPU ones skipped where there is none
	$(BIN)/python -m pytest -n 2 -m "not slow"

test-all: $(READY)  ## every test, the slow ones too
	$(BIN)/python -m pytest -n 2

coverage: $(READY)  ## branch coverage, and what is not covered; fails below 95 % of the branches
	$(BIN)/python -m coverage erase
	$(BIN)/python -m pytest -n 2 -m "not slow" --cov --cov-report=term-missing --cov-report=json
	$(BIN)/python tests/branches.py

compatibility: $(READY)  ## the tests with the lowest and with the newest of everything (12 GB)
	$(BIN)/nox -s lowest newest

release-check: $(READY)  ## wheel and sdist, and README's examples with the wheel alone (6 GB)
	$(BIN)/nox -s release

gpu: $(READY)  ## which GPU there is; an error where there is none
	$(BIN)/python benchmarks/parts/gpu.py

test-gpu: gpu  ## the tests that need a GPU: bits, devices, the adjoint in every mode of cuDNN's
	$(BIN)/python -m pytest -m gpu

fuzz: $(READY)  ## 50,000 random networks against the reference (half an hour; goes on where it was killed)
	$(BIN)/python benchmarks/fuzz.py

lint: $(READY)  ## style, types, import layers, docstrings
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/flake8 captum_deconv

bench: $(READY)  ## measure (an hour or two); tables on the screen, JSON in benchmarks/results/
	$(BIN)/python benchmarks/transpose_is_no_inverse.py
	$(BIN)/python benchmarks/methods.py
	$(BIN)/python benchmarks/memory.py
	$(BIN)/python benchmarks/many.py
	$(BIN)/python benchmarks/fast.py
	$(BIN)/python benchmarks/collect.py
	$(BIN)/python benchmarks/features.py
	$(BIN)/python benchmarks/atlas.py
	$(BIN)/python benchmarks/scan.py --out benchmarks/results
	$(BIN)/python benchmarks/zoo.py
	$(BIN)/python benchmarks/occlusion.py --stride 25 --rounds 5
	$(BIN)/python benchmarks/diagnose.py
	$(BIN)/python benchmarks/adjoint.py

bench-gpu: gpu  ## the same on a GPU; JSON in benchmarks/results/*-cuda.json
	$(BIN)/python benchmarks/adjoint.py --device cuda
	$(BIN)/python benchmarks/methods.py --device cuda
	$(BIN)/python benchmarks/features.py --device cuda
	$(BIN)/python benchmarks/memory.py --device cuda
	$(BIN)/python benchmarks/many.py --device cuda
	$(BIN)/python benchmarks/scan.py --device cuda --out benchmarks/results
	$(BIN)/python benchmarks/collect.py --device cuda

bench-libraries: $(READY)  ## beside the other libraries (two or three hours); docs/libraries.md
	$(BIN)/python benchmarks/libraries

bench-methods: $(READY)  ## the methods compared (an hour or two; goes on where it was killed); docs/methods.md
	$(BIN)/python benchmarks/compare_methods.py

bench-methods-smoke: $(READY)  ## the same, two images and six metrics, in three minutes
	$(BIN)/python benchmarks/compare_methods.py --smoke

# A mutant that loops would take all memory there is.
mutants: $(READY)  ## which faults no test would find (hours; goes on where it was stopped); tests/README.md
	$(BIN)/python -m pip install --quiet -e '.[mutants]'
	ulimit -v 12000000; OMP_NUM_THREADS=1 $(BIN)/mutmut run --max-children 2
	$(BIN)/python tests/mutants.py

docs: $(READY)  ## the documentation, warnings are errors
	$(BIN)/sphinx-build -W --keep-going -b html docs docs/_build/html
	$(BIN)/python docs/check_links.py docs/_build/html

clean:
	rm -rf $(VENV) .nox build dist demo docs/_build docs/_examples mutants *.egg-info

# torch and torchvision come in matching releases, so both are left to pip to choose.
$(READY): pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet -e '.[test,docs]'
	touch $@
