//! The minimal host kernel: what it keeps in statics, when it brings TDX up, and what it does when
//! there is no TDX, when the bring-up fails, and when it is told to kexec. No TDs: `hypervisor.rs`
//! has them.
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

use kernel::{Hardware, Kernel, MEMORY, tdmrs, words};
use tdx_abi::{KeyIdPartition, Leaf};
use tdx_host::bringup::{self, ModuleInfo};
use tdx_host::handover::{HandoverReport, HostMemory, HostParts, Kexec, KexecKind, Policy};
use tdx_host::layout::Layout;
use tdx_host::ledger::Ledger;
use tdx_host::platform::{TdxPlatform, detect};
use tdx_host::private_memory::PrivateMemory;
use tdx_machine::{Fault, When};

/// What a kernel knows of TDX. All of it lives as long as the kernel: in statics, or in memory that
/// is never freed.
pub struct Tdx {
    /// What [`detect`] found; `None` if there is no TDX.
    pub platform: Option<TdxPlatform>,
    /// What the module said; `None` if it is not up.
    pub module: Option<ModuleInfo>,
    /// Which PAMTs there are. It exists before the first bring-up and outlives every one: a crash
    /// at any instant reads it.
    pub record: PrivateMemory,
    /// TDMRs and PAMTs.
    pub layout: Box<Layout>,
}

/// Boot: looks for TDX and brings it up. A host goes on whatever comes of it.
pub fn boot(hardware: &Hardware, kernel: &mut Kernel<'_>) -> Tdx {
    let record = PrivateMemory::new();
    let mut layout = Box::new(Layout::new());
    let platform = match detect(hardware) {
        Ok(platform) => platform,
        Err(why) => {
            println!("virt/tdx: {why}");
            return Tdx { platform: None, module: None, record, layout };
        }
    };
    kernel.platform = Some(platform);
    // SAFETY: the machine's one record and its platform.
    let up = unsafe { bringup::run(kernel, platform, &record, &mut layout, &MEMORY) };
    let up = up.map(|ready| ready.module);
    let module = match up {
        Ok(module) => {
            println!("virt/tdx: module {}, {} KB allocated for PAMT", module.version, layout.pamt_kb());
            Some(module)
        }
        // Everything was undone: PAMTs are reset and freed, the flag is down.
        Err(error) => {
            println!("virt/tdx: {error} (Linux would say {})", error.errno());
            None
        }
    };
    Tdx { platform: Some(platform), module, record, layout }
}

/// Kexec: the same calls with TDX and without it.
pub fn kexec(hardware: &Hardware, kernel: &Kernel<'_>, tdx: &Tdx) -> HandoverReport {
    // A kernel with TDs makes its ledger right after the bring-up. It is here to show its price.
    let mut ledger_words = words(Ledger::words_needed(tdmrs(&tdx.layout)));
    let ledger = Ledger::new(tdmrs(&tdx.layout), &mut ledger_words).expect("a layout's TDMRs are good ranges");
    let parts = HostParts {
        platform: tdx.platform.as_ref(),
        features: tdx.module.as_ref().map(|module| module.features),
        record: &tdx.record,
        ledger: (&ledger).into(),
        gate: hardware.gate(),
        reserved: &[kernel::CRASH_KERNEL],
    };
    // SAFETY: the parts are those of this machine.
    let memory = unsafe { HostMemory::new(parts) };
    let stopped = Kexec::begin(Policy::Tracked, KexecKind::Normal, memory)
        .expect("`tracked` never refuses")
        .stop_other_cpus(kernel)
        .expect("all CPUs stop");
    // From here on there is no way back, and no SEAMCALL.
    let report = stopped.ask_module(|_| ()).write_back_caches().reset();
    println!("virt/tdx: {:?}, clean: {}", report.outcome, report.is_clean(&memory));
    report
}

/// From power-on to the next kernel, on any host. True if the next kernel lives.
pub fn run(hardware: &Hardware) -> bool {
    let mut kernel = Kernel::boot(hardware);
    let tdx = boot(hardware, &mut kernel);
    let _ = kexec(hardware, &kernel, &tdx);
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
