# What you type to use this kit: `make help` lists it.
#
# The folder of the kit may have blanks, quotes, # and letters of any language in its name, but no
# colon, which separates folders in PATH: Python makes no environment there.

PYTHON ?= python3
PROFILE ?= laptop
DATASET ?= auto
WORKERS ?= 2
LAB_ARGS ?=
SUBMITTED ?=
SET ?=
ROSTER ?=
DUE ?=
LATE ?=
COURSE ?=
GRADE_ARGS ?=

VENV := .venv
VENV_PYTHON := $(VENV)/bin/python
PIP_INSTALL := $(VENV_PYTHON) -m pip install -qq --disable-pip-version-check -c constraints.txt
START := notebooks/00_start_here.ipynb

# Where .venv cannot be used because its Python is gone, or it was moved or copied with the kit.
STALE := $(if $(wildcard $(VENV)/pyvenv.cfg),\
  $(shell $(VENV_PYTHON) -I tools/venv_here.py > /dev/null 2>&1 || echo .stale))

# The kernel of .venv wins over any other that the user has named python3.
export JUPYTER_PATH := $(CURDIR)/$(VENV)/share/jupyter$(if $(JUPYTER_PATH),:$(JUPYTER_PATH))

# What users have set up for other programs stays out of this one.
export MATPLOTLIBRC := $(CURDIR)/tools/matplotlibrc
export PIP_USER := 0
unexport MPLBACKEND PIP_PREFIX PIP_TARGET PYTHONHOME PYTHONPATH PYTHONSTARTUP

quoted = '$(subst ','\'',$(1))'

.PHONY: help setup lab test browser walkthrough figures exercises solutions handout grade doctor clean

help: ## list these commands (what plain `make` does)
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "  make %-12s %s\n", $$1, $$2 }' Makefile

setup: $(VENV)/.installed ## make .venv with the pinned packages (PYTHON=python3.12 chooses another Python)
	@echo "Ready: type 'make lab'"

lab: $(VENV)/.installed ## open JupyterLab on the first notebook (LAB_ARGS=--no-browser passes options on)
	@$(VENV_PYTHON) -m jupyterlab --ServerApp.root_dir=. --LabApp.default_url=/lab/tree/$(START) $(LAB_ARGS)

test: $(VENV)/.installed-dev ## check format, lint and types, run all tests and notebooks (WORKERS=2 at a time)
	$(VENV_PYTHON) -m ruff format --check .
	$(VENV_PYTHON) -m ruff check .
	$(VENV_PYTHON) -m mypy
	OMP_NUM_THREADS=1 MKL_NUM_THREADS=1 $(VENV_PYTHON) -m pytest -n $(WORKERS) --dist loadgroup
	@command -v chromium > /dev/null || command -v chromium-browser > /dev/null || \
	  echo "Left out: tests/browser, for there is no Chromium ('make browser' installs it)"

browser: ## install Chromium for the tests in a browser (Debian, as root)
	@tools/setup_browser.sh

walkthrough: $(VENV)/.installed ## run every notebook into build/notebooks/ (PROFILE=laptop DATASET=auto)
	@$(VENV_PYTHON) tools/walkthrough.py --profile $(PROFILE) --dataset $(DATASET)

figures: $(VENV)/.installed ## draw every figure again from the numbers beside it
	@$(VENV_PYTHON) tools/figures.py

exercises: $(VENV)/.installed-classroom ## make notebooks/exercises/, what students open, from exercises/
	@$(VENV_PYTHON) -m classroom.versions

solutions: $(VENV)/.installed-classroom ## make the exercise sets with every answer, for teachers, in build/solutions/
	@$(VENV_PYTHON) -m classroom.versions --solutions

handout: $(VENV)/.installed-classroom ## make what students get of a set, in build/handout/ (SET=01_inner_loop COURSE= ROSTER= for variants)
	@$(VENV_PYTHON) -m classroom.handout $(if $(SET),--set "$(SET)") \
	  $(if $(COURSE),--course $(call quoted,$(COURSE))) $(if $(ROSTER),--roster $(call quoted,$(ROSTER)))

grade: $(VENV)/.installed-classroom ## grade what a class handed in (SUBMITTED=folder SET= ROSTER= DUE= LATE=)
	@$(VENV_PYTHON) -m classroom.grade --workers $(WORKERS) --profile $(PROFILE) \
	  $(if $(SUBMITTED),--submitted $(call quoted,$(SUBMITTED))) $(if $(SET),--set "$(SET)") \
	  $(if $(ROSTER),--roster $(call quoted,$(ROSTER))) $(if $(DUE),--due "$(DUE)") \
	  $(if $(LATE),--late "$(LATE)") $(if $(COURSE),--course $(call quoted,$(COURSE))) $(GRADE_ARGS)

doctor: $(VENV)/.installed ## say what is installed and what is wrong, on one page, to read or to send
	@$(VENV_PYTHON) -m mamlpp doctor

clean: ## remove .venv, build/ and caches; your runs/ stay
	rm -rf $(VENV) build *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis

# A stamp is written last, so that an installation that failed or was stopped starts again.
$(VENV)/.installed: pyproject.toml constraints.txt $(STALE)
	@$(PYTHON) -c 'import ensurepip, sys, venv; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))' \
	  2>/dev/null || { echo "This kit needs Python 3.11 to 3.13 with venv and pip, and '$(PYTHON)' is not\
	 that: choose another with 'make setup PYTHON=python3.12'." >&2; exit 1; }
	@echo "Installing PyTorch, JupyterLab and this kit into $(VENV), once: about 2 minutes and 1.4 GB"
	@echo "(longer, and several GB more, where pip brings PyTorch's build for NVIDIA GPUs)"
	@$(if $(STALE),echo "($(VENV) is made again: it was made in another folder, or for a Python that is gone)")
	@$(PYTHON) -m venv $(if $(STALE),--clear) $(VENV)
	@$(PIP_INSTALL) -e .
	@touch $@

.stale:

$(VENV)/.installed-classroom: $(VENV)/.installed
	@echo "Installing what grading needs"
	@$(PIP_INSTALL) -e '.[classroom]'
	@touch $@

$(VENV)/.installed-dev: $(VENV)/.installed
	@echo "Installing what the tests need"
	@$(PIP_INSTALL) -e '.[dev]'
	@touch $@
