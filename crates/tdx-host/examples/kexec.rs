//! Kexec: TDX is up, pages of a TD are with the module, and the next kernel uses all of memory.
//!
//! ```sh
//! cargo run -p tdx-host --example kexec             # policy `tracked`: the next kernel lives
//! cargo run -p tdx-host --example kexec -- none     # nothing is reset: a machine check
//! ```

// UNSAFETY: the example is the kernel that answers for its memory.
#![allow(unsafe_code)]

#[allow(dead_code)] // shared by several examples; each uses its part
mod kernel;

use std::process::ExitCode;

use kernel::{Hardware, Kernel, MEMORY, tdmrs, words};
use tdx_abi::{TdxFeatures0, subtract};
use tdx_host::bringup::{self, BringupError};
use tdx_host::handover::{HandoverReport, HostMemory, HostParts, Kexec, KexecKind, Policy};
use tdx_host::key_ids::KeyIds;
use tdx_host::layout::Layout;
use tdx_host::ledger::Ledger;
use tdx_host::platform::detect;
use tdx_host::private_memory::PrivateMemory;
use tdx_host::td::TdHost;
use tdx_machine::{MachineCheck, ModuleProfile};

/// What came of it.
pub struct Outcome {
    /// The host's own account.
    pub report: HandoverReport,
    /// Ranges that the host could not clean.
    pub left: usize,
    /// What the next kernel dies of, if it dies.
    pub next_kernel: Result<(), MachineCheck>,
}

/// One kernel's life, from bring-up to the jump.
///
/// # Errors
/// The bring-up failed, which it does not on this machine.
pub fn run(policy: Policy, module: ModuleProfile) -> Result<Outcome, BringupError> {
    let hardware = Hardware::with(|config| config.module = Some(module));
    let platform = detect(&hardware).expect("this machine has TDX");
    // Both are statics in a kernel: the record must be readable in a crash at any instant, and a
    // layout is too large for a stack.
    let record = PrivateMemory::new();
    let mut layout = Box::new(Layout::new());
    let mut kernel = Kernel::boot(&hardware);
    kernel.platform = Some(platform);
    // SAFETY: the machine's one record and its platform.
    let ready = unsafe { bringup::run(&mut kernel, platform, &record, &mut layout, &MEMORY) }?;
    let features: TdxFeatures0 = ready.module.features;

    // The ledger and the KeyIDs live in memory from the kernel's allocator, and are published
    // before the first page is given.
    let mut ledger_words = words(Ledger::words_needed(tdmrs(&layout)));
    let ledger = Ledger::new(tdmrs(&layout), &mut ledger_words).expect("a layout's TDMRs are good ranges");
    let ledger = ledger.with_reserved(kernel::CRASH_KERNEL).expect("room for one range");
    let mut key_words = words(KeyIds::words_needed(platform.key_ids()) as u64);
    let key_ids = KeyIds::new(platform.key_ids(), &mut key_words).expect("enough words");

    // A TD that has come half-way; the kexec finds it so.
    // SAFETY: the machine's one ledger and KeyIDs.
    let host = unsafe { TdHost::new(&platform, &ledger, &key_ids) };
    let root = kernel.take_page(&ledger);
    let td = host.create(&kernel.cpu(), root).expect("the module takes the page");
    let mut td = td.configure_keys(&kernel).expect("every package has entropy");
    for _ in 0..3 {
        let page = kernel.take_page(&ledger);
        td.add_control_page(&kernel.cpu(), page).expect("the module takes the page");
    }

    // `kexec -e`. Made now and not kept: it names the ledger that is in use at this moment.
    let parts = HostParts {
        platform: Some(&platform),
        features: Some(features),
        record: &record,
        ledger: (&ledger).into(),
        gate: hardware.gate(),
        reserved: &[kernel::CRASH_KERNEL],
    };
    // SAFETY: the parts are those of this machine.
    let memory = unsafe { HostMemory::new(parts) };
    let free_to_overwrite = subtract(MEMORY.iter().map(|part| part.range), [kernel::IMAGE]);
    let kexec = Kexec::begin(policy, KexecKind::Normal, memory)
        .expect("no policy here refuses")
        .stop_other_cpus(&kernel)
        .expect("all CPUs stop")
        .ask_module(|_| ())
        .write_back_caches();
    // SAFETY: all memory but this kernel, which jumps after this.
    let report = unsafe { kexec.reset_everything(free_to_overwrite) };
    Ok(Outcome { left: report.leftovers(&memory).count(), report, next_kernel: kernel.next_kernel() })
}

fn main() -> ExitCode {
    let policy = match std::env::args().nth(1).as_deref() {
        None | Some("tracked") => Policy::Tracked,
        Some("module") => Policy::Module,
        Some("pamt") => Policy::Pamt,
        Some("none") => Policy::None,
        Some(other) => {
            eprintln!("{other}: no such policy; tracked, module, pamt or none");
            return ExitCode::from(2);
        }
    };
    match run(policy, ModuleProfile::V1_5_01) {
        Ok(Outcome { report, left, next_kernel }) => {
            println!("the host says: {:?}; {left} ranges are left", report.outcome);
            match next_kernel {
                Ok(()) => println!("the next kernel has used all of memory"),
                Err(check) => println!("the next kernel is dead: {check}"),
            }
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("{error}");
            ExitCode::FAILURE
        }
    }
}
