//! A software machine with TDX, which judges a host: a memory controller with owner and poison per 64-byte line, caches
//! by (line, KeyID), CPUs in packages, DMA, machine checks, and an emulated TDX module that is bit-exact against
//! conformance vectors of the real one.
//!
//! It never runs host code and knows nothing of it: the host acts through [`Machine`], the machine answers as hardware
//! would. What it does not model it refuses with a [`Refusal`]; what it simplifies stands in [`LIMITS`].
//!
//! A [`Machine`] clones in microseconds whatever its memory: clones share all that neither has changed since.

#![no_std]
#![forbid(unsafe_code)]
#![warn(missing_docs)]

extern crate alloc;

mod cache;
mod config;
mod events;
mod fault;
mod hardware;
mod ids;
mod limits;
mod machine;
mod machine_check;
mod memory;
mod module;
mod poison;
mod processor;
mod refusal;
mod rng;
mod tree;

pub use config::{ConfigError, CpuModel, EvictionPolicy, MachineConfig, ModuleProfile};
pub use events::{Counters, Event};
pub use fault::{Fault, Lock, LockMode, When};
pub use ids::{Agent, CpuId, DeviceId, PackageId};
pub use limits::LIMITS;
pub use machine::{DirtyRun, GuestOutcome, Machine, MemoryUse, OwnerRun};
pub use machine_check::{
    DATA_CACHE_BANK, MCG_STATUS_LOCAL, MCI_MISC_PHYSICAL_LINE, MCI_STATUS_DATA_LOAD, MachineCheck, MachineCheckReason,
};
pub use module::{AssignedKind, AssignedRun, SysState};
pub use poison::{PartialStore, PoisonCause, PoisonedRun};
pub use processor::{CpuidOutput, MsrRead};
pub use refusal::{AccessError, Refusal};
