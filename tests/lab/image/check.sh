# For scenario scripts, in dom0 and in guests. Each check is one line, "ok - WHAT" or "not ok - WHAT"; whoever
# started the run counts them.

# check WHAT COMMAND...: ok if the command succeeds; shows what it printed if not.
check() {
  what=$1
  shift
  if output=$("$@" 2>&1); then
    echo "ok - $what"
  else
    status=$?
    printf '%s\n' "$output" | sed 's/^/# /'
    echo "not ok - $what (status $status: $*)"
    return 1
  fi
}

# refute WHAT COMMAND...: ok if the command fails.
refute() {
  what=$1
  shift
  if output=$("$@" 2>&1); then
    printf '%s\n' "$output" | sed 's/^/# /'
    echo "not ok - $what (succeeded: $*)"
    return 1
  else
    echo "ok - $what"
  fi
}

# retry SECONDS COMMAND...: until the command succeeds.
retry() {
  tries=$(($1 * 5))
  shift
  until "$@"; do
    tries=$((tries - 1))
    [ $tries -gt 0 ] || return 1
    usleep 200000
  done
}

# output NAME: hands standard input to whoever started the run, as text.
output() { sed "s/^/LABOUT $1 /"; }

# In dom0: each_guest FUNCTION: calls `FUNCTION NAME TYPE` for each of the run's guests, all at once.
each_guest() {
  for guest in $LAB_GUESTS; do
    "$1" "${guest%%:*}" "${guest##*:}" &
  done
  wait
}

# In dom0: start_guest NAME TYPE [MEM_MIB] [XL_LINE...]: starts one and waits until it runs; $domid is its domid.
start_guest() {
  if domid=$(guest create "$@"); then
    echo "ok - $1: xl create"
  else
    echo "not ok - $1: xl create"
    return 1
  fi
  check "$1: runs as a $2 guest" guest wait "$1" "GUEST UP" 240 || { explain_guest "$1"; return 1; }
  # Its domid says whether it is still the one that was started.
  check "$1: is there" test "$(xl domid "$1")" = "$domid" || { explain_guest "$1"; return 1; }
}

# In dom0: explain_guest NAME: what Xen knows of a guest that did not do what it should have: whether its processor runs,
# where it stands, which of its events are pending or masked.
explain_guest() {
  # The keys ask Xen for its domains, their registers and their event channels; the answer is in its log.
  xl dmesg -c >/dev/null
  { xl vcpu-list; xl debug-keys q; xl debug-keys d; xl debug-keys e; xl dmesg; } 2>&1 | sed "s/^/# $1: /"
}

# In a guest: await WORD SECONDS: until dom0 says `guest tell NAME WORD`.
await() { retry "$2" told "$1"; }
told() { [ "$(xenstore-read data/lab 2>/dev/null)" = "$1" ]; }

# In either: what this domain's kernel has logged that no kernel should.
kernel_complaints() { dmesg | grep -E 'BUG|WARNING|Bad page|Oops|Call Trace|unable to handle'; }
