# Shares by the hypervisor's weights: two guests of weights 256 and 512 keep the GPU busy under xen-credit; then dom0
# gives the lighter one 1024. All is measured on the GPU time that backd counts, which emulation does not distort.
# At last, a boost that a killed backd has left is undone.
. /lab/check.sh

backd() { # OPTION...
  vgpu-backd --driver /opt/xen-vgpu/lib/softcuda/libcuda.so.1 "$@" >>/run/backd.log 2>&1 &
  backd=$!
  check "backd answers" retry 60 xl-vgpu list
}

one() { # NAME TYPE WEIGHT
  : >"/etc/xen-vgpu/domains.d/$1.toml"
  start_guest "$1" "$2" 192 "cpu_weight = $3" || return
  check "$1: is ready" guest wait "$1" "ok - kernels end" 300
}

weight() { xl sched-credit2 -d "$1" | awk -v name="$1" '$1 == name { print $3 }'; }
has_weight() { [ "$(weight "$1")" = "$2" ]; }

# stopped_with_boost NAME WEIGHT: stops backd while it boosts the guest.
stopped_with_boost() {
  kill -STOP $backd
  has_weight "$1" "$2" && return
  kill -CONT $backd
  return 1
}

# kernels NAME: GPU time of its kernels so far, in µs, by the statistics on standard input.
kernels() {
  awk -F '[:, ]+' -v name="\"$1\"" '
    $2 == "\"domain\"" { its = $3 == name }
    $2 == "\"kernel_ns\"" && its { printf "%.0f\n", $3 / 1000 }'
}

# measure WEIGHT: gives light this Xen weight, and has what the two get from two seconds after that on, as backd records
# it: $light and $heavy in µs, $known after how many µs backd knew at the latest. Kernels are 80 ms long. Where they
# take much longer, this software CPU has stood still meanwhile, and the measurement means nothing: it is made again, with
# the weight that was set before, and then with this one.
measure() {
  for _ in 1 2 3 4 5; do
    check "xl sched-credit2 -d light -w $1" xl sched-credit2 -d light -w "$1"
    read -r changed _ </proc/uptime
    xl-vgpu record --seconds 14 --out /run/trace 2>/dev/null
    awk -v changed="$changed" -v weight="$1" '
      function number(name, at) {
        at = index($0, "\"" name "\":")
        return at ? substr($0, at + length(name) + 3) + 0 : 0
      }
      /"event":"cpu"/ && number("weight") == weight && !known { known = number("at_ns") }
      /"event":"work"/ && number("start_ns") >= (changed + 2) * 1e9 {
        had[/"domain":"light"/ ? "light" : "heavy"] += number("busy_ns")
        pieces += number("pieces")
      }
      END {
        each = pieces ? (had["light"] + had["heavy"]) / pieces : 0
        printf "%.0f %.0f %.0f %.0f\n", known / 1e3 - changed * 1e6, had["light"] / 1e3, had["heavy"] / 1e3, each / 1e3
      }
    ' /run/trace >/run/measured
    read -r known light heavy each </run/measured
    echo "# weight $1: light had $light µs of the GPU, heavy $heavy µs; a kernel took $each µs"
    [ "$each" -gt 0 ] && [ "$each" -lt 88000 ] && return
    xl sched-credit2 -d light -w "$((1280 - $1))"
    sleep 1
  done
}

both_run() {
  stats=$(xl-vgpu stats --json)
  [ "$(echo "$stats" | kernels light)" -gt 1000000 ] && [ "$(echo "$stats" | kernels heavy)" -gt 1000000 ]
}

# thousandths LIGHT HEAVY: how much more the heavier had.
thousandths() { echo $(($2 * 1000 / ($1 > 0 ? $1 : 1))); }
within() { [ "$1" -ge "$2" ] && [ "$1" -le "$3" ]; }

: >/run/backd.log
backd --policy xen-credit
for guest in $LAB_GUESTS; do
  : "${first:=${guest##*:}}"
  last=${guest##*:}
done
# In a shell of its own, which waits for its own children and not for backd.
(one light "$first" 256 & one heavy "$last" 512 & wait)
check "light has Xen's weight 256" has_weight light 256
check "heavy has Xen's weight 512" has_weight heavy 512

for guest in light heavy; do
  check "$guest: is told" guest tell $guest go
done
check "both use the GPU" retry 60 both_run
# Through libxenctrl, backd can do with every domain what xl can; its workers cannot.
check "backd has the hypervisor open" sh -c "ls -l /proc/$backd/fd | grep -E 'hypercall|privcmd'"
for worker in $(pidof vgpu-worker); do
  refute "worker $worker has not" sh -c "ls -l /proc/$worker/fd | grep -E 'hypercall|privcmd'"
done

measure 256
share=$(thousandths "$light" "$heavy")
check "weights 256 and 512 share the GPU 1000 : $share" within "$share" 1900 2100
measure 1024
check "backd knows the new weight within $((known / 1000)) ms" within "$known" -60000000 2000000
share=$(thousandths "$heavy" "$light")
check "from 2 s after on, weights 1024 and 512 share the GPU $share : 1000" within "$share" 1900 2100
xl-vgpu stats | sed -n 's/^asked/# asked/p'

# Programs end with backd, and are started again in the guests.
kill -9 $backd
wait $backd
backd --policy cosched --cpu-boost 50
check "backd asks for states" retry 60 sh -c "xl-vgpu stats | grep \"processors' states\""
xl-vgpu stats | sed -n 's/^asked/# asked/p'
check "heavy is boosted while its work is on the GPU" retry 120 has_weight heavy 768
check "and light" retry 120 stopped_with_boost light 1536
kill -9 $backd
wait $backd
check "backd is gone, and a boost is not" has_weight light 1536
backd
check "the next backd has undone light's" has_weight light 1024
# One that did not survive this software CPU is just starting again.
check "and heavy's" retry 60 has_weight heavy 512
refute "nothing is written down" test -e /run/xen-vgpu/boost.json

check "xl destroy" sh -c 'xl destroy light && xl destroy heavy'
check "no worker is left" retry 60 sh -c '! pidof vgpu-worker'
check "backd ends when asked to" kill $backd
wait $backd
check "backd ends well" test $? = 0
refute "dom0's kernel has nothing to complain about" kernel_complaints
sed 's/^/# backd: /' /run/backd.log
