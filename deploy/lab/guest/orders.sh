# shellcheck shell=dash
# Takes orders from the second serial port and repeats each, so that the sender knows it arrived whole.
# `fill BYTES` writes that many bytes that do not compress and says FILLED on the console.
# `run PATH` runs a program from the guest's disk; what it says goes to the console.
workload=$(sed -n 's/.*lab\.workload=\([^ ]*\).*/\1/p' /proc/cmdline)
stty -F /dev/ttyS1 raw -echo
exec 4<>/dev/ttyS1
: >/run/orders-open # what is sent before would be lost

fill() { # BYTES FILE
  if dd if=/dev/urandom of="$2" bs=1048576 count="$1" iflag=count_bytes,fullblock status=none && sync; then
    said="FILLED $1"
  else
    said="FILL-FAILED $1"
  fi
  # An idle guest must not write afterwards. Refused while another fill goes on, whose end then does it.
  [ "$workload" != idle ] || mount -o remount,ro /data 2>/dev/null
  echo "$said"
}

n=0
while read -r order arg <&4; do
  case $order in
    fill)
      echo "heard $order $arg" >&4
      mount -o remount,rw /data
      while [ -e /data/fill.$n ]; do n=$((n + 1)); done
      : >/data/fill.$n
      fill "$arg" /data/fill.$n &
      ;;
    run)
      echo "heard $order $arg" >&4
      mount -o remount,rw /data
      $arg &
      ;;
    "") ;;
    *) echo "ORDER unknown: $order" ;;
  esac
done
