# shellcheck shell=bash
# The network: one bridge in a namespace of the lab's own, a veth pair to each host. No address or interface is made in
# the machine's own namespace. Namespaces are held by files in the lab's folder, so labs cannot meet by name.

: "${LAB:?}"

net_file() { echo "$LAB/netns/$1"; }

in_net() { # NS CMD…: HOST or "net", the bridge's
  local f
  f=$(net_file "$1")
  shift
  nsenter --net="$f" -- "$@"
}

is_net() { [[ $(stat -f -c %T "$1" 2>/dev/null) == nsfs ]]; }

address_of() {
  case $1 in
    control) echo 10.77.0.1 ;;
    host-?) echo "10.77.0.$((10 + $(printf '%d' "'${1#host-}") - 96))" ;;
  esac
}

make_net() { # NS
  local f
  f=$(net_file "$1")
  is_net "$f" && return
  mkdir -p "$LAB/netns"
  : >"$f"
  unshare --net="$f" true
  in_net "$1" ip link set lo up
}

make_bridge() {
  make_net net
  in_net net ip link show br0 >/dev/null 2>&1 && return
  in_net net ip link add br0 type bridge forward_delay 0
  in_net net ip link set br0 up
}

make_link() { # HOST
  make_net "$1"
  if ! in_net "$1" ip link show eth0 >/dev/null 2>&1; then
    in_net net ip link delete "$1" 2>/dev/null || true
    in_net net ip link add "$1" type veth peer name eth0 netns "$(net_file "$1")"
  fi
  in_net net ip link set "$1" master br0 up
  in_net "$1" ip address replace "$(address_of "$1")/24" dev eth0
  in_net "$1" ip link set eth0 up
}

remove_net() { # NS: kills what still lives in it, then lets it go
  local f p
  f=$(net_file "$1")
  if is_net "$f"; then
    while read -r p; do
      kill -9 "$p" 2>/dev/null || true
    done < <(find /proc/[0-9]*/ns -maxdepth 1 -name net -lname "net:\\[$(stat -L -c %i "$f")\\]" -printf "%h\n" 2>/dev/null | cut -d/ -f3)
    umount -l "$f"
  fi
  rm -f "$f"
}

# --- faults ---

# A whole partition is a pulled cable. One towards a single peer sends the frames for it to an address nobody has: they
# vanish without an error, in both directions.
readonly nobody=02:00:00:00:00:01

lose_frames() { # HOST PEER
  in_net "$1" ip neighbour replace "$(address_of "$2")" lladdr "$nobody" nud permanent dev eth0
}

find_frames() { # HOST PEER
  in_net "$1" ip neighbour delete "$(address_of "$2")" dev eth0 2>/dev/null || true
}

peers_of() {
  local h
  for h in control "${HOSTS[@]}"; do
    [[ $h == "$1" ]] || echo "$h"
  done
}

verb_partition() {
  local host=${1:-} from=""
  need_host "$host"
  case ${2:-} in
    "") ;;
    --from) from=${3:-} ;;
    *) usage_error "partition HOST [--from HOST2|control]" ;;
  esac
  if [[ -z $from ]]; then
    in_net net ip link set "$host" down
    echo all >"$LAB/$host/partition"
    return
  fi
  need_host "$from"
  [[ $from != "$host" ]] || usage_error "a host cannot be cut off from itself"
  lose_frames "$host" "$from"
  lose_frames "$from" "$host"
  grep -qx -e "$from" "$LAB/$host/partition" 2>/dev/null || echo "$from" >>"$LAB/$host/partition"
}

verb_heal() {
  local host=${1:-} peer
  need_host "$host"
  in_net net ip link set "$host" up
  in_net "$host" ip neighbour flush dev eth0 2>/dev/null || true
  while read -r peer; do
    find_frames "$host" "$peer"
    find_frames "$peer" "$host"
    if [[ -f $LAB/$peer/partition ]]; then
      grep -vx -e "$host" "$LAB/$peer/partition" >"$LAB/$peer/partition.new" || true
      mv "$LAB/$peer/partition.new" "$LAB/$peer/partition"
    fi
  done < <(peers_of "$host")
  : >"$LAB/$host/partition"
}

has_netem() { in_net net tc qdisc add dev lo root netem 2>/dev/null && in_net net tc qdisc del dev lo root; }

rate_bytes() { # 10mbit → bytes a second
  [[ $1 =~ ^([0-9]+)([kmg]?)bit$ ]] || usage_error "\"$1\" is not a rate, such as 10mbit"
  local n=${BASH_REMATCH[1]}
  case ${BASH_REMATCH[2]} in
    k) n=$((n * 1000)) ;;
    m) n=$((n * 1000000)) ;;
    g) n=$((n * 1000000000)) ;;
  esac
  echo $((n / 8))
}

shape() { # NS DEV RATE DELAY
  local bytes burst
  if has_netem; then
    in_net "$1" tc qdisc replace dev "$2" root netem ${4:+delay "$4"} ${3:+rate "$3"} limit 10000
    return
  fi
  [[ -z $4 ]] || die "this kernel has no sch_netem, which --delay needs; --rate alone works (by sch_tbf)"
  bytes=$(rate_bytes "$3")
  burst=$((bytes / 50))
  in_net "$1" tc qdisc replace dev "$2" root tbf rate "$3" burst "$((burst < 32768 ? 32768 : burst))" latency 400ms ||
    die "this kernel has neither sch_netem nor sch_tbf: slow does not work here"
}

verb_slow() {
  local host=${1:-} rate="" delay=""
  need_host "$host"
  shift
  if [[ ${1:-} == --off ]]; then
    in_net "$host" tc qdisc del dev eth0 root 2>/dev/null || true
    in_net net tc qdisc del dev "$host" root 2>/dev/null || true
    rm -f "$LAB/$host/slow"
    return
  fi
  while (($# > 0)); do
    case $1 in
      --rate) rate=${2:?--rate needs a value} ;;
      --delay) delay=${2:?--delay needs a value} ;;
      *) usage_error "slow HOST [--rate 10mbit] [--delay 50ms] | --off" ;;
    esac
    shift 2
  done
  [[ -n $rate$delay ]] || usage_error "slow needs --rate, --delay or --off"
  [[ -z $rate ]] || rate_bytes "$rate" >/dev/null
  # Both ends, because a queue shapes only what leaves it.
  shape "$host" eth0 "$rate" "$delay"
  shape net "$host" "$rate" "$delay"
  echo "${rate:+rate $rate }${delay:+delay $delay}" >"$LAB/$host/slow"
}
