# Everything lives in $(VENV), made from the lock files with the first fitting Python (3.10 to 3.12) on the PATH.
VENV ?= .venv
PYTHON ?= $(firstword $(foreach name,python3.12 python3.11 python3.10 python3,$(shell $(name) -c \
	'import sys; v = sys.version_info[:2]; print("$(name)") if (3, 10) <= v <= (3, 12) else None' 2>/dev/null)))
PY := $(VENV)/bin/python
# PaddleX and its kin, for tests against them; their packages exclude ours. Python 3.11 or 3.12.
PEER_VENV ?= .venv-peer
PEER_PYTHON ?= $(firstword $(foreach name,python3.11 python3.12 python3,$(shell $(name) -c \
	'import sys; v = sys.version_info[:2]; print("$(name)") if (3, 11) <= v <= (3, 12) else None' 2>/dev/null)))
# A Milvus server, for tests against it. Any Python 3.
MILVUS_VENV ?= .venv-milvus
PROTOS := $(shell find protos/shitu -name '*.proto')
COMMON_PROTOS = $(shell $(PY) -c "import pathlib, google.rpc; print(pathlib.Path(list(google.rpc.__path__)[0]).parents[1])")

.DEFAULT_GOAL := help
.PHONY: help demo dev test test-slow test-peer test-milvus peer milvus perf-analyzer lint proto configs lock clean

help:  ## Show what there is to make
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*##/\t/' | expand -t 16

demo: $(VENV)/.server  ## Draw shelves, start the server, recognise the products on them, stop it
	$(VENV)/bin/shitu demo --out demo

dev: $(VENV)/.dev  ## Install all that tests, conversions and benchmarks need

test: $(VENV)/.dev  ## Run the tests, save the slow ones and those against PaddleX and Milvus
	$(PY) -m pytest -m "not slow and not peer and not milvus"

test-slow: $(VENV)/.dev  ## Run the slow tests (minutes)
	$(PY) -m pytest -m "slow and not peer and not milvus"

test-peer: $(VENV)/.dev  ## Run the tests against PaddleX, PaddleClas and PaddleDetection (half an hour)
	$(PY) -m pytest -m peer

test-milvus: $(VENV)/.dev  ## Run the tests against Milvus (ten minutes)
	$(PY) -m pytest -m milvus

peer: $(PEER_VENV)/.peer  ## Make the environment of PaddleX and its kin for `make test-peer` (2 GB)

milvus: $(MILVUS_VENV)/.milvus  ## Make the environment of a Milvus server for `make test-milvus` (300 MB)

perf-analyzer: $(VENV)/perf/perf_analyzer  ## Fetch NVIDIA's load generator for `shitu bench ceiling` (14 MB)

lint: $(VENV)/.dev  ## Check style, types and layers
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/mypy
	$(VENV)/bin/lint-imports

proto: $(VENV)/.dev  ## Generate protos/gen from protos/shitu
	$(PY) -m grpc_tools.protoc -Iprotos -I$(COMMON_PROTOS) \
		--python_out=protos/gen --pyi_out=protos/gen --grpc_python_out=protos/gen $(PROTOS)

configs: $(VENV)/.dev  ## Render model_repository/*/config.pbtxt from the specifications
	$(PY) -m shitu_models.triton_config

lock:  ## Resolve the lock files anew (needs uv)
	uv pip compile pyproject.toml -q --no-header --universal --python-version 3.10 --generate-hashes \
		--extra server --extra train --extra bench --extra dev -o requirements/dev.lock
	uv pip compile pyproject.toml -q --no-header --universal --python-version 3.10 --generate-hashes \
		--extra server -c requirements/dev.lock -o requirements/server.lock
	uv pip compile pyproject.toml -q --no-header --python-platform x86_64-manylinux_2_35 --python-version 3.10 \
		--generate-hashes --extra server-gpu --extra milvus -o requirements/server-gpu.lock

clean:  ## Remove what was made here
	rm -rf $(VENV) $(PEER_VENV) $(MILVUS_VENV) demo .mypy_cache .ruff_cache .pytest_cache .import_linter_cache .hypothesis

$(PY):
	@test -n "$(PYTHON)" || { echo "error: shitu needs Python 3.10, 3.11 or 3.12, and none is on the PATH; install one" \
		"(for example: apt install python3.11 python3.11-venv) or name it: make PYTHON=/path/to/python3.11 $(MAKECMDGOALS)" >&2; exit 1; }
	$(PYTHON) -m venv $(VENV)

$(VENV)/.server: requirements/server.lock pyproject.toml | $(PY)
	$(PY) -m pip install --quiet --disable-pip-version-check -r requirements/server.lock
	$(PY) -m pip install --quiet --disable-pip-version-check --no-deps --editable .
	@touch $@

$(VENV)/.dev: requirements/dev.lock pyproject.toml | $(PY)
	$(PY) -m pip install --quiet --disable-pip-version-check -r requirements/dev.lock
	$(PY) -m pip install --quiet --disable-pip-version-check --no-deps --editable .
	@touch $@ $(VENV)/.server

$(PEER_VENV)/.peer: requirements/peer.txt
	@test -n "$(PEER_PYTHON)" || { echo "error: PaddleX and its kin need Python 3.11 or 3.12, and neither is on the PATH; install" \
		"one or name it: make PEER_PYTHON=/path/to/python3.11 peer" >&2; exit 1; }
	$(PEER_PYTHON) -m venv --clear $(PEER_VENV)
	$(PEER_VENV)/bin/python -m pip install --quiet --disable-pip-version-check --no-deps -r requirements/peer.txt
	@touch $@

$(MILVUS_VENV)/.milvus: requirements/milvus-server.txt
	@test -n "$(PYTHON)" || { echo "error: Milvus' package needs Python 3, name one: make PYTHON=/path/to/python3 milvus" >&2; exit 1; }
	$(PYTHON) -m venv --clear $(MILVUS_VENV)
	$(MILVUS_VENV)/bin/python -m pip install --quiet --disable-pip-version-check --no-deps -r requirements/milvus-server.txt
	@touch $@

$(VENV)/perf/perf_analyzer: requirements/perf-analyzer.txt | $(VENV)/.dev
	rm -rf $(VENV)/perf
	$(PY) -m pip download --quiet --disable-pip-version-check --no-deps --require-hashes --only-binary :all: \
		--dest $(VENV)/perf -r requirements/perf-analyzer.txt
	$(PY) -m zipfile -e $(VENV)/perf/*.whl $(VENV)/perf/wheel
	install -m 755 $(VENV)/perf/wheel/*.data/data/bin/perf_analyzer $@
	rm -rf $(VENV)/perf/wheel $(VENV)/perf/*.whl
