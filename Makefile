# What you type to use this kit: `make help` lists it.
#
# The folder of the kit may have blanks, quotes, # and letters of any language in its name, but no
# colon, which separates folders in PATH: Python makes no environment there.

PYTHON ?= python3
PROFILE ?= laptop
DATASET ?= auto
WORKERS ?= 2
EXECUTE ?= stale
LAB_ARGS ?=
SUBMITTED ?=
SET ?=
ROSTER ?=
DUE ?=
LATE ?=
COURSE ?=
GRADE_ARGS ?=
SLOW ?=

# Every command is one of start.py, which needs no make. (A Python that is not there says so.)
START = $(PYTHON) -c "" 2> /dev/null || { echo "There is no Python that starts as '$(PYTHON)': choose\
 another with 'make setup PYTHON=python3.12'." >&2; exit 1; }; $(PYTHON) start.py

quoted = '$(subst ','\'',$(1))'

.PHONY: help setup lab test check browser walkthrough book figures exercises solutions handout grade gpu doctor clean

help: ## list these commands (what plain `make` does)
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "  make %-12s %s\n", $$1, $$2 }' Makefile

setup: ## make .venv with the pinned packages (PYTHON=python3.12 chooses another Python)
	@$(START) setup

lab: ## open JupyterLab on the first notebook (LAB_ARGS=--no-browser passes options on)
	@$(START) lab $(LAB_ARGS)

test: ## check format, lint, types, run tests and notebooks (WORKERS=2 at a time; SLOW=1: slow tests too)
	@$(START) test -n $(WORKERS) $(if $(SLOW),--slow)

check: ## check what you changed: format, lint, types, its unit tests (under a minute)
	@$(START) check

browser: ## install Chromium for the tests in a browser (Debian, as root)
	@tools/setup_browser.sh

walkthrough: ## run every notebook into build/notebooks/ (PROFILE=laptop DATASET=auto)
	@$(START) walkthrough --profile $(PROFILE) --dataset $(DATASET)

book: ## make the book, build/book/index.html, from the executed notebooks (EXECUTE=never runs none)
	@$(START) book --execute $(EXECUTE) --profile $(PROFILE) --dataset $(DATASET)

figures: ## draw every figure again from the numbers beside it
	@$(START) figures

exercises: ## make notebooks/exercises/, what students open, from exercises/
	@$(START) exercises

solutions: ## make the exercise sets with every answer, for teachers, in build/solutions/
	@$(START) solutions

handout: ## make what students get of a set, in build/handout/ (SET=01_inner_loop COURSE= ROSTER= for variants)
	@$(START) handout $(if $(SET),--set "$(SET)") $(if $(COURSE),--course $(call quoted,$(COURSE))) \
	  $(if $(ROSTER),--roster $(call quoted,$(ROSTER)))

grade: ## grade what a class handed in (SUBMITTED=folder SET= ROSTER= DUE= LATE=)
	@$(START) grade --workers $(WORKERS) --profile $(PROFILE) \
	  $(if $(SUBMITTED),--submitted $(call quoted,$(SUBMITTED))) $(if $(SET),--set "$(SET)") \
	  $(if $(ROSTER),--roster $(call quoted,$(ROSTER))) $(if $(DUE),--due "$(DUE)") \
	  $(if $(LATE),--late "$(LATE)") $(if $(COURSE),--course $(call quoted,$(COURSE))) $(GRADE_ARGS)

gpu: ## measure everything on a GPU, with a report in build/gpu/ (about half an hour)
	@$(START) gpu

doctor: ## say what is installed and what is wrong, on one page, to read or to send
	@$(START) doctor

clean: ## remove .venv, build/ and caches; your runs/ stay
	rm -rf .venv build *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
