//! The root file system of a Linux that is booted: busybox, a script as `/init`, modules. A cpio archive in the "newc" format, by
//! hand, because `cpio` would be one tool more to install.

use std::path::Path;

use anyhow::{Context, Result};

/// What `/init` does: loads what modules there are, brings TDX up and builds TDs if it is told to (`cleanslate.tds=N`), says what is
/// private and that user space is there; then it reads the dump of the kernel that crashed before it (`cleanslate.dump`), jumps into the
/// next Linux (`cleanslate.kexec=NEXT`), crashes (`cleanslate.crash`, before which `cleanslate.wild` lets a wild pointer loose), or ends the
/// machine. `cleanslate.tries` tries what must be refused. `cleanslate.late` loads cleanslate.ko last. `cleanslate.MODULE=A,B` are a module's parameters, `cleanslate.next=A,B` words for the next Linux.
const INIT: &str = r#"#!/bin/busybox sh
/bin/busybox --install -s /bin
export PATH=/bin
mount -t proc proc /proc
mount -t sysfs sys /sys
mount -t devtmpfs dev /dev 2> /dev/null
exec > /dev/ttyS0 2>&1
option() { grep -q "cleanslate\.$1" /proc/cmdline; }
value() { tr ' ' '\n' < /proc/cmdline | sed -n "s/^cleanslate\.$1=//p"; }

late=
for module in /modules/*.ko /modules/last/*.ko; do
    [ -e "$module" ] || continue
    if option late && [ "$module" = /modules/cleanslate.ko ]; then
        late=$module
        continue
    fi
    insmod "$module" $(value "$(basename "$module" .ko)" | tr , ' ') && echo "linux: loaded $module"
done
[ -n "$late" ] && insmod "$late" && echo "linux: loaded $late"
if [ -e /dev/cleanslate ] && option tds=; then
    echo up > /dev/cleanslate && echo "linux: TDX is up"
    number=0
    while [ $number -lt "$(value tds)" ]; do
        set -- runnable half-built gone half-gone
        shift $((number % 4))
        echo "td $1" > /dev/cleanslate && echo "linux: TD $number, $1"
        number=$((number + 1))
    done
fi
if [ -d /sys/kernel/cleanslate ]; then
    for file in /sys/kernel/cleanslate/* /sys/kernel/cleanslate/pages/*; do
        [ -f "$file" ] && echo "linux: cleanslate: ${file#/sys/kernel/cleanslate/} $(cat "$file")"
    done
fi
if option hotplug; then
    online=/sys/devices/system/cpu/cpu1/online
    echo 0 > $online && echo 1 > $online && echo "linux: CPU 1 went and came back"
fi
if option tries; then
    echo 0 > /proc/sys/kernel/ftrace_enabled 2> /dev/null || echo "linux: ftrace stays on"
    rmmod cleanslate 2> /dev/null || echo "linux: rmmod is refused"
    echo freeze > /sys/power/state 2> /dev/null || echo "linux: sleep is refused"
    online=/sys/devices/system/cpu/cpu1/online
    echo 0 > $online && echo 1 > $online && echo "linux: CPU 1 went and came back"
    echo "td runnable" > /dev/cleanslate
fi
echo "linux: $(grep -o -m 1 tdx_pw_mce /proc/cpuinfo || echo "no tdx_pw_mce") in /proc/cpuinfo"
echo "linux: user space, $(uname -r), $(grep -c ^processor /proc/cpuinfo) CPUs"
line="console=ttyS0 panic=-1 nokaslr rdinit=/init"
if option dump; then
    echo "linux: the dump has $(dd if=/proc/vmcore bs=1M 2> /dev/null | wc -c) of $(stat -c %s /proc/vmcore) bytes"
elif option kexec=; then
    next=/next/$(value kexec)
    echo "linux: kexec"
    /next/jump $next/bzImage $next/initrd "$line $(value next | tr , ' ')"
elif option crash; then
    /next/jump -p /next/self/bzImage /next/self/initrd "$line nr_cpus=1 cleanslate.dump" && echo "linux: crash kernel loaded"
    if option wild; then
        while read -r base end; do
            insmod /next/cleanslate_wild.ko address="$base" pages=$(((end - base) / 4096 < 16 ? (end - base) / 4096 : 16))
            rmmod cleanslate_wild
        done < /sys/kernel/cleanslate/pamt
    fi
    echo "linux: crash"
    echo c > /proc/sysrq-trigger
fi
poweroff -f
"#;

struct Archive {
    bytes: Vec<u8>,
    inode: u32,
}

impl Archive {
    fn add(&mut self, name: &str, mode: u32, device: (u32, u32), data: &[u8]) {
        self.inode += 1;
        let fields =
            [self.inode, mode, 0, 0, 1, 0, data.len() as u32, 0, 0, device.0, device.1, name.len() as u32 + 1, 0];
        self.bytes.extend(b"070701");
        for field in fields {
            self.bytes.extend(format!("{field:08X}").bytes());
        }
        self.bytes.extend(name.bytes());
        self.bytes.push(0);
        self.pad();
        self.bytes.extend(data);
        self.pad();
    }

    fn pad(&mut self) {
        self.bytes.resize(self.bytes.len().next_multiple_of(4), 0);
    }
}

const DIRECTORY: u32 = 0o40755;
const PROGRAM: u32 = 0o100_755;
const CHARACTER_DEVICE: u32 = 0o20600;

/// A program or a file of a root file system: where it goes, and what it is.
pub(super) type Entry<'p> = (&'p str, &'p Path);

/// Writes a root file system: busybox, `/init`, and these files.
pub(super) fn write(path: &Path, busybox: &Path, files: &[Entry<'_>]) -> Result<()> {
    let read = |path: &Path| std::fs::read(path).with_context(|| format!("cannot read {}", path.display()));
    let mut archive = Archive { bytes: Vec::new(), inode: 0 };
    for directory in ["dev", "proc", "sys", "bin", "modules", "modules/last", "next", "next/self", "next/stock"] {
        archive.add(directory, DIRECTORY, (0, 0), &[]);
    }
    archive.add("dev/console", CHARACTER_DEVICE, (5, 1), &[]);
    archive.add("dev/ttyS0", CHARACTER_DEVICE, (4, 64), &[]);
    archive.add("bin/busybox", PROGRAM, (0, 0), &read(busybox)?);
    archive.add("init", PROGRAM, (0, 0), INIT.as_bytes());
    for (name, file) in files {
        archive.add(name, PROGRAM, (0, 0), &read(file)?);
    }
    archive.add("TRAILER!!!", 0, (0, 0), &[]);
    std::fs::write(path, archive.bytes).with_context(|| format!("cannot write {}", path.display()))
}
