#!/bin/bash
# The first process of a lab host, inside its namespaces: makes the mounts, starts the services and restarts what dies.
#   host-init.sh LAB HOST
# Its command line must not look like a service's: tests kill services by `pkill -f`.
set -euo pipefail

LAB=$1 HOST=$2
UNDERSTUDY=""
# shellcheck disable=SC1091 # written by lab up
source "$LAB/lab.conf"
D=$LAB/$HOST

# /run is a fresh tmpfs, so a power loss leaves no pid files, and sockets of the machine (dbus) are out of sight.
mounts() {
  mount -t tmpfs -o mode=755 tmpfs "$D/run"
  mkdir -p "$D"/run/{lock,libvirt,understudy,lab/console,lab/in,lab/bin}
  mount --bind "$D/console" "$D/run/lab/console"
  cp "$LAB/fence-client" "$D/run/lab/fence"
  if [[ $HOST != control ]]; then
    : >"$D/run/lab/watchdog"
    mount --bind "$D/watchdog" "$D/run/lab/watchdog"
  fi
  if [[ $HOST == control ]]; then
    mkdir -p "$D/run/lab/bmc"
    mount --bind "$LAB/bmc" "$D/run/lab/bmc"
    cp "$LAB/fence_lab" "$D/run/lab/fence_lab"
    : >"$D/run/lab/fence.yaml"
    mount --bind "$LAB/fence.yaml" "$D/run/lab/fence.yaml"
  fi
  mount --bind "$LAB/boot" "$D/lib-libvirt/boot"
  mount -o remount,bind,ro "$D/lib-libvirt/boot"
  mkdir -p /var/lib/understudy /var/lib/libvirt /etc/libvirt /var/log/libvirt /var/cache/libvirt
  mount --bind "$D/understudy" /var/lib/understudy
  mount --rbind "$D/lib-libvirt" /var/lib/libvirt
  mount --bind "$D/etc-libvirt" /etc/libvirt
  mount --bind "$D/log-libvirt" /var/log/libvirt
  mount --bind "$D/cache-libvirt" /var/cache/libvirt
  mount --bind "$LAB/hosts" /etc/hosts
  umount -l /sys
  mount -t sysfs sysfs /sys
  mount --rbind "$D/run" /run
}

# supervise NAME CMD…: starts it again a second after it died; the guard, whose absence a watchdog counts, sooner.
supervise() {
  local name=$1 code pause=1
  shift
  [[ $name != guard ]] || pause=0.2
  while :; do
    echo "$(date +%T.%3N) lab: starting $name"
    code=0
    "$@" || code=$?
    echo "$(date +%T.%3N) lab: $name ended with exit code $code"
    sleep "$pause"
  done >>"$D/log/$name.log" 2>&1
}

# Without certificates (lab up --plain) the folder is not there.
export_tls() {
  [[ ! -f /var/lib/understudy/tls/tls.crt ]] || export UNDERSTUDY_TLS_DIR=/var/lib/understudy/tls
}

agent() {
  until virsh -q list >/dev/null 2>&1; do sleep 0.1; done
  local flags=()
  [[ ! -s $D/agent-flags ]] || read -ra flags <"$D/agent-flags"
  "$UNDERSTUDY" agent --host "$HOST" --temporal-address control:7233 --image-dir /var/lib/libvirt/images "${flags[@]}"
}

server() {
  local join=()
  local flags=()
  [[ ! -s $D/server-flags ]] || read -ra flags <"$D/server-flags"
  [[ -z ${UNDERSTUDY_TLS_DIR:-} ]] || join=(--ui-ip 10.77.0.1 --ca-dir /var/lib/understudy/ca --join-listen :7461)
  UNDERSTUDY_FENCE_CONFIG=/run/lab/fence.yaml "$UNDERSTUDY" server "${join[@]}" --ip 10.77.0.1 --webhook-listen 127.0.0.1:7481 "${flags[@]}"
}

# The device tells no kind: it is a pipe to a process outside (lib/watchdog.sh), which plays the kernel's part.
guard() { "$UNDERSTUDY" guard --watchdog /run/lab/watchdog --watchdog-level 2; }

# The gate is there before libvirtd, which looks for hooks only when it starts; the guard before anybody could start a VM.
start_guard() {
  local i
  "$UNDERSTUDY" guard install-hook >>"$D/log/guard.log" 2>&1
  supervise guard guard &
  for ((i = 0; i < 100; i++)); do
    [[ ! -S /run/understudy/guard.sock ]] || return 0
    sleep 0.05
  done
}

services() {
  if [[ -n $UNDERSTUDY && $HOST != control ]]; then start_guard; fi
  if [[ $HOST != control ]]; then supervise libvirtd libvirtd & fi
  [[ -n $UNDERSTUDY ]] || return 0
  if [[ $HOST == control ]]; then supervise server server & else supervise agent agent & fi
}

hostname "$HOST"
mounts
export_tls
export LIBVIRT_DEFAULT_URI=qemu:///system
services
: >"$D/booted"
# bash reaps whatever is handed to the first process; TERM must not end the host.
trap '' TERM INT HUP
while :; do wait || true; sleep 3600 & wait $! || true; done
