# shellcheck shell=bash
# Guests: small VMs that promise their data on the console (see guest/).

: "${LAB:?}"

verb_guest() {
  local host=${1:-} name=${2:-} order="" remove="" v
  local -A o=([disk]=512M [data-disk]="" [memory]=256 [workload]=db [format]=qcow2 [rate]="" [working-set]=32M [content]="")
  need_host "$host" libvirt
  [[ $name =~ ^[A-Za-z0-9][A-Za-z0-9_.-]{0,40}$ ]] || usage_error "guest HOST NAME …: \"$name\" cannot name a guest"
  shift 2
  while (($# > 0)); do
    v=${1#--}
    case $1 in
      --remove) remove=1; shift; continue ;;
      --fill) order="fill $(parse_size "${2:?--fill needs a number of bytes}")" ;;
      --run) order="run ${2:?--run needs a program of the guest}" ;;
      --disk | --data-disk | --memory | --workload | --format | --rate | --working-set | --content) o[$v]=${2:?$1 needs a value} ;;
      *) usage_error "guest: \"$1\" is not known" ;;
    esac
    shift 2
  done
  is_on "$host" || die "$host is off: lab boot $host"
  if [[ -n $remove ]]; then
    remove_guest "$host" "$name"
  elif [[ -n $order ]]; then
    order_guest "$host" "$name" "$order"
  else
    check_guest
    make_guest "$host" "$name"
  fi
}

# check_guest judges the options in the caller's array o.
check_guest() {
  [[ ${o[workload]} =~ ^(idle|db|churn)$ ]] || usage_error "--workload is idle, db or churn"
  [[ ${o[format]} =~ ^(qcow2|raw)$ ]] || usage_error "--format is qcow2 or raw"
  [[ ${o[memory]} =~ ^[0-9]+$ ]] && ((o[memory] >= 128)) || usage_error "--memory is a number of MiB, at least 128"
  case ${o[workload]} in
    db) [[ ${o[rate]:=8} =~ ^[0-9]+$ ]] && ((o[rate] >= 1 && o[rate] <= 100)) || usage_error "--rate of db is 1 to 100 rows a second" ;;
    *) o[rate]=$(parse_size "${o[rate]:-256K}") ;;
  esac
  o[working-set]=$(parse_size "${o[working-set]}")
  o[disk]=$(parse_size "${o[disk]}")
  [[ -z ${o[data-disk]} ]] || o[data-disk]=$(parse_size "${o[data-disk]}")
  [[ -z ${o[content]} || -d ${o[content]} ]] || usage_error "--content: \"${o[content]}\" is not a folder"
}

images_of() { echo "$LAB/$1/lib-libvirt/images"; }

# make_disk HOST FILE BYTES FORMAT [CONTENT]: an ext4, empty or with the files of a folder. Nothing is left for the guest's kernel
# to initialize later, so an idle
# guest writes nothing.
make_disk() {
  local raw
  raw=$(images_of "$1")/$2.new
  rm -f "$raw"
  truncate -s "$3" "$raw"
  mke2fs -q -F -t ext4 -m 0 -E lazy_itable_init=0,lazy_journal_init=0 ${5:+-d "$5"} "$raw"
  if [[ $4 == raw ]]; then
    mv "$raw" "$(images_of "$1")/$2"
    return
  fi
  qemu-img convert -f raw -O qcow2 "$raw" "$raw.qcow2"
  mv "$raw.qcow2" "$(images_of "$1")/$2"
  rm "$raw"
}

# make_guest HOST NAME, options in the caller's array o. One that runs is left alone; one that is off is not started: its
# protected copy may run elsewhere.
make_guest() {
  local state kernel initrd file="$2.${o[format]}" data="$2-data.${o[format]}" cmdline
  if state=$(inside "$1" virsh -q domstate "$2" 2>/dev/null); then
    [[ $state != "shut off"* ]] || die "$2 exists on $1 and is off: lab exec $1 virsh start $2, or lab guest $1 $2 --remove"
    echo "$2 exists on $1: ${state%%$'\n'*}" >&2
    return
  fi
  rm -f "$LAB/$1/console/$2.log"
  read -r kernel initrd < <(guest_image)
  [[ -n $initrd ]] || die "the guest's image could not be built"
  make_disk "$1" "$file" "${o[disk]}" "${o[format]}" "${o[content]}"
  [[ -z ${o[data-disk]} ]] || make_disk "$1" "$data" "${o[data-disk]}" "${o[format]}"
  cmdline="console=ttyS0 quiet loglevel=1 nokaslr mitigations=off no_timer_check panic=5"
  cmdline+=" lab.workload=${o[workload]} lab.rate=${o[rate]} lab.ws=${o[working-set]}"
  {
    disk_xml vda "${o[format]}" "$file" "$DISK_CACHE"
    [[ -z ${o[data-disk]} ]] || disk_xml vdb "${o[format]}" "$data" "$DISK_CACHE"
  } | domain_xml "$2" "${o[memory]}" "$kernel" "$initrd" "$cmdline" >"$LAB/$1/run-$2.xml"
  inside "$1" virsh -q define /dev/stdin <"$LAB/$1/run-$2.xml" >/dev/null
  rm "$LAB/$1/run-$2.xml"
  inside "$1" virsh -q start "$2" >/dev/null
}

remove_guest() { # HOST NAME
  if inside "$1" virsh -q dominfo "$2" >/dev/null 2>&1; then
    inside "$1" virsh -q destroy "$2" >/dev/null 2>&1 || true
    # A transient one is gone by now.
    inside "$1" virsh -q undefine "$2" --managed-save --snapshots-metadata --checkpoints-metadata --nvram >/dev/null 2>&1 ||
      ! inside "$1" virsh -q dominfo "$2" >/dev/null 2>&1 || die "$2 cannot be removed from $1: lab exec $1 virsh undefine $2"
  fi
  rm -f "$(images_of "$1")/$2".{qcow2,raw} "$(images_of "$1")/$2-data".{qcow2,raw} "$LAB/$1/console/$2.log"
}

order_guest() { # HOST NAME ORDER: heard by guest/orders.sh
  [[ $(inside "$1" virsh -q domstate "$2" 2>&1) == running* ]] || die "$2 does not run on $1"
  inside "$1" bash "$LAB_BASE/lib/order-client" "/run/lab/in/$2.sock" "$3" || die "$2 did not take the order \"$3\": lab console $1 $2"
}
