#!/bin/sh
# Nothing is started by installing: which of the three services a machine needs is the administrator's choice.
set -e
# The start gate of libvirt passes every VM that is not protected. libvirtd reads a new one only when it starts; the VMs go on.
if [ -d /etc/libvirt ]; then
  case $(/usr/bin/understudy guard install-hook || true) in
    *restart*) if [ -d /run/systemd/system ]; then systemctl try-restart libvirtd.service virtqemud.service || true; fi ;;
  esac
fi
if [ -d /run/systemd/system ]; then
  systemctl daemon-reload || true
  # An upgrade restarts what runs. The guard comes first: it reads its deadlines back and loses none.
  for unit in understudy-guard understudy-agent understudy-server; do
    if systemctl --quiet is-active "$unit.service"; then systemctl restart "$unit.service" || true; fi
  done
fi
