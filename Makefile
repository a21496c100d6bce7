# The commands of the project. `make` alone lists them.
.DEFAULT_GOAL := help
.PHONY: help demo demo-own test test-all setup lint unit molecule crash bench evidence docker test-host clean
MAKEFLAGS += --no-print-directory
export PATH := $(CURDIR)/.venv/bin:$(PATH)
export ANSIBLE_CONFIG := $(CURDIR)/ansible.cfg

help: ## List these commands.
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/  make \1\t\2/p' $(MAKEFILE_LIST) 

demo: .venv/is-complete test-host ## Show the whole migration on a throwaway dev host in Docker.
	@python scripts/run_demo.py

# FILE and DRAFT reach the program in its environment, so that a name may hold any character. What a library warns of is
# nothing that a visitor could do something about.
demo-own: .venv/is-complete ## Draft, move and verify an SQLite file of your own: make demo-own FILE=path/to/any.db
	@python -W ignore scripts/run_demo_own.py

# The image of the test hosts is the first of the checks: those that need no host run beside it.
test: .venv/is-complete docker ## Run every check: linters, unit tests, and the tests on hosts in Docker.
	@python scripts/run_all_checks.py

test-all: .venv/is-complete docker ## Run them with the long searches too, and note it in docs/full-test-runs.md.
	@python scripts/run_all_checks.py --long

setup: .venv/is-complete ## Make .venv with the pinned Python dependencies and the Ansible collections.

lint: .venv/is-complete ## Run the linters only.
	@scripts/lint.sh

unit: .venv/is-complete test-host ## Run the tests of the Python code only, against a PostgreSQL of their own and hosts in Docker.
	@pytest tests --ignore tests/crash --ignore tests/random_order

molecule: .venv/is-complete test-host ## Run the default Molecule scenario only: the whole move on a real host in Docker, made once, and what it left.
	@molecule test --no-command-borders

crash: .venv/is-complete test-host ## Run the crash tests only: kill the playbook, and let the next run finish.
	@pytest tests/crash

bench: .venv/is-complete test-host ## Measure speed and memory against pgloader and others (about an hour); see bench/README.md.
	@python bench/run_benchmark.py $(BENCH_OPTIONS)
	@python bench/run_cutover.py
	@python bench/run_further_run.py $(FURTHER_RUN_OPTIONS)

# The key reaches the program in its environment, so that its path may hold any character.
evidence: .venv/is-complete ## Collect the evidence of what runs on dev, and sign it: make evidence KEY=path/to/key
	@test -n "$$KEY" || { echo 'Name the key that signs: make evidence KEY=path/to/key' >&2; exit 2; }
	@ansible-playbook playbooks/evidence.yml -l "$${FROM:-dev}"
	@python scripts/sign_evidence.py "$$KEY" "$${FROM:-dev}"

# Says what is missing before anything else is done; as root on Debian it is installed and started.
docker:
	@scripts/start_docker.sh

test-host: .venv/is-complete docker ## Build the image of the test hosts, unless it exists.
	@python molecule/test_host/build.py

clean: ## Remove the test hosts, their images, and everything that was made in this folder.
	@scripts/clean.sh

.venv/is-complete: pyproject.toml requirements.yml scripts/set_up_python.sh scripts/install_collections.py
	@scripts/set_up_python.sh
