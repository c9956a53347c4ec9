//! Kernels that can be booted: which one is first, whether its initrds are up to date, and its
//! command line.

use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use anyhow::{Context, Result, ensure};

use crate::args::{BootArgs, Guest, Kernel, NextKernel};
use crate::fetch::newest;
use crate::pack::{finish, modules, own_initrd, pack_stock, pack_successor, pack_with_module};
use crate::place::{Linux, find, folder, initrd_with_module};
use crate::root;

/// With `--policy keep`, memory that is reserved at boot for all that may be private.
const POOL_BASE: u64 = 0x3000_0000;
const POOL_BYTES: u64 = 0x100_0000;

/// Linux's command line; bare/linux/init reads its words `cleanslate.*`.
pub(crate) fn command_line(args: &BootArgs) -> String {
    let late = late_words(args);
    let space = if late.is_empty() { "" } else { " " };
    format!("{}{space}{late}", early_words(args))
}

/// Its words that bare/linux/init reads first where it runs the first VMM.
pub(crate) fn late_words(args: &BootArgs) -> String {
    if args.guest == Guest::Kvm { format!("cleanslate.vmm={}", vmm_words(args)) } else { String::new() }
}

/// Its other words.
pub(crate) fn early_words(args: &BootArgs) -> String {
    // Without the limit of messages that user space may log: events are such messages. Without the
    // check of the timer's interrupt, as Linux boots under a hypervisor that it knows: it counts
    // ticks in a loop, and panics where QEMU gets too little of a loaded machine meanwhile. Idle in
    // HLT and not in MWAIT, in which an emulated CPU spins: half of what these boots cost. CPUs
    // that go offline still wait in MWAIT.
    let mut line =
        String::from("console=ttyS0 panic=-1 nokaslr no_timer_check idle=halt rdinit=/init printk.devkmsg=on");
    // Writing to a string never fails. Debian's kernels clear pages when they hand them out, by
    // stores that do no harm; a driver's pages may not be cleared. Nor may memtest run: its
    // whole-word stores make every private line a shared one, and a line that was not reset would
    // pass for clean.
    line.push_str(" cleanslate.next=init_on_alloc=0");
    // In 6.18 KVM brings TDX up, if it is to build TDs.
    if args.guest == Guest::Kvm || args.kernel() == Kernel::Tdx618 {
        line.push_str(" kvm_intel.tdx=1");
    }
    match args.kernel() {
        kernel if kernel.builds_tds() && args.guest == Guest::Kvm => {
            let _ = write!(line, " cleanslate.kvm={}", args.tds);
            if args.module {
                line.push_str(" cleanslate.canary");
            }
            if let Some(seed) = args.traffic {
                let _ = write!(line, " cleanslate.traffic={seed}");
            }
        }
        kernel if kernel.builds_tds() => {
            let _ = write!(line, " cleanslate.cleanslate_tds=tds={}", args.tds);
        }
        kernel if kernel.has_no_tdx_code() && args.module => {
            let _ = write!(line, " cleanslate.tds={}", args.tds);
        }
        _ => {}
    }
    if args.module && args.policy == "none" {
        line.push_str(" cleanslate.noreset");
    } else if args.module && args.policy == "exclude" {
        line.push_str(" cleanslate.cleanslate=dump=exclude");
    } else if args.module && args.keeps() {
        // The next kernels reserve the same memory.
        let _ = write!(
            line,
            " memmap={POOL_BYTES:#x}${POOL_BASE:#x} cleanslate.keep={} \
             cleanslate.cleanslate=policy=keep,pool_base={POOL_BASE:#x},pool_bytes={POOL_BYTES:#x}",
            args.kexecs
        );
    } else if args.module {
        let _ = write!(line, " cleanslate.cleanslate=policy={}", args.policy);
    }
    if args.crash {
        // KASAN takes an eighth of a crash kernel's memory, lockdep its tables.
        let reserved = match args.memory {
            _ if args.kernel().debugs() => 448,
            ..512 => 128,
            512.. => 256,
        };
        let _ = write!(line, " crashkernel={reserved}M cleanslate.crash cleanslate.wild");
    } else if let Some(next) = match args.next {
        NextKernel::None => None,
        NextKernel::Own | NextKernel::Linux => Some("self"),
        NextKernel::Stock => Some("stock"),
        NextKernel::Tdx73 => Some(Kernel::Tdx73.name()),
    } {
        let _ = write!(line, " cleanslate.kexec={next}");
    }
    let _ = write!(line, " {}", args.append);
    line
}

/// Words of `bare/linux/vmm.c`.
fn vmm_words(args: &BootArgs) -> String {
    let mut words = format!("vcpus={},end={}", args.vcpus, args.end().name());
    if let Some(stop) = args.stop {
        let _ = write!(words, ",stop={}", stop.name());
    }
    if !args.vmm.is_empty() {
        let _ = write!(words, ",{}", args.vmm);
    }
    words
}

/// The Linux that runs first: one of `provide`, or the user's own.
pub(crate) fn first(args: &BootArgs) -> Result<Linux> {
    let kernel = args.kernel();
    ensure!(
        args.guest != Guest::Kvm || kernel.builds_tds() && args.image.is_none(),
        "kvm is tdx-6.18, tdx-7.1, tdx-7.2, tdx-7.3 or tdx-7.3-own, not {}",
        if args.image.is_some() { "--image" } else { kernel.name() }
    );
    let Some(image) = &args.image else {
        let linux = current(args.kernel())?;
        let initrd = match args.next {
            _ if !args.module => return Ok(linux),
            NextKernel::Tdx73 => {
                current(Kernel::Tdx73)?;
                pack_successor(args.kernel(), Kernel::Tdx73)?
            }
            _ => initrd_with_module(args.kernel())?,
        };
        return Ok(Linux { initrd, ..linux });
    };
    ensure!(image.is_file(), "--image: there is no file {}", image.display());
    let initrd = match &args.initrd {
        Some(initrd) => initrd.clone(),
        None => own_initrd(image)?,
    };
    ensure!(initrd.is_file(), "--initrd: there is no file {}", initrd.display());
    Ok(Linux { image: image.clone(), initrd })
}

/// When a file of `bare/linux` was last changed.
pub(crate) fn sources_changed() -> Result<SystemTime> {
    let folder = root().join("bare/linux");
    let mut newest = SystemTime::UNIX_EPOCH;
    for entry in fs::read_dir(&folder).with_context(|| format!("cannot read {}", folder.display()))? {
        newest = newest.max(entry?.metadata()?.modified()?);
    }
    Ok(newest)
}

/// A Linux of `provide`, with what is in `bare/linux` now: if a file there is newer than the
/// initrd, test modules, programs and initrds are made again.
pub(crate) fn current(kernel: Kernel) -> Result<Linux> {
    let linux = find(kernel)?;
    let packed = |initrd: &Path| initrd.metadata()?.modified();
    let mut oldest = packed(&linux.initrd)?;
    if let Ok(initrd) = initrd_with_module(kernel) {
        oldest = oldest.min(packed(&initrd)?);
    }
    if oldest >= sources_changed()? {
        return Ok(linux);
    }
    eprintln!("{}: bare/linux has changed, its initrds are packed again", kernel.name());
    let folder = folder(kernel);
    if kernel == Kernel::Stock {
        // The part that architectures share sorts after the one of this architecture.
        let common = newest(&folder.join("root/usr/src"), "linux-headers-")?.display().to_string();
        let headers = PathBuf::from(common.replace("-common", "-amd64"));
        pack_stock(&modules(kernel, &headers)?)?;
    } else {
        // Part of this one's initrd.
        let _ = current(Kernel::Stock);
        let build = folder.join("build").canonicalize()?;
        finish(kernel, &modules(kernel, &build)?)?;
        let module = folder.join("cleanslate/cleanslate.ko");
        if module.exists() {
            let test = Some(folder.join("cleanslate-test/cleanslate.ko")).filter(|test| test.exists());
            pack_with_module(kernel, &module, test.as_deref())?;
        }
    }
    Ok(linux)
}
