#!/bin/sh
# The first process of a test host: puts back what an image cannot hold, then becomes systemd.
#   start.sh MOUNT    where MOUNT is `remount` if the control groups must become writable first
set -u
if [ "${1:-}" = remount ]; then
  mount -o remount,bind,rw /sys/fs/cgroup || exit 1
fi
# Where sshd goes without rights before somebody has logged in; /run is empty in each new container.
mkdir -p /run/sshd
# Write protection: docker keeps no file attributes.
if [ -s /var/lib/test-host/immutable ]; then
  while IFS= read -r path; do
    chattr +i "$path" || exit 1
  done </var/lib/test-host/immutable
fi
# A timer that was due while the image lay about is not due now.
find /var/lib/systemd/timers -type f -exec touch {} + 2>/dev/null
exec /lib/systemd/systemd
