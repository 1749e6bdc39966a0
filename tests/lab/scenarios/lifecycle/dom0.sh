# Guests as such: they start all at once, restart under a new domid, and end when asked to.
. /lab/check.sh

one() { # NAME TYPE
  domid=$(guest create "$1" "$2") || { echo "not ok - $1: xl create"; return; }
  echo "ok - $1: xl create"
  check "$1: runs as a $2 guest" guest wait "$1" "GUEST UP type" 60
  check "$1: takes a word from dom0" guest tell "$1" go
  check "$1: its program ends well" guest finish "$1" 60
  check "$1: xl reboot" xl reboot "$1"
  check "$1: starts again" guest wait "$1" "GUEST UP type" 60 2
  again=$(xl domid "$1")
  check "$1: has a new domid" test "$again" -gt "$domid"
  check "$1: xl shutdown" xl shutdown -w "$1"
  refute "$1: is gone" xl domid "$1"
}

for guest in $LAB_GUESTS; do
  one "${guest%%:*}" "${guest##*:}" &
done
wait
refute "dom0's kernel has nothing to complain about" kernel_complaints
