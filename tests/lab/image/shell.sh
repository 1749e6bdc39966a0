# dom0's prompt, for a person: starts the guests, then hands over the terminal.
[ -n "$LAB_SIZE" ] && stty $LAB_SIZE 2>/dev/null
export LAB_SCENARIO=shell
for guest in $LAB_GUESTS; do
  echo "starting guest ${guest%%:*} (${guest##*:})…"
  guest create "${guest%%:*}" "${guest##*:}" >/dev/null
done
cat <<'HELP'

This is dom0 on the real Xen hypervisor, in a machine of its own.
  xl list                  the domains            guest create NAME pv|pvh|hvm   one more
  xl console NAME          into a guest           (leave it with ctrl-])
  xenstore-ls -fp          XenStore, with its permissions
  Ctrl-a x                 ends everything
HELP
[ -x /opt/xen-vgpu/bin/xl-vgpu ] && echo '  xl-vgpu --help           the virtual GPUs'
echo
export PS1='dom0# '
while true; do
  /bin/sh -l
done
