# shellcheck shell=dash disable=SC3028 # busybox has RANDOM
# Rewrites random places of the working set at a rate, past the page cache: each write is at the disk when dd ends. A process
# is started for each write, so the block grows with the rate: 4 KiB up to 80 kB/s, then more.
block=4096
while [ $((RATE / block)) -gt 20 ] && [ $block -lt 4194304 ]; do block=$((block * 2)); done
places=$((WORKING_SET / block))
[ $places -ge 1 ] || places=1
echo "CHURN $RATE bytes/s in blocks of $block over $places places"
begun=$(date +%s) written=0
while :; do
  place=$(((RANDOM * 32768 + RANDOM) % places))
  dd if=/dev/urandom of=/data/churn bs=$block count=1 seek=$place oflag=direct conv=notrunc iflag=fullblock status=none || exit
  written=$((written + block))
  ahead=$((written - RATE * ($(date +%s) - begun + 1)))
  if [ $ahead -ge 0 ]; then sleep "$(awk "BEGIN {print $block / $RATE}")"; fi
done
