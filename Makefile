PYTHON ?= python3
.PHONY: run test prove

run test prove:
	@$(PYTHON) bootstrap.py $@
