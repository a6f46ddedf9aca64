# shellcheck shell=bash
# The domain XML of a guest. Every path in it is valid on every host of the lab and leads to that host's own folder.

disk_xml() { # TARGET FORMAT FILE CACHE
  cat <<EOF
    <disk type='file' device='disk'>
      <driver name='qemu' type='$2' cache='$4' discard='unmap'/>
      <source file='/var/lib/libvirt/images/$3'/>
      <target dev='$1' bus='virtio'/>
    </disk>
EOF
}

# domain_xml NAME MEMORY_MIB KERNEL INITRD CMDLINE; the disks' XML comes on standard input. The first serial port is the
# console, a file that outlives reboots; the second takes orders (guest/orders.sh).
domain_xml() {
  cat <<EOF
<domain type='qemu'>
  <name>$1</name>
  <memory unit='MiB'>$2</memory>
  <vcpu>1</vcpu>
  <os>
    <type arch='x86_64' machine='q35'>hvm</type>
    <kernel>/var/lib/libvirt/boot/$3</kernel>
    <initrd>/var/lib/libvirt/boot/$4</initrd>
    <cmdline>$5</cmdline>
  </os>
  <features><acpi/><apic/></features>
  <clock offset='utc'/>
  <on_poweroff>destroy</on_poweroff>
  <on_reboot>restart</on_reboot>
  <on_crash>destroy</on_crash>
  <devices>
    <emulator>/usr/bin/qemu-system-x86_64</emulator>
$(cat)
    <serial type='file'>
      <source path='/run/lab/console/$1.log' append='on'/>
      <target type='isa-serial' port='0'/>
    </serial>
    <serial type='unix'>
      <source mode='bind' path='/run/lab/in/$1.sock'/>
      <target type='isa-serial' port='1'/>
    </serial>
    <console type='file'>
      <source path='/run/lab/console/$1.log' append='on'/>
      <target type='serial' port='0'/>
    </console>
    <controller type='usb' model='none'/>
    <memballoon model='none'/>
  </devices>
</domain>
EOF
}
