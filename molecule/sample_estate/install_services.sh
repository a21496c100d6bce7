#!/usr/bin/env bash
# Install the four sample services from the directory of this script and start them under pm2, as root.
# May be run again: it finishes what an earlier run has left unfinished.
set -euo pipefail
cd "$(dirname "$0")"

services=(swarm-registry swarm-deploy swarm-tickets swarm-platform)

# pm2 hands its caller's environment to what it starts: let there be nothing in it.
as_swarm() {
  runuser -u swarm -- env -i HOME=/home/swarm USER=swarm PM2_HOME=/home/swarm/.pm2 PATH=/usr/local/bin:/usr/bin:/bin "$@"
}

# A busy pm2 fails now and then without a word.
pm2_as_swarm() {
  local try
  for try in 1 2 3; do
    as_swarm pm2 "$@" && return
    sleep 2
  done
  as_swarm pm2 "$@"
}

ecosystem_files=()
for service in "${services[@]}"; do
  directory=/opt/$service
  ecosystem_files+=("$directory/ecosystem.config.js")
  install --directory --owner=swarm --group=swarm "$directory"
  install --owner=swarm --group=swarm --mode=0644 services/*.js services/"$service"/*.* "$directory"
  install --owner=swarm --group=swarm --mode=0600 services/"$service"/.env "$directory"
  if [ ! -d "$directory/node_modules" ]; then
    cp -a node_modules "$directory/node_modules.unfinished"
    chown -R swarm:swarm "$directory/node_modules.unfinished"
    mv "$directory/node_modules.unfinished" "$directory/node_modules"
  fi
done

install --mode=0644 pm2-swarm.service /etc/systemd/system/
systemctl daemon-reload
if ! systemctl is-active --quiet pm2-swarm; then
  # With nothing saved pm2 has nothing to resurrect, and says that this is an error.
  as_swarm sh -c 'umask 077 && mkdir -p "$PM2_HOME" && echo "[]" > "$PM2_HOME/dump.pm2"'
fi
systemctl enable --now --quiet pm2-swarm

# With one command: each takes half a second of a processor before it does anything.
pm2_as_swarm start --silent "${ecosystem_files[@]}"
pm2_as_swarm save --silent
