#!/bin/busybox sh
# The guest: what tests expect of a machine, then what the runner has asked for in /vm, then one verdict line.
# The kernel prints on the first serial port; everything here is printed on the second.
export PATH=/usr/local/bin:/usr/bin:/usr/sbin:/bin:/sbin:/vm/bin HOME=/root LANG=C.UTF-8 TMPDIR=/tmp
mount -t devtmpfs dev /dev
exec </dev/null >/dev/ttyS1 2>&1
stty -F /dev/ttyS1 raw -echo
mkdir -p /dev/pts /dev/shm
mount -t proc proc /proc
mount -t sysfs sys /sys
mount -t devpts pts /dev/pts
mount -t tmpfs -o mode=1777 shm /dev/shm
mount -t tmpfs -o mode=755 run /run
mount -t bpf bpf /sys/fs/bpf
mount -t cgroup2 cgroup /sys/fs/cgroup
ln -s /proc/self/fd /dev/fd
ip link set lo up
hostname guest
modprobe tun
# The kernel's maps are sized by it, and clearing those of half a million files takes an emulated processor ten seconds.
ulimit -Hn 16384

# A line of a file, each behind this mark.
marked() { while read -r line; do echo "$1 $line"; done; }

# Runs the suites in the form in which cargo does, for whoever reads what cargo prints.
suites() {
    ran=0 failed=0
    export SLUICE_SKIPS=/run/skips
    : >"$SLUICE_SKIPS"
    while read -r threads folder path source; do
        echo "     Running $source ($path)"
        cd "$folder" || exit
        "$path" --test-threads="$threads" $SLUICE_VM_FILTER || failed=$((failed + 1))
        ran=$((ran + 1))
    done </vm/suites
    marked SLUICE-VM-SKIP <"$SLUICE_SKIPS"
}

tls_stat() { [ -r /proc/net/tls_stat ] && marked "SLUICE-VM-TLS-$1" </proc/net/tls_stat; }

. /vm/environment
echo "SLUICE-VM-KERNEL $(uname -r)"
modprobe tls
if [ -e /vm/exec ]; then
    cd "$SLUICE_VM_ROOT" || exit
    sh /vm/exec
    echo "SLUICE-VM-VERDICT exit=$?"
else
    echo "SLUICE-VM-PROBE $("$SLUICE_BIN" probe --json 2>/dev/null)"
    "$SLUICE_BIN" probe
    tls_stat BEFORE
    suites
    tls_stat AFTER
    echo "SLUICE-VM-VERDICT ran=$ran failed=$failed"
fi
sync
# QEMU was told not to reboot: it ends.
reboot -f
