//! Hands the machine to the next kernel (kexec, kdump): policy, order, and an account of what was
//! left. No SEAMCALL is made once the reset has begun; what cannot be proved clean is reported.
//!
//! # Orderly kexec
//!
//! The order is a type. Each state offers only the next step, so none can be left out or swapped:
//!
//! ```text
//! Kexec<Loaded> --stop_other_cpus--> Kexec<Stopped> --ask_module--> Kexec<Asked> --write_back_caches--> Kexec<WrittenBack>
//!     ^               |                                                              --reset--> HandoverReport, jump
//!     \---StopError---/
//! ```
//!
//! Gate closed, other CPUs stopped with their caches written back, SYS.DISABLE if the policy wants
//! it, caches once more where they may hold private lines, reset on all CPUs, jump.
//!
//! Linux asks the module while the other CPUs still run. Here they have stopped: a CPU that does
//! not stop then leaves a host that goes on as before, module and TDs with it, and no old private
//! line can land on what the module has cleared.
//!
//! # Crash
//!
//! [`hand_over_crash`], from any CPU at any instant: no lock, no allocation, no SEAMCALL, no step
//! that waits for another CPU but the kernel's own bounded wait for the NMI.
//!
//! A kernel on a machine without TDX calls the same functions with no platform; there is then
//! nothing to do.
//!
//! # Which policy
//!
//! | policy | resets | for |
//! | --- | --- | --- |
//! | [`Policy::Tracked`] | PAMTs and every marked page | everyone: needs no module, works with any |
//! | [`Policy::Module`] | what the module may not know; without its help as `Tracked` | a next kernel that is to use TDX again |
//! | [`Policy::Refuse`] | nothing: says no at image load | a host that must not kexec |
//! | [`Policy::Everything`] | all memory | when the tracking itself is not trusted |
//! | [`Policy::ModuleOnly`], [`Policy::Pamt`], [`Policy::None`] | less than is needed | comparison with Linux 7.2, with the patches of 2023, and with nothing |
//!
//! # Example: kexec
//!
//! Refusals come early, where a user sees them; after the reset comes the jump and nothing else.
//!
//! ```
//! # mod kernel { include!(concat!(env!("CARGO_MANIFEST_DIR"), "/examples/kernel/mod.rs")); }
//! # use tdx_host::{bringup, layout::Layout, platform::detect, private_memory::PrivateMemory};
//! # let hardware = kernel::Hardware::new();
//! # let platform = detect(&hardware).unwrap();
//! # let record = PrivateMemory::new();
//! # let mut layout = Box::new(Layout::new());
//! # let mut kernel = kernel::Kernel::boot(&hardware);
//! # // SAFETY: the machine's one record and its platform.
//! # unsafe { bringup::run(&mut kernel, platform, &record, &mut layout, &kernel::MEMORY) }.unwrap();
//! use tdx_host::handover::{CameBack, HostMemory, HostParts, Kexec, KexecKind, Outcome, Policy, check_image_load};
//!
//! // SAFETY: the parts are those of this machine.
//! let memory = unsafe { HostMemory::new(HostParts {
//!     platform: Some(&platform),
//!     features: None,
//!     record: &record,
//!     ledger: None.into(), // no TD was ever built
//!     gate: hardware.gate(),
//!     reserved: &[],
//! }) };
//! // `kexec -l`
//! check_image_load(Policy::Tracked, KexecKind::Normal, &memory, &[kernel::IMAGE])?;
//! assert!(check_image_load(Policy::Refuse, KexecKind::Normal, &memory, &[kernel::IMAGE]).is_err());
//!
//! // `kexec -e`. A CPU that does not stop: the host goes on as before, and the kexec can be tried again.
//! kernel.deaf = Some(3);
//! let kexec = Kexec::begin(Policy::Tracked, KexecKind::Normal, memory)?;
//! let again = kexec.stop_other_cpus(&kernel).unwrap_err();
//! println!("{again}");
//! kernel.deaf = None;
//! let stopped = again.kexec.stop_other_cpus(&kernel).unwrap();
//! let report = stopped.ask_module(|_| ()).write_back_caches().reset();
//! let Outcome::Reset(count) = report.outcome else { panic!("PAMT was private") };
//! assert_eq!(count.lines * 64, layout.pamt_bytes());
//! assert!(report.is_clean(&memory) && kernel.next_kernel().is_ok());
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! # Example: a panic
//!
//! ```
//! # mod kernel { include!(concat!(env!("CARGO_MANIFEST_DIR"), "/examples/kernel/mod.rs")); }
//! # use tdx_host::{bringup, layout::Layout, platform::detect, private_memory::PrivateMemory};
//! # let hardware = kernel::Hardware::new();
//! # let platform = detect(&hardware).unwrap();
//! # let record = PrivateMemory::new();
//! # let mut layout = Box::new(Layout::new());
//! # let mut kernel = kernel::Kernel::boot(&hardware);
//! # // SAFETY: the machine's one record and its platform.
//! # unsafe { bringup::run(&mut kernel, platform, &record, &mut layout, &kernel::MEMORY) }.unwrap();
//! use tdx_host::handover::{HostMemory, HostParts, LeftoverTable, OldMemory, Policy, explain, hand_over_crash};
//!
//! // SAFETY: the parts are those of this machine.
//! let memory = unsafe { HostMemory::new(HostParts {
//!     platform: Some(&platform),
//!     features: None,
//!     record: &record,
//!     ledger: None.into(),
//!     gate: hardware.gate(),
//!     reserved: &[kernel::CRASH_KERNEL],
//! }) };
//! // The machine-check handler, at any time: is this line TDX's?
//! let address = layout.tdmrs()[0].pamt(tdx_abi::PageSize::Size2M).base();
//! assert!(explain(&memory, Some(&layout), address).to_string().ends_with("private: possible kernel bug"));
//!
//! let report = hand_over_crash(Policy::Tracked, &kernel.cpu(), &kernel, &memory);
//! let mut table = [0; 4096]; // in the crash kernel's own memory
//! LeftoverTable::write(&mut table, &report, &memory)?;
//!
//! // In the crash kernel:
//! let OldMemory::Listed(mut left) = LeftoverTable::read(&table)?.old_memory else { panic!("it had room") };
//! assert!(left.next().is_none());
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

mod crash;
mod explain;
mod kexec;
mod leftovers;
mod memory;
mod module;
mod policy;
mod report;
mod steps;
mod stop;
mod suspects;

pub use crash::{NmiStop, hand_over_crash, stop_this_cpu_at_crash};
pub use explain::{AddressKind, Explanation, explain};
pub use kexec::{Asked, Kexec, Loaded, StopError, Stopped, WrittenBack};
pub use leftovers::{LeftoverTable, Leftovers, OldMemory, TableError, Written};
pub use memory::{HostMemory, HostParts, LedgerRef, LiveLedger};
pub use module::{DISABLE_CALLS, ModuleAnswer};
pub use policy::{KexecKind, LeftPrivate, NothingToDo, Policy, Refused, check_crash_image, check_image_load};
pub use report::{CameBack, HandoverKind, HandoverReport, Leftover, LeftoverKind, LeftoverReason, Outcome};
pub use stop::{StopCause, StopCpus, offline_this_cpu, stop_this_cpu};
pub use suspects::{MAX_NAMED, Suspects};
