#!/bin/sh
# dom0, once its init is up: Xen's daemons, then what this run is for (/lab/env says what).
set -a
. /lab/env
PATH=$LAB_TOOLS/bin:/opt/xen-vgpu/bin:/usr/bin:/bin:/usr/sbin:/sbin
HOME=/root
set +a
cd /root
if xenstored --pid-file /run/xenstored.pid && xen-init-dom0 >/run/xen-init-dom0.log 2>&1 &&
   xenconsoled --log=all --log-dir=/var/log/xen; then
  read -r up _ </proc/uptime
  printf '\nLAB up %s\n' "$up"
else
  cat /run/xen-init-dom0.log
  printf '\nLAB exit 70\n'
fi

if [ "$LAB_SCENARIOS" = shell ]; then
  exec /bin/sh /lab/shell.sh
fi
status=0
for LAB_SCENARIO in $LAB_SCENARIOS; do
  export LAB_SCENARIO
  /bin/sh "/lab/scenarios/$LAB_SCENARIO/dom0.sh" || { status=$?; echo "not ok - $LAB_SCENARIO: dom0.sh ended with status $status"; }
  guest follow
done
sync
printf '\nLAB exit %d\n' $status
