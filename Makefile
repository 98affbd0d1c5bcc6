# `make help` lists the targets.
.DEFAULT_GOAL := help
PYTHON ?= python3.11
VENV ?= .venv
BIN := $(VENV)/bin
# Pinned: the newest torch brings the newest CUDA, several GB of it.
LOCK_TORCH ?= torch==2.13.0
# Processes that run tests: two more than there are cores, because the tests of live Airflows and of the cluster wait a
# lot. Each further process imports the libraries and starts services of its own.
JOBS ?= $(shell expr $$(getconf _NPROCESSORS_ONLN) + 2)
SBOM_PYTHON ?= $(BIN)/python
# Images of containers often set it. Without bytecode, each process of the tests compiles the libraries that it imports.
unexport PYTHONDONTWRITEBYTECODE
export AIRFLOW_PORT MLFLOW_PORT SERVING_PORT MONTHS DEMO_HOME

.PHONY: help demo stop install test pytest torture lint format docs bench images sbom schema ui pictures lock clean

help: ## List the targets
	@grep -hE '^[a-z]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z]+):.*## /\1\t/' | expand -t 10

demo: $(VENV)/.demo-installed ## Replay a year of flights through the whole lifecycle; DETACH=1 returns after the table
	@$(BIN)/python -m demo up $(if $(DETACH),--detach)

stop: ## Stop a demo that was left running
	@if [ -x $(BIN)/python ]; then $(BIN)/python -m demo stop; else echo "Nothing to stop."; fi

install: $(VENV)/.dev-installed ## Install everything that tests, lint and docs need

test: install ## Lint and all tests, at the same time; PYTEST_ARGS narrows the tests, JOBS=N sets the processes
	@$(MAKE) --no-print-directory -j2 lint pytest

pytest: install
	$(BIN)/python -m pytest -n $(JOBS) $(PYTEST_ARGS)

torture: install ## Kill each step 100 times on a local folder, S3 and Azure; promote 20 versions at once, 10 times, on S3 and Azure (half an hour)
	MLOPS_TORTURE_KILLS=100 MLOPS_TORTURE_ROUNDS=10 $(BIN)/python -m pytest -n $(JOBS) tests/torture

lint: $(VENV)/.dev-installed ## ruff (with Airflow's AIR rules), mypy --strict and import-linter
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	@# Each run of CI has a new clone. Most of the time goes into libraries, whose types do not change between clones.
	$(BIN)/mypy $(if $(CI),--cache-dir=$(or $(XDG_CACHE_HOME),$(HOME)/.cache)/airflow-mlops-mypy)
	$(BIN)/lint-imports

format: $(VENV)/.dev-installed ## Fix what ruff can fix
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

images: ## The runner images for pods and the Airflow image, with docker or buildah
	docker/build $(IMAGES)

docs: $(VENV)/.dev-installed ## The documentation site in build/docs, with the API reference; warnings are errors
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

bench: $(VENV)/.dev-installed ## Every benchmark; each ends in one line of JSON
	@for name in parse step_overhead pod_overhead ingest point_in_time torch_training trainers gates score drift false_alarms estimation retraining store serve ui_api scale cache; do $(BIN)/python -m benchmarks.$$name || exit 1; done

sbom: ## Write build/airflow-mlops.cdx.json (CycloneDX): the packages installed for SBOM_PYTHON, by default those of .venv
	$(PYTHON) -m venv --clear build/sbom
	build/sbom/bin/python -m pip install --quiet -c constraints.txt cyclonedx-bom
	build/sbom/bin/cyclonedx-py environment --output-reproducible --pyproject pyproject.toml --output-format JSON \
	  --output-file build/airflow-mlops.cdx.json $(SBOM_PYTHON)

schema: $(VENV)/.dev-installed ## Write the JSON schema of monitoring's reports
	$(BIN)/python -m airflow_mlops.stages.monitor.report_schema > docs/report.schema.json

ui: ## Check, test and build the React pages of the plugin, with Node.js; the bundle is committed
	cd airflow_mlops/plugin/www && npm ci --no-fund --no-audit --silent && npm run --silent lint && npm test --silent && npm run --silent build

pictures: ## Take the pictures of the docs from a running demo (make demo DETACH=1), with Node.js and Chromium
	cd airflow_mlops/plugin/www && npm ci --no-fund --no-audit --silent
	CHROMIUM=$$(command -v chromium || command -v chromium-browser) \
	  node demo/pictures.mjs http://127.0.0.1:$(or $(AIRFLOW_PORT),8080) docs/images

# A failure before a pipe must not leave a file with a header only.
lock: SHELL := /bin/bash
lock: .SHELLFLAGS := -o pipefail -ec
lock: ## Regenerate constraints.txt and docker/hashes.txt from pyproject.toml with the newest releases that fit together
	rm -rf build/lock && $(PYTHON) -m venv build/lock
	build/lock/bin/python -m pip install --quiet --upgrade pip
	build/lock/bin/python -m pip install --quiet $(LOCK_TORCH)
	build/lock/bin/python -m pip install --quiet --editable . --group dev --group sbom
	{ echo "# Written by 'make lock' on Python 3.11; pip install -c constraints.txt holds every version."; \
	  build/lock/bin/python -m pip freeze --all --exclude-editable \
	  | grep -v -i -E '^(nvidia-|triton==|cuda-)' | sed -E 's/\+cpu$$//'; } > constraints.txt
	build/lock/bin/uv pip compile --quiet --universal --no-deps --python-version 3.11 --format pylock.toml \
	  --output-file build/lock/pylock.toml constraints.txt
	# What the torch of PyPI requires beside these: the libraries of CUDA.
	{ echo "# Written by 'make lock': the libraries of CUDA that the torch of PyPI requires. That for CPUs requires none."; \
	  grep -E '^torch==' constraints.txt | build/lock/bin/uv pip compile --quiet --universal --python-version 3.11 \
	    --default-index https://pypi.org/simple --constraints constraints.txt --no-header --no-annotate - \
	  | sed -nE 's/^((nvidia|triton|cuda)[^ ]*).*/\1/p'; } > docker/cuda.txt
	{ grep -E '^torch==' constraints.txt; grep -v '^#' docker/cuda.txt; } | build/lock/bin/uv pip compile --quiet --universal --no-deps --python-version 3.11 \
	  --default-index https://pypi.org/simple --format pylock.toml --output-file build/lock/pylock.cuda.toml -
	build/lock/bin/python docker/hashes.py write build/lock/pylock.toml build/lock/pylock.cuda.toml > docker/hashes.txt
	rm -rf build/lock

$(BIN)/python:
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip -c constraints.txt

$(VENV)/.demo-installed: pyproject.toml constraints.txt | $(BIN)/python
	@echo "Installing the locked dependencies into $(VENV) (two minutes or so) ..."
	$(BIN)/python -m pip install --quiet -c constraints.txt --editable '.[examples]'
	@touch $@

$(VENV)/.dev-installed: pyproject.toml constraints.txt | $(BIN)/python
	@echo "Installing the locked dependencies into $(VENV) (one or two minutes) ..."
	@# pip takes torch, because uv reads no settings of pip, such as a folder with a build without CUDA. uv takes the other
	@# packages in a tenth of pip's time; where it reaches no index, pip takes them as well. PySpark has no wheel. pip keeps the
	@# one that it builds; uv builds another for each environment if the index forbids caches. As with uv, modules are compiled
	@# when they are first imported: compiling all of them took 18 s of CPU time.
	$(BIN)/python -m pip install --quiet --no-compile -c constraints.txt torch uv pyspark
	UV_SYSTEM_CERTS=true $(BIN)/uv pip install --quiet --python $(BIN)/python -c constraints.txt --editable . --group dev \
	  || $(BIN)/python -m pip install --quiet -c constraints.txt --editable . --group dev
	@touch $@ $(VENV)/.demo-installed

clean: stop ## Remove .venv, the demo and build/
	rm -rf $(VENV) .demo build
