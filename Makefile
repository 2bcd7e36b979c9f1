# make test   everything that runs in minutes: lint, Python tests, web tests, tests on the newest ComfyUI that is found
# make demo   the whole chain on small models, without ComfyUI
# make gpu    all figures of a GPU, in eight minutes: benchmarks/README.md, "On a GPU"
# A machine with Python >= 3.10 and a package registry is enough: the environment is made in .venv on first use.
# VENV=/some/venv uses another place, COMFYUI_PATH=/a:/b names the hosts to test against, WORKERS=0 tests in one process.

VENV ?= .venv
BASE_PYTHON ?= python3
PYTHON := $(VENV)/bin/python
STAMP := $(VENV)/.p3s-requirements
# Test processes, by default as many as cores, with one thread each (tests/conftest.py says who runs what). The longest,
# those on hosts, are collected first and stay so.
WORKERS ?= auto
PARALLEL := -n $(WORKERS) --dist loadgroup --no-loadscope-reorder
# Threads that sleep while they wait: small models run much faster beside anything else.
export OMP_WAIT_POLICY ?= PASSIVE

.PHONY: test test-python test-slow test-hosts test-browser test-web lint format demo gpu clean

test: lint test-python test-web

$(STAMP): requirements-dev.txt
	@$(BASE_PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10) and "P3S needs Python 3.10 or newer, this is " + sys.version.split()[0])'
	@test -x $(PYTHON) || $(BASE_PYTHON) -m venv $(VENV)
	@echo "installing the test environment into $(VENV) (once, some minutes)"
	@$(PYTHON) -m pip install --quiet --disable-pip-version-check -r requirements-dev.txt
	@touch $@

# mypy reads the nodes as ComfyUI loads them: inside a package that is the repository's folder.
lint: $(STAMP)
	$(PYTHON) -m ruff check .
	$(PYTHON) -m ruff format --check .
	$(PYTHON) -m mypy -p p3s -p benchmarks
	@folder=$$(mktemp -d) && ln -s "$(CURDIR)" "$$folder/comfyui_p3s" && trap 'rm -r "$$folder"' EXIT && \
	echo mypy -p comfyui_p3s.nodes && MYPYPATH="$$folder" $(PYTHON) -m mypy -p comfyui_p3s.nodes

format: $(STAMP)
	$(PYTHON) -m ruff check --fix .
	$(PYTHON) -m ruff format .

test-python: $(STAMP)
	$(PYTHON) -m pytest $(PARALLEL)

# What takes minutes and gigabytes, on every host found, one test at a time.
test-slow: $(STAMP)
	$(PYTHON) -m pytest --all-hosts -m slow

# On every host found: the quick tests, and those in the browser. What is missing fails.
test-hosts: $(STAMP)
	$(PYTHON) -m pytest $(PARALLEL) --complete --all-hosts -m "host and not slow"
	$(PYTHON) -m pytest --complete --all-hosts tests/browser -m browser

# The editor in a real Chromium, on the frontend of every host found.
test-browser: $(STAMP)
	$(PYTHON) -m pytest --all-hosts tests/browser -m browser

# The editor's geometry, state and history are plain JavaScript and run in node, without npm packages.
test-web:
	@files=$$(find tests/web -name '*test*.mjs' -o -name '*test*.js' 2>/dev/null | sort); \
	if [ -z "$$files" ]; then echo "web tests: SKIPPED, no files in tests/web"; \
	elif ! command -v node >/dev/null; then echo "web tests: SKIPPED, node is not installed (Node 18 or newer runs them)"; \
	else node --test $$files; fi

demo: $(STAMP)
	$(PYTHON) -m p3s demo

# On a machine that may have no package registry: by the Python there that has torch, with what a kit brings.
GPU_PYTHON ?= python3
gpu:
	$(GPU_PYTHON) -m benchmarks.gpu $(GPU)

clean:
	rm -rf .venv .pytest_cache .ruff_cache .mypy_cache demo-output
