# shellcheck shell=bash
# One host: its folder, power, and commands inside. The host is the PID namespace of its init (lib/host-init.sh): when
# the init is killed, the kernel kills everything else of the host before the init is gone.

: "${LAB:?}" "${LAB_BASE:?}"

prepare_host() { # HOST: its folder; what exists is kept
  local d=$LAB/$1
  mkdir -p "$d"/{run,log,console,etc-libvirt/qemu,etc-libvirt/hooks,lib-libvirt/images,lib-libvirt/qemu,lib-libvirt/boot,log-libvirt/qemu,cache-libvirt/qemu,understudy}
  touch "$d/lock" "$d/partition"
  [[ -s $d/host_uuid ]] || cat /proc/sys/kernel/random/uuid >"$d/host_uuid"
  [[ $1 == control ]] || configure_libvirt "$d"
}

configure_libvirt() { # FOLDER
  cat >"$1/etc-libvirt/libvirtd.conf" <<EOF
host_uuid = "$(cat "$1/host_uuid")"
auth_unix_rw = "none"
unix_sock_rw_perms = "0700"
EOF
  cat >"$1/etc-libvirt/qemu.conf" <<'EOF'
stdio_handler = "file"
security_driver = "none"
user = "root"
group = "root"
namespaces = []
cgroup_controllers = []
remember_owner = 0
EOF
}

is_on() { process_of "$LAB/$1/init" >/dev/null; }

power_on() { # HOST, under its lock: returns when its init runs
  local d=$LAB/$1 outer pid i
  is_on "$1" && return
  end_process "$d/watchdog.process" || true
  rm -f "$d/booted" "$d/watchdog"
  mkfifo -m 600 "$d/watchdog"
  make_link "$1"
  # The environment is the same whoever boots it, and no descriptor of ours (the lock!) may live on in it.
  env -i PATH="$PATH" HOME=/run LANG=C.UTF-8 \
    setsid nsenter --net="$(net_file "$1")" -- \
    unshare --pid --fork --kill-child --mount-proc --mount --uts --ipc --propagation private -- \
    bash "$LAB_BASE/lib/host-init.sh" "$LAB" "$1" </dev/null >>"$d/log/init.log" 2>&1 9>&- &
  outer=$!
  for ((i = 0; i < 500; i++)); do
    if pid=$(pgrep -P "$outer" | head -n1) && [[ -n $pid ]]; then
      note_process "$pid" "$d/init"
      [[ $1 == control ]] || start_watchdog "$1"
      return
    fi
    kill -0 "$outer" 2>/dev/null || break
    sleep 0.01
  done
  kill -9 "$outer" 2>/dev/null || true
  die "$1 did not start: $(tail -n 5 "$d/log/init.log")"
}

wait_host() { # HOST: until its init has made its mounts and libvirtd answers
  local i
  for ((i = 0; i < 600; i++)); do
    is_on "$1" || die "$1 died while it started: $(tail -n 5 "$LAB/$1/log/init.log")"
    if [[ -e $LAB/$1/booted ]] && { [[ $1 == control ]] || inside "$1" virsh -q list >/dev/null 2>&1; }; then return; fi
    sleep 0.05
  done
  die "libvirtd of $1 does not answer: lab log $1"
}

power_off() { # HOST: returns when nothing of it lives
  end_process "$LAB/$1/watchdog.process" || true
  end_process "$LAB/$1/init" || return 1
  rm -f "$LAB/$1/booted"
}

inside() { # HOST CMD…: from the root folder, fails when the host is off
  local pid
  pid=$(process_of "$LAB/$1/init") || die "$1 is off: lab boot $1"
  shift
  nsenter -t "$pid" --mount --net --uts --ipc --pid -- "$@"
}

verb_exec() {
  local host=${1:-} pid dir=/ tls=""
  need_host "$host"
  shift
  (($# > 0)) || usage_error "exec HOST CMD…"
  pid=$(process_of "$LAB/$host/init") || die "$host is off: lab boot $host"
  [[ ! -d $PWD ]] || dir=$PWD
  [[ ! -f $LAB/$host/understudy/operator/tls.crt ]] || tls=/var/lib/understudy/operator
  # A caller who is killed leaves nothing running inside.
  exec nsenter -t "$pid" --mount --net --uts --ipc --pid -- setpriv --pdeathsig KILL \
    env -C "$dir" UNDERSTUDY_TEMPORAL_ADDRESS=control:7233 UNDERSTUDY_TLS_DIR="$tls" LIBVIRT_DEFAULT_URI=qemu:///system "$@"
}

verb_crash() {
  need_host "${1:-}"
  with_lock "$LAB/$1/lock" power_off "$1" || die "$1 does not die: a process of it hangs in the kernel"
}

# Everything of the host stands still, as when it sleeps or its own hypervisor stops it; its watchdog with it, like that of a
# machine that sleeps. Its clocks go on: they are those of this machine.
verb_pause() {
  need_host "${1:-}" libvirt
  with_lock "$LAB/$1/lock" end_process "$LAB/$1/watchdog.process" || true
  inside "$1" bash -c 'kill -STOP -1'
}

verb_resume() {
  need_host "${1:-}" libvirt
  inside "$1" bash -c 'kill -CONT -1'
  with_lock "$LAB/$1/lock" start_watchdog "$1"
}

verb_boot() {
  need_host "${1:-}"
  check_tools
  [[ $1 != control ]] || start_fence
  with_lock "$LAB/$1/lock" power_on "$1"
  wait_host "$1"
}

verb_agent_flags() {
  local host=${1:-}
  need_host "$host" libvirt
  shift
  echo "$*" >"$LAB/$host/agent-flags"
}

verb_server_flags() {
  need_host control
  echo "$*" >"$LAB/control/server-flags"
}

verb_power() {
  need_host "${1:-}"
  if is_on "$1"; then echo on; else echo off; fi
}

verb_log() {
  local host=${1:-} lines=60 f
  need_host "$host"
  [[ ${2:-} != --lines ]] || lines=${3:?--lines needs a number}
  for f in "$LAB/$host"/log/*.log; do
    [[ -s $f ]] || continue
    echo "== $(basename "$f" .log) of $host"
    tail -n "$lines" "$f"
  done
}

verb_console() {
  local host=${1:-} name=${2:-} f
  need_host "$host" libvirt
  f=$LAB/$host/console/$name.log
  [[ -f $f ]] || die "$name has no console on $host: lab ps"
  if [[ ${3:-} == --lines ]]; then exec tail -n "${4:?--lines needs a number}" "$f"; fi
  exec tail -n 50 -F "$f"
}
