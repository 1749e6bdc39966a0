# dom0's prompt, for a person: starts backd and the guests, each with a virtual GPU, then hands over the terminal.
[ -n "$LAB_SIZE" ] && stty $LAB_SIZE 2>/dev/null
export LAB_SCENARIO=shell
vgpu-backd --driver /opt/xen-vgpu/lib/softcuda/libcuda.so.1 >/run/backd.log 2>&1 &
for guest in $LAB_GUESTS; do
  echo "starting guest ${guest%%:*} (${guest##*:})…"
  : >"/etc/xen-vgpu/domains.d/${guest%%:*}.toml"
  guest create "${guest%%:*}" "${guest##*:}" >/dev/null
done
cat <<'HELP'

This is dom0 on the real Xen hypervisor, in a machine of its own.
  xl list                  the domains
  xl console NAME          into a guest, where vectorAdd, matrixMul… are on PATH (leave it with ctrl-])
  xl-vgpu list             the virtual GPUs; vgpu-backd's log is /run/backd.log
  guest create NAME TYPE   one more guest (pv, pvh or hvm), for `xl-vgpu attach NAME`
  guest log NAME           a guest's console
  xenstore-ls -fp          XenStore, with its permissions
  Ctrl-a x                 ends everything

HELP
export PS1='dom0# '
while true; do
  /bin/sh -l
done
