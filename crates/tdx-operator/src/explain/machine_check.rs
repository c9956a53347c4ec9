//! Machine check judgement: TDX poison of a partial write, or a hardware error. The first matching
//! rule decides; if none matches, the log is undecidable.
//!
//! The bits of IA32_MCi_STATUS are general knowledge (SDM).

use tdx_host::platform::CpuModel;

use super::{
    calls::Calls,
    key_id,
    record::{Record, Section, VALID},
};
use crate::{
    bootlog::{BootLog, Speaker},
    input::At,
    report::{Basis, Judgement, LogFinding, Topic},
    words,
};

/// IA32_MCG_STATUS: the CPU ran a TD.
const SEAM_NON_ROOT: u64 = 1 << 12;

const REPLACE: &str = "treat as hardware error: note address and DIMM, test or replace it if the error recurs";
const RESET: &str = "a kernel or driver wrote less than 64 bytes to private memory, bypassing the caches: \
    check for non-temporal stores, uncached mappings and DMA to this page and, after a kexec, for an old \
    kernel that did not reset private memory (`cleanslate check`, `cleanslate kexec --policy none`); do \
    not replace the DIMM";
const TELL_APART: &str = "determine whether this address was TDX-private, in this kernel or, after a kexec, \
    in the previous one; poison is cleared by a power cycle and by a full write of the line, so an error \
    that recurs at the same address is hardware";

const NOT_DECODED: &str = "read the record with the tool of the machine's vendor or in its BMC; it is no ground to \
    suspect TDX, and none to rule it out";
const NO_ADDRESS: &str = "no line shows an address: give the whole record of this event (`journalctl -k -b`, \
    `ras-mc-ctl --errors`, `journalctl -u mcelog`); with it determine whether the address was TDX-private. Poison is \
    cleared by a power cycle and by a full write of the line, so an error that recurs at the same address is hardware";

/// Judges a record by what the rest of its boot says.
pub(super) fn judge(record: &Record, boot: &BootLog, calls: &Calls, cpu_of_boot: Option<CpuModel>) -> LogFinding {
    use Basis::{Deduced, Sourced, Unverified};
    use Judgement::{Hardware, TdxPoison, Undecidable};
    let cpu = record.cpu.or(boot.cpu.as_ref().map(|cpu| cpu.value)).or(cpu_of_boot);
    let keyed = record.address.and_then(|address| key_id::of(address, boot, calls));
    let erratum = cpu.map(CpuModel::has_partial_write_erratum);
    let named = |cpu: Option<CpuModel>| cpu.map_or_else(String::new, |cpu| format!(" ({cpu})"));
    let finding = |judgement, rule, basis, cause: String, remedy: &str| LogFinding {
        topic: Topic::MachineCheck,
        judgement,
        rule,
        basis,
        evidence: record.evidence.clone(),
        cause: cause + &about(record, cpu),
        remedy: remedy.to_owned(),
        boot: 0,
    };
    if let Some(at) = guest(boot) {
        let cause = format!(
            "line {} says that a TD or another virtual machine wrote this log: its machine checks are those that its \
             host passes on, its addresses and CPU are virtual",
            at.line
        );
        let remedy = "explain the kernel log of the host: the error and its address are there";
        return finding(Undecidable, "in-a-guest", Deduced, cause, remedy);
    }
    if let Some(Section::Device(kind)) = &record.section {
        return device(record, kind, finding);
    }
    if record.private_memory {
        if erratum == Some(false) {
            let cause = "the kernel reports the page as private, which it does only on a CPU with the \
                erratum; this CPU is not affected";
            return finding(Undecidable, "kernel-contradicts-cpu", Deduced, cause.to_owned(), TELL_APART);
        }
        let cause = "the kernel queried the TDX module and the page is private: on a CPU with the erratum, \
            a read of private memory hits poison only after a partial write";
        return finding(TdxPoison, "kernel-names-private-memory", Sourced, cause.to_owned(), RESET);
    }
    if record.status.is_some_and(|status| status & VALID == 0) {
        let cause = "the bank's status has no valid error: bit 63 (VAL) is clear, so the other bits say nothing";
        let remedy =
            "give the whole record as the kernel, mcelog or rasdaemon wrote it; a bank is valid until it is cleared";
        return finding(Undecidable, "status-not-valid", Sourced, cause.to_owned(), remedy);
    }
    if record.is_corrected() {
        let cause = "the error was corrected; TDX poison is never correctable";
        let remedy = if let Some(Section::Unknown(_)) = record.section { NOT_DECODED } else { REPLACE };
        return finding(Hardware, "corrected", Deduced, cause.to_owned(), remedy);
    }
    if let Some(ecc) = &record.ecc {
        let key = keyed.map_or_else(String::new, |keyed| {
            format!(". The address carries KeyID {:#x}: the memory was private", keyed.key_id)
        });
        let cause = format!("the memory controller reports an error of its own (ECC): {ecc}{key}");
        return finding(Hardware, "controller-names-ecc", Deduced, cause, REPLACE);
    }
    if erratum == Some(false) {
        let cause = format!(
            "this CPU{} is not affected by the partial-write erratum (affected: 06_8F, \
            06_CF)",
            named(cpu)
        );
        return finding(Hardware, "cpu-without-erratum", Sourced, cause, REPLACE);
    }
    let tell_apart = if record.address.is_some() { TELL_APART } else { NO_ADDRESS };
    if let Some(keyed) = keyed {
        let cause = private_key_id(&keyed, calls, erratum);
        return finding(Undecidable, "private-key-id", Deduced, cause, TELL_APART);
    }
    if record.device_memory {
        let cause = "the page is device memory (e.g. persistent memory); TDX uses only memory present at boot";
        return finding(
            Hardware,
            "device-memory",
            Deduced,
            cause.to_owned(),
            "treat the device as faulty at this address",
        );
    }
    if record.status.is_some_and(|status| !about_memory(status)) {
        let cause = "the error code is not a memory or cache error; poison is reported on a read of memory";
        return finding(
            Hardware,
            "not-memory",
            Unverified,
            cause.to_owned(),
            "look up the error code in the \
            CPU's documentation",
        );
    }
    if let Some(address) = record.address.filter(|&address| in_a_hole(address, boot)) {
        let cause = format!("{address:#x} is outside all CMRs of this log; only memory inside a CMR can be private");
        return finding(Hardware, "address-outside-cmrs", Deduced, cause, REPLACE);
    }
    if record.in_td || record.global.is_some_and(|global| global & SEAM_NON_ROOT != 0) {
        let cause = "the error was hit by a TD running on this CPU: a partial write by the host and a \
            faulty DIMM are indistinguishable";
        return finding(Undecidable, "in-a-td", Deduced, cause.to_owned(), tell_apart);
    }
    if let Some(Section::Unknown(section)) = &record.section {
        let cause = format!(
            "the kernel does not decode this section of the firmware's record ({section}): it tells of \
            neither memory nor CPU"
        );
        return finding(Undecidable, "section-not-decoded", Sourced, cause, NOT_DECODED);
    }
    if let Some(text) = record.address.and_then(|address| key_id::perhaps(address, boot, calls)) {
        let cause = format!(
            "{text}. A KeyID of TDX would mean private memory, and then a partial write is as possible \
            as a faulty DIMM; the log does not tell which bits are the KeyID"
        );
        return finding(Undecidable, "perhaps-key-id", Deduced, cause, key_id::ASKS);
    }
    if record.firmware && record.status.is_none() && cpu.is_none() {
        let cause = "the firmware report names neither an error of the memory controller nor the CPU";
        return finding(Undecidable, "firmware-without-details", Deduced, cause.to_owned(), tell_apart);
    }
    if erratum == Some(true) {
        let cause = format!(
            "this CPU{} has the erratum and the kernel did not report private memory. It also does not \
                report it if it has no TDX code, if the module cannot be queried (not initialized, VMX \
                off, disabled), if the page was returned to the host without a reset, or if it did not panic",
            named(cpu)
        );
        return finding(Undecidable, "kernel-silent-on-erratum-cpu", Sourced, cause, tell_apart);
    }
    let cause = "the log does not name the CPU, so the partial-write erratum cannot be determined";
    let remedy = "provide the `PROCESSOR` line of the same record, or the `smpboot: CPU0:` line of the same boot";
    finding(Undecidable, "cpu-not-shown", Sourced, cause.to_owned(), remedy)
}

/// An error of a device or of the way to it. What a partial write leaves shows where memory is
/// read.
fn device(
    record: &Record,
    kind: &str,
    finding: impl Fn(Judgement, &'static str, Basis, String, &str) -> LogFinding,
) -> LogFinding {
    let name = record.device.as_ref().map_or_else(String::new, |device| format!(" ({device})"));
    if record.got_poison {
        let cause = format!(
            "an error of {kind}{name}: a packet carried poisoned data (Poisoned TLP). Its data were poisoned before: by \
             a device, by a faulty DIMM, or by a partial write to private memory that a device then read"
        );
        let remedy = "find a machine check or a record on memory of the same time, and explain it together with this \
            one; without one look at the device and its slot";
        return finding(Judgement::Undecidable, "device-got-poison", Basis::Deduced, cause, remedy);
    }
    let cause = format!(
        "an error of {kind}{name}, not of the machine's own memory: the record says nothing on TDX, and poison of a \
         partial write shows where memory is read"
    );
    let remedy = "look at the device, its slot, cable and driver (`lspci -vv`); this is no reason to suspect TDX or to \
        replace a DIMM";
    finding(Judgement::Hardware, "device-error", Basis::Deduced, cause, remedy)
}

/// An address that carries a private KeyID: the memory was private when it was read.
fn private_key_id(keyed: &key_id::Keyed, calls: &Calls, erratum: Option<bool>) -> String {
    let key_id = keyed.key_id;
    let whose = if keyed.global {
        format!("memory of the TDX module (its own KeyID {key_id:#x}: PAMT, TDR)")
    } else {
        format!("private memory of a TD (KeyID {key_id:#x})")
    };
    let dead = calls.end_of(key_id).map_or_else(String::new, |line| format!(" That TD is dead: line {line}."));
    let for_erratum = match erratum {
        Some(true) => "this CPU has the partial-write erratum, and only private memory is hit by it",
        Some(false) => "nothing: this CPU does not have the partial-write erratum",
        None => "only private memory is hit by it; the log does not name the CPU",
    };
    format!(
        "the address carries a KeyID: page {:#x}, {whose}; {}.{dead} For a partial write of the host: {for_erratum}. \
         For hardware: a faulty DIMM poisons private memory as well, and the log names no failed ECC check",
        keyed.address >> 12,
        keyed.ground,
    )
}

/// The line by which the log is that of a guest.
fn guest(boot: &BootLog) -> Option<&At<(Speaker, String)>> {
    boot.speaker.as_ref().filter(|at| matches!(at.value.0, Speaker::TdGuest | Speaker::VirtualMachine))
}

/// CPU and memory module of a record, where its rule does not name them.
fn about(record: &Record, cpu: Option<CpuModel>) -> String {
    let cpu = cpu.filter(|_| record.cpu.is_some()).map_or_else(String::new, |cpu| format!(". CPU {cpu}"));
    let dimm = record.dimm.as_ref().map_or_else(String::new, |dimm| format!(". DIMM: {dimm}"));
    let times = if record.times > 1 {
        format!(". {} that say the same", words::count(record.times, "record"))
    } else {
        String::new()
    };
    cpu + &dimm + &times
}

/// The compound error codes of memory controllers and caches; bit 12 only says how corrected errors
/// are counted.
fn about_memory(status: u64) -> bool {
    let code = status & 0xefff;
    // 0000 0000 1xxx xxxx, 0000 0001 xxxx xxxx, and the memory controllers behind another memory.
    matches!(code, 0x80..=0xff | 0x100..=0x1ff | 0x280..=0x2ff) || matches!(code, 0x0c..=0x0f)
}

/// True if the log shows its CMRs to the end and the address is between them. Above the last one an
/// address may carry a KeyID.
fn in_a_hole(address: u64, boot: &BootLog) -> bool {
    let complete = boot.pamt_kb.is_some() || boot.initialized.is_some();
    let end = boot.cmrs.last().map_or(0, |cmr| cmr.value.limit().get());
    let inside = boot.cmrs.iter().any(|cmr| (cmr.value.base().get()..cmr.value.limit().get()).contains(&address));
    complete && address < end && !inside
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::explain::record::Records;

    const FATAL: &str = "mce: [Hardware Error]: CPU 1: Machine Check Exception: f Bank 1: bd80000000100134";
    const SPR: &str = "mce: [Hardware Error]: PROCESSOR 0:806f4 TIME 1 SOCKET 0 APIC 0 microcode 1";
    const ICX: &str = "mce: [Hardware Error]: PROCESSOR 0:606a6 TIME 1 SOCKET 0 APIC 0 microcode 1";
    const TDX: &str = "mce: [Hardware Error]: Machine Check: TDX private memory error. Possible kernel bug.";

    fn of(messages: &[&str], boot: &str) -> (Judgement, &'static str) {
        let mut records = Records::default();
        for message in messages {
            assert!(records.take(1, &crate::bootlog::split(message)), "{message}");
        }
        let boot = BootLog::read("boot", boot.as_bytes()).unwrap();
        let finding = judge(&records.done[0], &boot, &Calls::default(), None);
        (finding.judgement, finding.rule)
    }

    #[test]
    fn each_rule_has_its_case() {
        use Judgement::{Hardware, TdxPoison, Undecidable};
        let spr = "smpboot: CPU0: Intel(R) Xeon(R) (family: 0x6, model: 0x8f, stepping: 0x8)\n";
        let hole = "virt/tdx: CMR: [0x100000, 0x200000)\nvirt/tdx: CMR: [0x400000, 0x500000)\nvirt/tdx: module \
                initialized\n";
        let at = |address: &str| format!("mce: [Hardware Error]: TSC 1 ADDR {address} MISC 86");
        assert_eq!(of(&[FATAL, TDX], ""), (TdxPoison, "kernel-names-private-memory"));
        assert_eq!(of(&[FATAL, SPR, TDX], ""), (TdxPoison, "kernel-names-private-memory"));
        assert_eq!(of(&[FATAL, ICX, TDX], ""), (Undecidable, "kernel-contradicts-cpu"));
        assert_eq!(of(&[FATAL, ICX], ""), (Hardware, "cpu-without-erratum"));
        assert_eq!(of(&[FATAL, ICX], spr), (Hardware, "cpu-without-erratum"), "the record's own CPU goes first");
        assert_eq!(of(&[FATAL, SPR], ""), (Undecidable, "kernel-silent-on-erratum-cpu"));
        assert_eq!(of(&[FATAL], spr), (Undecidable, "kernel-silent-on-erratum-cpu"));
        assert_eq!(of(&[FATAL], ""), (Undecidable, "cpu-not-shown"));
        assert_eq!(of(&[FATAL, SPR, &at("300000")], hole), (Hardware, "address-outside-cmrs"));
        let cut = hole.replace("virt/tdx: module initialized\n", "");
        let undecided = (Undecidable, "kernel-silent-on-erratum-cpu");
        assert_eq!(of(&[FATAL, SPR, &at("300000")], &cut), undecided, "a CMR may be missing");
        assert_eq!(of(&[FATAL, SPR, &at("480000")], hole), (Undecidable, "kernel-silent-on-erratum-cpu"));
        assert_eq!(
            of(&[FATAL, SPR, &at("600000")], hole),
            (Undecidable, "kernel-silent-on-erratum-cpu"),
            "perhaps a KeyID"
        );
        let in_td = "mce: [Hardware Error]: CPU 1: Machine Check Exception: 100f Bank 1: bd80000000100134";
        assert_eq!(of(&[in_td, SPR], ""), (Undecidable, "in-a-td"));
        assert_eq!(of(&[in_td, ICX], ""), (Hardware, "cpu-without-erratum"));
        let bus = "mce: [Hardware Error]: CPU 1: Machine Check Exception: 5 Bank 4: be00000000000402";
        assert_eq!(of(&[bus, SPR], ""), (Hardware, "not-memory"));
        let corrected = "mce: [Hardware Error]: CPU 1: Machine Check: 0 Bank 13: 8c00004000010090";
        assert_eq!(of(&[corrected, SPR], ""), (Hardware, "corrected"));
        for guest in ["Hypervisor detected: KVM\n", "DMI: QEMU Standard PC (Q35 + ICH9, 2009)\n"] {
            for lines in [&[FATAL, SPR, TDX][..], &[FATAL, ICX], &[corrected, SPR]] {
                assert_eq!(of(lines, guest), (Undecidable, "in-a-guest"));
            }
        }
        let none = "mce: [Hardware Error]: CPU 1: Machine Check: 0 Bank 4: 0000000000000000";
        assert_eq!(of(&[none, SPR], ""), (Undecidable, "status-not-valid"));
        let ecc = [
            "{1}[Hardware Error]: event severity: fatal",
            "{1}[Hardware Error]:   error_type: 3, \
            multi-bit ECC",
        ];
        assert_eq!(of(&ecc, ""), (Hardware, "controller-names-ecc"));
        let scrub = [ecc[0], "{1}[Hardware Error]:   error_type: 14, scrub uncorrected error"];
        assert_eq!(of(&scrub, ""), (Hardware, "controller-names-ecc"));
        assert_eq!(of(&ecc[..1], ""), (Undecidable, "firmware-without-details"));
        assert_eq!(of(&[FATAL, SPR, "dev_pagemap_mapping_shift: page 1: no PUD"], ""), (Hardware, "device-memory"));
    }
}
