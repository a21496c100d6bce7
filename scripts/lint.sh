#!/usr/bin/env bash
# Run every linter, also when an earlier one has complained; their settings are in pyproject.toml and the dot files.
set -uo pipefail
cd "$(dirname "$0")/.."
export PATH="$PWD/.venv/bin:$PATH" ANSIBLE_CONFIG="$PWD/ansible.cfg"

failed=()
check() {
  local title=$1
  shift
  if "$@"; then
    echo "✓ $title"
  else
    failed+=("$title")
    echo "✗ $title"
  fi
}

# plugins/ by the path at which Python finds it, so that mypy knows one name for each of its modules.
collection=.collections/ansible_collections/swarm/sqlite_to_postgresql
mapfile -t typed < <(git ls-files --cached --others --exclude-standard \
  'plugins/*.py' 'scripts/*.py' 'molecule/*.py' 'tests/*.py' 'bench/*.py' 'docs/*.py' |
  sed "s,^plugins/,$collection/&,")

check "collections are those of requirements.yml" python scripts/install_collections.py --check
check "ruff check" ruff check --quiet --output-format concise .
check "ruff format" ruff format --quiet --check .
check "mypy" mypy --no-error-summary "${typed[@]}"
check "yamllint" yamllint --strict .
check "ansible-lint" python scripts/lint_ansible.py -q
check "ansible-test sanity" python scripts/check_collection.py
check "squawk" squawk 'files/sql/*.sql'

if [ ${#failed[@]} -gt 0 ]; then
  printf 'These linters complain: '
  (IFS=,; echo "${failed[*]}")
  exit 1
fi
