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
//! it (or `flush_vcpus` in place of `ask_module`, where TDs are kept), caches once more where they
//! may hold private lines, reset on all CPUs, jump.
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
//! | [`Policy::Keep`] | what no TD needs | a next kernel that takes TDX over, see [`crate::takeover`] |
//! | [`Policy::Refuse`] | nothing: says no at image load | a host that must not kexec |
//! | [`Policy::Everything`] | all memory | when the tracking itself is not trusted |
//!
//! # Example: kexec
//!
//! Refusals come early, where a user sees them; after the reset comes the jump and nothing else.
//!
//! ```
//! # mod kernel { include!(concat!(env!("CARGO_MANIFEST_DIR"), "/examples/kernel/mod.rs")); }
//! # let hardware = kernel::Hardware::new();
//! # let tdx = tdx_host::Host::new(hardware.slots());
//! # let mut kernel = kernel::Kernel::with_tdx(&hardware, &tdx);
//! use tdx_host::{KexecKind, Outcome, Policy};
//!
//! // `kexec -l`
//! tdx.check_image_load(Policy::Tracked, KexecKind::Normal, &[kernel::IMAGE])?;
//! assert!(tdx.check_image_load(Policy::Refuse, KexecKind::Normal, &[kernel::IMAGE]).is_err());
//!
//! // `kexec -e`. A CPU that does not stop: the host goes on as before, and the kexec can be tried
//! // again.
//! kernel.deaf = Some(3);
//! let kexec = tdx.kexec(Policy::Tracked, KexecKind::Normal)?;
//! let error = kexec.stop_other_cpus(&kernel).unwrap_err();
//! println!("{error}");
//! kernel.deaf = None;
//! let stopped = kexec.stop_other_cpus(&kernel)?;
//! let report = stopped.ask_module(|_| ()).write_back_caches().reset();
//! let Outcome::Reset(count) = report.outcome else { panic!("PAMT was private") };
//! assert_eq!(Some(count.lines * 64), tdx.layout().map(|layout| layout.pamt_bytes()));
//! assert!(report.is_clean(&tdx.memory()) && kernel.next_kernel().is_ok());
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! # Example: a panic
//!
//! ```
//! # mod kernel { include!(concat!(env!("CARGO_MANIFEST_DIR"), "/examples/kernel/mod.rs")); }
//! # let hardware = kernel::Hardware::new();
//! # let tdx = tdx_host::Host::new(hardware.slots());
//! # let mut kernel = kernel::Kernel::with_tdx(&hardware, &tdx);
//! use tdx_host::handover::{LeftoverTable, OldMemory};
//! use tdx_host::{PageSize, Policy};
//!
//! tdx.reserve(&[kernel::CRASH_KERNEL])?;
//! // The machine-check handler, at any time: is this line TDX's?
//! let address = tdx.layout().expect("TDX is up").tdmrs()[0].pamt(PageSize::Size2M).base();
//! assert!(tdx.explain(address).to_string().ends_with("private: possible kernel bug"));
//!
//! let report = tdx.crash(Policy::Tracked, &kernel.cpu(), &kernel);
//! let mut table = [0; 4096]; // in the crash kernel's own memory
//! LeftoverTable::write(&mut table, &report, &tdx.memory())?;
//!
//! // In the crash kernel:
//! let OldMemory::Listed(mut left) = LeftoverTable::read(&table)?.old_memory else { panic!("it had room") };
//! assert!(left.next().is_none());
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

mod crash;
mod explain;
mod keep;
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
pub use memory::HostMemory;
pub(crate) use memory::LiveLedger;
pub use module::{DISABLE_CALLS, ModuleAnswer};
pub use policy::{KexecKind, LeftPrivate, NothingToDo, Policy, Refused, check_crash_image, check_image_load};
pub use report::{CameBack, HandoverKind, HandoverReport, Leftover, LeftoverKind, LeftoverReason, Outcome};
pub use stop::{StopCause, StopCpus, offline_this_cpu, stop_this_cpu};
pub use suspects::{MAX_NAMED, Suspects};
