# Every target sets up .venv by itself, from constraints.txt. Needed: Python 3.11 or newer, and make.
PYTHON ?= python3
PIP = .venv/bin/pip install --quiet --disable-pip-version-check --constraint constraints.txt
OUT ?= runs/study
FUZZ ?= 100000

.PHONY: help setup study test check bench docs faults load release fuzz

help:
	@echo "make study   run the main job on the phantom; prints where the report is"
	@echo "make test    run the tests     make check   lint, types, import contract"
	@echo "make bench   time and memory   make docs    run the documentation's examples and build it"
	@echo "make faults  kills, full disks, full memory, counted     make load   10,000 samples, 500 blocks, 50 readers"
	@echo "make release wheel, source archive, pins with hashes, bill of materials, in dist/"
	@echo "make fuzz    hostile files for every reader: 100,000 of them"

.venv/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "medlens needs Python 3.11 or newer; set PYTHON=")'
	@$(PYTHON) -m venv .venv

.venv/.installed: .venv/bin/python pyproject.toml constraints.txt
	@echo "setting up .venv (once, a minute or two)"
	@$(PIP) --editable .
	@touch $@

.venv/.dev: .venv/.installed
	@$(PIP) --editable '.[dev]'
	@$(PIP) --no-deps --upgrade --target .venv/vocabulary mistral-common  # for one file: LLaVA-Med's real vocabulary; not to be imported
	@touch $@

.venv/.bench: .venv/.dev
	@$(PIP) --editable '.[dev,bench]'
	@touch $@

setup: .venv/.installed

study: .venv/.installed
	@.venv/bin/medlens study --out $(OUT)

test: .venv/.dev
	@OMP_NUM_THREADS=1 .venv/bin/python -m pytest -n auto --dist loadfile

check: .venv/.dev
	@.venv/bin/ruff check . && .venv/bin/ruff format --check . && .venv/bin/lint-imports && .venv/bin/pyright

fuzz: .venv/.dev  # a quarter of an hour; FUZZ=2000 is what the tests do
	@OMP_NUM_THREADS=1 .venv/bin/python -m tools.fuzz --inputs $(FUZZ)

bench: .venv/.bench
	@.venv/bin/medlens bench --out docs/performance.md

docs: .venv/.dev
	@.venv/bin/python -m pytest docs -q && .venv/bin/mkdocs build --quiet --strict && echo "docs: site/index.html"

faults: .venv/.dev
	@OMP_NUM_THREADS=1 .venv/bin/python tools/faults.py

load: .venv/.dev
	@for kind in tokens readers blocks "samples --samples 10000"; do OMP_NUM_THREADS=1 .venv/bin/python tools/load.py $$kind || exit 1; done

release: .venv/.dev
	@.venv/bin/python tools/pin_release.py
	@.venv/bin/python -m hatchling build -t wheel -t sdist
	@.venv/bin/python tools/sbom.py > dist/medlens.cdx.json && ls -l dist
