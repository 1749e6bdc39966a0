# Guests as such: they start all at once, restart under a new domid, and end when asked to.
. /lab/check.sh

one() { # NAME TYPE
  start_guest "$1" "$2" || return
  check "$1: takes a word from dom0" guest tell "$1" go
  check "$1: its program ends well" guest finish "$1" 240
  check "$1: xl reboot" xl reboot "$1"
  check "$1: starts again" guest wait "$1" "GUEST UP" 240 2
  check "$1: has a new domid" test "$(xl domid "$1")" -gt "$domid"
  check "$1: xl shutdown" xl shutdown -w "$1"
  # An HVM guest's device model takes a moment longer.
  check "$1: is gone" retry 60 sh -c "! xl domid $1"
}

each_guest one
refute "dom0's kernel has nothing to complain about" kernel_complaints
