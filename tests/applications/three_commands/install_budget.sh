# I Hate Money (PyPI) under gunicorn, run by systemd as its pages show it, with its demonstration project.
apt-get -qq update
apt-get -qq install -y python3-venv > /dev/null
useradd --system --create-home budget
cd /srv/budget
python3 -m venv venv
venv/bin/pip install --quiet --disable-pip-version-check --requirement requirements.txt gunicorn==27.0.1
chown -R budget:budget .
install -d /etc/ihatemoney
cat > /etc/ihatemoney/ihatemoney.cfg <<'CONFIG'
import os
SECRET_KEY = "of a test"
SQLALCHEMY_DATABASE_URI = os.environ["SQLALCHEMY_DATABASE_URI"]
SQLALCHEMY_TRACK_MODIFICATIONS = False
ACTIVATE_DEMO_PROJECT = True
MAIL_DEFAULT_SENDER = "budget@example.org"
CONFIG
cat > /etc/ihatemoney/budget.env <<'CONFIG'
SQLALCHEMY_DATABASE_URI=sqlite:////srv/budget/budget.sqlite
IHATEMONEY_SETTINGS_FILE_PATH=/etc/ihatemoney/ihatemoney.cfg
CONFIG
cat > /etc/systemd/system/budget.service <<'CONFIG'
[Service]
User=budget
WorkingDirectory=/srv/budget
EnvironmentFile=/etc/ihatemoney/budget.env
ExecStart=/srv/budget/venv/bin/gunicorn --threads 4 --bind 127.0.0.1:4021 ihatemoney.wsgi:application
[Install]
WantedBy=multi-user.target
CONFIG
systemctl daemon-reload
systemctl --quiet enable --now budget
