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

# In a guest: await WORD SECONDS: until dom0 says `guest tell NAME WORD`.
await() {
  # shellcheck disable=SC2317  # called through retry
  told() { [ "$(xenstore-read data/lab 2>/dev/null)" = "$1" ]; }
  retry "$2" told "$1"
}

# Warnings and worse in this domain's kernel log, without those that are there from the start in the lab.
kernel_complaints() { dmesg | grep -E 'BUG|WARNING|Bad page|Oops|Call Trace|unable to handle'; }
