//! The TDX host memory stack: brings up Intel's TDX module, knows which physical memory is
//! TDX-private, and hands a clean machine to the next kernel at kexec and after a failed bring-up.
//!
//! Does not allocate or lock. The kernel provides memory, CPUs and instructions through the traits
//! of [`platform`]; no feature replaces one by an emulation.
//!
//! # The idea
//!
//! *Private* memory is memory that belongs to the TDX module or to a TD: its tables (PAMT) and
//! every page of a TD, encrypted under a private KeyID and marked so, line by line, by the memory
//! controller. Nothing on the module's way of returning a page writes that page: **a page that is
//! given back is as private as before**, and so is all of it after a kexec.
//!
//! Processors with the *partial-write erratum* (Sapphire Rapids, Emerald Rapids) turn this into a
//! trap. A write of less than 64 bytes that reaches the memory controller at a private line poisons
//! it, silently; a later read is a machine check, far from the cause. Only a full 64-byte store
//! with KeyID 0 (MOVDIR64B) makes a private line normal: a *reset*.
//!
//! So the host must know, at every instant and on every CPU, which memory may be private, and must
//! reset it before it is used for anything else. This crate keeps track and resets. Four records,
//! all atomic, all readable in a panic without lock, allocation or waiting:
//!
//! | record | says | written |
//! | --- | --- | --- |
//! | PAMTs ([`Host::pamt_ranges`]) | which ranges are PAMT, and a flag "there may be private memory" | by bring-up, once |
//! | [`ledger`] | of each 4 KiB page: shared, in flight to the module, private, or returned and not reset | by every page that moves |
//! | [`gate`] | of each CPU: is it inside a SEAMCALL, may its caches hold private lines; and whether SEAMCALLs are allowed at all | before every SEAMCALL |
//! | [`key_ids`] | which private KeyIDs are in use | by each TD |
//!
//! # The life of a page
//!
//! ```text
//!    the kernel's allocator                                                        the module
//!   ________________________                                              _____________________________
//!
//!    free page
//!       | SharedPage::take
//!       v
//!   +----------+ give: flush, mark, fence  +-----------+   SEAMCALL    +-----------+
//!   |  Shared  |-------------------------->| InFlight  |-------------->|  Private  |
//!   +----------+                           +-----------+   succeeds    +-----------+
//!       ^                                        | SEAMCALL                  | SEAMCALL that removes, moves
//!       | unmark                                 | fails: it may have        | or reclaims it
//!       |                                        | written to the page       v
//!   +----------+  MOVDIR64B   +---------+        |                     +------------+
//!   | (fenced) |<-------------|  Clean  |<-------+---------------------|  Returned  |
//!   +----------+  and fence   +---------+   private lines out of       +------------+
//!                                           every cache
//!
//!   ledger:  Shared        InFlight ......... Private ......... Returned ............ Shared
//!   in between, at any instant: kexec, panic, NMI -> every page that is not Shared is reset by the handover
//! ```
//!
//! Each box is a type ([`page`]), each arrow takes the value before it: a page cannot be used while
//! it is private, given twice, or freed before its reset. Such code does not compile.
//!
//! # What always holds
//!
//! By the numbers of `docs/design.md` in the repository.
//!
//! 1. **Superset.** Every private line lies in a marked page or in a recorded PAMT range. A page is
//!    marked *before* the SEAMCALL that gives it, and unmarked *after* the fence of its reset.
//! 2. **No harm.** A marked page holds nothing that anyone needs. So a handover may overwrite every
//!    marked page, and overwrites nothing else.
//! 3. **The crash path never waits.** No lock, no allocation, no panic, no SEAMCALL.
//! 4. **Order.** Last SEAMCALL, then private lines out of the caches of every CPU that may hold
//!    them, then MOVDIR64B, then a fence, then reuse. When giving: the host's own dirty lines
//!    first.
//! 5. **Visibility.** The flag "there may be private memory" is up before the first line can turn
//!    private, and falls after the last reset of a failed bring-up has fenced.
//! 6. **A failed SEAMCALL may have converted its page.** The page stays marked until it was written
//!    back and reset.
//! 7. **No SEAMCALL after a reset has begun.** It would make PAMT private again. The types of
//!    [`handover`] offer none, and the gate is closed.
//! 8. **The report is honest.** What could not be cleaned is named
//!    ([`handover::HandoverReport::leftovers`]), never assumed clean. A private token or a TD that
//!    is dropped, and a page that could not be cleaned, are counted, stay marked, and are reset by
//!    the next handover.
//!
//! # What a kernel brings
//!
//! | trait | is |
//! | --- | --- |
//! | [`platform::Processor`] | CPUID and RDMSR, for detection |
//! | [`platform::Cpu`] with [`seamcall::Seamcall`] and [`platform::LineReset`] | the instructions, on the CPU one is pinned to: thin wrappers of [`arch`] |
//! | [`platform::Cpus`] | "run this on every CPU, on one of each package, here" |
//! | [`platform::SharedMemory`] | stores to physical memory, for what the module reads |
//! | [`layout::FrameSource`] | contiguous pages from the allocator |
//! | [`handover::StopCpus`], [`handover::NmiStop`] | stopping the other CPUs: for kexec, and at a panic |
//!
//! And memory: a `static` [`Host`] with a slot for each CPU, and words from the allocator for the
//! ledger and the KeyIDs. The kernel has the locks, holds CPU hotplug off during a bring-up, and
//! enters VMX operation by itself.
//!
//! # All of it, once
//!
//! On the software machine, as every example here; `kernel` is the adapter of
//! `examples/kernel/mod.rs`, which implements these traits and nothing else.
//!
//! ```
//! # mod kernel { include!(concat!(env!("CARGO_MANIFEST_DIR"), "/examples/kernel/mod.rs")); }
//! use tdx_host::{Host, KexecKind, Policy};
//!
//! # let hardware = kernel::Hardware::new();
//! let tdx = Host::new(hardware.slots()); // in a kernel: a `static`
//! let mut kernel = kernel::Kernel::boot(&hardware, &tdx);
//!
//! // Boot.
//! tdx.detect(&hardware)?;
//! tdx.bring_up(&mut kernel, &kernel::MEMORY)?;
//!
//! // The first TD.
//! let tds = tdx.track(kernel::words(tdx.tracking_words()))?;
//! let td = tds.create(&kernel.cpu(), kernel.take_page(tds.ledger()))?;
//!
//! // `kexec -e`.
//! let kexec = tdx.kexec(Policy::Tracked, KexecKind::Normal)?;
//! let stopped = kexec.stop_other_cpus(&kernel)?;
//! let report = stopped.ask_module(|_| ()).write_back_caches().reset();
//! assert!(report.is_clean(&tdx.memory()));
//!
//! // The next kernel stores to every line of memory and reads it: no machine check.
//! assert!(kernel.next_kernel().is_ok());
//! # drop(td);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! # The modules, in the order of a host's life
//!
//! 0. [`host`]: the front door. One value owns all state and publishes it in the right order.
//! 1. [`platform`]: the traits; is there TDX, is there the erratum.
//! 2. [`layout`]: memory map and CMRs to TDMRs and PAMT places. Pure.
//! 3. [`bringup`]: SYS.INIT to SYS.TDMR.INIT, and the way back when a step fails.
//! 4. [`ledger`], [`page`], [`key_ids`], [`dynamic_pamt`], [`td`]: pages and TDs.
//!    Where a kernel builds TDs by code of its own, [`follow`] keeps the ledger.
//! 5. [`handover`]: kexec, crash, what the next kernel is told, whose the address of a machine
//!    check is. [`dump`]: where the ledger is, for a crash kernel that leaves private memory out of
//!    its dump. [`takeover`]: the table for a next kernel that lets TDX go on.
//! 6. Below all of them: [`seamcall`], [`effect`], [`gate`], [`reset`],
//!    [`arch`].
//!
//! Programs that run to their end stand in `examples/`: `skeleton`, `hypervisor`, `kexec`, `kdump`.
//! How to port a kernel, and what Linux and the specification call things: `docs/PORTING.md` and
//! `docs/NAMES.md` in the repository.
//!
//! # How to read a function
//!
//! `# Errors` says what is left when it fails. `# SEAMCALL` says which leaves it executes, on which
//! CPUs, and what must hold: **every CPU that makes a SEAMCALL is in VMX operation, the caller is
//! pinned to it, and the gate is open**, so this is not said again. `# Safety` is what the caller
//! of an `unsafe fn`, or the implementer of an `unsafe trait`, promises about memory; safe code
//! cannot break what always holds (`docs/SAFETY.md` in the repository).
//!
//! There are no cargo features: the same code runs on hardware, on the software machine and under a
//! hypervisor.

#![no_std]
#![warn(missing_docs)]
// UNSAFETY: promises about memory are `unsafe fn` and `unsafe trait` here; each call that relies on
// one says why it is kept. `docs/SAFETY.md` has the argument.
#![allow(unsafe_code)]

pub mod arch;
pub mod bringup;
mod crc32c;
pub mod dump;
pub mod dynamic_pamt;
pub mod effect;
pub mod follow;
pub mod gate;
pub mod handover;
pub mod host;
mod ids;
pub mod key_ids;
pub mod layout;
pub mod ledger;
mod once;
pub mod page;
pub mod platform;
mod private_memory;
pub mod reset;
pub mod seamcall;
pub mod sweep;
mod sync;
pub mod takeover;
pub mod td;
mod td_host;

pub use bringup::{BringupError, ModuleInfo};
pub use gate::{CpuGate, CpuSlot};
pub use handover::{HandoverReport, KexecKind, NmiStop, Outcome, Policy, StopCpus, stop_this_cpu_at_crash};
pub use host::{Host, HostError};
pub use layout::{FrameRequest, FrameSource, MapFrames, Places};
pub use ledger::Ledger;
pub use page::SharedPage;
pub use platform::{
    Cpu, CpuId, CpuTask, CpuidOutput, Cpus, LineReset, LocalProcessor, Msr, NoTdx, NodeId, NodeRange, OwnedPages,
    PackageId, Processor, SharedMemory, Step, TdxPlatform,
};
pub use seamcall::Seamcall;
pub use td::TdHost;
#[doc(no_inline)]
pub use tdx_abi::{KeyId, Leaf, LineRange, PAGE_SIZE, Page, PageRange, PageSize, PhysAddr, Registers};
