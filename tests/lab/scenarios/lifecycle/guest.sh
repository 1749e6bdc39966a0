. /lab/check.sh
check "has Xen's devices" test -c /dev/xen/gntdev -a -c /dev/xen/gntalloc -a -c /dev/xen/evtchn
check "knows its own domid" xenstore-read domid
check "hears dom0" await go 240
