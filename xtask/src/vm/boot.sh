#!/bin/busybox sh
# The kernel's first process: finds the disk, brings the kernel's modules along, and hands over to init.sh.
/bin/busybox --install -s /bin
mount -t devtmpfs dev /dev
mount -t proc proc /proc
if grep -q sluice.trial /proc/cmdline; then
    # Whether this kernel boots at all is all that was asked.
    echo sluice.trial >/dev/ttyS1
    reboot -f
fi
for module in virtio_pci virtio_blk; do modprobe -q "$module"; done
until [ -b /dev/vda ]; do usleep 10000; done
mount -t ext4 /dev/vda /root
mkdir -p /root/lib/modules
cp -a /lib/modules/. /root/lib/modules/
umount /proc /dev
exec switch_root /root /vm/init.sh
