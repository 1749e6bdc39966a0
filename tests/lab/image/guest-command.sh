#!/bin/sh
# guest: what a scenario in dom0 does with guests.
#   guest create NAME pv|pvh|hvm [MEM_MIB] [XL_LINE...]   starts one, with more lines for its xl.cfg; prints its domid
#   guest config NAME pv|pvh|hvm [MEM_MIB] [XL_LINE...]   only writes /etc/xen/NAME.cfg
#   guest wait NAME TEXT SECONDS [TIMES]    until TEXT has been on its console (TIMES times)
#   guest finish NAME SECONDS               until its part of the scenario is over; ends with its status
#   guest tell NAME WORD                    hands a word to the guest's `await`
#   guest log NAME                          its console so far
# What is on a guest's console is shown on dom0's as it comes, each line behind the guest's name.
folder=/run/lab

# Shows one guest's console until the run ends. It reads on where the log has grown, and starts no process for it.
follow() { # NAME
  [ -p $folder/quiet ] || mkfifo $folder/quiet 2>/dev/null
  exec 3<"/var/log/xen/guest-$1.log" 4<>$folder/quiet
  part=
  while true; do
    if IFS= read -r line <&3; then
      echo "[$1] ${part}${line%$return}"
      part=
    else
      part=$part$line
      [ -e $folder/over ] && { rm "$folder/shown-$1"; break; }
      read -r -t 0.5 line <&4
    fi
  done
}
return=$(printf '\r')

# Its console since it was created: an earlier scenario may have had a guest of the same name.
console() { tail -n "+$(($(cat "$folder/$1.from" 2>/dev/null || echo 0) + 1))" "/var/log/xen/guest-$1.log"; }

await() { # NAME TEXT SECONDS [TIMES]
  tries=$(($3 * 2))
  while [ $tries -gt 0 ]; do
    [ "$(console "$1" 2>/dev/null | grep -c -- "$2")" -ge "${4:-1}" ] && return 0
    tries=$((tries - 1))
    usleep 500000
  done
  echo "# guest $1: no '$2' on its console within $3 s"
  return 1
}

config() { # NAME TYPE [MEM_MIB] [XL_LINE...]
  name=$1 type=$2 memory=${3:-192}
  [ $# -gt 3 ] && shift 3 || shift $#
  log=/var/log/xen/guest-$name.log
  if [ ! -e "$log" ]; then
    : >"$log"
    # A person at the prompt looks for themselves.
    if [ "$LAB_SCENARIOS" != shell ]; then
      touch "$folder/shown-$name"
      # exec, so that no copy of our own output stays open: whoever reads that would wait for this shell's end.
      (exec >/dev/console 2>&1 </dev/null; follow "$name") &
    fi
  fi
  ramdisk=/lab/guest.cpio
  if [ -e "/lab/guest-$name.cpio" ]; then
    ramdisk=$folder/$name.cpio
    cat /lab/guest.cpio "/lab/guest-$name.cpio" >"$ramdisk"
  fi
  options="console=hvc0 quiet loglevel=3 $LAB_KERNEL lab.name=$name lab.scenario=$LAB_SCENARIO"
  {
    echo "name = \"$name\""
    echo "type = \"$type\""
    echo "memory = $memory"
    echo "vcpus = 1"
    echo "on_crash = \"destroy\""
    # QEMU's clock is the same on all processors, but does not say so: Xen would emulate every look at it, which is slow,
    # and at which PVH guests triple-fault now and then.
    echo "tsc_mode = \"native\""
    if [ "$type" = hvm ]; then
      # The device model places kernel and file system in the guest's memory itself; the firmware gets only the
      # kernel's set-up code, told the size of the file system. No graphics, and not nographic=1 either: with that
      # the firmware writes to a serial line, which takes minutes here.
      size=$(wc -c <"$ramdisk")
      {
        cat /lab/hvm-setup
        # shellcheck disable=SC2059  # the escapes are the data
        printf "$(printf '\\%03o\\%03o\\%03o\\%03o' $((size & 255)) $((size >> 8 & 255)) $((size >> 16 & 255)) $((size >> 24)))"
        cat /lab/hvm-jump
      } >"$folder/$name.kernel"
      echo "kernel = \"$folder/$name.kernel\""
      echo "device_model_args_hvm = [ \"-device\", \"loader,file=/lab/hvm-kernel,addr=$LAB_HVM_KERNEL,force-raw=on\","
      echo "  \"-device\", \"loader,file=$ramdisk,addr=$LAB_HVM_FILES,force-raw=on\" ]"
      printf 'vga = "none"\nvnc = 0\n'
    else
      echo 'kernel = "/lab/vmlinux"'
      echo "ramdisk = \"$ramdisk\""
    fi
    echo "extra = \"$options\""
    for line; do echo "$line"; done
  } >"/etc/xen/$name.cfg"
}

command=$1
shift
case $command in
  config) config "$@" ;;
  create)
    config "$@"
    wc -l <"/var/log/xen/guest-$1.log" >"$folder/$1.from"
    # xl's own remarks go to the run's transcript only when it fails.
    if ! xl create "/etc/xen/$1.cfg" >"$folder/$1.create" 2>&1; then
      sed 's/^/# xl create: /' "$folder/$1.create" >&2
      exit 1
    fi
    xl domid "$name"
    ;;
  wait) await "$@" ;;
  finish)
    await "$1" '^GUEST EXIT [0-9]*;' "$2" || exit 1
    exit "$(console "$1" | sed -n 's/\r//g;s/^GUEST EXIT \([0-9]*\);/\1/p' | tail -n 1)"
    ;;
  tell) xenstore-write "/local/domain/$(xl domid "$1")/data/lab" "$2" ;;
  log) console "$1" ;;
  *) sed -n '2,8s/^# \{0,1\}//p' "$0" >&2; exit 2 ;;
esac
