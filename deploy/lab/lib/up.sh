# shellcheck shell=bash
# The lab as a whole.

: "${LAB:?}" "${LAB_BASE:?}"

host_names() { # N
  local i
  for ((i = 0; i < $1; i++)); do printf 'host-%b\n' "\\x$(printf %x $((97 + i)))"; done
}

check_understudy() {
  local p
  for p in "$UNDERSTUDY" "$(dirname "$UNDERSTUDY")/understudy-temporal"; do
    [[ -f $p && -x $p ]] || die "$p is not there: make build"
  done
}

verb_up() {
  local n="" understudy="" fresh="" plain=""
  while (($# > 0)); do
    case $1 in
      --hosts) n=${2:?--hosts needs a number}; shift 2 ;;
      --understudy) understudy=$(realpath -m "${2:?--understudy needs a path}"); shift 2 ;;
      --fresh) fresh=1; shift ;;
      --plain) plain=1; shift ;;
      *) usage_error "up [--hosts N] [--understudy PATH] [--fresh] [--plain]" ;;
    esac
  done
  [[ -z $n || $n =~ ^([1-9]|1[0-9]|2[0-6])$ ]] || usage_error "--hosts is a number from 1 to 26"
  check_tools
  mkdir -p "$(dirname "$LAB")"
  [[ -z $fresh ]] || verb_down
  mkdir -p "$LAB"
  check_owner
  with_lock "$LAB/lock" raise "$n" "$understudy" "$plain"
}

# raise makes what is missing, so it also finishes what an interrupted one began.
raise() { # N UNDERSTUDY PLAIN
  local wanted h
  if read_config; then
    [[ -z $2 || $2 == "$UNDERSTUDY" ]] || die "the lab runs with \"${UNDERSTUDY:-only libvirtd}\", not $2: lab up --fresh, or lab down first"
    [[ -z $3 || -n $PLAIN ]] || die "the lab runs with certificates: lab up --fresh --plain, or lab down first"
  else
    PLAIN=$3
  fi
  UNDERSTUDY=${UNDERSTUDY:-$2}
  [[ -z $UNDERSTUDY ]] || check_understudy
  mapfile -t wanted < <(host_names "${1:-${#HOSTS[@]}}")
  ((${#wanted[@]} > 0)) || mapfile -t wanted < <(host_names 2)
  ((${#wanted[@]} >= ${#HOSTS[@]})) || die "the lab has more hosts (${HOSTS[*]}) than ${#wanted[@]}: lab up --fresh, or lab down first"
  HOSTS=("${wanted[@]}")
  furnish
  certify
  make_bridge
  start_fence
  for h in control "${HOSTS[@]}"; do
    prepare_host "$h"
    with_lock "$LAB/$h/lock" power_on "$h"
  done
  for h in control "${HOSTS[@]}"; do wait_host "$h"; done
}

# furnish writes what the hosts find when they start.
furnish() {
  local h
  mkdir -p "$LAB/boot" "$LAB/bmc"
  DISK_CACHE=none
  # Not every file system can do without the page cache.
  dd if=/dev/zero of="$LAB/probe" bs=4096 count=1 oflag=direct status=none 2>/dev/null || DISK_CACHE=writeback
  rm -f "$LAB/probe"
  write_config
  {
    echo "127.0.0.1 localhost"
    for h in control "${HOSTS[@]}"; do echo "$(address_of "$h") $h"; done
  } >"$LAB/hosts.new"
  # In place: hosts that run have it bind-mounted.
  cat "$LAB/hosts.new" >"$LAB/hosts"
  rm "$LAB/hosts.new"
  cp "$LAB_BASE/lib/fence-client" "$LAB_BASE/lib/fence_lab" "$LAB/"
  write_fence_config
}

verb_down() {
  local d f
  if [[ ! -e $LAB ]]; then return; fi
  check_owner
  read_config || true
  stop_forwards
  stop_fence
  for d in "$LAB"/*/; do
    [[ ! -f ${d}watchdog.process ]] || end_process "${d}watchdog.process" || true
    [[ ! -f ${d}init ]] || end_process "${d}init" || echo "lab: $(basename "$d") does not die" >&2
  done
  for f in "$LAB"/netns/*; do
    [[ ! -e $f ]] || remove_net "$(basename "$f")"
  done
  unmount_rest
  rm -rf --one-file-system "$LAB"
}

# Nothing of ours should be mounted out here; what is would be emptied by the removal.
unmount_rest() {
  local m
  while read -r m; do umount -l "$m"; done < <(awk -v p="$LAB/" 'index($5, p) == 1 {print $5}' /proc/self/mountinfo | sort -r)
}

verb_ps() {
  local h f
  read_config || { echo "no lab \"$LAB_NAME\" in $LAB"; return; }
  echo "lab $LAB_NAME in $LAB${UNDERSTUDY:+, $UNDERSTUDY}"
  printf '%-9s %-11s %-5s %-22s %-18s %s\n' HOST ADDRESS POWER NETWORK SERVICES GUESTS
  for h in control "${HOSTS[@]}"; do ps_host "$h"; done
  process_of "$LAB/bmc.process" >/dev/null || echo "the fence device is dead: lab up"
  for f in "$LAB"/forward-*.to; do
    if [[ -f $f ]] && process_of "${f%.to}" >/dev/null; then
      echo "127.0.0.1:$(basename "${f%.to}" | cut -d- -f2) leads to $(cat "$f")"
    fi
  done
}

ps_host() { # HOST
  local power=off net services="" guests=""
  net=$(paste -sd, "$LAB/$1/partition")
  net=${net:+cut off from $net}
  [[ ! -f $LAB/$1/slow ]] || net="${net:+$net, }slow $(cat "$LAB/$1/slow")"
  [[ ! -f $LAB/$1/fence-fault ]] || net="${net:+$net, }fence fails"
  if is_on "$1"; then
    power=on
    services=$(inside "$1" ps -eo args= | awk '$1 ~ /libvirtd$/ {print "libvirtd"} $1 ~ /understudy$/ {print $2} $1 ~ /understudy-temporal$/ {print "temporal"}' | sort -u | paste -sd,)
    [[ $1 == control ]] || guests=$(inside "$1" timeout 5 virsh -q list --all 2>/dev/null | awk '{n=$2; $1=$2=""; sub(/^ +/, ""); printf "%s%s (%s)", sep, n, $0; sep=", "}')
  fi
  printf '%-9s %-11s %-5s %-22s %-18s %s\n' "$1" "$(address_of "$1")" "$power" "${net:-up}" "$services" "$guests"
}
