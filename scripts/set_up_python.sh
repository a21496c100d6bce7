#!/usr/bin/env bash
# Make .venv with the dependencies that pyproject.toml pins, and the Ansible collections that requirements.yml names.
set -euo pipefail
cd "$(dirname "$0")/.."
source scripts/retry.sh
readonly pip_version=26.3

is_recent_enough() {
  "$1" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null
}

makes_environments() {
  "$1" -c 'import ensurepip, venv' 2>/dev/null
}

# A distribution compiles its Python with the profile of a run. pyenv by default does not, and its Python takes a sixth
# more time for everything: so the distribution's comes first, unless it cannot make environments and another one is there.
find_python() {
  local name
  if [ "$(uname)" = Linux ] && is_recent_enough /usr/bin/python3 && makes_environments /usr/bin/python3; then
    echo /usr/bin/python3
    return
  fi
  for name in python3 python3.14 python3.13 python3.12 python3.11 /usr/bin/python3; do
    if is_recent_enough "$name"; then
      echo "$name"
      return
    fi
  done
  return 1
}

install_python_with_apt() {
  if [ "$(id -u)" != 0 ] || ! command -v apt-get >/dev/null; then
    echo "$1 Install Python 3.11 or later with its venv module, then run this again." >&2
    exit 1
  fi
  echo "$1 Installing it with apt."
  retry apt-get update -qq
  DEBIAN_FRONTEND=noninteractive retry apt-get install --yes -qq python3 python3-venv >/dev/null
}

find_python >/dev/null || install_python_with_apt "There is no Python 3.11 or later."
if ! python=$(find_python); then
  echo "The distribution's Python is older than 3.11: install a later one, then run this again." >&2
  exit 1
fi
if ! .venv/bin/python -c '' 2>/dev/null; then
  if ! makes_environments "$python"; then
    install_python_with_apt "Python's venv module is missing."
    python=/usr/bin/python3
  fi
  rm -rf .venv
  "$python" -m venv .venv
fi

echo "Installing the Python dependencies of pyproject.toml into .venv"
mkdir -p .cache
# pinned KIND: print what pyproject.toml names, for the runs themselves or for the tests.
pinned() {
  .venv/bin/python - "$1" <<'PYTHON'
import sys
import tomllib

with open("pyproject.toml", "rb") as file:
    project = tomllib.load(file)["project"]
print("\n".join(project["dependencies"] if sys.argv[1] == "runs" else project["optional-dependencies"]["test"]))
PYTHON
}
install() {
  .venv/bin/python -m pip install --quiet --disable-pip-version-check "$@"
}
pinned runs >.cache/python-requirements.txt
pinned tests >.cache/python-test-requirements.txt
# Python brings a pip of its own age, and the one of Debian 12 takes twice as long. It will do where there is no other.
install --no-compile "pip==$pip_version" || echo "pip $pip_version cannot be had; the pip that came with Python goes on."
retry install --requirement .cache/python-requirements.txt
# Most of what the tests bring is never imported: Python compiles what is, and keeps it.
retry install --no-compile --requirement .cache/python-requirements.txt --requirement .cache/python-test-requirements.txt
retry .venv/bin/python scripts/install_collections.py
touch .venv/is-complete
