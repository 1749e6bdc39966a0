# The product: backd with softcuda in dom0; each guest gets its device from a TOML file and `xl create`, a third by
# `xl-vgpu attach` while it runs. When the guests have ended, nothing of them is left.
. /lab/check.sh

vgpu-backd --driver /opt/xen-vgpu/lib/softcuda/libcuda.so.1 >/run/backd.log 2>&1 &
backd=$!
check "backd answers" retry 60 xl-vgpu list

has_worker() { xl-vgpu list --json | tr -d ' \n' | sed 's/{"name"/\n&/g' | grep "\"name\":\"$1\"," | grep -q '"worker":[0-9]'; }

one() { # NAME TYPE
  : >"/etc/xen-vgpu/domains.d/$1.toml"
  start_guest "$1" "$2" || return
  check "$1: its programs end well" guest finish "$1" 300
  # One of them restarts, and has its device again under its new domid.
  if mkdir /run/reboots 2>/dev/null; then
    check "$1: xl reboot" xl reboot "$1"
    check "$1: its programs end well again" guest wait "$1" '^GUEST EXIT 0;' 300 2
  fi
  # A program is still running in it.
  check "$1: has a worker" retry 30 has_worker "$1"
  check "$1: xl destroy" xl destroy "$1"
}

by_hand() { # NAME TYPE
  start_guest "$1" "$2" || return
  check "$1: has no device" guest wait "$1" "ok - has no device" 240
  check "$1: xl-vgpu attach" xl-vgpu attach "$1"
  refute "$1: xl-vgpu attach again" xl-vgpu attach "$1"
  check "$1: is told" guest tell "$1" go
  check "$1: its programs end well" guest wait "$1" "programs ended with 0;" 300
  check "$1: xl-vgpu detach" xl-vgpu detach "$1"
  check "$1: is told" guest tell "$1" gone
  check "$1: sees its device go" guest finish "$1" 120
  check "$1: xl destroy" xl destroy "$1"
}

refute "attaching a domain that is not there" xl-vgpu attach nobody
# In a shell of its own, which waits for its own children and not for backd.
(by_hand third pv & each_guest one)

check "no worker is left" retry 60 sh -c '! pidof vgpu-worker'
check "no device is left" retry 60 sh -c '[ "$(xl-vgpu list --json)" = "[]" ]'
refute "no node is left in XenStore" sh -c 'xenstore-ls -f | grep -v "^/tool" | grep vgpu'
check "backd is still there" kill -0 $backd
refute "backd holds no grant and no event channel of a guest" sh -c "ls -l /proc/$backd/fd | grep gntdev"
refute "backd has nothing of a guest mapped" grep gntdev /proc/$backd/maps
check "backd ends when asked to" kill $backd
wait $backd
check "backd ends well" test $? = 0
refute "dom0's kernel has nothing to complain about" kernel_complaints
sed 's/^/# backd: /' /run/backd.log
