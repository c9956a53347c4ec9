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

install() {
    # shellcheck disable=SC2154 # of dracut
    mkdir -p "$initdir/etc/modules-load.d"
    echo cleanslate > "$initdir/etc/modules-load.d/cleanslate.conf"
}
