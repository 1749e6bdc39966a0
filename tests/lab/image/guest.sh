#!/bin/sh
# A guest, once its init is up: its part of the scenario that its kernel's command line names, or a prompt.
# It stays up afterwards until dom0 shuts it down or destroys it.
for word in $(cat /proc/cmdline); do
  case $word in
    lab.name=*) LAB_NAME=${word#lab.name=} ;;
    lab.scenario=*) LAB_SCENARIO=${word#lab.scenario=} ;;
  esac
done
PATH=/opt/xen-vgpu/bin:/usr/bin:/bin:/usr/sbin:/sbin HOME=/root LD_LIBRARY_PATH=/opt/xen-vgpu/lib
export LAB_NAME LAB_SCENARIO PATH HOME LD_LIBRARY_PATH
cd /root
read -r up _ </proc/uptime
read -r type </sys/hypervisor/guest_type
echo "GUEST UP type $type uptime $up"
if [ "$LAB_SCENARIO" = shell ]; then
  vgpu-frontd >/run/frontd.log 2>&1 &
  while true; do /bin/sh -l; done
fi
/bin/sh "/lab/scenarios/$LAB_SCENARIO/guest.sh"
echo "GUEST EXIT $?;"
