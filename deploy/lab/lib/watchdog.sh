# shellcheck shell=bash
# The watchdog of a host: a process outside of it that reads the pipe which the host's guard feeds, and cuts the power when
# nothing came for five seconds. It stands in for the reset by a watchdog device; a host that was reset stays off here.

: "${LAB:?}" "${LAB_BASE:?}"

readonly bite=5

start_watchdog() { # HOST
  env -i PATH="$PATH" LAB_NAME="$LAB_NAME" LAB_DIR="$LAB" \
    setsid bash "$LAB_BASE/lab" watchdog-serve "$1" </dev/null >>"$LAB/$1/log/watchdog.log" 2>&1 9>&- &
  note_process $! "$LAB/$1/watchdog.process" || true
}

# From the first byte on it wants one every five seconds; a V disarms it, as with a device.
verb_watchdog_serve() {
  local host=${1:-} init byte armed=""
  need_host "$host" libvirt
  init=$(cat "$LAB/$host/init")
  exec 8<>"$LAB/$host/watchdog"
  while [[ $(cat "$LAB/$host/init") == "$init" ]] && is_on "$host"; do
    if IFS= read -r -n 1 -t "$bite" byte <&8; then
      armed=1
      [[ $byte != V ]] || armed=""
    elif [[ -n $armed ]]; then
      echo "$(date +%T.%3N) lab: $host was not fed for $bite s: reset"
      end_process "$LAB/$host/init"
      rm -f "$LAB/$host/booted"
      return
    fi
  done
}
