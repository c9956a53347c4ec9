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

use kernel::{CRASH_KERNEL, Hardware, IMAGE, Kernel, MEMORY, words};
use tdx_abi::subtract;
use tdx_host::{HandoverReport, Host, KexecKind, Policy};
use tdx_machine::{MachineCheck, ModuleProfile};

/// The result of a kexec.
pub struct Outcome {
    /// The host's own account.
    pub report: HandoverReport,
    /// Ranges that the host could not clean.
    pub left: usize,
    /// The machine check that kills the next kernel, if one does.
    pub next_kernel: Result<(), MachineCheck>,
}

/// TDX is up, and a TD is half built.
fn boot<'h>(hardware: &'h Hardware, tdx: &'h Host<'h>) -> Kernel<'h> {
    tdx.reserve(&[CRASH_KERNEL]).expect("reserved once");
    let mut kernel = Kernel::with_tdx(hardware, tdx);
    let tds = tdx.track(words(tdx.tracking_words())).expect("as many words as it needs");
    let root = kernel.take_page(tds.ledger());
    let td = tds.create(&kernel.cpu(), root).expect("the module takes the page");
    let mut td = td.configure_keys(&kernel).expect("every package has entropy");
    for _ in 0..3 {
        let page = kernel.take_page(tds.ledger());
        td.add_control_page(&kernel.cpu(), page).expect("the module takes the page");
    }
    // Its pages stay marked: the kexec finds them.
    drop(td);
    kernel
}

/// `kexec -e`.
pub fn run(policy: Policy, module: ModuleProfile) -> Outcome {
    let hardware = Hardware::with(|config| config.module = Some(module));
    let tdx = Host::new(hardware.slots());
    let kernel = boot(&hardware, &tdx);
    let kexec = tdx
        .kexec(policy, KexecKind::Normal)
        .expect("no policy here refuses")
        .stop_other_cpus(&kernel)
        .expect("all CPUs stop")
        .ask_module(|_| ())
        .write_back_caches();
    let report = if policy == Policy::Everything {
        // SAFETY: all memory but this kernel, which jumps after this.
        unsafe { kexec.reset_everything(subtract(MEMORY.iter().map(|part| part.range), [IMAGE])) }
    } else {
        kexec.reset()
    };
    Outcome { left: report.leftovers(&tdx.memory()).count(), report, next_kernel: kernel.next_kernel() }
}

/// A kernel that jumps without a handover, for comparison: what kills the next one.
///
/// # Errors
/// The machine check.
pub fn run_without_handover() -> Result<(), MachineCheck> {
    let hardware = Hardware::new();
    let tdx = Host::new(hardware.slots());
    boot(&hardware, &tdx).next_kernel()
}

fn main() -> ExitCode {
    let policy = match std::env::args().nth(1).as_deref() {
        None | Some("tracked") => Some(Policy::Tracked),
        Some("module") => Some(Policy::Module),
        Some("everything") => Some(Policy::Everything),
        Some("none") => None,
        Some(other) => {
            eprintln!("{other}: no such policy; tracked, module, everything or none");
            return ExitCode::from(2);
        }
    };
    let next_kernel = match policy {
        Some(policy) => {
            let outcome = run(policy, ModuleProfile::V1_5_01);
            println!("the host reports: {:?}; {} ranges are left", outcome.report.outcome, outcome.left);
            outcome.next_kernel
        }
        None => run_without_handover(),
    };
    match next_kernel {
        Ok(()) => println!("the next kernel has used all of memory"),
        Err(check) => println!("the next kernel is dead: {check}"),
    }
    ExitCode::SUCCESS
}
