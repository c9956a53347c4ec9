//! Who wrote the log, and what its text is: a TD guest, a virtual machine, another hypervisor, a
//! kernel that says nothing on TDX, a mail, the report of `system-report.sh`.

use super::{boot_facts::Boot, kexec, registers::fact};
use crate::{
    bootlog::Speaker,
    kernel::Era,
    report::{Judgement, LogFinding, LogLine, Topic},
};

/// What is to be known before anything else of the log.
pub(super) fn first(boot: &Boot) -> Vec<LogFinding> {
    let mut findings = Vec::new();
    if let Some(at) = &boot.log.fold {
        let text = format!(
            "broken lines were joined where a message is complete only with the next line: {}",
            at.value.text()
        );
        let line = LogLine { line: at.line, text: boot.folded.clone().unwrap_or_default() };
        findings.push(fact("joined-lines", vec![line], text, "if a line looks wrong, give the log as a file"));
    }
    if let Some(at) = &boot.log.speaker {
        let line = vec![LogLine { line: at.line, text: at.value.1.clone() }];
        findings.push(match at.value.0 {
            Speaker::TdGuest => fact(
                "td-guest",
                line,
                "this is the kernel of a TD guest, not of a TDX host: it says nothing on the host's module, memory \
                 or kexec",
                "nothing to do here; for the host, give the host's own log",
            ),
            Speaker::VirtualMachine => fact(
                "virtual-machine",
                line,
                "this is the kernel of a virtual machine: what it says on TDX, memory and errors is about the \
                 machine that the VMM made up, not about the hardware",
                "for the hardware, give the log of the host",
            ),
            Speaker::RootPartition => fact(
                "root-partition",
                line,
                "a hypervisor runs below this kernel and gives it the hardware (root partition of Hyper-V, dom0 of \
                 Xen): the hypervisor takes machine checks first, and the module is its own to call",
                "give the hypervisor's log as well (`xl dmesg`, the Hyper-V event log)",
            ),
            Speaker::Xen => fact(
                "xen-hypervisor",
                line,
                "this is the log of the Xen hypervisor (`xl dmesg`); only the messages of Linux are known here",
                "for a machine check explain the status of its bank (`cleanslate explain STATUS`), and the log of dom0",
            ),
            Speaker::Esxi => fact(
                "esxi-host",
                line,
                "this is the log of VMware ESXi; only the messages of Linux are known here",
                "ask the vendor; completion statuses can be explained one by one (`cleanslate explain STATUS`)",
            ),
            Speaker::TdPartitioning => fact(
                "td-partitioning",
                line,
                "this host or guest uses TD partitioning (a hypervisor inside a TD): the messages of that branch are \
                 known only where mainline has the same",
                "give the log of the outermost host as well",
            ),
        });
    }
    if let Some(line) = &boot.letters {
        let cause = format!(
            "line {} has letters where digits belong (O for 0, l or I for 1): the text was read from a picture, and \
             numbers in it are not taken",
            line.line
        );
        let remedy = "compare the numbers with the picture, correct them, and explain the text again";
        findings.push(fact("letters-for-digits", vec![line.clone()], cause, remedy));
    }
    if let Some(report) = &boot.report {
        findings.extend(report.finding());
    }
    findings
}

/// A boot log without a line on TDX.
pub(super) fn silence(boot: &Boot) -> Option<LogFinding> {
    let log = &boot.log;
    let is_boot_log = log.kernel.is_some() || !log.e820.is_empty();
    let spoke = log.last_tdx.is_some()
        || !boot.tdx.is_empty()
        || !boot.kvm.is_empty()
        || !boot.encryption.is_empty()
        || boot.calls.any();
    if !is_boot_log || spoke || log.speaker.is_some() || boot.unknown.is_some() {
        return None;
    }
    let mut evidence = boot.first.clone();
    if let Some(cpu) = &log.cpu
        && !cpu.value.intel
    {
        evidence.extend(boot.cpu.clone());
        let cause = "the CPU is not from Intel, so this machine has no TDX";
        return Some(fact("cpu-not-intel", evidence, cause, "nothing"));
    }
    evidence.extend(boot.cpu.clone());
    let known = match (kexec::era(log), &log.kernel) {
        (Some(Era::NoTdxHost), Some(kernel)) => format!(
            "Linux {} has no TDX host code in mainline (since 6.8), so it would print nothing even with TDX enabled \
             in the BIOS",
            kernel.value
        ),
        (Some(_), Some(kernel)) => format!(
            "Linux {} prints `virt/tdx: BIOS enabled` if it has TDX host code (CONFIG_INTEL_TDX_HOST) and the BIOS \
             assigned KeyIDs to TDX: one of the two is missing, or the log was filtered",
            kernel.value
        ),
        _ => "the log does not show the kernel's version: a kernel without TDX host code (mainline before 6.8), TDX \
            disabled in the BIOS, or a log that was filtered"
            .to_owned(),
    };
    let mut found = fact(
        "silent-about-tdx",
        evidence,
        format!("no line on TDX: {known}"),
        "`cleanslate check` on this machine reads BIOS setup (MSRs), kernel options and CPU; `dmesg | grep -i tdx`",
    );
    found.judgement = Judgement::Undecidable;
    found.topic = Topic::BringUp;
    Some(found)
}
