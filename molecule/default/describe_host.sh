#!/bin/sh
# Write to a file everything of a host that a playbook could change: files with their owner, mode, size and content,
# packages, users, units, and the processes of services and database. Two descriptions of an untouched host are equal.
#   describe_host.sh FILE            and print how many lines they are
#   describe_host.sh FILE EARLIER    and print where they differ from an earlier one; that is an error
set -eu
description=$1 earlier=${2-}
exec 3>&1 >"$description"

# Left out is what changes by itself: package indexes, Ansible's own temporary files, logs, what systemd notes about
# its timers, the file that pm2 touches whenever it is asked, and the -shm file that any reader of a SQLite database
# touches.
everything() {
  find /etc /home /opt /root /srv /usr/local /var/lib /var/backups /var/spool \
    \( -path '*/.ansible' -o -path /var/lib/apt/lists -o -path /var/lib/systemd -o -path '*/.pm2/logs' \
       -o -path '*/.pm2/*.log' -o -path '*/.pm2/touch' -o -path /opt/sample-estate/node_modules -o -name '*.db-shm' \) -prune -o "$@"
}

everything -printf 'entry %p %u:%g %m %y %l\n' | sort
everything -type f -print0 | sort -z | xargs -0 sha256sum
dpkg-query --show --showformat 'package ${Package} ${Version} ${Status}\n'
getent passwd | sed 's/^/user /'
systemctl list-unit-files --no-legend --no-pager | sed 's/^/unit /'
ps -e -o user=,pid=,args= | grep -E '[n]ode|[p]m2|[p]ostgres' | sed 's/^/process /'

exec >&3
wc -l <"$description"
[ -z "$earlier" ] || diff "$earlier" "$description"
