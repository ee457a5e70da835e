# make book         build the book into book/_build/html; with FRESH=1, from nothing but the code
# make check        execute every chapter with very small networks, from nothing, and settle its claims; no pages
# make test         run every test, those of the mathematics with annotations checked
# make coverage     run every test, and say which lines none of them reaches
# make notebooks    run what Colab opens in a fresh environment; with NEWEST=1, with the newest packages
# make lint         ruff, mypy and oxlint; make format: let ruff format and fix
# make clean        remove what was built, and all that was computed (.cache)
# make bench        measure: benchmarks/results/*.json, which the book shows (some hours; BENCH="sdcp flow" for some of it)
PYTHON ?= python3
PRESET ?= laptop
BENCH ?= gauge default stationary network scale sdcp growth flow laboratory
BIN := .venv/bin
# tests that run with annotations checked at every call, which takes twice the time
CHECKED := $(addprefix tests/test_,eigen.py flows.py metrics.py optimizers.py quadratic.py sdcp.py seams.py states.py)
CHECK := '--jaxtyping-packages=cflows,beartype.beartype(conf=beartype.BeartypeConf(is_pep484_tower=True))'

.PHONY: book check test coverage notebooks bench lint format clean

book: .venv/installed
	$(BIN)/python book/build.py --preset $(PRESET) $(if $(FRESH),--fresh)

check: .venv/installed
	$(BIN)/python book/build.py --preset ci --check

test: lint
	$(BIN)/python -m pytest -n auto --dist worksteal $(addprefix --ignore=,$(CHECKED))
	$(BIN)/python -m pytest -n auto --dist worksteal $(CHECK) $(CHECKED)

coverage: .venv/installed
	$(BIN)/python -m pytest -n auto --dist worksteal --cov=cflows

notebooks: .venv/installed
	$(BIN)/python tests/fresh_notebooks.py $(if $(NEWEST),--newest)

bench: .venv/installed
	mkdir -p benchmarks/results
	for name in $(BENCH); do \
	  $(BIN)/python -m pytest benchmarks/bench_$$name.py -o addopts= -p no:xdist \
	    --benchmark-json=benchmarks/results/$$name.json || exit 1; \
	done

lint: .venv/installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/oxlint --deny-warnings book cflows

format: .venv/installed
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

.venv/installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet -c constraints.txt --config-settings editable_mode=compat -e '.[dev]'
	touch $@

clean:
	rm -rf book/_build book/executed book/_static/media .cache
