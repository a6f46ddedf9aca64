# shellcheck shell=dash
# Takes orders from the second serial port: `fill BYTES` writes that many bytes that do not compress.
stty -F /dev/ttyS1 raw -echo
fill() {
  mount -o remount,rw /data
  n=0
  while [ -e /data/fill.$n ]; do n=$((n + 1)); done
  if dd if=/dev/urandom of=/data/fill.$n bs=1048576 count="$1" iflag=count_bytes,fullblock status=none && sync; then
    said="FILLED $1"
  else
    said="FILL-FAILED $1"
  fi
  [ "$workload" != idle ] || { mount -o remount,ro /data; }
  echo "$said"
}
workload=$(sed -n 's/.*lab\.workload=\([^ ]*\).*/\1/p' /proc/cmdline)
while read -r order arg; do
  case $order in
    fill) fill "$arg" ;;
    "") ;;
    *) echo "ORDER unknown: $order" ;;
  esac
done </dev/ttyS1
