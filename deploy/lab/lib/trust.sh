# shellcheck shell=bash
# Certificates of the lab: an authority on the control host, a folder for each host's service, one for whoever uses `lab exec`.

: "${LAB:?}"

# certify makes what is missing. With --plain, or where only libvirtd runs, there is nothing to make.
certify() {
  local h d ca=$LAB/control/understudy/ca
  [[ -n $UNDERSTUDY && -z $PLAIN ]] || return 0
  mkdir -p "$LAB/control/understudy"
  [[ -f $ca/ca.crt ]] || quietly "$UNDERSTUDY" ca init --ca-dir "$ca" --name "lab $LAB_NAME"
  for h in control "${HOSTS[@]}"; do
    d=$LAB/$h/understudy
    mkdir -p "$d"
    if [[ ! -f $d/tls/tls.crt ]]; then
      if [[ $h == control ]]; then
        quietly "$UNDERSTUDY" ca issue --ca-dir "$ca" --out "$d/tls" --address control --address "$(address_of control)" server
      else
        quietly "$UNDERSTUDY" ca issue --ca-dir "$ca" --out "$d/tls" --address "$(address_of "$h")" host "$h"
      fi
      # As understudy join would: the server renews it.
      echo control:7461 >"$d/tls/renew-at"
    fi
    [[ -f $d/operator/tls.crt ]] || quietly "$UNDERSTUDY" ca issue --ca-dir "$ca" --out "$d/operator" operator lab
  done
}

quietly() {
  local out
  out=$("$@" 2>&1) || die "$*: $out"
}
