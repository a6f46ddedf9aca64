# shellcheck shell=bash
# The guest's kernel and initramfs: Debian's cloud kernel, busybox and sqlite3 of this machine. The initramfs is the
# guest's root; it is built once for each kernel and each state of deploy/lab/guest, and shared by all labs.

: "${LAB:?}" "${LAB_BASE:?}"

LAB_CACHE=${LAB_CACHE:-/var/cache/understudy-lab}

guest_kernel() { # newest cloud kernel whose modules are here
  local v
  while read -r v; do
    [[ -d /lib/modules/$v ]] && echo "$v" && return
  done < <(find /boot -maxdepth 1 -name 'vmlinuz-*-cloud-amd64' -printf '%f\n' | sed 's/^vmlinuz-//' | sort -rV)
  die "no cloud kernel: run deploy/setup/install-deps (linux-image-cloud-amd64)"
}

guest_modules() { # VERSION: paths in the order of insertion, each once
  local m
  for m in virtio_pci virtio_blk ext4 crc32c_generic; do
    modprobe -S "$1" --show-depends "$m"
  done | awk '$1 == "insmod" && !seen[$2]++ {print $2}'
}

copy_program() { # ROOT PATH: with its libraries
  local f
  while read -r f; do
    install -D "$f" "$1$f"
  done < <(echo "$2"; ldd "$2" | grep -o '/[^ )]*')
}

build_initrd() { # VERSION OUTPUT
  local root m n=100
  root=$(mktemp -d)
  mkdir -p "$root"/{bin,dev,proc,sys,run,data,data2,modules,lab}
  install "$(command -v busybox)" "$root/bin/busybox"
  copy_program "$root" "$(command -v sqlite3)"
  install "$LAB_BASE"/guest/*.sh "$root/lab/"
  install "$LAB_BASE/guest/init" "$root/init"
  while read -r m; do
    n=$((n + 1))
    case $m in
      *.xz) xz -dc "$m" >"$root/modules/$n.ko" ;;
      *.zst) zstd -dqc "$m" >"$root/modules/$n.ko" ;;
      *) cp "$m" "$root/modules/$n.ko" ;;
    esac
  done < <(guest_modules "$1")
  (cd "$root" && find . | cpio --quiet -o -H newc -R 0:0) >"$2.$$"
  mv "$2.$$" "$2"
  rm -rf "$root"
}

# guest_image puts vmlinuz and initrd into the lab's boot folder, which every host sees as /var/lib/libvirt/boot. Names
# carry the content's digest: a guest defined earlier keeps what it was defined with. Prints the names.
guest_image() {
  local version key
  version=$(guest_kernel)
  key=$({ echo "$version"; cat "$LAB_BASE"/guest/* "$LAB_BASE/lib/image.sh" "$(command -v busybox)" "$(command -v sqlite3)"; } | sha256sum | cut -c1-12)
  mkdir -p "$LAB_CACHE"
  [[ -O $LAB_CACHE ]] || die "$LAB_CACHE belongs to somebody else: set LAB_CACHE"
  [[ -s $LAB_CACHE/initrd-$key ]] || build_initrd "$version" "$LAB_CACHE/initrd-$key"
  share_file "/boot/vmlinuz-$version" "vmlinuz-$version"
  share_file "$LAB_CACHE/initrd-$key" "initrd-$key"
  echo "vmlinuz-$version initrd-$key"
}

share_file() { # PATH NAME
  [[ -s $LAB/boot/$2 ]] && return
  cp "$1" "$LAB/boot/$2.$$"
  mv "$LAB/boot/$2.$$" "$LAB/boot/$2"
}
