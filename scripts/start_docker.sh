#!/usr/bin/env bash
# Make sure that a Docker engine answers, and that there is a client of SSH, by which the playbooks reach the test hosts.
# As root on a Debian system both are installed and the engine is started; elsewhere this says what is missing.
set -euo pipefail
source "${BASH_SOURCE[0]%/*}/retry.sh"

answers() { docker info >/dev/null 2>&1; }

is_root_with_apt() { [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; }

give_up() {
  echo "$1" >&2
  exit 1
}

if ! command -v ssh >/dev/null; then
  is_root_with_apt || give_up "The ssh command is missing. Install OpenSSH's client, then run this again."
  echo "The ssh command is missing: installing Debian's openssh-client with apt."
  retry apt-get update -qq
  DEBIAN_FRONTEND=noninteractive retry apt-get install --yes -qq --no-install-recommends openssh-client >/dev/null
fi

if answers; then
  exit 0
fi

if ! command -v docker >/dev/null || { is_root_with_apt && [ -z "${DOCKER_HOST:-}" ] && ! command -v dockerd >/dev/null; }; then
  is_root_with_apt || give_up "Docker is missing. Install Docker Engine or Docker Desktop and start it, then run this again."
  echo "Docker is missing: installing Debian's docker.io, docker-compose and iptables with apt."
  retry apt-get update -qq
  DEBIAN_FRONTEND=noninteractive retry apt-get install --yes -qq --no-install-recommends docker.io docker-compose iptables >/dev/null
fi
if answers; then
  exit 0
fi

if [ -n "${DOCKER_HOST:-}" ] || [ "$(id -u)" != 0 ] || ! command -v dockerd >/dev/null; then
  docker info >/dev/null || true
  give_up "Docker is installed, but its engine does not answer (its message is above). Start it, or give this user access to it, then run this again."
fi

if [ -d /run/systemd/system ]; then
  systemctl enable --now docker
  last_words() { journalctl --unit docker --no-pager --lines 5; }
else
  log=/var/log/dockerd.log
  echo "Starting dockerd; its output goes to $log."
  # The process id file of an engine that was killed keeps a new one from starting.
  if [ -f /var/run/docker.pid ] && ! kill -0 "$(cat /var/run/docker.pid)" 2>/dev/null; then
    rm -f /var/run/docker.pid
  fi
  setsid nohup dockerd >"$log" 2>&1 </dev/null &
  last_words() { tail -n 5 "$log"; }
fi
for _ in $(seq 180); do
  if answers; then
    exit 0
  fi
  sleep 1
done
last_words >&2
give_up "The Docker engine did not start within 3 minutes; its last words are above."
