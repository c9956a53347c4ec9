//! The smallest host kernel: it brings TDX up, goes on if there is none or the bring-up fails, and
//! kexecs. No TDs: `hypervisor.rs` has them.
//!
//! What a kernel implements for this stands in `kernel/mod.rs`, the adapter that all examples
//! share.
//!
//! ```sh
//! cargo run -p tdx-host --example skeleton
//! ```

// UNSAFETY: the example is the kernel that answers for its memory.
#![allow(unsafe_code)]

#[allow(dead_code)] // shared by several examples; each uses its part
mod kernel;

use std::process::ExitCode;

use kernel::{CRASH_KERNEL, Hardware, Kernel, MEMORY, words};
use tdx_abi::KeyIdPartition;
use tdx_host::{HandoverReport, Host, KexecKind, Leaf, Policy};
use tdx_machine::{Fault, When};

/// Boot: looks for TDX, brings it up, and makes ready for TDs. The kernel goes on if any of it
/// fails.
pub fn boot<'h>(hardware: &Hardware, kernel: &mut Kernel<'h>, tdx: &'h Host<'h>) {
    // From now on: never given to TDX, never overwritten.
    tdx.reserve(&[CRASH_KERNEL]).expect("reserved once");
    match tdx.detect(hardware) {
        Ok(_) => {}
        Err(why) => return println!("virt/tdx: {why}"),
    }
    match tdx.bring_up(kernel, &MEMORY) {
        Ok(ready) => println!("virt/tdx: module {} is up", ready.module.version),
        // Everything was undone: PAMTs are reset and freed, the flag is down.
        Err(error) => return println!("virt/tdx: {error} (Linux would return {})", error.errno()),
    }
    // From here on TDs can be built. The words live as long as the kernel.
    tdx.track(words(tdx.tracking_words())).expect("as many words as it needs");
}

/// Kexec: the same calls with TDX and without it.
pub fn kexec(kernel: &Kernel<'_>, tdx: &Host<'_>) -> HandoverReport {
    let kexec = tdx.kexec(Policy::Tracked, KexecKind::Normal).expect("`tracked` never refuses");
    let stopped = kexec.stop_other_cpus(kernel).expect("all CPUs stop");
    // From here on there is no way back, and no SEAMCALL.
    let report = stopped.ask_module(|_| ()).write_back_caches().reset();
    println!("virt/tdx: {:?}, clean: {}", report.outcome, report.is_clean(&tdx.memory()));
    report
}

/// From power-on to the next kernel, on any host. True if the next kernel lives.
pub fn run(hardware: &Hardware) -> bool {
    // In a kernel: `static TDX: Host = Host::new(&SLOTS)`. It exists before the first bring-up and
    // outlives every one: a crash at any instant reads it.
    let tdx = Host::new(hardware.slots());
    let mut kernel = Kernel::boot(hardware, &tdx);
    boot(hardware, &mut kernel, &tdx);
    let _ = kexec(&kernel, &tdx);
    kernel.next_kernel().is_ok() && hardware.machine().private_lines() == 0
}

/// Hosts of which each is handed over clean.
pub fn hosts() -> [(&'static str, Hardware); 4] {
    let dying = Hardware::new();
    dying.machine().inject(Fault::Crash, When::CallOf(Leaf::SYS_TDMR_INIT, 100));
    [
        ("a host with TDX", Hardware::new()),
        ("TDX off in the BIOS", Hardware::with(|config| config.key_ids = Some(KeyIdPartition::new(63, 0)))),
        ("the BIOS has loaded no module", Hardware::with(|config| config.module = None)),
        ("the module dies half-way through SYS.TDMR.INIT", dying),
    ]
}

fn main() -> ExitCode {
    let mut good = true;
    for (name, hardware) in hosts() {
        println!("{name}:");
        let lives = run(&hardware);
        println!("the next kernel {}\n", if lives { "lives" } else { "dies" });
        good &= lives;
    }
    if good { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
