#!/bin/bash
# cleanslate.ko in the initramfs of a crash kernel, loaded before anything can open /proc/vmcore:
# "dracut_args --add cleanslate" in /etc/kdump.conf. In no other initramfs.
check() {
    return 255
}

installkernel() {
    # shellcheck disable=SC2154 # of dracut
    hostonly='' instmods cleanslate
}

# shellcheck disable=SC2154 # variables of dracut
install() {
    # With systemd in the initramfs and without; modules-load.d has an effect with it alone.
    inst_hook pre-udev 00 "$moddir/load.sh"
    # For dump-parameter.
    mkdir -p "$initdir/etc"
    : > "$initdir/etc/cleanslate-is-loaded"
}
