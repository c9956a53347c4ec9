//! Brings the module up: SYS.INIT, LP.INIT, metadata, layout, SYS.CONFIG, WBINVD and flag,
//! KEY.CONFIG, TDMR.INIT, each step a type, and the way back when one fails. It never rolls the
//! module back, which cannot be done.
//!
//! ```text
//! Started -sys_init-> GlobalInit -init_cpus-> CpusInit -read_module_info-> ModuleKnown -plan-> Planned
//!         -configure-> Configured -configure_keys-> KeysConfigured -init_tdmrs-> Ready
//! ```
//!
//! Each step takes the state before it and gives the next one, or a [`BringupError`] after
//! everything was undone: caches written back on all CPUs, every PAMT line reset, the flag lowered,
//! the list withdrawn, the memory freed, in this order. A state that is dropped half-way keeps its
//! memory and its flag: leaked on purpose, because it may be private.
//!
//! # The steps one by one
//!
//! [`crate::Host::bring_up`] is all of them. A kernel that wants to log, to use dynamic PAMT, or to
//! look at the layout before it commits takes them one by one:
//!
//! ```
//! # mod kernel { include!(concat!(env!("CARGO_MANIFEST_DIR"), "/examples/kernel/mod.rs")); }
//! # let hardware = kernel::Hardware::with(|config| config.module = Some(tdx_machine::ModuleProfile::V1_5_25));
//! # let tdx = tdx_host::Host::new(hardware.slots());
//! # let mut kernel = kernel::Kernel::boot(&hardware, &tdx);
//! tdx.detect(&hardware)?;
//! let mut known = tdx.start_bring_up(&mut kernel)?.sys_init()?.init_cpus()?.read_module_info()?;
//! assert_eq!(known.module().version.to_string(), "1.5.25");
//! if let Err(why) = known.use_dynamic_pamt() {
//!     println!("virt/tdx: {why}");
//! }
//! let planned = known.plan(&kernel::MEMORY)?;
//! println!("virt/tdx: {} KB allocated for PAMT", planned.layout().pamt_kb());
//! // Up to here nothing can be private. From here on a panic finds the record.
//! let ready = planned.configure()?.configure_keys()?.init_tdmrs()?;
//! let layout = tdx.layout().expect("TDX is up");
//! assert_eq!(layout.given_up(&kernel::MEMORY, &ready.module.cmrs).count(), 0);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! # When it fails
//!
//! The error says at which step and why, keeps the raw status, knows what Linux would return, and
//! has been undone:
//!
//! ```
//! # mod kernel { include!(concat!(env!("CARGO_MANIFEST_DIR"), "/examples/kernel/mod.rs")); }
//! use tdx_host::bringup::BringupStep;
//! use tdx_machine::{Fault, When};
//!
//! # let hardware = kernel::Hardware::new();
//! # let tdx = tdx_host::Host::new(hardware.slots());
//! # let mut kernel = kernel::Kernel::boot(&hardware, &tdx);
//! # tdx.detect(&hardware)?;
//! // The module dies in the middle of SYS.TDMR.INIT.
//! hardware.machine().inject(Fault::Crash, When::CallOf(tdx_abi::Leaf::SYS_TDMR_INIT, 100));
//! let error = tdx.bring_up(&mut kernel, &kernel::MEMORY).unwrap_err();
//! assert_eq!((error.step, error.errno()), (BringupStep::TdmrInit, -19));
//! assert!(error.unwound.reset_lines > 0 && error.unwound.freed_bytes > 0);
//! assert!(tdx.layout().is_none() && tdx.memory().private_ranges().next().is_none());
//! assert_eq!(hardware.machine().private_lines(), 0);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

mod error;
mod first_error;
mod module_info;
mod tasks;
mod up;

use tdx_abi::{Leaf, PAGE_SIZE, Registers, STRUCTURE_ALIGN, SYS_CONFIG_DYNAMIC_PAMT, StatusCode};
use zerocopy::IntoBytes;

use crate::gate::GateHandle;
use crate::layout::{self, Algorithm, Fit, FrameSource, Layout, LayoutError, OwnedPlaces, Pamt4k, Tdmr};
use crate::platform::{Cpu, Cpus, NodeRange, OutOfPages, OwnedPages, SharedMemory, TdxPlatform};
use crate::private_memory::PrivateMemory;
use crate::reset::reset_ranges;
use crate::seamcall::call_unchecked;
use crate::sync::AtomicU32;
pub(crate) use first_error::FirstError;
pub(crate) use tasks::OneCall;
use tasks::{InitTdmrs, WriteBack};
use up::Place;
pub(crate) use up::Up;

pub use error::{BringupCause, BringupError, BringupStep, Unwound};
pub use module_info::{ModuleInfo, ModuleInfoError, ModuleVersion, NoDynamicPamt};

/// What a kernel lends for a bring-up. Implemented for everything that has the three parts.
pub trait Kernel: Cpus + FrameSource + SharedMemory {}
impl<K: Cpus + FrameSource + SharedMemory> Kernel for K {}

/// Nothing has been called yet.
#[derive(Debug)]
pub struct Started(());
/// SYS.INIT is done.
#[derive(Debug)]
pub struct GlobalInit(());
/// SYS.LP.INIT is done on every online CPU.
#[derive(Debug)]
pub struct CpusInit(());
/// The module's metadata are known.
#[derive(Debug)]
pub struct ModuleKnown(ModuleInfo);
/// TDMRs are laid out and PAMTs are allocated; the module does not know them yet.
#[derive(Debug)]
pub struct Planned(ModuleInfo);
/// The module knows TDMRs and PAMTs and has written to none of them.
#[derive(Debug)]
pub struct Configured(ModuleInfo);
/// The flag is up and the global KeyID is configured: PAMTs may turn private.
#[derive(Debug)]
pub struct KeysConfigured(ModuleInfo);

/// What must be undone from here.
enum Held {
    Nothing,
    Pamt,
    PrivatePamt,
}

/// A bring-up on its way. `S` is how far it has come.
#[derive(Debug)]
#[must_use = "a bring-up dropped half-way keeps its memory and its flag"]
pub struct Bringup<'k, K, S> {
    kernel: &'k mut K,
    platform: TdxPlatform,
    record: &'k PrivateMemory,
    layout: Place<'k>,
    state: S,
}

/// The module is ready for TDs; PAMTs are private.
#[derive(Debug)]
pub struct Ready {
    /// The platform.
    pub platform: TdxPlatform,
    /// The module.
    pub module: ModuleInfo,
}

/// All steps, in three functions that are never inlined: each step moves its state, and in one
/// function the copies of all of them would lie on a kernel's stack at once.
pub(crate) fn run_to_end<K: Kernel>(
    started: Bringup<'_, K, Started>,
    memory: &[NodeRange],
) -> Result<Ready, BringupError> {
    finish(plan(ask(started)?, memory)?)
}

#[inline(never)]
fn ask<K: Kernel>(started: Bringup<'_, K, Started>) -> Result<Bringup<'_, K, ModuleKnown>, BringupError> {
    started.sys_init()?.init_cpus()?.read_module_info()
}

/// The deepest one: allocates PAMTs. So no other step is in it.
#[inline(never)]
fn plan<'k, K: Kernel>(
    known: Bringup<'k, K, ModuleKnown>,
    memory: &[NodeRange],
) -> Result<Bringup<'k, K, Planned>, BringupError> {
    known.plan(memory)
}

#[inline(never)]
fn finish<K: Kernel>(planned: Bringup<'_, K, Planned>) -> Result<Ready, BringupError> {
    planned.configure()?.configure_keys()?.init_tdmrs()
}

impl<'k, K: Kernel> Bringup<'k, K, Started> {
    /// The bring-up of a [`crate::Host`], which publishes its results.
    pub(crate) fn of_host(
        kernel: &'k mut K,
        platform: Option<&TdxPlatform>,
        gate: GateHandle<'_>,
        record: &'k PrivateMemory,
        up: &'k Up,
    ) -> Result<Self, BringupError> {
        let platform = *platform.ok_or(BringupError::at_start(BringupCause::NotDetected))?;
        if !kernel.run_here(|cpu| cpu.cpu_gate().is_of(gate)) {
            return Err(BringupError::at_start(BringupCause::OtherGate));
        }
        if !record.claim() {
            return Err(BringupError::at_start(BringupCause::Claimed));
        }
        let Some(layout) = up.own() else {
            // Published: TDX was up, and `Host::start_over` was not called.
            record.release_claim();
            return Err(BringupError::at_start(BringupCause::Claimed));
        };
        Ok(Self { kernel, platform, record, layout, state: Started(()) })
    }

    /// SYS.INIT, once. A module that was initialized before is accepted: if it has gone further,
    /// the next steps say so.
    ///
    /// # Errors
    /// [`BringupError`].
    ///
    /// # SEAMCALL
    /// SYS.INIT on the current CPU.
    pub fn sys_init(self) -> Result<Bringup<'k, K, GlobalInit>, BringupError> {
        // SAFETY: SYS.INIT touches no host memory.
        match self.kernel.run_here(|cpu| unsafe { call_unchecked(cpu, Registers::call(Leaf::SYS_INIT)) }) {
            Err(error) if error.status().code() != StatusCode::SYS_INIT_NOT_PENDING => {
                Err(self.fail(&Held::Nothing, BringupStep::SysInit, BringupCause::Seamcall(error)))
            }
            _ => Ok(self.next(|_| GlobalInit(()))),
        }
    }
}

impl<'k, K: Kernel> Bringup<'k, K, GlobalInit> {
    /// SYS.LP.INIT on every online CPU, in parallel. CPUs that have done it before are fine.
    ///
    /// # Errors
    /// [`BringupError`].
    ///
    /// # SEAMCALL
    /// SYS.LP.INIT on every online CPU, each in VMX operation.
    pub fn init_cpus(self) -> Result<Bringup<'k, K, CpusInit>, BringupError> {
        let error = FirstError::default();
        // SAFETY: SYS.LP.INIT touches no host memory.
        let work = unsafe { OneCall::new(Registers::call(Leaf::SYS_LP_INIT), &[StatusCode::SYS_LP_INIT_DONE], &error) };
        self.kernel.run_on_all(&work);
        match error.get() {
            Some(error) => Err(self.fail(&Held::Nothing, BringupStep::LpInit, BringupCause::Seamcall(error))),
            None => Ok(self.next(|_| CpusInit(()))),
        }
    }
}

impl<'k, K: Kernel> Bringup<'k, K, CpusInit> {
    /// Reads version, features, limits and CMRs.
    ///
    /// # Errors
    /// [`BringupError`].
    ///
    /// # SEAMCALL
    /// SYS.RD on the current CPU, about ten fields and two for each CMR.
    pub fn read_module_info(self) -> Result<Bringup<'k, K, ModuleKnown>, BringupError> {
        match self.kernel.run_here(module_info::read_all) {
            Ok(info) => {
                self.layout.set_features(info.features);
                Ok(self.next(|_| ModuleKnown(info)))
            }
            Err(error) => Err(self.fail(&Held::Nothing, BringupStep::ModuleInfo, BringupCause::ModuleInfo(error))),
        }
    }
}

impl<'k, K: Kernel> Bringup<'k, K, ModuleKnown> {
    /// What the module says about itself.
    pub fn module(&self) -> &ModuleInfo {
        &self.state.0
    }

    /// From here on PAMT is dynamic: small at first, and [`crate::dynamic_pamt::DynamicPamt`] adds
    /// to it what each page that is given needs. Without this call it is static.
    ///
    /// # Errors
    /// [`NoDynamicPamt`]; nothing has changed, and the bring-up can go on with static PAMT.
    pub fn use_dynamic_pamt(&mut self) -> Result<(), NoDynamicPamt> {
        self.state.0.limits = self.state.0.with_dynamic_pamt(self.platform.key_id_field())?;
        Ok(())
    }

    /// Lays out TDMRs and allocates PAMTs. `memory` is the usable memory, ascending, with its
    /// nodes.
    ///
    /// # Errors
    /// [`BringupError`]; all memory is given back.
    pub fn plan(self, memory: &[NodeRange]) -> Result<Bringup<'k, K, Planned>, BringupError> {
        self.plan_with(&Fit, memory)
    }

    /// As [`Self::plan`], by another algorithm.
    ///
    /// # Errors
    /// As [`Self::plan`].
    pub fn plan_with<A: Algorithm>(
        mut self,
        algorithm: &A,
        memory: &[NodeRange],
    ) -> Result<Bringup<'k, K, Planned>, BringupError> {
        let info = &self.state.0;
        let built = if self.layout.is_empty() {
            self.layout.set_owned();
            layout::build_with(
                algorithm,
                memory,
                &info.cmrs,
                &info.limits,
                &mut OwnedPlaces(self.kernel),
                &mut self.layout,
            )
        } else {
            // It holds the memory of another bring-up, or places of a plan, which are not memory.
            return Err(self.fail(&Held::Nothing, BringupStep::Layout, BringupCause::Layout(LayoutError::InUse)));
        };
        match built {
            Ok(()) => Ok(self.next(|state| Planned(state.0))),
            Err(error) => Err(self.fail(&Held::Pamt, BringupStep::Layout, BringupCause::Layout(error))),
        }
    }
}

impl<'k, K: Kernel> Bringup<'k, K, Planned> {
    /// What the module will be given.
    pub fn layout(&self) -> &Layout {
        &self.layout
    }

    /// SYS.CONFIG. The module reads TDMR_INFO once; the memory it stands in is free again on
    /// return.
    ///
    /// # Errors
    /// [`BringupError`]; PAMTs are given back.
    ///
    /// # SEAMCALL
    /// SYS.CONFIG on the current CPU. The module refuses it unless every CPU of the machine has
    /// done SYS.LP.INIT.
    pub fn configure(self) -> Result<Bringup<'k, K, Configured>, BringupError> {
        let tdmrs = self.layout.tdmrs();
        let count = tdmrs.len() as u64;
        let pages = ((count + 1) * STRUCTURE_ALIGN).div_ceil(PAGE_SIZE);
        let Some(mut table) = self.kernel.allocate_any(pages) else {
            return Err(self.fail(&Held::Pamt, BringupStep::Config, BringupCause::NoMemory { pages }));
        };
        if write_tdmr_info(self.kernel, &mut table, tdmrs).is_err() {
            // The source gave fewer pages than it was asked for.
            self.kernel.free(table);
            return Err(self.fail(&Held::Pamt, BringupStep::Config, BringupCause::NoMemory { pages }));
        }
        let dynamic = match self.state.0.limits.pamt_4k {
            Pamt4k::Entries => 0,
            Pamt4k::Bitmap { .. } => SYS_CONFIG_DYNAMIC_PAMT,
        };
        let input = Registers::call(Leaf::SYS_CONFIG)
            .rcx_address(table.base())
            .rdx(count)
            .r8(u64::from(self.platform.global_key_id().get()) | dynamic);
        // SAFETY: the module reads the TDMR_INFO table, which is owned here, and writes nothing.
        // Its PAMTs are memory that the layout owns; they turn private later, see `configure_keys`.
        let result = self.kernel.run_here(|cpu| unsafe { call_unchecked(cpu, input) });
        self.kernel.free(table);
        match result {
            Ok(_) => Ok(self.next(|state| Configured(state.0))),
            Err(error) => Err(self.fail(&Held::Pamt, BringupStep::Config, BringupCause::Seamcall(error))),
        }
    }
}

/// The array of pointers in the first 512 bytes, then one TDMR_INFO per 512 bytes.
fn write_tdmr_info(memory: &mut impl SharedMemory, table: &mut OwnedPages, tdmrs: &[Tdmr]) -> Result<(), OutOfPages> {
    for (index, tdmr) in (1u64..).zip(tdmrs) {
        let entry = index * STRUCTURE_ALIGN;
        table.write(memory, entry, tdmr.to_tdmr_info().as_bytes())?;
        let address = table.base().get() + entry;
        table.write(memory, (index - 1) * 8, &address.to_le_bytes())?;
    }
    Ok(())
}

const _: () = assert!(tdx_abi::MAX_TDMRS as u64 * 8 <= STRUCTURE_ALIGN);

impl<'k, K: Kernel> Bringup<'k, K, Configured> {
    /// WBINVD on every CPU, the flag, then SYS.KEY.CONFIG on one CPU of each package.
    ///
    /// The host's own dirty lines of PAMT must reach memory before the module writes there, or they
    /// land on top of its data later. The flag comes after WBINVD for no other reason than that it
    /// must come before KEY.CONFIG.
    ///
    /// # Errors
    /// [`BringupError`], after the PAMTs were reset and given back.
    ///
    /// # SEAMCALL
    /// WBINVD on every CPU first. SYS.KEY.CONFIG on one CPU of each package, one package after
    /// another; every package needs an online CPU.
    pub fn configure_keys(mut self) -> Result<Bringup<'k, K, KeysConfigured>, BringupError> {
        self.kernel.run_on_all(&WriteBack);
        self.layout.set_private(true);
        // SAFETY: the ranges are memory that the layout owns, and stays so: it is private from here
        // on.
        if let Err(error) = unsafe { self.record.publish(self.layout.pamt_ranges()) } {
            return Err(self.fail(&Held::Pamt, BringupStep::KeyConfig, BringupCause::Record(error)));
        }
        let error = FirstError::default();
        // SAFETY: the PAMTs, which may be private from here on, are in the record.
        let work = unsafe { OneCall::new(Registers::call(Leaf::SYS_KEY_CONFIG), &[], &error) };
        self.kernel.run_on_each_package(&work);
        match error.get() {
            Some(error) => Err(self.fail(&Held::PrivatePamt, BringupStep::KeyConfig, BringupCause::Seamcall(error))),
            None => Ok(self.next(|state| KeysConfigured(state.0))),
        }
    }
}

impl<K: Kernel> Bringup<'_, K, KeysConfigured> {
    /// SYS.TDMR.INIT until every TDMR is complete; CPUs work on different TDMRs in parallel.
    ///
    /// # Errors
    /// [`BringupError`], after the PAMTs were reset and given back.
    ///
    /// # SEAMCALL
    /// SYS.TDMR.INIT on every CPU, for different TDMRs in parallel: 256 calls for each GiB with
    /// module 1.5. It makes PAMT private, line by line.
    pub fn init_tdmrs(self) -> Result<Ready, BringupError> {
        let error = FirstError::default();
        self.kernel.run_on_all(&InitTdmrs { tdmrs: self.layout.tdmrs(), next: AtomicU32::new(0), error: &error });
        if let Some(error) = error.get() {
            return Err(self.fail(&Held::PrivatePamt, BringupStep::TdmrInit, BringupCause::Seamcall(error)));
        }
        self.layout.publish(&self.state.0);
        Ok(Ready { platform: self.platform, module: self.state.0 })
    }
}

impl<'k, K: Kernel, S> Bringup<'k, K, S> {
    fn next<T>(self, state: impl FnOnce(S) -> T) -> Bringup<'k, K, T> {
        Bringup {
            kernel: self.kernel,
            platform: self.platform,
            record: self.record,
            layout: self.layout,
            state: state(self.state),
        }
    }

    /// The way back. Order: private lines out of every cache, reset, fence, flag, list, memory.
    fn fail(mut self, held: &Held, step: BringupStep, cause: BringupCause) -> BringupError {
        let mut unwound = Unwound::default();
        if let Held::PrivatePamt = held {
            self.kernel.run_on_all(&WriteBack);
            // SAFETY: PAMTs are memory that the layout owns and nothing uses: the bring-up has
            // ended, so the module writes no line of them again, and every CPU's caches are written
            // back.
            let reset = |cpu: &K::Cpu| unsafe { reset_ranges(cpu, self.layout.pamt_ranges()) };
            let count = self.kernel.run_here(reset);
            (unwound.reset_lines, unwound.left_lines) = (count.lines, count.left);
            if count.left > 0 {
                // Still private: the PAMTs stay recorded for the next kernel and are never freed,
                // and there is no second bring-up of this host.
                return BringupError { step, cause, unwound };
            }
            // SAFETY: every range of the record was reset and fenced above.
            unsafe { self.record.withdraw() };
        }
        if let Held::Pamt | Held::PrivatePamt = held {
            unwound.freed_bytes = self.layout.pamt_ranges().map(tdx_abi::PageRange::bytes).sum();
            // Private or not: the lines are reset, or were never written.
            self.layout.set_private(false);
            let _ = self.layout.release_frames(self.kernel);
        }
        self.layout.give_back();
        self.record.release_claim();
        BringupError { step, cause, unwound }
    }
}
