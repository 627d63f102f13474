PROTOS := $(shell find protos/shitu -name '*.proto')
VENV ?= .venv
PY := $(VENV)/bin/python
COMMON_PROTOS = $(shell $(PY) -c "import pathlib, google.rpc; print(pathlib.Path(list(google.rpc.__path__)[0]).parents[1])")

.PHONY: proto
proto:  ## Regenerate protos/gen from protos/shitu
	$(PY) -m grpc_tools.protoc -Iprotos -I$(COMMON_PROTOS) --python_out=protos/gen --pyi_out=protos/gen --grpc_python_out=protos/gen $(PROTOS)
