# Each target installs what it needs into .venv; the lock file holds every version with its hash.
PYTHON ?= python3
BIN := .venv/bin
STAMP := .venv/.installed

.PHONY: install run test tools check bench kafka config lock clean

install: $(STAMP)

$(STAMP): requirements.lock pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "Python 3.11 or newer is needed: apt-get install python3 python3-venv" >&2; exit 1; }
	@test -x $(BIN)/python || $(PYTHON) -m venv .venv || \
		{ echo "the venv module is needed: apt-get install python3-venv" >&2; exit 1; }
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements.lock
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation -e .
	@touch $@

run: install
	$(BIN)/skinflint run

test: install tools
	@command -v java >/dev/null || { echo "Java 17 is needed for the Kafka tests: apt-get install openjdk-17-jre-headless" >&2; exit 1; }
	@command -v mvn >/dev/null || { echo "Maven is needed for the Kafka tests: apt-get install maven" >&2; exit 1; }
	@command -v chromium >/dev/null || { echo "Chromium is needed for the page test: apt-get install chromium" >&2; exit 1; }
	@command -v promtool >/dev/null || { echo "promtool is needed for the metrics test: apt-get install prometheus" >&2; exit 1; }
	@command -v amtool >/dev/null || { echo "amtool is needed for the alert routes' test: apt-get install prometheus-alertmanager" >&2; exit 1; }
	NUMBA_BOUNDSCHECK=1 $(BIN)/python -m pytest -q tests

# What only the tests of deploy/ need, built from source once: two minutes for helm.
tools: build/tools/helm build/tools/compose-spec

GO = GOTOOLCHAIN=local $(wildcard $(CURDIR)/.venv/lib/python3*/site-packages/go/bin/go)

build/tools/helm: | install
	GOBIN=$(CURDIR)/build/tools $(GO) install helm.sh/helm/v3/cmd/helm@v3.22.0

build/tools/compose-spec: | install
	GOBIN=$(CURDIR)/build/tools/.compose $(GO) install github.com/compose-spec/compose-go/v2/cmd@v2.9.0
	mv build/tools/.compose/cmd $@

check: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

# The loader and the Python peers have a venv of their own: nothing of theirs belongs into the product's lock.
bench: install build/bench-venv/.installed
	$(BIN)/python -m tests.bench

build/bench-venv/.installed: tests/bench/requirements.lock
	$(PYTHON) -m venv build/bench-venv
	build/bench-venv/bin/python -m pip install --quiet --disable-pip-version-check --require-hashes -r $<
	@touch $@

kafka: install
	$(BIN)/python -m tests.kafka

# config.yaml and its reference are made from the settings' types; a test holds them to it.
config: install
	$(BIN)/skinflint config-document > config.yaml
	$(BIN)/skinflint config-document --markdown > docs/configuration.md
	$(BIN)/python -c "from service.ingest.fields import FieldTable as F; from service.ingest.native_schema import native_schema_text as t; print(t(F.load()), end='')" > docs/native.schema.json

# Universal, with hashes; the resolver's own settings decide where packages come from, so no host stands in the file.
lock: install
	$(BIN)/uv pip compile --quiet --universal --generate-hashes --group dev --no-annotate --no-header \
		--python-version 3.11 pyproject.toml -o requirements.lock
	$(BIN)/uv pip compile --quiet --universal --generate-hashes --group build --no-annotate --no-header \
		--python-version 3.11 --constraint requirements.lock pyproject.toml -o deploy/requirements.lock
	$(BIN)/uv pip compile --quiet --universal --generate-hashes --no-annotate --no-header \
		--python-version 3.11 tests/bench/requirements.in -o tests/bench/requirements.lock

clean:
	rm -rf build .venv .mypy_cache .ruff_cache .pytest_cache .hypothesis
