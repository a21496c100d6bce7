#!/usr/bin/env bash
# Remove the test hosts, their images, and everything that was made in this folder. Passwords that the project
# generated for real dev hosts (.secrets/) and reports (reports/) stay.
set -euo pipefail
cd "$(dirname "$0")/.."

if command -v docker >/dev/null && docker info >/dev/null 2>&1; then
  docker ps --all --quiet --filter label=swarm-test-host | xargs --no-run-if-empty docker rm --force
  docker images --all --quiet --filter label=swarm-test-host | xargs --no-run-if-empty docker rmi --force
  docker images --quiet swarm-test-host-base | xargs --no-run-if-empty docker rmi
fi
rm -rf .venv .collections .cache .ansible .mypy_cache .ruff_cache .pytest_cache .hypothesis
find . -name __pycache__ -type d -prune -exec rm -rf {} +
