//! The boots that are tests: each with the verdict it must have. TAP, so that `cargo xtask test`
//! counts them.

use anyhow::Result;
use clap::ValueEnum;

use crate::report::{Report, Verdict};
use crate::{BootArgs, Cpu, Guest, Kernel, NextKernel, compare, linux, qemu};

struct Case {
    name: &'static str,
    args: BootArgs,
    verdict: Verdict,
    /// The kind of the line that kills, if one does and it is always the same.
    kind: Option<&'static str>,
    /// What else must be so.
    also: &'static [Also],
}

/// What a verdict does not say.
#[derive(Clone, Copy)]
enum Also {
    /// TDX was up and private memory was reset: nothing was poisoned and nothing is private at the
    /// end.
    Reset,
    /// As `Reset`, but a wild pointer has poisoned private memory before.
    ResetPoison,
    /// Something is private at the end.
    Left,
    /// The guest has said this.
    Says(&'static str),
    /// The guest has not said this.
    Silent(&'static str),
    /// Pages by kind: the guest's count is seamvisor's.
    SamePages,
    /// No kernel has complained of itself.
    Calm,
    /// Lockdep and KASAN were on to the end, in both kernels, and neither they nor anybody else had
    /// a complaint.
    Quiet,
}

/// How complaints of Linux begin, or what is in each of a kind.
const COMPLAINTS: [&str; 12] = [
    "BUG:",
    "WARNING:",
    "KASAN",
    "Oops",
    "possible circular locking",
    "possible recursive locking",
    "inconsistent lock state",
    "suspicious RCU usage",
    "cannot create duplicate",
    "ODEBUG",
    "blocked for more than",
    "self-detected stall",
];

/// What a kernel complains of, itself included.
fn complaint(report: &Report) -> Option<String> {
    let line = report.said().lines().find(|line| COMPLAINTS.iter().any(|complaint| line.contains(complaint)));
    line.map(|line| format!("Linux complains: {}", line.trim()))
}

/// Why a run of a kernel that looks for faults does not count as one without. A crash kernel has a
/// user space of its own, too.
fn not_watched(report: &Report) -> Option<String> {
    let count = |text: &str| report.said().matches(text).count();
    let kernels = count("linux: user space");
    for (what, text) in [("KASAN", "kasan: KernelAddressSanitizer initialized"), ("lockdep", "linux: lockdep is on: 1")]
    {
        if kernels == 0 || count(text) < kernels {
            return Some(format!("{what} was not on in each of {kernels} kernels"));
        }
    }
    None
}

impl Also {
    /// Why it is not so.
    fn problem(self, report: &Report) -> Option<String> {
        let lines = &report.summary()["lines"];
        let is = |name: &str, good: bool| (!good).then(|| format!("lines {name}: {}", lines[name]));
        match self {
            Self::Reset | Self::ResetPoison => {
                let poisoned = lines["poisoned_ever"].as_u64();
                let as_wanted = poisoned.is_some_and(|count| (count > 0) == matches!(self, Self::ResetPoison));
                let told = report.event("handover");
                is("direct_stored", lines["direct_stored"].as_u64().is_some_and(|count| count > 0))
                    .or_else(|| is("poisoned_ever", as_wanted))
                    .or_else(|| is("private", lines["private"] == 0))
                    .or_else(|| (!told.is_null() && told["clean"] != true).then(|| format!("the kernel says {told}")))
            }
            Self::Left => is("private", lines["private"].as_u64().is_some_and(|count| count > 0)),
            Self::Says(text) => (!report.said().contains(text)).then(|| format!("it never said {text:?}")),
            Self::Silent(text) => report.said().contains(text).then(|| format!("it said {text:?}")),
            Self::SamePages => different_pages(report),
            Self::Calm => complaint(report),
            Self::Quiet => not_watched(report).or_else(|| complaint(report)),
        }
    }
}

/// Lines `linux: cleanslate: pages/KIND COUNT` against seamvisor's count.
fn different_pages(report: &Report) -> Option<String> {
    let kinds = [("tdr", "TDR"), ("tdcx", "TDCX"), ("tdvpr", "TDVPR"), ("sept", "SEPT"), ("guest", "guest page")];
    let seen = report.summary()["pages"].as_array().cloned().unwrap_or_default();
    kinds.into_iter().find_map(|(file, kind)| {
        let line = format!("linux: cleanslate: pages/{file} ");
        let told = report.said().lines().find_map(|said| said.trim().strip_prefix(&line)?.parse::<u64>().ok());
        let counted = seen.iter().find(|run| run["kind"] == kind).and_then(|run| run["count"].as_u64());
        let same = told.is_some_and(|told| told > 0) && told == counted;
        (!same).then(|| format!("{kind}: sysfs says {told:?}, seamvisor {counted:?}"))
    })
}

/// Linux found the erratum, and its own code brought TDX up.
const LINUX_HAS_TDX: [Also; 4] = [
    Also::Says("linux: tdx_pw_mce in /proc/cpuinfo"),
    Also::Says("virt/tdx: BIOS enabled"),
    Also::Says("virt/tdx: module initialized"),
    Also::Says("linux: loaded /modules/cleanslate_enable.ko"),
];
/// The next Linux has used its memory as a driver may.
const USED: Also = Also::Says("linux: loaded /modules/cleanslate_use.ko");

fn cases() -> Vec<Case> {
    let base = BootArgs::firstkernel;
    let with = |policy: &str, tds: u32, cpus: u32| BootArgs { policy: policy.to_owned(), tds, cpus, ..base() };
    let clean = |name, args, also| Case { name, args, verdict: Verdict::Clean, kind: None, also };
    let dies = |name, args, kind, also| Case { name, args, verdict: Verdict::MachineCheck, kind: Some(kind), also };
    let linux = |args: BootArgs| BootArgs { next: NextKernel::Linux, memory: 1024, ..args };
    let role = |role: &str, cpus| BootArgs { append: format!("role={role}"), cpus, ..base() };
    let guest = |cpus| BootArgs { guest: Guest::Linux, next: NextKernel::None, cpus, memory: 1024, ..base() };
    let mut cases = vec![
        clean("a machine without TDX, 1 CPU", BootArgs { plain: true, ..base() }, &[]),
        clean("a machine without TDX, 4 CPUs", BootArgs { plain: true, cpus: 4, ..base() }, &[]),
        clean("tracked, 1 CPU", with("tracked", 1, 1), &[Also::Reset, Also::Says("\"event\":\"tdx\"")]),
        clean("tracked, 4 CPUs, 4 TDs", with("tracked", 4, 4), &[Also::Reset, Also::Says("\"event\":\"tdx\"")]),
        clean("module (1.5.01 has no SYS.DISABLE)", with("module", 1, 2), &[Also::Reset]),
        clean("everything", with("everything", 1, 1), &[Also::Reset]),
        dies("none, no TD", with("none", 0, 1), "PAMT_4K", &[]),
        dies("none, 3 TDs, 4 CPUs", with("none", 3, 4), "guest page", &[]),
        dies("pamt, 1 TD", with("pamt", 1, 1), "guest page", &[]),
        dies("module-only, 1 TD", with("module-only", 1, 2), "guest page", &[]),
        dies("none, Emerald Rapids", BootArgs { cpu: Cpu::Emr, ..with("none", 0, 1) }, "PAMT_4K", &[]),
        clean("none, without the erratum", BootArgs { cpu: Cpu::Gnr, ..with("none", 1, 2) }, &[]),
        clean("SEAM switched off", BootArgs { seamvisor: "seam=off".to_owned(), ..base() }, &[]),
        clean("no module loaded", BootArgs { seamvisor: "seam=no-module".to_owned(), ..base() }, &[]),
        clean("a guest that uses private memory as its own", role("hostile-private", 2), &[]),
        clean("a hostile guest, 1 CPU", role("hostile", 1), &[]),
        clean("a hostile guest, 4 CPUs", role("hostile", 4), &[]),
    ];
    if linux::is_there(Kernel::Stock) {
        cases.extend([
            clean("kexec into Linux, 1 CPU", linux(with("tracked", 1, 1)), &[Also::Reset, USED]),
            clean("kexec into Linux, 4 CPUs", linux(with("tracked", 1, 4)), &[Also::Reset, USED]),
            clean("Linux as the guest, 1 CPU", guest(1), &[]),
            clean("Linux as the guest, 4 CPUs", guest(4), &[]),
        ]);
    }
    cases.extend(tdx_linux());
    cases.extend(stock_linux());
    cases.extend(newest_linux());
    cases.extend(debug_linux());
    cases
}

/// Three kernels in a row are left while cleanslate.ko is loaded and unloaded, wherever that is
/// just then.
fn race(args: BootArgs) -> BootArgs {
    // Four kernels boot one after the other.
    BootArgs { append: "retain_initrd cleanslate.race=3".to_owned(), timeout: 900, ..args }
}

const RACED: &[Also] = &[
    USED,
    Also::Calm,
    Also::Says("were loaded and unloaded, 3 to go"),
    Also::Says("were loaded and unloaded, 2 to go"),
    Also::Says("were loaded and unloaded, 1 to go"),
    Also::Silent("jump: "),
];

/// A Linux whose own code brings TDX up.
fn tdx_linux() -> Vec<Case> {
    let boot = |next, cpus| BootArgs {
        guest: Guest::Linux,
        kernel: Kernel::Tdx,
        next,
        cpus,
        memory: 1024,
        timeout: 300,
        ..BootArgs::firstkernel()
    };
    let module = |next, cpus| BootArgs { module: true, ..boot(next, cpus) };
    let crash = |policy: &str, cpus| BootArgs {
        crash: true,
        memory: 768,
        policy: policy.to_owned(),
        ..module(NextKernel::Own, cpus)
    };
    let late = || BootArgs { append: "cleanslate.late".to_owned(), ..module(NextKernel::Own, 2) };
    let clean = |name, args, also| Case { name, args, verdict: Verdict::Clean, kind: None, also };
    let dies = |name, args, kind, also| Case { name, args, verdict: Verdict::MachineCheck, kind, also };
    const CLEAN: &[Also] = &[
        LINUX_HAS_TDX[0],
        LINUX_HAS_TDX[1],
        LINUX_HAS_TDX[2],
        LINUX_HAS_TDX[3],
        Also::Reset,
        USED,
        Also::Says("65728 lines of private memory reset in"),
        Also::Silent("may be left"),
    ];
    const UNKNOWN: &[Also] = &[
        Also::Reset,
        USED,
        Also::Calm,
        Also::Says("this kernel's kdump_nmi_callbacX cannot be listened to"),
        Also::Says("this kernel's machine_kexec_preparX cannot be listened to"),
        Also::Says("this kernel's __seamcall_reX cannot be listened to"),
        Also::Says("linux: /unknown/__seamcall_ret.ko is not let in"),
    ];
    // Linux resets the PAMTs and gives them to others: they must not be written again.
    const FAILED: &[Also] =
        &[Also::Says("linux: cleanslate: mode failed"), Also::Reset, Also::Silent("lines of private memory reset")];
    let fails = |args: BootArgs| BootArgs { seamvisor: "dies=36.2".to_owned(), ..args };
    let mut cases = Vec::new();
    if linux::is_there(Kernel::Tdx) {
        cases.extend([
            clean("Linux brings TDX up itself, 4 CPUs", boot(NextKernel::None, 4), &LINUX_HAS_TDX),
            dies("Linux kexecs into Linux, and nobody resets anything", boot(NextKernel::Own, 2), None, &LINUX_HAS_TDX),
        ]);
    }
    if linux::initrd_with_module(Kernel::Tdx).is_ok() {
        cases.extend([
            clean("Linux kexecs into Linux, with cleanslate.ko, 1 CPU", module(NextKernel::Own, 1), CLEAN),
            clean("Linux kexecs into Linux, with cleanslate.ko, 4 CPUs", module(NextKernel::Own, 4), CLEAN),
            clean("Linux kexecs into Debian's, with cleanslate.ko, 4 CPUs", module(NextKernel::Stock, 4), CLEAN),
            clean("cleanslate.ko is loaded after TDX is up", late(), CLEAN),
            clean("loading, unloading and kexec at once", race(module(NextKernel::Own, 2)), RACED),
            clean(
                "cleanslate.ko is for another kernel, and then it is for this one",
                BootArgs { append: "cleanslate.unknown".to_owned(), ..module(NextKernel::Own, 2) },
                UNKNOWN,
            ),
            clean("Linux's own bring-up fails, with cleanslate.ko", fails(module(NextKernel::Own, 1)), FAILED),
            clean("cleanslate.ko is loaded after Linux's own bring-up has failed", fails(late()), FAILED),
            clean("Linux crashes, with cleanslate.ko, 4 CPUs", crash("tracked", 4), &[Also::ResetPoison]),
            dies("Linux crashes, and nobody resets anything", crash("none", 2), Some("PAMT_4K"), &[Also::Left]),
            clean(
                "cleanslate.ko in the same Linux on a machine without TDX",
                BootArgs { plain: true, ..module(NextKernel::Own, 2) },
                &[Also::Says("no TDX on this machine: nothing to do"), Also::Silent("lines of private memory")],
            ),
        ]);
    }
    cases
}

/// A Linux that brings TDX up at boot, and whose own functions build TDs, as KVM calls them; it
/// asks the module (SYS.DISABLE) before a kexec, which 1.5.01 does not know.
fn newest_linux() -> Vec<Case> {
    let boot = |next, cpus| BootArgs {
        guest: Guest::Linux,
        kernel: Kernel::Tdx73,
        tds: 4,
        next,
        cpus,
        memory: 1024,
        timeout: 300,
        ..BootArgs::firstkernel()
    };
    let module = |next, cpus| BootArgs { module: true, ..boot(next, cpus) };
    let crash = |policy: &str, cpus| BootArgs {
        crash: true,
        memory: 768,
        policy: policy.to_owned(),
        ..module(NextKernel::Own, cpus)
    };
    let clean = |name, args, also| Case { name, args, verdict: Verdict::Clean, kind: None, also };
    let dies = |name, args, kind, also| Case { name, args, verdict: Verdict::MachineCheck, kind, also };
    const HAS_TDX: &[Also] = &[
        Also::Says("virt/tdx: TDX-Module initialized"),
        Also::Says("cleanslate: TD 3, half-gone"),
        Also::Says("virt/tdx: TDH.SYS.DISABLE failed: 0xc000010000000000"),
    ];
    const CLEAN: &[Also] = &[
        HAS_TDX[0],
        HAS_TDX[1],
        HAS_TDX[2],
        Also::Reset,
        USED,
        // Pages of calls that failed after the module had filled them, which the kernel has freed.
        Also::Says("cleanslate: held 3"),
        Also::Says("cleanslate: returned_kb 16"),
        Also::Says("68736 lines of private memory reset in"),
        Also::Silent("may be left"),
        Also::Silent("BUG:"),
    ];
    /// The module clears what it has; what it has returned, or refused after it filled it, stays
    /// private.
    const DISABLED: &[Also] = &[HAS_TDX[0], HAS_TDX[1], Also::Silent("SYS.DISABLE failed"), Also::Left];
    const DISABLED_CLEAN: &[Also] =
        &[HAS_TDX[0], HAS_TDX[1], Also::Silent("SYS.DISABLE failed"), Also::Reset, USED, Also::Silent("may be left")];
    const CRASHES: &[Also] = &[HAS_TDX[1], Also::ResetPoison];
    const HOTPLUG: &[Also] =
        &[HAS_TDX[1], Also::Reset, USED, Also::Says("linux: CPU 1 went and came back"), Also::Silent("may write")];
    const UNHEARD: &[Also] = &[
        Also::Says("TDs were built before this module was loaded"),
        Also::Says("kexec image refused: TDs were built before"),
        Also::Says("Operation not permitted"),
        Also::Left,
    ];
    let own = NextKernel::Own;
    let knows = |args| BootArgs { seamvisor: "module=sys-disable".to_owned(), ..args };
    let mut cases = Vec::new();
    if linux::is_there(Kernel::Tdx73) {
        cases.push(dies(
            "Linux 7.3 kexecs with TDs, and the module does know SYS.DISABLE",
            knows(boot(own, 2)),
            None,
            DISABLED,
        ));
        cases.push(dies(
            "Linux 7.3 kexecs with TDs, and the module does not know SYS.DISABLE",
            boot(own, 2),
            None,
            HAS_TDX,
        ));
    }
    if linux::initrd_with_module(Kernel::Tdx73).is_ok() {
        cases.extend([
            clean("Linux 7.3 with TDs, with cleanslate.ko, 1 CPU", module(own, 1), CLEAN),
            clean("Linux 7.3 with TDs, with cleanslate.ko, 4 CPUs", module(own, 4), CLEAN),
            clean("Linux 7.3 with TDs, SYS.DISABLE and cleanslate.ko", knows(module(own, 2)), DISABLED_CLEAN),
            clean("Linux 7.3 with TDs kexecs into Debian's, with cleanslate.ko", module(NextKernel::Stock, 4), CLEAN),
            clean(
                "Linux 7.3: pages by kind are what seamvisor counts",
                module(NextKernel::None, 2),
                &[Also::SamePages, Also::Left],
            ),
            clean("Linux 7.3 crashes with TDs, 4 CPUs", crash("tracked", 4), CRASHES),
            dies(
                "Linux 7.3 crashes with TDs, and nobody resets anything",
                crash("none", 2),
                Some("PAMT_4K"),
                &[Also::Left],
            ),
            clean(
                "Linux 7.3: cleanslate.ko comes after the first TD",
                BootArgs { append: "cleanslate.late cleanslate.refused".to_owned(), ..module(own, 2) },
                UNHEARD,
            ),
            clean(
                "Linux 7.3: cleanslate.ko comes after the bring-up, before the first TD, and CPUs go and come back",
                BootArgs { append: "cleanslate.hotplug".to_owned(), ..module(own, 4) },
                HOTPLUG,
            ),
        ]);
    }
    cases
}

/// A Linux that looks for faults of `cleanslate.ko`.
fn debug_linux() -> Vec<Case> {
    let boot = |kernel, cpus, append: &str| BootArgs {
        guest: Guest::Linux,
        kernel,
        module: true,
        tds: 4,
        cpus,
        append: append.to_owned(),
        memory: 1536,
        timeout: 1800,
        ..BootArgs::firstkernel()
    };
    let crash = |kernel| BootArgs { crash: true, memory: 1024, ..boot(kernel, 4, "") };
    let clean = |name, args, also| Case { name, args, verdict: Verdict::Clean, kind: None, also };
    const KEXEC: &[Also] = &[Also::Reset, USED, Also::Quiet];
    const STARVED: &[Also] = &[Also::Reset, USED, Also::Quiet, Also::Says("linux: insmod failed at ")];
    const CRASH: &[Also] = &[Also::ResetPoison, Also::Quiet];
    let there = |kernel: &Kernel| linux::initrd_with_module(*kernel).is_ok();
    let mut cases = Vec::new();
    if there(&Kernel::TdxDebug) {
        cases.extend([
            // Loaded before TDX is up it is in the case with the failing allocations.
            clean("lockdep and KASAN: kexec, 4 CPUs", boot(Kernel::TdxDebug, 4, "cleanslate.late"), KEXEC),
            clean("lockdep and KASAN: crash, 4 CPUs", crash(Kernel::TdxDebug), CRASH),
            clean(
                "every allocation of loading cleanslate.ko fails once",
                boot(Kernel::TdxDebug, 2, "cleanslate.starve"),
                STARVED,
            ),
        ]);
    }
    if there(&Kernel::HostDebug) {
        cases.extend([
            clean(
                "lockdep and KASAN: TDX by cleanslate.ko, 4 CPUs",
                boot(Kernel::HostDebug, 4, "cleanslate.tries"),
                KEXEC,
            ),
            clean("lockdep and KASAN: TDX by cleanslate.ko, crash, 4 CPUs", crash(Kernel::HostDebug), CRASH),
            clean(
                "every allocation of loading cleanslate.ko as host fails once",
                boot(Kernel::HostDebug, 2, "cleanslate.starve"),
                STARVED,
            ),
        ]);
    }
    cases
}

/// Memory for PAMTs that Linux leaves alone from the beginning.
fn pool(mib: u64) -> String {
    format!("memmap={mib}M$0x30000000 cleanslate.cleanslate=pool_base=0x30000000,pool_bytes={}", mib << 20)
}

/// What `cleanslate.ko` says beside a machine check of the line that `cleanslate.consume` reads.
const PAMT_LINE: &str = "PAMT_4K of TDMR 0 [0x0, 0x40000000), private: possible kernel bug";

/// The kernel that read poison has said what that was, in the log that its dump has, and nothing of
/// it is left to the crash kernel.
const EXPLAINED: &[Also] =
    &[Also::ResetPoison, Also::Says("linux: the dump says: [Hardware Error]: virt/tdx: "), Also::Says(PAMT_LINE)];

/// Debian's kernel, which has no TDX host code: `cleanslate.ko` brings TDX up and builds TDs.
fn stock_linux() -> Vec<Case> {
    if linux::initrd_with_module(Kernel::Stock612).is_err() {
        return Vec::new();
    }
    let boot = |policy: &str, next, cpus| BootArgs {
        guest: Guest::Linux,
        kernel: Kernel::Stock612,
        module: true,
        policy: policy.to_owned(),
        tds: 4,
        next,
        cpus,
        memory: 1024,
        timeout: 300,
        ..BootArgs::firstkernel()
    };
    let crash = |policy: &str, cpus| BootArgs { crash: true, memory: 768, ..boot(policy, NextKernel::Own, cpus) };
    let own = NextKernel::Own;
    let clean = |name, args, also| Case { name, args, verdict: Verdict::Clean, kind: None, also };
    let dies = |name, args, kind, also| Case { name, args, verdict: Verdict::MachineCheck, kind, also };
    vec![
        clean("Debian's Linux, TDX by cleanslate.ko, 1 CPU", boot("tracked", own, 1), &[Also::Reset, USED]),
        clean("Debian's Linux, TDX by cleanslate.ko, 4 CPUs", boot("tracked", own, 4), &[Also::Reset, USED]),
        clean(
            "Debian's Linux: pages by kind are what seamvisor counts",
            boot("tracked", NextKernel::None, 2),
            // The program has given its orders by ioctl, and has read what came of them.
            &[
                Also::SamePages,
                Also::Left,
                Also::Says("td half-gone: done"),
                Also::Says("linux: status: mode     host"),
            ],
        ),
        dies("Debian's Linux, and nobody resets anything", boot("none", own, 1), None, &[]),
        clean(
            "Debian's Linux: the policy is to refuse",
            BootArgs { append: "cleanslate.refused".to_owned(), ..boot("refuse", own, 1) },
            &[
                Also::Left,
                Also::Says("kexec image refused: memory may be private"),
                Also::Says("Operation not permitted"),
            ],
        ),
        clean("Debian's Linux crashes, 4 CPUs, 4 TDs", crash("tracked", 4), &[Also::ResetPoison]),
        clean(
            "Debian's Linux crashes, and a CPU does not stop",
            BootArgs { append: "cleanslate.stuck".to_owned(), ..crash("tracked", 4) },
            &[
                Also::ResetPoison,
                Also::Says("CPU 1 is stuck in an NMI"),
                Also::Says("lines of private memory reset, but 1 CPUs may write some back"),
            ],
        ),
        clean(
            "Debian's Linux reads poison and crashes of it, 1 CPU",
            BootArgs { append: "cleanslate.consume".to_owned(), ..crash("tracked", 1) },
            EXPLAINED,
        ),
        clean(
            "Debian's Linux reads poison and crashes of it, 4 CPUs",
            BootArgs { append: "cleanslate.consume".to_owned(), ..crash("tracked", 4) },
            EXPLAINED,
        ),
        dies(
            "Debian's Linux reads poison, and there is no crash kernel",
            BootArgs { append: "cleanslate.consume".to_owned(), ..boot("tracked", own, 2) },
            Some("PAMT_4K"),
            // On the console this time: nobody keeps it for a dump.
            &[Also::Left, Also::Says(PAMT_LINE), Also::Says("Kernel panic - not syncing: Fatal local machine check")],
        ),
        clean(
            "Debian's Linux: cleanslate.ko is for another kernel, and then it is for this one",
            BootArgs { append: "cleanslate.unknown".to_owned(), ..boot("tracked", own, 2) },
            &[
                Also::Reset,
                USED,
                Also::Calm,
                Also::Says("this kernel's kdump_nmi_callbacX cannot be listened to"),
                Also::Says("linux: /unknown/kdump_nmi_callback.ko is not let in"),
                Also::Says("this kernel's machine_kexec_preparX cannot be listened to"),
                Also::Says("linux: /unknown/machine_kexec_prepare.ko is not let in"),
            ],
        ),
        dies("Debian's Linux crashes, and nobody resets anything", crash("none", 1), Some("PAMT_4K"), &[Also::Left]),
        clean(
            "Debian's Linux: PAMTs in memory that was reserved at boot",
            BootArgs { append: pool(8), ..boot("tracked", own, 2) },
            &[Also::Reset, USED, Also::Says("linux: cleanslate: pamt 0x30000000")],
        ),
        clean(
            "Debian's Linux: too little was reserved",
            BootArgs { append: pool(2), ..boot("tracked", own, 2) },
            &[USED, Also::Says("reserve memory at boot"), Also::Silent("linux: TDX is up")],
        ),
        clean(
            "Debian's Linux: the TDX module dies in the bring-up, 4 CPUs",
            BootArgs { seamvisor: "dies=36.100".to_owned(), ..boot("tracked", own, 4) },
            &[Also::Reset, USED, Also::Silent("linux: TDX is up")],
        ),
        clean(
            "Debian's Linux: the TDX module dies while a TD is built",
            BootArgs { seamvisor: "dies=20.1".to_owned(), ..boot("tracked", own, 2) },
            &[Also::Reset, USED, Also::Says("linux: TDX is up"), Also::Says("stays marked")],
        ),
        clean(
            "Debian's Linux: no unloading, no sleep, no CPU that was not there; CPUs go and come back",
            BootArgs { append: "cleanslate.tries".to_owned(), ..boot("tracked", own, 4) },
            &[
                Also::Reset,
                USED,
                Also::Says("linux: rmmod is refused"),
                Also::Says("linux: sleep is refused"),
                Also::Says("linux: CPU 1 went and came back"),
            ],
        ),
        clean(
            "Debian's Linux: memory goes and comes beside the bring-up and while there are TDs",
            BootArgs { append: "cleanslate.memory".to_owned(), ..boot("tracked", own, 2) },
            &[
                Also::Reset,
                USED,
                Also::Calm,
                Also::Says("linux: TDX is up"),
                Also::Says("failed 0 times"),
                Also::Says("linux: memory that was away at the bring-up is back"),
                Also::Says("linux: 8 TDs could be built"),
                // A block that does not come back is named after it.
                Also::Silent("not back: "),
            ],
        ),
        clean("Debian's Linux: loading, unloading and kexec at once, 2 CPUs", race(boot("tracked", own, 2)), RACED),
        clean("Debian's Linux: loading, unloading and kexec at once, 4 CPUs", race(boot("tracked", own, 4)), RACED),
        clean(
            "Debian's Linux: a TDX module that is not there",
            BootArgs { seamvisor: "seam=no-module".to_owned(), ..boot("tracked", own, 2) },
            &[Also::Says("cleanslate: TDX bring-up"), USED],
        ),
        clean(
            "Debian's Linux on a machine without TDX",
            BootArgs { plain: true, ..boot("tracked", own, 2) },
            &[Also::Says("no TDX on this machine: nothing to do"), Also::Silent("lines of private memory")],
        ),
        clean(
            "Debian's Linux on a CPU without the erratum",
            BootArgs { cpu: Cpu::Gnr, ..boot("tracked", own, 2) },
            &[Also::Says("lacks the partial-write erratum"), Also::Silent("lines of private memory")],
        ),
    ]
}

/// Runs them all, or those whose name contains this; true if none failed. Prints the Test Anything
/// Protocol.
///
/// # Errors
/// What it needs is missing, or a command failed.
pub fn run_all(only: &str) -> Result<bool> {
    let (mut number, mut failed) = (0, 0);
    let mut tell = |name: &str, outcome: Outcome| {
        number += 1;
        match outcome {
            Outcome::Passed => println!("ok {number} - boot: {name}"),
            Outcome::Skipped(why) => println!("ok {number} - {name} # SKIP {why}"),
            Outcome::Failed(why) => {
                println!("not ok {number} - boot: {name}: {why}");
                failed += 1;
            }
        }
    };
    if !qemu::is_there() {
        tell(
            "all boots",
            Outcome::Skipped("no qemu-system-x86_64; on Debian, apt-get install qemu-system-x86".to_owned()),
        );
        return Ok(true);
    }
    qemu::build()?;
    for kernel in Kernel::value_variants() {
        let name = kernel.name();
        if !linux::is_there(*kernel) {
            tell(&format!("boots of {name}"), Outcome::Skipped(format!("run `cargo xtask linux {name}` once")));
        } else if *kernel != Kernel::Stock && linux::initrd_with_module(*kernel).is_err() {
            let what = format!("boots of {name} with cleanslate.ko");
            tell(&what, Outcome::Skipped("run `cargo xtask linux-module` once".to_owned()));
        }
    }
    for case in cases().into_iter().filter(|case| case.name.contains(only)) {
        let report = qemu::run(&case.args)?;
        let kind = report.summary()["machine_checks"][0]["kind"].as_str();
        let problem = if report.verdict() != case.verdict {
            Some(format!("{} and not {}: {}", report.verdict().name(), case.verdict.name(), report.why()))
        } else if case.kind.is_some() && kind != case.kind {
            Some(format!("it died of {kind:?} and not of {:?}", case.kind))
        } else {
            case.also.iter().find_map(|also| also.problem(&report))
        };
        tell(case.name, problem.map(|problem| format!("{problem}\n{}", report.human())).into());
    }
    for policy in ["tracked", "none", "pamt"] {
        let name = format!("the same SEAMCALLs and the same end in the software machine: {policy}");
        if name.contains(only) {
            tell(&name, compare::differences(policy)?.into());
        }
    }
    Ok(failed == 0)
}

/// What became of a boot.
enum Outcome {
    Passed,
    /// Why.
    Failed(String),
    /// What is missing for it.
    Skipped(String),
}

impl From<Option<String>> for Outcome {
    fn from(problem: Option<String>) -> Self {
        problem.map_or(Self::Passed, Self::Failed)
    }
}
