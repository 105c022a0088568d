# Makes systemd process 1 of a Docker container, in a control group (version 2) of its own: also where the machine's
# Docker uses version 1, whose own systemd must not be disturbed.
set -e
if [ ! -e /sys/fs/cgroup/cgroup.controllers ]; then
    mkdir -p /run/groups
    mount -t cgroup2 none /run/groups
    mkdir -p "/run/groups/$1"
    echo 1 > "/run/groups/$1/cgroup.procs"
    umount /run/groups
fi
mount --make-rshared /  # by which systemd hands credentials to its services
exec unshare --cgroup sh -c '
    umount -R /sys/fs/cgroup 2>/dev/null
    mount -t cgroup2 none /sys/fs/cgroup && exec /lib/systemd/systemd'
