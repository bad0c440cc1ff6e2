# Every target sets itself up: it needs make, Python 3.11 or newer and a package index.
#
# All targets share one virtual environment outside the checkout, named after what it holds, so
# that checkouts with the same requirements share it. The project itself is not installed in
# it; PYTHONPATH leads to this checkout. (`operator/` in PYTHONPATH is safe: it holds a package
# and is none, so the standard library's `operator` wins.)
#
#   VENV=path                use (and fill) another environment
#   PYTHON=path              make the environment from this Python
#   UV_TORCH_BACKEND=cpu     PyTorch without CUDA, a tenth of the size on Linux
#   PIP_INDEX_URL=…          another package index

.DEFAULT_GOAL := help
.PHONY: help run test soak e2e check bench gpu fuzz verify-models docs generate lock clean

ARGS ?=
CONFIG ?= configs/quickstart.yaml
RUNTIME ?= torch
CACHE := $(or $(XDG_CACHE_HOME),$(HOME)/.cache)/splittracr
SITE ?= $(CACHE)/site

export PYTHONPATH := $(CURDIR)/operator:$(CURDIR)/workers$(if $(PYTHONPATH),:$(PYTHONPATH))
ifdef PIP_INDEX_URL
export UV_DEFAULT_INDEX ?= $(PIP_INDEX_URL)
endif

# Only these targets do without Python.
ifneq ($(filter-out help clean,$(MAKECMDGOALS)),)

ifndef PYTHON
PYTHON := $(shell for name in python3.13 python3.12 python3.11 python3; do \
	"$$name" -c 'import ensurepip, sys, venv; assert sys.version_info >= (3, 11); \
	print(sys.executable)' 2>/dev/null && break; done)
endif
ifeq ($(PYTHON),)
$(error No Python 3.11 or newer with its venv module found (looked for python3.13, python3.12, \
python3.11, python3). On Debian: apt install python3 python3-venv. Or name one: make PYTHON=path)
endif

KEY := $(shell "$(PYTHON)" -c 'import hashlib, pathlib, platform, tomllib; \
	project = tomllib.loads(pathlib.Path("pyproject.toml").read_text()); \
	versions = pathlib.Path("constraints.txt").read_text(); \
	machine = platform.python_version(), platform.system(), platform.machine(); \
	content = repr((project["project"], project["tool"]["uv"], versions, machine)); \
	print(hashlib.sha256(content.encode()).hexdigest()[:12])')
ifeq ($(KEY),)
$(error $(PYTHON) could not read pyproject.toml and constraints.txt)
endif
VENV ?= $(CACHE)/venv-$(KEY)
ifneq ($(words $(VENV)),1)
$(error make cannot handle a path with spaces: $(VENV). Name another with VENV=path)
endif
READY := $(VENV)/.splittracr-$(KEY)
PY := "$(VENV)/bin/python"

endif

help: ## List the targets
	@echo "make TARGET [ARGS=...]"
	@awk -F ':[^#]*## ' '/^[a-z-]+:[^#]*## / { printf "  %-14s %s\n", $$1, $$2 }' Makefile

run: $(READY) ## Run the quickstart here and write its report; CONFIG=file, ARGS="--set path=value"
	@$(PY) -m splittracr run $(CONFIG) $(ARGS)

test: $(READY) ## Run the tests; ARGS="tests/experiment -k cut"
	@$(PY) -m pytest -n 2 --dist loadfile -m "not soak and not cluster" $(ARGS)

soak: $(READY) ## Run the tests that take minutes: killed servers, 100,000 samples
	@$(PY) -m pytest -m soak $(ARGS)

e2e: $(READY) ## Run the tests on a real cluster; docs/kubernetes.md says what they need
	@test -n "$$KUBECONFIG" || { \
		echo "KUBECONFIG names no cluster. Any with two nodes labelled splittracr.io/role=edge and" \
		"=server will do, k3s on two machines for one: see docs/kubernetes.md."; exit 1; }
	@$(PY) -m pytest tests/e2e -m "not long" $(ARGS)

check: $(READY) ## Lint, format, types, layers and generated files
	@PATH="$(VENV)/bin:$$PATH"; failed=; \
	for step in "ruff check" "ruff format --check" "mypy" "lint-imports" \
		"python -m splittracr.cli.generate --check"; do \
		echo "-- $$step"; $$step || failed="$$failed, $$step"; done; \
	test -z "$$failed" || { echo "Failed: $${failed#, }"; exit 1; }

verify-models: $(READY) ## Prove every cut of every network exact; RUNTIME=onnx, ARGS="--help"
	@$(PY) -m splittracr.backends.$(RUNTIME).verify $(ARGS)

bench: $(READY) ## Measure the data plane, some minutes long; ARGS="--only roundtrip"
	@$(PY) -m bench $(ARGS)

gpu: $(READY) ## Run the tests that need a GPU and a bench of it, under five minutes, if there is one
	@$(PY) -m bench.gpu $(ARGS)

fuzz: $(READY) ## Fuzz what parses a peer's bytes (Linux); ARGS="-runs=1000000"
	@$(PY) -m tests.fuzz.peer $(ARGS)

generate: $(READY) ## Write the files made from others: crds/, docs/, the chart's, deploy/
	@$(PY) -m splittracr.cli.generate

docs: $(READY) ## Build the site of the documentation; SITE=folder, ~/.cache/splittracr/site otherwise
	@NO_MKDOCS_2_WARNING=1 $(PY) -m mkdocs build --quiet --strict -f docs/mkdocs.yml -d "$(abspath $(SITE))"
	@echo "$(abspath $(SITE))/index.html"

lock: $(READY) ## Pin all requirements in constraints.txt; ARGS=--upgrade takes newer versions
	@$(PY) -m uv pip compile --quiet pyproject.toml --all-extras --universal \
		--python-version 3.11 --no-header --no-annotate --output-file constraints.txt $(ARGS)

clean: ## Remove caches and build output from the checkout (environments stay in ~/.cache)
	rm -rf build dist .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
	find . -path ./.git -prune -o \( -name __pycache__ -o -name '*.egg-info' \) -prune \
		-exec rm -rf {} +

# The marker comes last, so that an interrupted installation is taken up again; the lock (where
# the system has flock) lets two checkouts ask for the same environment at once.
$(READY):
	@mkdir -p "$(VENV)"
	@exec 9>"$(VENV)/.installing"; ! command -v flock >/dev/null || flock 9; \
	test ! -e "$@" || exit 0; \
	echo "Installing the requirements into $(VENV) (once, some minutes)"; \
	rm -f "$(VENV)"/.splittracr-* && \
	"$(PYTHON)" -m venv "$(VENV)" && \
	$(PY) -m pip install --quiet --disable-pip-version-check -c constraints.txt uv && \
	$(PY) -m uv pip install --quiet --compile-bytecode --python $(PY) -c constraints.txt \
		-r pyproject.toml --all-extras && \
	touch "$@"
