//! The root file system of a Linux that is booted: busybox, a script as `/init`, modules. A cpio
//! archive in the "newc" format, by hand, because `cpio` would be one tool more to install.

use std::path::Path;

use anyhow::{Context, Result};

/// What `/init` does: loads what modules there are, brings TDX up and builds TDs if it is told to
/// (`cleanslate.tds=N`), says what is private and that user space is there; then it reads the dump
/// of the kernel that crashed before it (`cleanslate.dump`), jumps into the next Linux
/// (`cleanslate.kexec=NEXT`), crashes (`cleanslate.crash`, before which `cleanslate.wild` lets a
/// wild pointer loose), or ends the machine. Before a crash, or else before all of that,
/// `cleanslate.consume` reads private memory that it has poisoned, and this kernel dies of it;
/// `cleanslate.stuck` crashes with a CPU that does not stop. `cleanslate.memory` takes memory away
/// and gives it back before, while and after TDX is brought up. `cleanslate.race=N` (with
/// `retain_initrd`) loads and unloads cleanslate.ko and images side by side, and kexecs meanwhile,
/// N times. `cleanslate.unknown` loads copies of cleanslate.ko for other kernels first, which must
/// not get in. `cleanslate.tries` tries what must be refused. `cleanslate.late` loads cleanslate.ko
/// last; `cleanslate.starve` with every allocation failing once before, and so with the bring-up
/// and the TDs. `cleanslate.MODULE=A,B` are a module's parameters, `cleanslate.next=A,B` words for
/// the next Linux.
const INIT: &str = r#"#!/bin/busybox sh
/bin/busybox --install -s /bin
export PATH=/bin
mount -t proc proc /proc
mount -t sysfs sys /sys
mount -t devtmpfs dev /dev 2> /dev/null
exec > /dev/ttyS0 2>&1
option() { grep -q "cleanslate\.$1" /proc/cmdline; }
value() { tr ' ' '\n' < /proc/cmdline | sed -n "s/^cleanslate\.$1=//p"; }

if option unknown; then
    for module in /unknown/*.ko; do
        insmod "$module" || echo "linux: $module is not let in"
    done
fi
consume() {
    read -r base end < /sys/kernel/cleanslate/pamt
    insmod /next/cleanslate_wild.ko address="$base" read=1
}
# With debugfs, where fault injection learns that allocations that may wait fail as well, and those of a single page.
starve() {
    option starve || return 1
    [ -e /sys/kernel/debug/failslab ] || mount -t debugfs debugfs /sys/kernel/debug
    for kind in failslab fail_page_alloc; do
        echo N > /sys/kernel/debug/$kind/ignore-gfp-wait
        echo 0 > /sys/kernel/debug/$kind/verbose
    done
    echo N > /sys/kernel/debug/fail_page_alloc/ignore-gfp-highmem
    echo 0 > /sys/kernel/debug/fail_page_alloc/min-order
    /next/starve "$@"
}
load() {
    [ "$1" = /modules/cleanslate.ko ] && starve "$1" $(value "$(basename "$1" .ko)" | tr , ' ')
    insmod "$1" $(value "$(basename "$1" .ko)" | tr , ' ') && echo "linux: loaded $1"
}

# By the program, which makes ioctls, where it is; in words elsewhere.
order() {
    if [ -x /bin/cleanslate ]; then
        cleanslate linux "$@"
    elif [ "$1" = up ]; then
        echo up > /dev/cleanslate
    else
        echo "td $5" > /dev/cleanslate
    fi
}

late=
for module in /modules/*.ko /modules/last/*.ko; do
    # A race is one without TDX: once it is up, nobody unloads cleanslate.ko.
    [ -e "$module" ] && ! option race= || continue
    if option late && [ "$module" = /modules/cleanslate.ko ]; then
        late=$module
        continue
    fi
    load "$module"
done
[ -n "$late" ] && load "$late"
# Takes each block of memory away that can be, and gives it back.
memory() {
    gone= busy= lost=
    for state in /sys/devices/system/memory/memory*/state; do
        block=${state#/sys/devices/system/memory/} block=${block%/state}
        if complaint=$( (echo offline > "$state") 2>&1 ); then
            gone="$gone $block"
            (echo online > "$state") 2> /dev/null || lost="$lost $block"
        else
            case $complaint in *busy*) busy="$busy $block" ;; esac
        fi
    done
}
if [ -e /dev/cleanslate ] && option tds=; then
    if option memory; then
        # One block is away at the bring-up, another one goes and comes beside it.
        away= restless=
        for state in /sys/devices/system/memory/memory*/state; do
            [ -n "$restless" ] || (echo offline > "$state") 2> /dev/null || continue
            [ -z "$away" ] && away=$state && continue
            [ -z "$restless" ] && restless=$state && echo online > "$state"
        done
        echo "linux: without $away, and $restless goes and comes"
        (
            good=0 busy=0 bad=0
            while [ ! -e /up ]; do
                complaint=$( (echo offline > "$restless" && echo online > "$restless") 2>&1 )
                case $complaint in "") good=$((good + 1)) ;; *busy*) busy=$((busy + 1)) ;; *) bad=$((bad + 1)) ;; esac
            done
            echo online 2> /dev/null > "$restless"
            echo "linux: beside the bring-up, memory went or came $good times, was busy $busy times, failed $bad times"
        ) &
    fi
    starve -w /dev/cleanslate up || order up && echo "linux: TDX is up"
    if option memory; then
        : > /up
        wait
        memory
        echo "linux: memory while TDX is up: gone and back:$gone, busy:$busy, not back:$lost"
        # What is free is there, when it comes back: the rest is away or taken.
        for state in /sys/devices/system/memory/memory*/state; do
            [ "$state" = "$away" ] || echo offline > "$state"
        done 2> /dev/null
        # Twelve MiB are for this script.
        echo $((($(sed -n 's/^MemFree: *\([0-9]*\) kB/\1/p' /proc/meminfo) - 12288) / 2048)) > /proc/sys/vm/nr_hugepages
        echo online > "$away" && echo "linux: memory that was away at the bring-up is back"
        number=0
        while [ $number -lt 8 ] && echo "td runnable" > /dev/cleanslate; do
            number=$((number + 1))
        done
        echo "linux: $number TDs could be built"
        echo 0 > /proc/sys/vm/nr_hugepages
        for state in /sys/devices/system/memory/memory*/state; do
            echo online > "$state"
        done 2> /dev/null
    fi
    number=0
    while [ $number -lt "$(value tds)" ]; do
        set -- runnable half-built gone half-gone
        shift $((number % 4))
        # A TD that was not finished keeps its KeyID, so one kind must do.
        [ $number = 0 ] && starve -w /dev/cleanslate "td $1"
        order td-test --tds 1 --fate "$1" && echo "linux: TD $number, $1"
        number=$((number + 1))
    done
fi
if option memory; then
    memory
    echo "linux: memory while there are TDs: gone and back:$gone, busy:$busy, not back:$lost"
fi
[ -x /bin/cleanslate ] && [ -d /sys/kernel/cleanslate ] && cleanslate linux status | sed "s/^/linux: status: /"
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
[ -e /proc/lockdep_stats ] && echo "linux: lockdep is on: $(sed -n 's/^ *debug_locks: *//p' /proc/lockdep_stats)"
echo "linux: user space, $(uname -r), $(grep -c ^processor /proc/cpuinfo) CPUs"
line="console=ttyS0 panic=-1 nokaslr rdinit=/init"
option consume && ! option crash && consume
if option dump; then
    /next/dump /proc/vmcore "[Hardware Error]: virt/tdx: " "[Hardware Error]: RIP "
elif option race=; then
    left=$(value race)
    cp /sys/firmware/initrd /initrd
    # In the background, until this kernel has gone.
    loads=0
    while :; do
        insmod /modules/cleanslate.ko policy=tracked && rmmod cleanslate && loads=$((loads + 1))
        echo $loads > /loads
    done 2> /dev/null &
    images=0
    # Unloading waits for every task of the kernel, five times: seconds.
    while [ $images -lt 4 ] || [ "$(cat /loads 2> /dev/null || echo 0)" -lt 1 ]; do
        /next/jump -l /next/self/bzImage /next/self/initrd "$line" && /next/jump -u && images=$((images + 1))
    done
    echo "linux: race: $images images and $(cat /loads) modules were loaded and unloaded, $left to go"
    if [ "$left" -gt 1 ]; then
        /next/jump /next/self/bzImage /initrd "$line retain_initrd cleanslate.race=$((left - 1))"
    else
        /next/jump /next/self/bzImage /next/self/initrd "$line"
    fi
elif option kexec=; then
    next=/next/$(value kexec)
    echo "linux: kexec"
    /next/jump $next/bzImage $next/initrd "$line $(value next | tr , ' ')"
elif option crash; then
    /next/jump -p /next/self/bzImage /next/self/initrd "$line nr_cpus=1 $(option stuck && echo no_timer_check) cleanslate.dump" && echo "linux: crash kernel loaded"
    if option wild; then
        while read -r base end; do
            insmod /next/cleanslate_wild.ko address="$base" pages=$(((end - base) / 4096 < 16 ? (end - base) / 4096 : 16))
            rmmod cleanslate_wild
        done < /sys/kernel/cleanslate/pamt
    fi
    echo "linux: crash"
    option consume && consume
    while option stuck; do
        # Again if it came to run on the CPU that is to be stuck.
        insmod /next/cleanslate_stuck.ko
    done
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
pub(crate) type Entry<'p> = (&'p str, &'p Path);

/// Writes a root file system: busybox, `/init`, and these files.
pub(crate) fn write(path: &Path, busybox: &Path, files: &[Entry<'_>]) -> Result<()> {
    let read = |path: &Path| std::fs::read(path).with_context(|| format!("cannot read {}", path.display()));
    let mut archive = Archive { bytes: Vec::new(), inode: 0 };
    for directory in
        ["dev", "proc", "sys", "bin", "modules", "modules/last", "unknown", "next", "next/self", "next/stock"]
    {
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
