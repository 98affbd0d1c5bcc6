# make demo | stop | test | lint | bench | images | schema | lock
PYTHON ?= python3.11
VENV ?= .venv
BIN := $(VENV)/bin
# Held: with the newest torch comes the newest CUDA, several GB of it.
LOCK_TORCH ?= torch==2.13.0
export AIRFLOW_PORT MLFLOW_PORT MONTHS DEMO_HOME

.PHONY: demo stop test lint format bench images schema lock clean

demo: $(VENV)/.demo-installed ## A year of flights through the whole lifecycle; DETACH=1 returns after the table
	@$(BIN)/python -m demo up $(if $(DETACH),--detach)

stop: ## End a demo that was left running
	@if [ -x $(BIN)/python ]; then $(BIN)/python -m demo stop; else echo "Nothing to stop."; fi

test: $(VENV)/.dev-installed lint ## All tests, and lint before them
	$(BIN)/python -m pytest $(PYTEST_ARGS)

lint: $(VENV)/.dev-installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

format: $(VENV)/.dev-installed
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

images: ## The runner images for pods and the Airflow image, with docker or buildah
	docker/build $(IMAGES)

bench: $(VENV)/.dev-installed ## Every benchmark, each ending in one line of JSON
	@for name in parse step_overhead pod_overhead ingest torch_training gates score drift false_alarms estimation; do $(BIN)/python -m benchmarks.$$name || exit 1; done

schema: $(VENV)/.dev-installed ## Write the JSON schema of monitoring's reports
	$(BIN)/python -m airflow_mlops.stages.monitor.report_schema > docs/report.schema.json

lock: ## Regenerate constraints.txt from pyproject.toml with the newest releases that fit together
	rm -rf build/lock && $(PYTHON) -m venv build/lock
	build/lock/bin/python -m pip install --quiet --upgrade pip
	build/lock/bin/python -m pip install --quiet $(LOCK_TORCH)
	build/lock/bin/python -m pip install --quiet --editable . --group dev
	{ echo "# Written by 'make lock' on Python 3.11; pip install -c constraints.txt holds every version."; \
	  build/lock/bin/python -m pip freeze --all --exclude-editable \
	  | grep -v -i -E '^(nvidia-|triton|cuda-)' | sed -E 's/\+cpu$$//'; } > constraints.txt
	rm -rf build/lock

$(BIN)/python:
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip -c constraints.txt

$(VENV)/.demo-installed: pyproject.toml constraints.txt | $(BIN)/python
	@echo "Installing the locked dependencies into $(VENV) (two minutes or so) ..."
	$(BIN)/python -m pip install --quiet -c constraints.txt --editable '.[examples]'
	@touch $@

$(VENV)/.dev-installed: pyproject.toml constraints.txt | $(BIN)/python
	@echo "Installing the locked dependencies into $(VENV) (three minutes or so) ..."
	$(BIN)/python -m pip install --quiet -c constraints.txt --editable . --group dev
	@touch $@ $(VENV)/.demo-installed

clean: stop
	rm -rf $(VENV) .demo build
