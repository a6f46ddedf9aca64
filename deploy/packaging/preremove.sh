#!/bin/sh
# Called with "remove" or "upgrade …" by dpkg; an upgrade keeps everything running until postinstall.
set -e
[ "$1" = remove ] || exit 0
if [ -s /var/lib/understudy/guard/protected.json ] && grep -q '[0-9a-f]\{8\}-' /var/lib/understudy/guard/protected.json; then
  echo "understudy: VMs of this host are still protected (understudy unprotect VM); their guard stays on guard until then" >&2
  exit 1
fi
if [ -d /run/systemd/system ]; then
  for unit in understudy-agent understudy-server understudy-guard; do
    systemctl disable --now "$unit.service" >/dev/null 2>&1 || true
  done
fi
/usr/bin/understudy guard install-hook --remove || true
