# shellcheck shell=bash
# Ways from this machine's loopback into the lab.

: "${LAB:?}"

verb_forward() {
  local port=${1:-} to=${2:-} file i
  [[ $port =~ ^[0-9]+$ && $to =~ ^[a-z0-9-]+:[0-9]+$ ]] || usage_error "forward PORT HOST:PORT"
  need_host "${to%:*}"
  file=$LAB/forward-$port
  process_of "$file" >/dev/null && [[ $(cat "$file.to") == "$to" ]] && return
  end_process "$file"
  echo "$to" >"$file.to"
  (
    cd "$LAB/netns"
    env -i PATH="$PATH" NET="${to%:*}" TO="$(address_of "${to%:*}"):${to#*:}" \
      setsid socat "TCP-LISTEN:$port,bind=127.0.0.1,fork,reuseaddr" 'SYSTEM:exec nsenter "--net=$NET" socat - "TCP:$TO"' \
      </dev/null >"$file.log" 2>&1 &
    note_process $! "$file" || true
  )
  for ((i = 0; i < 100; i++)); do
    process_of "$file" >/dev/null || die "cannot listen on 127.0.0.1:$port: $(tail -n 1 "$file.log")"
    [[ -z $(ss -Htln "src 127.0.0.1:$port" 2>/dev/null) ]] || return 0
    sleep 0.02
  done
}

stop_forwards() {
  local f
  for f in "$LAB"/forward-*.to; do
    [[ ! -f ${f%.to} ]] || end_process "${f%.to}" || true
  done
}
