# shellcheck shell=bash
# The fence device: a process outside all hosts that answers on a socket visible only in the control host. It plays the
# part of the machines' management controllers: it works when a host hangs or is partitioned, and can be made to fail.

: "${LAB:?}" "${LAB_BASE:?}"

start_fence() {
  process_of "$LAB/bmc.process" >/dev/null && return
  mkdir -p "$LAB/bmc"
  (
    # A relative name keeps the socket's path short wherever the lab's folder is. Without -t the answer has half a second, which
    # is not enough on a busy machine.
    cd "$LAB/bmc"
    rm -f sock
    env -i PATH="$PATH" LAB_NAME="$LAB_NAME" LAB_DIR="$LAB" LAB_SCRIPT="$LAB_BASE/lab" \
      setsid socat -t 60 UNIX-LISTEN:sock,fork,mode=0600 'SYSTEM:exec "$LAB_SCRIPT" fence-serve' </dev/null >>"$LAB/bmc.log" 2>&1 9>&- &
    note_process $! "$LAB/bmc.process"
  )
}

stop_fence() {
  [[ -f $LAB/bmc.process ]] || return 0
  end_process "$LAB/bmc.process"
}

# One request on standard input, one answer: "ok WORD", or "failed WHY".
verb_fence_serve() {
  local verb host said
  read -r -t 10 verb host || return 0
  if said=$(verb_fence "$verb" "$host" 2>&1); then echo "ok ${said##*$'\n'}"; else echo "failed ${said//$'\n'/ }"; fi
}

verb_fence() {
  local verb=${1:-} host=${2:-}
  need_host "$host"
  [[ ! -e $LAB/$host/fence-fault ]] || die "the fence device of $host does not answer (lab fence-fault)"
  case $verb in
    # Under the lock, so that a host which is just starting is not taken for one that is off.
    off) with_lock "$LAB/$host/lock" power_off "$host" || die "$host does not die: a process of it hangs in the kernel"; echo off ;;
    on) with_lock "$LAB/$host/lock" power_on "$host"; echo on ;;
    status) with_lock "$LAB/$host/lock" verb_power "$host" ;;
    *) usage_error "fence on|off|status HOST" ;;
  esac
}

# The fence configuration of the server: a fence agent for each host. In place, because the control host has it mounted.
write_fence_config() {
  local h
  {
    echo "version: 1"
    echo "hosts:"
    for h in "${HOSTS[@]}"; do echo "  $h: {agent: /run/lab/fence_lab, options: {plug: $h}, timeout: 20s, retries: 1}"; done
  } >"$LAB/fence.yaml.new"
  cat "$LAB/fence.yaml.new" >"$LAB/fence.yaml"
  rm "$LAB/fence.yaml.new"
}

verb_fence_fault() {
  need_host "${1:-}"
  case ${2:-} in
    --on) : >"$LAB/$1/fence-fault" ;;
    --off) rm -f "$LAB/$1/fence-fault" ;;
    *) usage_error "fence-fault HOST --on|--off" ;;
  esac
}
