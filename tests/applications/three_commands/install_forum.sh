# Spirit (PyPI), a forum of Django's, under gunicorn in a container of docker compose, as its pages set it up.
apt-get -qq update
apt-get -qq install -y --no-install-recommends docker.io iptables python3-venv > /dev/null
install -D --mode=0755 /root/docker-compose /usr/libexec/docker/cli-plugins/docker-compose
# The host's own file system is one of layers, on which others cannot be laid.
systemctl stop docker docker.socket
mount -t tmpfs docker /var/lib/docker
systemctl start docker
useradd --uid 1600 forum
install -d /opt/forum
install -d -o forum -g forum /srv/forum/data
cd /opt/forum
python3 -m venv venv
venv/bin/pip install --quiet --disable-pip-version-check --requirement /srv/forum/requirements.txt
PATH="$PWD/venv/bin:$PATH" spirit startproject forum > /dev/null
cat > forum/forum/settings/container.py <<'CONFIG'
import os
import dj_database_url
from .base import *
ALLOWED_HOSTS = ["127.0.0.1"]
DATABASES = {"default": dj_database_url.config()}
HAYSTACK_CONNECTIONS["default"]["PATH"] = "/data/search"
SECRET_KEY = os.environ["SECRET_KEY"]
ST_RATELIMIT_ENABLE = False
ST_SITE_URL = "http://127.0.0.1:4022/"
del LOGGING["handlers"]["file"]
CONFIG
# Its image is this host's own Python and the forum: there is no registry to pull one from.
tar --create --directory=/ --exclude='libnode*' --exclude='libicudata*' --exclude='perl*' \
  --no-recursion usr usr/bin usr/lib etc opt --recursion bin lib lib64 opt/forum \
  usr/bin/dash usr/bin/sh usr/bin/python3 usr/bin/python3.11 usr/lib/python3 usr/lib/python3.11 \
  usr/lib/x86_64-linux-gnu usr/lib64 etc/group etc/ld.so.cache etc/passwd |
  docker import - forum/forum:1 > /dev/null
cd /srv/forum
(umask 077; printf 'DATABASE_URL=sqlite:////data/forum.db\nSECRET_KEY=a-secret-of-a-test\n' > forum.env)
cat > docker-compose.yml <<'CONFIG'
services:
  web:
    image: forum/forum:1
    working_dir: /opt/forum/forum
    command: [/opt/forum/venv/bin/gunicorn, --threads=4, --bind=0.0.0.0:8000, forum.wsgi:application]
    user: "1600"
    env_file: forum.env
    environment:
      DJANGO_SETTINGS_MODULE: forum.settings.container
      HOME: /tmp
    tmpfs: [/tmp]
    volumes: ["./data:/data"]
    ports: ["127.0.0.1:4022:8000"]
    restart: unless-stopped
networks:
  default:
    ipam:
      config:
        # None of those that hosts in Docker are in.
        - subnet: 192.168.150.0/24
CONFIG
manage='/opt/forum/venv/bin/python manage.py'
docker compose --progress quiet run --rm -T --env DJANGO_SUPERUSER_PASSWORD='pässword of 🦆' web sh -ec "
  $manage migrate --noinput --verbosity 0
  $manage createcachetable
  $manage createsuperuser --noinput --username zoe --email zoe@example.org
  $manage rebuild_index --noinput" > /dev/null
docker compose --progress quiet up --detach
