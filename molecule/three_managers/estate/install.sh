#!/usr/bin/env bash
# Install Docker and three services that know nothing of this project, each under another manager, as root.
set -euo pipefail
cd "$(dirname "$0")"

export DEBIAN_FRONTEND=noninteractive
apt-get update --quiet=2
apt-get install --yes --quiet=2 --no-install-recommends docker.io iptables python3-psycopg2 > /dev/null
install -D --mode=0755 docker-compose /usr/libexec/docker/cli-plugins/docker-compose
# The host's own file system is one of layers, on which others cannot be laid.
echo '{"storage-driver": "vfs"}' > /etc/docker/daemon.json
systemctl restart docker

# --- orders: Node, under pm2 ---
install --directory --owner=swarm --group=swarm /srv/orders
install --owner=swarm --group=swarm --mode=0644 orders/server.js orders/ecosystem.config.js orders/package.json /srv/orders
install --owner=swarm --group=swarm --mode=0600 /dev/stdin /srv/orders/.env <<< $'# Where the orders are.\nDATABASE_URL=file:orders.db'
cp -a /opt/sample-estate/node_modules /srv/orders/node_modules
chown -R swarm:swarm /srv/orders/node_modules
as_swarm() {
  # Not from here: a directory of root's is none that its programs may stand in.
  (cd /srv/orders && runuser -u swarm -- env -i HOME=/home/swarm PATH=/usr/local/bin:/usr/bin:/bin "$@")
}
# A busy pm2 fails now and then without a word.
for try in 1 2 3 4; do
  if as_swarm pm2 start --silent /srv/orders/ecosystem.config.js; then break; fi
  sleep 2
done
as_swarm pm2 save --silent

# --- notes: Python, a unit of systemd ---
useradd --system notes
install --directory --owner=notes --group=notes /srv/notes
install --mode=0644 notes/notes.py /srv/notes
install --mode=0600 /dev/stdin /etc/notes.env <<< NOTES_FILE=/srv/notes/notes.db
install --mode=0644 notes/notes.service /etc/systemd/system
systemctl daemon-reload
systemctl enable --now --quiet notes

# --- desk: Python, in a container of docker compose ---
useradd --uid 1500 desk
install --directory /srv/desk
install --directory --owner=desk --group=desk /srv/desk/data
install --mode=0644 desk/desk.py desk/docker-compose.yml /srv/desk
install --mode=0600 /dev/stdin /srv/desk/desk.env <<< $'DATABASE_URL=sqlite:////data/desk.db\nDESK_NAME="The desk"'
# Its image is this host's own Python: there is no registry to pull one from.
tar --create --directory=/ --exclude='libnode*' --exclude='libicudata*' --exclude='__pycache__' \
  --no-recursion usr usr/bin usr/lib etc --recursion bin lib lib64 \
  usr/bin/dash usr/bin/sh usr/bin/python3 usr/bin/python3.11 usr/lib/python3 usr/lib/python3.11 \
  usr/lib/x86_64-linux-gnu usr/lib64 etc/group etc/ld.so.cache etc/passwd |
  docker import - desk/desk:1 > /dev/null
docker compose --project-directory /srv/desk --progress quiet up --detach

for port in 5001 5002 5003; do
  for try in $(seq 240); do
    if python3 -c "import urllib.request; urllib.request.urlopen('http://127.0.0.1:$port/health', timeout=5)" 2> /dev/null; then
      continue 2
    fi
    sleep 0.5
  done
  echo "The service on port $port does not answer." >&2
  exit 1
done
