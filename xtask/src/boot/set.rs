//! The boots that are tests: each with the verdict it must have. TAP, so that `cargo xtask test` counts them.

use anyhow::Result;

use super::report::Verdict;
use super::{BootArgs, Cpu, Guest, Kernel, NextKernel, compare, linux, qemu};
use crate::step::Counts;

struct Case {
    name: &'static str,
    args: BootArgs,
    verdict: Verdict,
    /// The kind of the line that kills, if one does.
    kind: Option<&'static str>,
}

fn cases() -> Vec<Case> {
    let base = BootArgs::firstkernel;
    let with = |policy: &str, tds: u32, cpus: u32| BootArgs { policy: policy.to_owned(), tds, cpus, ..base() };
    let clean = |name, args| Case { name, args, verdict: Verdict::Clean, kind: None };
    let dies = |name, args, kind| Case { name, args, verdict: Verdict::MachineCheck, kind: Some(kind) };
    let linux = |args: BootArgs| BootArgs { next: NextKernel::Linux, memory: 1024, ..args };
    let role = |role: &str, cpus| BootArgs { append: format!("role={role}"), cpus, ..base() };
    let tdx = |next, cpus| BootArgs { guest: Guest::Linux, kernel: Kernel::Tdx, next, cpus, memory: 1024, ..base() };
    let module = |cpus| BootArgs { module: true, timeout: 300, ..tdx(NextKernel::Linux, cpus) };
    let guest = |cpus| BootArgs { guest: Guest::Linux, cpus, memory: 1024, ..base() };
    let mut cases = vec![
        clean("a machine without TDX, 1 CPU", BootArgs { plain: true, ..base() }),
        clean("a machine without TDX, 4 CPUs", BootArgs { plain: true, cpus: 4, ..base() }),
        clean("tracked, 1 CPU", with("tracked", 1, 1)),
        clean("tracked, 4 CPUs, 3 TDs", with("tracked", 3, 4)),
        clean("module (1.5.01 has no SYS.DISABLE)", with("module", 1, 2)),
        clean("everything", with("everything", 1, 1)),
        dies("none, no TD", with("none", 0, 1), "PAMT_4K"),
        dies("none, 3 TDs, 4 CPUs", with("none", 3, 4), "guest page"),
        dies("pamt, 1 TD", with("pamt", 1, 1), "guest page"),
        dies("module-only, 1 TD", with("module-only", 1, 2), "guest page"),
        dies("none, Emerald Rapids", BootArgs { cpu: Cpu::Emr, ..with("none", 0, 1) }, "PAMT_4K"),
        clean("none, without the erratum", BootArgs { cpu: Cpu::Gnr, ..with("none", 1, 2) }),
        clean("SEAM switched off", BootArgs { seamvisor: "seam=off".to_owned(), ..base() }),
        clean("no module loaded", BootArgs { seamvisor: "seam=no-module".to_owned(), ..base() }),
        clean("a guest that uses private memory as its own", role("hostile-private", 2)),
        clean("a hostile guest, 1 CPU", role("hostile", 1)),
        clean("a hostile guest, 4 CPUs", role("hostile", 4)),
    ];
    if linux::is_there(Kernel::Stock) {
        cases.extend([
            clean("kexec into Linux, 1 CPU", linux(with("tracked", 1, 1))),
            clean("kexec into Linux, 4 CPUs", linux(with("tracked", 1, 4))),
            clean("Linux as the guest, 1 CPU", guest(1)),
            clean("Linux as the guest, 4 CPUs", guest(4)),
        ]);
    }
    if linux::is_there(Kernel::Tdx) {
        cases.extend([
            clean("Linux brings TDX up itself, 4 CPUs", tdx(NextKernel::Own, 4)),
            dies("Linux kexecs into Linux, and nobody resets anything", tdx(NextKernel::Linux, 2), "PAMT_4K"),
        ]);
    }
    if linux::initrd_with_module().is_ok() {
        cases.extend([
            clean("Linux kexecs into Linux, with cleanslate.ko, 1 CPU", module(1)),
            clean("Linux kexecs into Linux, with cleanslate.ko, 4 CPUs", module(4)),
        ]);
    }
    cases
}

/// Runs them all.
pub(crate) fn run_all() -> Result<Counts> {
    eprintln!("\n== boots (QEMU)");
    let mut counts = Counts::default();
    if !qemu::is_there() {
        println!("skipped: all boots (no qemu-system-x86_64; on Debian, apt-get install qemu-system-x86)");
        return Ok(Counts { skipped: 1, ..counts });
    }
    qemu::build()?;
    if !linux::is_there(Kernel::Stock) {
        println!("skipped: boots of Linux (run `cargo xtask linux stock` once)");
        counts.skipped += 1;
    }
    if !linux::is_there(Kernel::Tdx) {
        println!("skipped: boots of a Linux with TDX host support (run `cargo xtask linux tdx` once)");
        counts.skipped += 1;
    }
    let mut number = 0;
    let mut tell = |name: &str, problem: Option<String>| {
        number += 1;
        match problem {
            None => {
                println!("ok {number} - boot: {name}");
                counts.passed += 1;
            }
            Some(problem) => {
                println!("not ok {number} - boot: {name}: {problem}");
                counts.failed += 1;
            }
        }
    };
    for case in cases() {
        let report = qemu::run(&case.args)?;
        let kind = report.summary()["machine_checks"][0]["kind"].as_str();
        let problem = if report.verdict() != case.verdict {
            Some(format!("{} and not {}: {}", report.verdict().name(), case.verdict.name(), report.why()))
        } else if case.kind.is_some() && kind != case.kind {
            Some(format!("it died of {kind:?} and not of {:?}", case.kind))
        } else {
            None
        };
        tell(case.name, problem.map(|problem| format!("{problem}\n{}", report.human())));
    }
    for policy in ["tracked", "none", "pamt"] {
        let name = format!("the same SEAMCALLs and the same end in the software machine: {policy}");
        tell(&name, compare::differences(policy)?);
    }
    Ok(counts)
}
