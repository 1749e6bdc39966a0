#!/bin/sh
# guest: what a scenario in dom0 does with guests.
#   guest create NAME pv|pvh|hvm [MEM_MIB] [XL_LINE...]   starts one, with more lines for its xl.cfg; prints its domid
#   guest config NAME pv|pvh|hvm [MEM_MIB] [XL_LINE...]   only writes /etc/xen/NAME.cfg
#   guest wait NAME TEXT SECONDS [TIMES]    until TEXT has been on its console (TIMES times)
#   guest finish NAME SECONDS               until its part of the scenario is over; ends with its status
#   guest tell NAME WORD                    hands a word to the guest's `await`
#   guest log NAME                          its console so far
#   guest follow                            shows what guests' consoles have that was not shown yet
# Every waiting command shows the consoles as they grow, each line behind its guest's name.
folder=/run/lab
mkdir -p $folder

follow() {
  (
    flock 9
    for log in /var/log/xen/guest-*.log; do
      [ -s "$log" ] || continue
      name=${log##*/guest-}
      name=${name%.log}
      read -r shown 2>/dev/null <"$folder/$name.shown" || shown=0
      # Whole lines only: xenconsoled may be in the middle of one.
      lines=$(wc -l <"$log")
      if [ "$lines" -gt "$shown" ]; then
        sed -n "$((shown + 1)),${lines}{s/\r//g;s/^/[$name] /;p}" "$log"
        echo "$lines" >"$folder/$name.shown"
      fi
    done
  ) 9>$folder/lock
}

await() { # NAME TEXT SECONDS [TIMES]
  log=/var/log/xen/guest-$1.log
  tries=$(($3 * 2))
  while [ $tries -gt 0 ]; do
    [ -s "$log" ] && [ "$(grep -c -- "$2" "$log")" -ge "${4:-1}" ] && { follow; return 0; }
    follow
    tries=$((tries - 1))
    usleep 500000
  done
  echo "# guest $1: no '$2' on its console within $3 s"
  return 1
}

config() { # NAME TYPE [MEM_MIB] [XL_LINE...]
  name=$1 type=$2 memory=${3:-160}
  [ $# -gt 3 ] && shift 3 || shift $#
  kernel=/lab/vmlinux
  [ "$type" = hvm ] && kernel=/lab/vmlinuz
  ramdisk=/lab/guest.cpio
  if [ -e "/lab/guest-$name.cpio" ]; then
    ramdisk=$folder/$name.cpio
    cat /lab/guest.cpio "/lab/guest-$name.cpio" >"$ramdisk"
  fi
  {
    echo "name = \"$name\""
    echo "type = \"$type\""
    echo "kernel = \"$kernel\""
    echo "ramdisk = \"$ramdisk\""
    echo "memory = $memory"
    echo "vcpus = 1"
    echo "on_crash = \"destroy\""
    [ "$type" = hvm ] && printf 'vga = "none"\nnographic = 1\nvnc = 0\nserial = "pty"\n'
    echo "extra = \"console=hvc0 quiet lab.name=$name lab.scenario=$LAB_SCENARIO\""
    for line; do echo "$line"; done
  } >"/etc/xen/$name.cfg"
}

command=$1
shift
case $command in
  config) config "$@" ;;
  create)
    config "$@"
    # xl's own remarks go to the run's transcript only when it fails.
    if ! xl create "/etc/xen/$1.cfg" >"$folder/$1.create" 2>&1; then
      sed 's/^/# xl create: /' "$folder/$1.create" >&2
      exit 1
    fi
    xl domid "$name"
    ;;
  wait) await "$@" ;;
  finish)
    await "$1" '^GUEST EXIT' "$2" || exit 1
    exit "$(sed -n 's/\r//g;s/^GUEST EXIT \([0-9]*\)/\1/p' "/var/log/xen/guest-$1.log" | tail -n 1)"
    ;;
  tell) xenstore-write "/local/domain/$(xl domid "$1")/data/lab" "$2" ;;
  log) cat "/var/log/xen/guest-$1.log" ;;
  follow) follow ;;
  *) sed -n '2,10s/^# \{0,1\}//p' "$0" >&2; exit 2 ;;
esac
