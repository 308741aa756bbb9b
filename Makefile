# `make train` and `make test` each work alone on a fresh clone: they set up .venv once.
PYTHON ?= python3
BIN := .venv/bin
STAMP := .venv/.installed
# Versions known to work together; `make setup CONSTRAINTS=` installs the newest ones instead.
CONSTRAINTS ?= constraints.txt

.DEFAULT_GOAL := help
.PHONY: help setup train test test-all gpu-check lint format turbojpeg figures zoo published study docs constraints audit clean distclean

help:  ## list the targets
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## /\1\t/' | while IFS="$$(printf '\t')" read -r name text; do printf '  make %-10s %s\n' "$$name" "$$text"; done

setup: $(STAMP)  ## make .venv and install fvit with all that its tests need

$(STAMP): pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check $(CONSTRAINTS:%=--constraint %) --editable '.[dev]'
	@touch $@

train: $(STAMP)  ## train FViT and the softmax ViT of the same shape on digits, and compare them
	$(BIN)/fvit-train -m attention=additive,softmax

# Where the environment forbids it, each process of the tests would compile all it imports, and rewrite their assertions.
test test-all: export PYTHONDONTWRITEBYTECODE :=

test: $(STAMP)  ## run the tests, in minutes
	$(BIN)/python -m pytest

test-all: $(STAMP)  ## run the slow tests as well: the wheel, compilation, the README as it stands
	$(BIN)/python -m pytest -m 'slow or not slow'

gpu-check: $(STAMP)  ## check and time fvit on one CUDA GPU, in ten minutes at most; see docs/gpu.md
	$(BIN)/python benchmarks/gpu.py

lint: $(STAMP)  ## check style
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

format: $(STAMP)  ## mend style
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

turbojpeg: $(STAMP)  ## put libjpeg-turbo 3 into .venv, for data.decoder=turbo (takes npm's build of it; x64 or arm64 Linux)
	@set -e; scratch=$$(mktemp -d); trap 'rm -rf "$$scratch"' EXIT; cd "$$scratch"; \
	npm pack --silent @julusian/jpeg-turbo@2.3.0; tar -xzf *.tgz; \
	cp package/prebuilds/jpeg-turbo-linux-$$(node -p process.arch)/libturbojpeg.so.0 "$(CURDIR)/.venv/lib/"

figures: $(STAMP)  ## update the picture and the figures of the quickstart from the newest `make train`
	$(BIN)/python docs/quickstart.py

zoo: $(STAMP)  ## write docs/zoo.md, the table of all mechanisms, from their classes
	$(BIN)/python docs/zoo.py

published: $(STAMP)  ## write the tables of docs/baselines.md and docs/cost.md that hold published numbers
	$(BIN)/python docs/published.py

study: $(STAMP)  ## write the tables and pictures of docs/study.md from docs/study/*.csv
	$(BIN)/python docs/study.py

docs: $(STAMP)  ## build docs/ with its reference and API into build/site, a site that needs no network
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet
	@echo "build/site/index.html; with search: $(BIN)/python -m http.server -d build/site"

constraints: $(STAMP)  ## write the installed versions to constraints.txt, after `make test-all` has passed with them
	{ head -1 constraints.txt; $(BIN)/python -m pip freeze --exclude-editable; } > constraints.tmp && mv constraints.tmp constraints.txt

audit: $(STAMP)  ## look the pinned versions up in the database of known vulnerabilities (needs the internet)
	$(BIN)/python -m pip install --quiet pip-audit
	$(BIN)/pip-audit --requirement constraints.txt --no-deps --disable-pip

clean:  ## remove caches and builds; runs stay
	rm -rf build dist .pytest_cache .ruff_cache .hypothesis
	find src tests docs benchmarks -name __pycache__ -type d -prune -exec rm -rf {} +

distclean: clean  ## remove .venv as well
	rm -rf .venv
