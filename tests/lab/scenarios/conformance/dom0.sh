# The xen crate's own conformance suite on real grants, event channels and XenStore: dom0 is the backend,
# each guest a frontend, all guests at once.
. /lab/check.sh

one() { # NAME TYPE
  name=$1
  domid=$(guest create "$name" "$2") || { echo "not ok - $2: xl create"; return; }
  echo "ok - $2: xl create"
  timeout 120 xen-conformance backend --peer "$domid" >"/run/conformance-$2.log" 2>&1
  status=$?
  check "$2: the guest's part ended well" guest_part "$name"
  sed "s/^/[dom0 $2] /" "/run/conformance-$2.log"
  check "$2: the backend's part ended well" test $status = 0
  check "$2: the backend's last line counts no failure" grep -qE '^[1-9][0-9]* passed, 0 failed' "/run/conformance-$2.log"
  check "$2: xl destroy" xl destroy "$name"
}

guest_part() { guest finish "$1" 60; }

for guest in $LAB_GUESTS; do
  one "${guest%%:*}" "${guest##*:}" &
done
wait
refute "dom0's kernel has nothing to complain about" kernel_complaints
