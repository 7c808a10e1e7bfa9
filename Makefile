# Everything a fresh machine needs is installed by the targets themselves; see `make help`.
PYTHON ?= $(shell for p in python3.13 python3.12 python3.11 python3; do \
	command -v $$p >/dev/null && $$p -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo $$p && break; done)
VENV := .venv
INSTALLED := $(VENV)/.installed
TOOLS := .tools
WORKERS ?= 4
SEED ?= 1
ROUNDS ?= 3
RESULTS ?= faults.jsonl
IMAGE ?= ulos-stream
BASE ?= debian:12-slim

.DEFAULT_GOAL := help
.PHONY: help install services demo image test test-chart test-images check docs faults faults-long bench lock

help:  ## Show this.
	@sed -nE 's/^([a-z-]+):.*## (.*)/  make \1\t\2/p' $(MAKEFILE_LIST) | expand -t 18

install: $(INSTALLED)  ## Make .venv with everything that Python needs.

services:  ## Install and start what the demo and the tests run on: RabbitMQ, vsftpd, Docker.
	@.ci/services.sh

demo: services install  ## Show it all working: sample tasks on real parts, expected and actual end of each.
	@$(VENV)/bin/ulos demo

image:  ## Build the node's image, IMAGE=ulos-stream, on BASE=debian:12-slim.
	@docker build --network host --force-rm --build-arg BASE=$(BASE) --tag $(IMAGE) \
		--build-arg VERSION=$$(sed -n 's/^__version__ = "\(.*\)"/\1/p' ulos_stream/__init__.py) .

test: services install  ## Run the test suite on real services.
	@.ci/services.sh docs
	@$(VENV)/bin/pytest -n $(WORKERS) --dist worksteal --ignore tests/images --ignore tests/chart

test-chart: services install $(TOOLS)/helm $(TOOLS)/checkov/.installed  ## Render the Helm chart in many ways, and check all of it.
	@$(VENV)/bin/pytest -n $(WORKERS) --dist worksteal tests/chart

test-images: services install  ## Build every image of executors/, and send every sample through a node.
	@.ci/services.sh images
	@$(VENV)/bin/pytest -n 2 --dist loadfile tests/images --timeout 900

faults: services install  ## Break what nodes stand on, and the node itself; nothing may be lost. 5 minutes.
	$(VENV)/bin/python -m tests.faults run --short --seed $(SEED)
	$(VENV)/bin/python -m tests.faults mutants --seed $(SEED)

faults-long: services install  ## The same with thousands of tasks, for an hour; goes on where it was stopped.
	$(VENV)/bin/python -m tests.faults run --seed $(SEED) --results $(RESULTS)
	$(VENV)/bin/python -m tests.faults table --results $(RESULTS)
	$(VENV)/bin/python -m tests.faults mutants --seed $(SEED)

bench: services install  ## Measure the node beside Celery, Dramatiq, taskiq and bare aiormq; half an hour.
	@$(VENV)/bin/pip install --quiet --disable-pip-version-check --require-hashes -r benchmarks/requirements.lock
	$(VENV)/bin/python -m benchmarks run --rounds $(ROUNDS) --seed $(SEED)
	$(VENV)/bin/python -m benchmarks report

check: install  ## Check style and types.
	$(VENV)/bin/ruff check
	$(VENV)/bin/ruff format --check
	$(VENV)/bin/mypy

docs: install  ## Write the documentation, docs/site/index.html; asyncapi/asyncapi.yaml, and its page alone.
	@$(VENV)/bin/python -m ulos_stream.docs asyncapi
	@$(VENV)/bin/sphinx-build --quiet --fresh-env --fail-on-warning --nitpicky docs docs/site
	@echo docs/site/index.html

lock: install  ## Resolve every requirements.lock anew; the one of `make bench` agrees with the node's.
	$(VENV)/bin/pip install --quiet uv
	$(VENV)/bin/uv pip compile pyproject.toml --extra dev --universal --python-version 3.11 --generate-hashes \
		--no-header --no-annotate --no-emit-index-url --no-emit-find-links --quiet --upgrade --output-file requirements.lock
	$(VENV)/bin/uv pip compile pyproject.toml --extra bench --constraint requirements.lock --universal \
		--python-version 3.11 --generate-hashes --no-header --no-annotate --no-emit-index-url --no-emit-find-links \
		--quiet --upgrade --output-file benchmarks/requirements.lock
	$(VENV)/bin/uv pip compile tests/chart/requirements.in --universal --python-version 3.11 --generate-hashes --no-header \
		--no-annotate --no-emit-index-url --no-emit-find-links --quiet --upgrade --output-file tests/chart/requirements.lock

$(INSTALLED): pyproject.toml requirements.lock
	@test -n "$(PYTHON)" || { echo "Python 3.11 or newer is needed, and there is none on the PATH"; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || .ci/services.sh python
	$(PYTHON) -m venv --clear $(VENV)
	$(VENV)/bin/pip install --quiet --disable-pip-version-check --require-hashes -r requirements.lock
	$(VENV)/bin/pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation -e .
	@touch $@

# Tools for the chart's tests. Neither touches .venv.
$(TOOLS)/helm: tests/chart/helm.lock tests/chart/unpack_helm.py | $(INSTALLED)
	@mkdir -p $(TOOLS)
	@$(VENV)/bin/pip download --quiet --disable-pip-version-check --no-deps --require-hashes -r $< -d $(TOOLS)/wheels
	@$(VENV)/bin/python tests/chart/unpack_helm.py $(TOOLS)/wheels/aws_cdk_*.whl $@
	@rm -r $(TOOLS)/wheels

$(TOOLS)/checkov/.installed: tests/chart/requirements.lock | $(INSTALLED)
	@$(PYTHON) -m venv --clear $(@D)
	@$(@D)/bin/pip install --quiet --disable-pip-version-check --require-hashes -r $<
	@touch $@
