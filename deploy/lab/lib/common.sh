# shellcheck shell=bash
# What all verbs share: errors, arguments, identity of processes, locks, the lab's own record.

: "${LAB:?}" "${LAB_NAME:?}" "${LAB_BASE:?}"

die() {
  echo "lab: $*" >&2
  exit 1
}

usage_error() {
  echo "lab: $*; see lab help" >&2
  exit 64
}

check_name() {
  [[ $LAB_NAME =~ ^[a-z0-9][a-z0-9-]{0,31}$ ]] || usage_error "LAB_NAME \"$LAB_NAME\": lower-case letters, digits and dashes, at most 32"
  [[ $LAB == /* ]] || LAB=$PWD/$LAB
}

check_root() {
  ((EUID == 0)) || die "needs root: it makes namespaces and starts libvirtd"
}

# The folder may lie in a world-writable one: what somebody else made there is not used.
check_owner() {
  [[ -O $LAB && ! -L $LAB ]] || die "$LAB exists and belongs to somebody else: remove it, or set LAB_DIR"
}

check_tools() {
  local tool missing=()
  for tool in ip tc unshare nsenter setpriv socat flock libvirtd virsh qemu-system-x86_64 qemu-img mke2fs busybox cpio sqlite3 modprobe pgrep; do
    command -v "$tool" >/dev/null || missing+=("$tool")
  done
  ((${#missing[@]} == 0)) || die "missing programs: ${missing[*]}; run deploy/setup/install-deps (make deps)"
}

# --- processes are named by pid and start time, because pids are used again ---

started_at() { # PID: start time in ticks; fails when it is gone, or dead and waits to be reaped
  local line rest
  line=$(cat "/proc/$1/stat" 2>/dev/null) || return 1
  rest=${line##*) }
  [[ $rest != [ZX]* ]] || return 1
  # shellcheck disable=SC2086 # split on purpose
  set -- $rest
  echo "${20}"
}

note_process() { # PID FILE
  local at
  at=$(started_at "$1") || return 1
  echo "$1 $at" >"$2.new"
  mv "$2.new" "$2"
}

process_of() { # FILE: the pid, if that very process lives
  local pid at
  read -r pid at 2>/dev/null <"$1" || return 1
  [[ $(started_at "$pid") == "$at" ]] || return 1
  echo "$pid"
}

end_process() { # FILE: kills it and returns when it is gone
  local pid i
  for ((i = 0; i < 1000; i++)); do
    pid=$(process_of "$1") || return 0
    if ((i % 100 == 0)); then kill -9 "$pid" 2>/dev/null || true; fi
    sleep 0.01
  done
  return 1
}

with_lock() { # FILE CMD…: one at a time, in a subshell: the lock ends with it, also when we are killed
  (
    exec 9>"$1"
    flock -w 60 9 || die "somebody else holds $1"
    "${@:2}"
  )
}

# --- the lab's own record ---

HOSTS=()
UNDERSTUDY=""
PLAIN=""
DISK_CACHE=none

write_config() {
  mkdir -p "$LAB"
  {
    printf 'HOSTS=(%s)\n' "${HOSTS[*]}"
    printf 'UNDERSTUDY=%q\n' "$UNDERSTUDY"
    printf 'PLAIN=%q\n' "$PLAIN"
    printf 'DISK_CACHE=%q\n' "$DISK_CACHE"
  } >"$LAB/lab.conf.new"
  mv "$LAB/lab.conf.new" "$LAB/lab.conf"
}

read_config() {
  [[ -f $LAB/lab.conf ]] || return 1
  check_owner
  # shellcheck disable=SC1091 # written by us
  source "$LAB/lab.conf"
}

need_lab() {
  read_config || die "there is no lab \"$LAB_NAME\" in $LAB: lab up"
}

# need_host NAME [libvirt]: a host of this lab; with "libvirt" not the control host.
need_host() {
  local h
  need_lab
  for h in "${HOSTS[@]}"; do
    [[ $h != "${1:-}" ]] || return 0
  done
  [[ ${1:-} == control && ${2:-} != libvirt ]] && return 0
  usage_error "\"${1:-}\" is not a host of lab \"$LAB_NAME\": ${HOSTS[*]}"
}

parse_size() { # 512M → bytes
  local n=$1
  [[ $n =~ ^[0-9]+[KMGkmg]?(i?[Bb])?$ ]] || usage_error "\"$1\" is not a size, such as 512M"
  numfmt --from=iec "$(sed -E 's/i?[Bb]$//' <<<"${n^^}" | sed -E 's/I?B$//')"
}
