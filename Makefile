# `make app` and `make test` are all a newcomer needs; both create .venv and install what they need.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# Two processes of one thread each: more threads would only wait for one another. Neighbours stay in one process: what
# they make or compile together is made once.
TWO := OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist worksteal

.PHONY: app test fast lint types docs check samples clean

$(VENV)/.app: requirements.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet -r requirements.txt
	touch $@

$(VENV)/.dev: $(VENV)/.app requirements-dev.txt
	$(BIN)/python -m pip install --quiet -r requirements-dev.txt
	touch $@

app: $(VENV)/.app          ## start the app on the bundled sample models
	$(BIN)/python app.py $(ARGS)

test: $(VENV)/.dev         ## every test, in a real browser too
	$(BIN)/python tests/app/browser.py --install
	$(TWO) -m "not browser" $(ARGS) $(if $(ARGS),|| test $$? -eq 5)
	$(BIN)/python -m pytest -m browser $(ARGS) $(if $(ARGS),|| test $$? -eq 5)

fast: $(VENV)/.dev         ## the tests that take less than two minutes together
	$(TWO) -m "not slow and not browser" $(ARGS)

lint: $(VENV)/.dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(VENV)/.dev
	$(BIN)/mypy

docs: $(VENV)/.app         ## write the generated reference pages
	$(BIN)/python -m explorer docs

check: lint types          ## what CI runs before the tests
	$(BIN)/python -m explorer docs --check

clean:
	rm -rf $(VENV) .pytest_cache .mypy_cache .ruff_cache .hypothesis .gradio
