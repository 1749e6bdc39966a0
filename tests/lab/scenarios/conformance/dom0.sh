# The xen crate's own conformance suite on real grants, event channels and XenStore: dom0 is the backend,
# each guest a frontend, all guests at once.
. /lab/check.sh

one() { # NAME TYPE
  start_guest "$1" "$2" || return
  log=/run/conformance-$1.log
  timeout 240 xen-conformance backend --peer "$domid" >"$log" 2>&1
  status=$?
  sed "s/^ok  */ok - $1: /;s/^FAILED  */not ok - $1: /" "$log"
  check "$1: the backend's part ended well" test $status = 0 || explain_guest "$1"
  check "$1: the backend's last line counts no failure" grep -qE '^[1-9][0-9]* passed, 0 failed' "$log"
  check "$1: the guest's part ended well" guest finish "$1" 120
  check "$1: xl destroy" xl destroy "$1"
}

each_guest one
refute "dom0's kernel has nothing to complain about" kernel_complaints
