//! Kdump: CPU 2 panics while CPU 1 is between the mark of a page and the SEAMCALL that gives it,
//! after a wild store has poisoned a page of PAMT. The crash kernel reads all of old memory.
//!
//! Told with every CPU obeying the NMI; with CPU 1 deaf to it, so that its caches may still hold
//! private lines: the host still resets, and says in the table of leftovers what it
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

use kernel::{CRASH_KERNEL, Hardware, Kernel, words};
use tdx_host::handover::{LeftoverTable, OldMemory, check_crash_image};
use tdx_host::{HandoverReport, Host, KeyId, LineRange, PageRange, PageSize, Policy};
use tdx_machine::{CpuId, MachineCheck, PartialStore};

/// What came of it.
pub struct Outcome {
    /// The host's own account; `None` without a handover.
    pub report: Option<HandoverReport>,
    /// What the machine-check handler says of the poisoned line.
    pub explained: String,
    /// What the table of leftovers names; `None`: all old memory.
    pub leftovers: Option<Vec<PageRange>>,
    /// What a crash kernel dies of that reads all of old memory but the leftovers.
    pub crash_kernel: Result<(), MachineCheck>,
    /// What a crash kernel dies of that knows nothing of the table.
    pub heedless: Result<(), MachineCheck>,
}

/// From the bring-up to the crash kernel. `deaf` is a CPU that does not react to the NMI.
pub fn run(handover: bool, deaf: Option<u32>) -> Outcome {
    let hardware = Hardware::new();
    let tdx = Host::new(hardware.slots());
    // No page of it can be given, and no reset writes to it.
    tdx.reserve(&[CRASH_KERNEL]).expect("reserved once");
    let mut kernel = Kernel::with_tdx(&hardware, &tdx);
    let tds = tdx.track(words(tdx.tracking_words())).expect("as many words as it needs");

    // `kexec -p`: the image is written now, so it must lie where neither TDX nor the reset will be.
    // The table says "all old memory may be private" until a handover has come to its end.
    check_crash_image(&tdx.memory(), &[CRASH_KERNEL]).expect("the reserved memory is good");
    let mut table = vec![0; 64 << 10];
    LeftoverTable::all_private(&mut table).expect("64 KiB hold a header");

    // A wild MOVNTI hits PAMT. Nothing happens, for now.
    let layout = tdx.layout().expect("TDX is up");
    let victim = LineRange::single(layout.tdmrs()[0].pamt(PageSize::Size4K).base().line());
    let stored = hardware.machine().partial_write(CpuId(0), victim, KeyId::HOST, PartialStore::NonTemporal);
    assert_eq!(stored.expect("memory that is there"), 1, "one line is poisoned, and nobody knows");
    let explained = tdx.explain(victim.start().start()).to_string();

    // CPU 1 has marked a page, and its SEAMCALL comes next. It never does.
    let page = kernel.take_page(tds.ledger());
    let giving = page.give(&kernel.cpu_number(1)).expect("a shared page can be given");

    // CPU 2 panics. No lock, no allocation, no SEAMCALL. The ledger is looked up after the others
    // have stopped.
    (kernel.this, kernel.deaf) = (2, deaf);
    let report = handover.then(|| tdx.crash(Policy::Tracked, &kernel.cpu(), &kernel));
    if let Some(report) = &report {
        LeftoverTable::write(&mut table, report, &tdx.memory()).expect("64 KiB hold a header");
    }
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
    for (story, handover, deaf) in [
        ("all CPUs stop", true, None),
        ("CPU 1 does not stop", true, Some(1)),
        ("no handover, for comparison", false, None),
    ] {
        let outcome = run(handover, deaf);
        println!("{story}:\n  {}", outcome.explained);
        if let Some(report) = &outcome.report {
            println!("  {:?}; {}", report.outcome, report.suspects);
        }
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
