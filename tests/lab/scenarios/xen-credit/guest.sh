. /lab/check.sh
# What is started here goes on when this script has ended and the console hangs up.
trap '' HUP
vgpu-frontd >/run/frontd.log 2>&1 &
connected() { [ "$(xenstore-read device/vgpu/0/state)" = 4 ] && [ -S /run/xen-vgpu/frontd.sock ]; }
check "frontd is connected" retry 240 connected
program() { su -s /bin/sh nobody -c "PATH=$PATH LD_LIBRARY_PATH=$LD_LIBRARY_PATH $*"; }
check "kernels end" program vgpu-load --kernel-us 1000 --count 3
# Not before the other has started: it would take it a lot longer.
await go 300
# Long kernels, behind each of which the next ask has time to come in this software CPU, and many that wait: it is
# shares between domains that always want the GPU that are measured.
(while true; do
  program vgpu-load --kernel-us 80000 --depth 32 --seconds 100000 2>&1 | sed 's/^/# load: /'
  sleep 1
done) &
