# make run        set up, build a small demo archive and work through it
# make test       set up, and everything that is checked: format, lint, types, tests, two files of them at a time
# make test-all   the same with the tests that take long: kills at many moments, thousands of broken files
# make bench      how fast everything is, an hour on two cores: results/bench/; make bench BENCH=--quick for minutes
# make schedule-once WORK=/data/work CONFIG=/data/work/my.yaml   one unattended run, for cron or a systemd timer
# make lock       renew envs/requirements.txt and envs/conda.yaml from pyproject.toml; look for wheels for each Python
# make docs       write docs/reference_*.md from the code, and the documentation as a site: docs/_site/index.html
# make format     put code into the house's format

MAKEFLAGS += --no-print-directory
BIN := .venv/bin
READY := .venv/ready
export PATH := $(CURDIR)/$(BIN):$(PATH)

.PHONY: run schedule-once test test-all bench docs lock format setup
.DELETE_ON_ERROR:

run: $(READY) demo_archive
	@snakemake --cores all
	@echo "open in a browser: $(CURDIR)/results/5_report/index.html"

# ARGS: more arguments of workflow/schedule_once.py, as --slurm; quotes for WORK and CONFIG are set here
schedule-once: $(READY)
	@python workflow/schedule_once.py --directory "$(or $(WORK),.)" $(if $(CONFIG),--configfile "$(CONFIG)") $(ARGS)

setup: $(READY)

$(READY): envs/requirements.txt envs/setup.sh
	@sh envs/setup.sh
	@touch $@

# built beside and moved, so that what an interrupted build leaves is not taken for the archive
demo_archive: | $(READY)
	@echo "building demo_archive ..."
	@rm -rf .venv/demo_archive
	@python tests/build_demo_archive.py .venv/demo_archive
	@mv .venv/demo_archive demo_archive

test: $(READY)
	@sh tests/setup_system.sh
	ruff format --check workflow tests docs
	ruff check workflow tests docs
	snakefmt --check Snakefile workflow/rules
	mypy
	OMP_NUM_THREADS=1 pytest --numprocesses 2 --dist loadfile --no-loadscope-reorder

test-all: test
	pytest -m slow --timeout 7200

bench: $(READY)
	@PYTHONPATH=workflow/scripts:tests python -m bench $(BENCH)

format: $(READY)
	ruff format workflow tests docs
	ruff check --fix workflow tests docs
	snakefmt Snakefile workflow/rules

docs: $(READY)
	@python docs/build_reference.py
	@sphinx-build --quiet --fail-on-warning --doctree-dir .venv/doctrees docs docs/_site

lock: $(READY)
	@python -m venv .venv/lock && .venv/lock/bin/pip install --quiet pip-tools
	@.venv/lock/bin/pip-compile --quiet --extra library --extra slurm --extra test --strip-extras --no-emit-index-url \
	    --no-emit-find-links --no-header --no-annotate --output-file .venv/lock/requirements.txt pyproject.toml
	@sed -e 's/+cpu//' -e '/^--/d' .venv/lock/requirements.txt > envs/requirements.txt
	@{ sed '/- pip:$$/q' envs/conda.yaml; sed -n 's/^[a-z0-9]/      - &/p' envs/requirements.txt; } > .venv/lock/conda.yaml
	@cp .venv/lock/conda.yaml envs/conda.yaml
	@sh envs/check_wheels.sh
	@git --no-pager diff --stat -- envs
