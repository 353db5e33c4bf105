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
# Sluice's maps are sized by it, and clearing those of half a million files takes an emulated processor ten seconds.
ulimit -Hn 4096
ulimit -Sn 4096
# Tests fill these to the brim, in each direction of each engine.
echo "4096 131072 262144" >/proc/sys/net/ipv4/tcp_rmem
echo "4096 16384 262144" >/proc/sys/net/ipv4/tcp_wmem

# The lines of a file, each behind this mark.
marked() { while read -r line; do echo "$1 $line"; done <"$2"; }

# Ends a suite that takes so long that it must be stuck, and shows where in the kernel each of its threads waits.
guard() {
    sleep 420
    echo "this suite is stuck; its threads and where they wait:"
    for task in /proc/[0-9]*/task/[0-9]*; do
        # The kernel's own threads have no program.
        [ -e "$task/exe" ] || continue
        echo "$task $(cat "$task/comm") $(sed -n 's/^State:[[:space:]]*//p' "$task/status")"
        cat "$task/stack"
    done
    kill -9 "$1"
}

# Runs the suites, and says which in the way of cargo.
suites() {
    ran=0 failed=0
    export SLUICE_SKIPS=/run/skips
    : >"$SLUICE_SKIPS"
    tab=$(printf '\t')
    while IFS="$tab" read -r folder path source names; do
        echo "     Running $source ($path)"
        cd "$folder" || exit
        # Parts of tests' names: several words, or none.
        # What goes over HTTP/2 is carried without the kernel.
        "$path" --test-threads="$SLUICE_VM_THREADS" --skip http2 ${SLUICE_VM_FILTER:-$names} &
        suite=$!
        guard "$suite" &
        wait "$suite" || failed=$((failed + 1))
        kill $!
        ran=$((ran + 1))
    done </vm/suites
    marked SLUICE-VM-SKIP "$SLUICE_SKIPS"
}

. /vm/environment
echo "SLUICE-VM-KERNEL $(uname -r)"
modprobe tls
if [ -e /vm/exec ]; then
    cd "$SLUICE_VM_ROOT" || exit
    sh /vm/exec
    code=$?
    echo
    echo "SLUICE-VM-VERDICT exit=$code"
else
    echo "SLUICE-VM-PROBE $("$SLUICE_BIN" probe --json)"
    "$SLUICE_BIN" probe
    marked SLUICE-VM-TLS-BEFORE /proc/net/tls_stat
    suites
    marked SLUICE-VM-TLS-AFTER /proc/net/tls_stat
    echo "SLUICE-VM-VERDICT ran=$ran failed=$failed"
fi
sync
# QEMU was told not to reboot: it ends.
reboot -f
