//! A software machine with TDX, which judges a host: a memory controller with owner and poison per
//! 64-byte line, caches by (line, KeyID), CPUs in packages, DMA, machine checks, and an emulated
//! TDX module that is bit-exact against conformance vectors of the real one.
//!
//! It never runs host code and knows nothing of it: the host acts through [`Machine`], the machine
//! answers as hardware would. What it does not model it refuses with a [`Refusal`]; what it
//! simplifies stands in [`LIMITS`].
//!
//! A [`Machine`] clones in microseconds whatever its memory: clones share all that neither has
//! changed since.
//!
//! # What it models
//!
//! Of every 64-byte line: who owns it (the host, or a private KeyID) and whether it is poisoned. Of
//! every CPU: its dirty lines, by line and KeyID, and its MOVDIR64B stores that no fence has made
//! visible. Of the module: its state, its PAMT, its TDs, and which lines each leaf writes. The
//! rules that matter to a host:
//!
//! | what happens | what the machine does |
//! | --- | --- |
//! | a private line is written by SEAM | dirty under the private KeyID; the owner changes when it leaves the cache, at a time that an adversary picks |
//! | a store of less than a line reaches a private line, on a CPU with the erratum | the line is poisoned; nobody is told |
//! | a poisoned line is read | [`MachineCheck`] |
//! | MOVDIR64B with KeyID 0, and a fence | the line is normal, poison gone |
//! | a private line that is still dirty in a cache is written back later | the line is private again, whatever was there |
//! | kexec ([`Machine::kexec_boundary`]) | nothing: memory, caches and module stay as they are |
//!
//! # Example: why a kexec from a TDX host kills
//!
//! ```
//! use tdx_abi::{FieldId, KeyId, Leaf, LineRange, Page, PageRange, PhysAddr, Registers, Status};
//! use tdx_machine::{AccessError, CpuId, CpuModel, Machine, MachineConfig, PartialStore};
//! use zerocopy::IntoBytes;
//!
//! let memory = PageRange::new(Page::new(256), Page::new(1 << 20)); // 1 MiB to 4 GiB
//! let mut machine = Machine::with_initialized_module(MachineConfig::new(CpuModel::SAPPHIRE_RAPIDS, 1, 1, [memory]))?;
//! let cpu = CpuId(0);
//!
//! // One TDMR [3 GiB, 4 GiB), its PAMT at 1 GiB, the global KeyID 32: SYS.CONFIG, SYS.KEY.CONFIG, SYS.TDMR.INIT.
//! let mut tdmr = tdx_abi::TdmrInfo { base: 3 << 30, size: 1 << 30, ..Default::default() };
//! for (level, address, bytes) in [
//!     (tdx_abi::PageSize::Size4K, 1 << 30, 4 << 20),
//!     (tdx_abi::PageSize::Size2M, (1 << 30) + (4 << 20), 8 << 10),
//!     (tdx_abi::PageSize::Size1G, (1 << 30) + (5 << 20), 4096),
//! ] {
//!     tdmr.set_pamt(level, PhysAddr::new(address), bytes);
//! }
//! let (table, entry) = (PhysAddr::new(2 << 20), PhysAddr::new((2 << 20) + 512));
//! machine.write_shared(cpu, table, &entry.get().to_le_bytes())?;
//! machine.write_shared(cpu, entry, tdmr.as_bytes())?;
//! let config = Registers::call(Leaf::SYS_CONFIG).rcx_address(table).rdx(1).r8(32);
//! assert_eq!(machine.seamcall(cpu, config)?.status(), Status::SUCCESS);
//! machine.wbinvd(cpu)?;
//! assert_eq!(machine.seamcall(cpu, Registers::call(Leaf::SYS_KEY_CONFIG))?.status(), Status::SUCCESS);
//! for _ in 0..256 {
//!     machine.seamcall(cpu, Registers::call(Leaf::SYS_TDMR_INIT).rcx(3 << 30))?;
//! }
//! machine.wbinvd(cpu)?;
//! // All of PAMT_4K and PAMT_2M is private, and the line with the only entry of PAMT_1G.
//! assert_eq!(machine.private_lines() * 64, (4 << 20) + (8 << 10) + 64);
//!
//! // The next kernel knows nothing of this. A store of 8 bytes with MOVNTI, and a read, much later.
//! machine.kexec_boundary();
//! let line = LineRange::single(PhysAddr::new(1 << 30).line());
//! assert_eq!(machine.partial_write(cpu, line, KeyId::HOST, PartialStore::NonTemporal)?, 1);
//! let Err(AccessError::MachineCheck(check)) = machine.load(cpu, line, KeyId::HOST) else { panic!() };
//! assert_eq!(check.to_string(), "CPU 0: Machine Check Exception: f Bank 1: bd80000000100134 ADDR 40000000 MISC 86");
//!
//! // MOVDIR64B makes the line normal; visible after the fence.
//! machine.direct_store(cpu, line)?;
//! machine.fence(cpu)?;
//! assert!(machine.load(cpu, line, KeyId::HOST).is_ok());
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! What no host would do on purpose is there, too: [`Fault`] and [`Machine::inject`] for a module
//! that fails or dies at a given call, [`Machine::evict`] for a line that leaves the cache at a bad
//! moment, [`Machine::dma_write`] for devices. There are no cargo features.

#![no_std]
#![forbid(unsafe_code)]
#![warn(missing_docs)]

extern crate alloc;

mod cache;
mod config;
mod events;
mod fault;
mod fields;
mod hardware;
mod ids;
mod injection;
mod limits;
mod machine;
mod machine_check;
mod memory;
mod module;
mod poison;
mod processor;
mod profile;
mod refusal;
mod rng;
mod tree;

pub use config::{ConfigError, CpuModel, EvictionPolicy, MachineConfig, TdCpu};
pub use events::{Counters, Event};
pub use fault::{Fault, Lock, LockMode, When};
pub use ids::{Agent, CpuId, DeviceId, PackageId};
pub use injection::{Injection, InjectionError};
pub use limits::LIMITS;
pub use machine::{Begun, DirtyRun, Machine, MemoryUse, OwnerRun};
pub use machine_check::{
    DATA_CACHE_BANK, MCG_STATUS_LOCAL, MCI_MISC_PHYSICAL_LINE, MCI_STATUS_DATA_LOAD, MachineCheck, MachineCheckReason,
};
pub use module::{
    AfterExit, AssignedKind, AssignedRun, GuestEvent, GuestMapping, GuestOutcome, SysState, TdExit, VcpuOnCpu,
};
pub use poison::{PartialStore, PoisonCause, PoisonedRun};
pub use processor::{CpuidOutput, MsrRead};
pub use profile::ModuleProfile;
pub use refusal::{AccessError, Refusal};
