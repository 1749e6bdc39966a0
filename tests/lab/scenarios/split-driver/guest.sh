. /lab/check.sh
# What is started here goes on when this script has ended and the console hangs up.
trap '' HUP
if [ "$LAB_NAME" = third ]; then
  refute "has no device" xenstore-read device/vgpu/0/state
  await go 300
fi
vgpu-frontd >/run/frontd.log 2>&1 &
connected() { [ "$(xenstore-read device/vgpu/0/state)" = 4 ] && [ -S /run/xen-vgpu/frontd.sock ]; }
check "frontd is connected" retry 240 connected
# Programs of other users than root, two of them at the same time.
program() { su -s /bin/sh nobody -c "PATH=$PATH LD_LIBRARY_PATH=$LD_LIBRARY_PATH $*"; }
{ check "matrixMul computes what it should" program matrixMul --m 100 --n 90 --k 70 --tile 16 --json; echo $? >/run/matrixMul; } &
matrixMul=$!
check "vectorAdd computes what it should" program vectorAdd --n 100003 --json
vectorAdd=$?
wait $matrixMul
status=$((vectorAdd + $(cat /run/matrixMul)))
[ $status = 0 ] || sed 's/^/# frontd: /' /run/frontd.log
if [ "$LAB_NAME" = third ]; then
  echo "programs ended with $status;"
  await gone 300
  check "its device is gone" retry 60 sh -c '! xenstore-read device/vgpu/0/state' || status=1
else
  # Still running when dom0 ends this guest.
  (while true; do program vectorAdd --n 100003 --iterations 100000; done >/dev/null 2>&1) &
  sleep 2
fi
exit $status
