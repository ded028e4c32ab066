PYTHON ?= python3
VENV = .venv
BIN = $(VENV)/bin
PACKAGING = setup.cfg setup.py pyproject.toml
INSTALL = $(BIN)/python -m pip install --quiet --disable-pip-version-check --editable
# Test processes side by side; 0: none, so that -s shows what tests print.
WORKERS ?= 2
export PYTHON

.PHONY: help demo test test-mysql test-servers test-newest test-versions nox soak screenshots conformance neighbours benchmark
.PHONY: benchmark-instructions benchmark-micro benchmark-ldap benchmark-shedding lint check-code check-format
.PHONY: check-types docs clean
.PHONY: provision-venv provision-demo provision-test provision-mysql provision-instructions

help:
	@echo 'make demo    run the example site and watch the pool  (ARGS="--help" tells its options)'
	@echo 'make test    run all tests against real servers       (ARGS goes to pytest)'
	@echo 'make test-newest    the same on the newest Django that is supported'
	@echo 'make test-versions  a short set of them on what is between these two, and on the lowest versions of all libraries'
	@echo 'make nox     any of these combinations                (ARGS="--list")'
	@echo 'make test-mysql   the tests that run on MySQL, with all drivers'
	@echo 'make test-servers  the site under all web servers, and all task workers'
	@echo 'make soak    a site under load while its server breaks    (ARGS="--minutes 30")'
	@echo 'make screenshots  the pictures of the page of pools for the documentation'
	@echo 'make conformance  run Django'"'"'s own test suite without and with the pool, and compare'
	@echo 'make neighbours   use other packages without and with the pool, and compare  (ARGS="--list")'
	@echo 'make benchmark  load on this package, on others of its kind and on plain Django; also benchmark-micro, benchmark-ldap'
	@echo 'make benchmark-instructions  instructions of a request cycle       (ARGS="--here" for the working tree alone)'
	@echo 'make lint    ruff and mypy'
	@echo 'make docs    build the documentation into docs/_build'
	@echo 'make clean   remove everything that these have made'

demo: $(VENV)/example.stamp | provision-demo
	$(BIN)/python example_project/demo/run.py $(ARGS)

test: $(VENV)/test.stamp | provision-test
	$(BIN)/python -m pytest -n $(WORKERS) --dist worksteal $(ARGS)

test-newest: $(VENV)/dev.stamp | provision-test
	$(BIN)/nox --tags newest $(if $(ARGS),-- $(ARGS))

test-versions: $(VENV)/dev.stamp | provision-test
	$(BIN)/nox --tags between

nox: $(VENV)/dev.stamp | provision-test
	$(BIN)/nox $(ARGS)

# `make test` runs one combination of these, and little of the web servers.
test-mysql: $(VENV)/test.stamp | provision-mysql
	TEST_MYSQL=all $(BIN)/python -m pytest -n $(WORKERS) --dist worksteal -k '[mysql or -mysql- or -mysql]' $(ARGS)

# `make test` starts some of these. Libraries that only they need get an environment of their own.
test-servers: $(VENV)/test.stamp | provision-test
	TEST_SERVERS=all $(BIN)/python -m pytest -n $(WORKERS) --dist worksteal tests/workers $(ARGS)

soak: $(VENV)/test.stamp | provision-test
	$(BIN)/python -m tests.soak $(ARGS)

screenshots: $(VENV)/test.stamp | provision-test
	$(BIN)/python -m tests.screenshots $(ARGS)

conformance: $(VENV)/test.stamp | provision-test
	$(BIN)/python -m tests.conformance $(ARGS)

neighbours: $(VENV)/test.stamp | provision-test
	$(BIN)/python -m tests.neighbours $(ARGS)

benchmark: $(VENV)/test.stamp | provision-test
	$(BIN)/python -m benchmarks.run $(ARGS)

benchmark-micro: $(VENV)/test.stamp
	$(BIN)/python -m benchmarks.micro $(ARGS)

benchmark-instructions: $(VENV)/test.stamp | provision-instructions
	$(BIN)/python -m benchmarks.instructions $(ARGS)

benchmark-shedding: $(VENV)/test.stamp | provision-test
	$(BIN)/python -m benchmarks.shedding $(ARGS)

benchmark-ldap: $(VENV)/test.stamp | provision-test
	$(BIN)/python -m benchmarks.ldap $(ARGS)

lint: check-code check-format check-types

check-code: $(VENV)/dev.stamp
	$(BIN)/ruff check .

check-format: $(VENV)/dev.stamp
	$(BIN)/ruff format --check .

check-types: $(VENV)/dev.stamp
	$(BIN)/mypy

docs: $(VENV)/dev.stamp
	$(BIN)/sphinx-build -W --keep-going -b html docs docs/_build

clean:
	rm -rf $(VENV) .nox docs/_build build dist *.egg-info .mypy_cache .pytest_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

$(VENV)/venv.stamp: | provision-venv
	$(PYTHON) -m venv $(VENV)
	touch $@

# python-ldap is compiled on this machine: the demo has no directory where that can't be done.
$(VENV)/example.stamp: $(VENV)/venv.stamp $(PACKAGING)
	$(INSTALL) '.[example]'
	sh tests/provision.sh can-use-ldap && $(INSTALL) '.[test-ldap]' || true
	touch $@

# mysqlclient and python-ldap are compiled on this machine, uWSGI where there is no wheel: without what that takes
# their tests are skipped, but not in CI.
$(VENV)/test.stamp: $(VENV)/venv.stamp $(PACKAGING) | provision-test
	$(INSTALL) '.[test,conformance]'
	$(INSTALL) '.[mysqlclient]' || test -z "$$CI"
	$(INSTALL) '.[test-ldap]' || test -z "$$CI"
	$(INSTALL) '.[test-uwsgi]' || test -z "$$CI"
	touch $@

$(VENV)/dev.stamp: $(VENV)/venv.stamp $(PACKAGING)
	$(INSTALL) '.[dev,test]'
	touch $@

provision-venv provision-demo provision-test provision-mysql provision-instructions: provision-%:
	@sh tests/provision.sh $*
