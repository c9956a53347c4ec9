//! Kdump: CPU 2 panics while CPU 1 is between the mark of a page and the SEAMCALL that gives it,
//! after a wild store has poisoned a page of PAMT. The crash kernel reads all of old memory.
//!
//! Told with every CPU obeying the NMI; with CPU 1 deaf to it, so that its caches may still hold
//! private lines: the host then resets all the same, and says in the table of leftovers what it
//! cannot vouch for; and, for comparison, with no reset at all.
//!
//! ```sh
//! cargo run -p tdx-host --example kdump
//! ```

// UNSAFETY: the example is the kernel that answers for its memory.
#![allow(unsafe_code)]

#[allow(dead_code)] // shared by several examples; each uses its part
mod kernel;

use std::process::ExitCode;

use kernel::{CRASH_KERNEL, Hardware, Kernel, MEMORY, tdmrs, words};
use tdx_abi::{KeyId, LineRange, PageRange};
use tdx_host::bringup;
use tdx_host::handover::{
    HandoverReport, HostMemory, HostParts, LeftoverTable, OldMemory, Policy, check_crash_image, explain,
    hand_over_crash,
};
use tdx_host::layout::Layout;
use tdx_host::ledger::Ledger;
use tdx_host::platform::detect;
use tdx_host::private_memory::PrivateMemory;
use tdx_machine::{CpuId, MachineCheck, PartialStore};

/// What came of it.
pub struct Outcome {
    /// The host's own account.
    pub report: HandoverReport,
    /// What the machine-check handler says of the poisoned line.
    pub explained: String,
    /// What the table of leftovers names; `None`: all old memory.
    pub leftovers: Option<Vec<PageRange>>,
    /// What a crash kernel dies of that reads all of old memory but the leftovers.
    pub crash_kernel: Result<(), MachineCheck>,
    /// What a crash kernel dies of that knows nothing of the table.
    pub heedless: Result<(), MachineCheck>,
}

/// From the bring-up to the crash kernel.
pub fn run(policy: Policy, deaf: Option<u32>) -> Outcome {
    let hardware = Hardware::new();
    let platform = detect(&hardware).expect("this machine has TDX");
    let record = PrivateMemory::new();
    let mut layout = Box::new(Layout::new());
    let mut kernel = Kernel::boot(&hardware);
    kernel.platform = Some(platform);
    // SAFETY: the machine's one record and its platform.
    unsafe { bringup::run(&mut kernel, platform, &record, &mut layout, &MEMORY) }.expect("the bring-up succeeds");
    let mut ledger_words = words(Ledger::words_needed(tdmrs(&layout)));
    // Told at the start that the crash kernel's memory is not TDX's, the ledger never lets a page
    // of it be given.
    let ledger = Ledger::new(tdmrs(&layout), &mut ledger_words).expect("a layout's TDMRs are good ranges");
    let ledger = ledger.with_reserved(CRASH_KERNEL).expect("room for one range");
    let parts = HostParts {
        platform: Some(&platform),
        features: None,
        record: &record,
        ledger: (&ledger).into(),
        gate: hardware.gate(),
        reserved: &[CRASH_KERNEL],
    };
    // SAFETY: the parts are those of this machine.
    let memory = unsafe { HostMemory::new(parts) };

    // `kexec -p`: the image is written now, so it must lie where neither TDX nor the reset will be.
    // The table says "all old memory may be private" until a handover has come to its end.
    check_crash_image(&memory, &[CRASH_KERNEL]).expect("the reserved memory is good");
    let mut table = vec![0; 64 << 10];
    LeftoverTable::all_private(&mut table).expect("64 KiB hold a header");

    // A wild MOVNTI hits PAMT. Nothing happens, for now.
    let victim = LineRange::single(layout.tdmrs()[0].pamt(tdx_abi::PageSize::Size4K).base().line());
    let stored = hardware.machine().partial_write(CpuId(0), victim, KeyId::HOST, PartialStore::NonTemporal);
    assert_eq!(stored.expect("memory that is there"), 1, "one line is poisoned, and nobody knows");
    let explained = explain(&memory, Some(&layout), victim.start().start()).to_string();

    // CPU 1 has marked a page, and its SEAMCALL comes next. It never does.
    let page = kernel.take_page(&ledger);
    let giving = page.give(&hardware.cpu(1)).expect("a shared page can be given");

    // CPU 2 panics. No lock, no allocation, no SEAMCALL; the memory is asked for after the others
    // have stopped.
    (kernel.this, kernel.deaf) = (2, deaf);
    let report = hand_over_crash(policy, &kernel.cpu(), &kernel, &memory);
    LeftoverTable::write(&mut table, &report, &memory).expect("64 KiB hold a header");
    // The code on CPU 1 never went on, so its token was never dropped either.
    core::mem::forget(giving);

    // In the crash kernel, which finds the table where it was told.
    let leftovers = match LeftoverTable::read(&table).expect("the table is whole").old_memory {
        OldMemory::Listed(left) => Some(left.map(|left| left.range).collect::<Vec<_>>()),
        OldMemory::AllPrivate => None,
    };
    let crash_kernel = match &leftovers {
        Some(left) => kernel.crash_kernel(left),
        None => Ok(()),
    };
    Outcome { report, explained, leftovers, crash_kernel, heedless: kernel.crash_kernel(&[]) }
}

fn main() -> ExitCode {
    let mut good = true;
    for (story, policy, deaf) in [
        ("every CPU obeys", Policy::Tracked, None),
        ("CPU 1 is deaf", Policy::Tracked, Some(1)),
        ("nothing is reset, for comparison", Policy::None, None),
    ] {
        let outcome = run(policy, deaf);
        println!("{story}:\n  {}\n  {:?}; {}", outcome.explained, outcome.report.outcome, outcome.report.suspects);
        match &outcome.leftovers {
            Some(left) => println!("  the crash kernel leaves {} ranges alone", left.len()),
            None => println!("  the crash kernel must take all old memory for private"),
        }
        for (which, result) in [("it", outcome.crash_kernel), ("one that has not read the table", outcome.heedless)] {
            match result {
                Ok(()) => println!("  {which} reads all the rest"),
                Err(check) => println!("  {which} dies: {check}"),
            }
        }
        good &= outcome.crash_kernel.is_ok();
    }
    if good { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
