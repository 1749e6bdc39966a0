#!/bin/busybox sh
# The first program of dom0 and of every guest: file systems, Xen's drivers, then init with /etc/inittab.
export PATH=/usr/bin:/bin:/usr/sbin:/sbin
mount -t proc proc /proc
mount -t sysfs sys /sys
mount -t devtmpfs dev /dev
mkdir -p /dev/pts /dev/shm
mount -t devpts devpts /dev/pts
mount -t tmpfs shm /dev/shm
mount -t tmpfs run /run
mkdir -p /run/lock /run/xen /run/xenstored
for module in xen-privcmd xenfs xen-evtchn xen-gntdev xen-gntalloc; do insmod /lib/modules/$module.ko; done
mount -t xenfs xenfs /proc/xen
ifconfig lo up
hostname "$(sed -n 's/.*lab\.name=\([^ ]*\).*/\1/p' /proc/cmdline)"
exec /sbin/init
