#!/bin/sh
# dom0, once its init is up: Xen's daemons, then what this run is for (/lab/env says what).
set -a
. /lab/env
PATH=$LAB_TOOLS/bin:/opt/xen-vgpu/bin:/usr/bin:/bin:/usr/sbin:/sbin
HOME=/root
set +a
cd /root
mkdir -p /run/lab
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
done
# Whoever shows a guest's console shows the rest of it.
touch /run/lab/over
while ls /run/lab/shown-* >/dev/null 2>&1; do usleep 200000; done
# xl stays behind for each guest, to restart it; what it had to say about that explains a guest that is gone.
for log in /var/log/xen/xl-*.log; do
  [ -s "$log" ] && sed "s|^|# ${log##*/}: |" "$log"
done
printf '\nLAB exit %d\n' $status
