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
//! [`run`] is all of them. A kernel that wants to log, to use dynamic PAMT, or to look at the
//! layout before it commits takes them one by one:
//!
//! ```
//! # mod kernel { include!(concat!(env!("CARGO_MANIFEST_DIR"), "/examples/kernel/mod.rs")); }
//! use tdx_host::bringup::Bringup;
//! use tdx_host::{layout::{Algorithm, Layout}, platform::detect, private_memory::PrivateMemory};
//!
//! # let hardware = kernel::Hardware::with(|config| config.module = Some(tdx_machine::ModuleProfile::DynamicPamt));
//! # let mut kernel = kernel::Kernel::boot(&hardware);
//! let platform = detect(&hardware)?;
//! let record = <PrivateMemory>::new();
//! let mut layout = Box::new(Layout::new());
//! let mut known = Bringup::start(&mut kernel, platform, &record, &mut layout)?.sys_init()?.init_cpus()?.read_module_info()?;
//! assert_eq!(known.module().version.to_string(), "1.5.01");
//! if let Err(why) = known.use_dynamic_pamt() {
//!     println!("virt/tdx: {why}");
//! }
//! let planned = known.plan(&kernel::MEMORY, Algorithm::Fit)?;
//! println!("virt/tdx: {} KB allocated for PAMT", planned.layout().pamt_kb());
//! // Up to here nothing can be private. From here on a panic finds the record.
//! let ready = planned.configure()?.configure_keys()?.init_tdmrs()?;
//! assert_eq!(ready.layout.given_up(&kernel::MEMORY, &ready.module.cmrs).count(), 0);
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
//! # use tdx_host::bringup::{self, BringupStep};
//! # use tdx_host::{layout::{Algorithm, Layout}, platform::detect, private_memory::PrivateMemory};
//! use tdx_machine::{Fault, When};
//!
//! # let hardware = kernel::Hardware::new();
//! # let mut kernel = kernel::Kernel::boot(&hardware);
//! # let platform = detect(&hardware)?;
//! # let record = <PrivateMemory>::new();
//! # let mut layout = Box::new(Layout::new());
//! // The module dies in the middle of SYS.TDMR.INIT.
//! hardware.machine().inject(Fault::Crash, When::CallOf(tdx_abi::Leaf::SYS_TDMR_INIT, 100));
//! let error = bringup::run(&mut kernel, platform, &record, &mut layout, &kernel::MEMORY, Algorithm::Fit).unwrap_err();
//! assert_eq!((error.step, error.errno()), (BringupStep::TdmrInit, -19));
//! assert!(error.unwound.reset_lines > 0 && error.unwound.freed_bytes > 0);
//! assert!(!record.may_have_private_memory() && layout.is_empty());
//! assert_eq!(hardware.machine().private_lines(), 0);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

mod error;
mod first_error;
mod module_info;
mod tasks;

use tdx_abi::{Leaf, PAGE_SIZE, PhysAddr, Registers, STRUCTURE_ALIGN, SYS_CONFIG_DYNAMIC_PAMT, StatusCode};
use zerocopy::IntoBytes;

use crate::layout::{self, Algorithm, FrameSource, Layout, Pamt4k, Tdmr};
use crate::platform::{Cpus, NodeRange, SharedMemory, TdxPlatform};
use crate::private_memory::{PrivateMemory, PublishError};
use crate::reset::reset_ranges;
use crate::seamcall::call;
use crate::sync::AtomicU32;
pub(crate) use first_error::FirstError;
pub(crate) use tasks::OneCall;
use tasks::{InitTdmrs, WriteBack};

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
pub struct Bringup<'k, K, S, const N: usize> {
    kernel: &'k mut K,
    platform: TdxPlatform,
    record: &'k PrivateMemory<N>,
    layout: &'k mut Layout,
    state: S,
}

/// The module is ready for TDs; PAMTs are private.
#[derive(Debug)]
pub struct Ready<'k> {
    /// The platform.
    pub platform: TdxPlatform,
    /// The module.
    pub module: ModuleInfo,
    /// TDMRs and PAMTs.
    pub layout: &'k Layout,
}

/// All steps in one call, with static PAMT.
///
/// # Errors
/// [`BringupError`], after everything was undone.
///
/// # SEAMCALL
/// SYS.INIT and SYS.CONFIG on the current CPU, SYS.LP.INIT and SYS.TDMR.INIT on all, SYS.KEY.CONFIG
/// on one of each package. All CPUs are in VMX operation, and the kernel holds CPU hotplug and
/// memory hotplug off.
pub fn run<'k, K: Kernel, const N: usize>(
    kernel: &'k mut K,
    platform: TdxPlatform,
    record: &'k PrivateMemory<N>,
    layout: &'k mut Layout,
    memory: &[NodeRange],
    algorithm: Algorithm,
) -> Result<Ready<'k>, BringupError> {
    Bringup::start(kernel, platform, record, layout)?
        .sys_init()?
        .init_cpus()?
        .read_module_info()?
        .plan(memory, algorithm)?
        .configure()?
        .configure_keys()?
        .init_tdmrs()
}

impl<'k, K: Kernel, const N: usize> Bringup<'k, K, Started, N> {
    /// Takes the record of private memory; only one bring-up can have it.
    ///
    /// # Errors
    /// [`BringupCause::Claimed`].
    pub fn start(
        kernel: &'k mut K,
        platform: TdxPlatform,
        record: &'k PrivateMemory<N>,
        layout: &'k mut Layout,
    ) -> Result<Self, BringupError> {
        if !record.claim() {
            let cause = BringupCause::Claimed;
            return Err(BringupError { step: BringupStep::Claim, cause, unwound: Unwound::default() });
        }
        Ok(Self { kernel, platform, record, layout, state: Started(()) })
    }

    /// SYS.INIT, once. A module that was initialised before is accepted: if it has gone further,
    /// the next steps say so.
    ///
    /// # Errors
    /// [`BringupError`].
    ///
    /// # SEAMCALL
    /// SYS.INIT on the current CPU.
    pub fn sys_init(self) -> Result<Bringup<'k, K, GlobalInit, N>, BringupError> {
        match self.kernel.run_here(|cpu| call(cpu, Registers::call(Leaf::SYS_INIT))) {
            Err(error) if error.status().code() != StatusCode::SYS_INIT_NOT_PENDING => {
                Err(self.fail(&Held::Nothing, BringupStep::SysInit, BringupCause::Seamcall(error)))
            }
            _ => Ok(self.next(|_| GlobalInit(()))),
        }
    }
}

impl<'k, K: Kernel, const N: usize> Bringup<'k, K, GlobalInit, N> {
    /// SYS.LP.INIT on every online CPU, in parallel. CPUs that have done it before are fine.
    ///
    /// # Errors
    /// [`BringupError`].
    ///
    /// # SEAMCALL
    /// SYS.LP.INIT on every online CPU, each in VMX operation.
    pub fn init_cpus(self) -> Result<Bringup<'k, K, CpusInit, N>, BringupError> {
        let error = FirstError::default();
        self.kernel.run_on_all(&OneCall {
            input: Registers::call(Leaf::SYS_LP_INIT),
            fine: &[StatusCode::SYS_LP_INIT_DONE],
            error: &error,
        });
        match error.get() {
            Some(error) => Err(self.fail(&Held::Nothing, BringupStep::LpInit, BringupCause::Seamcall(error))),
            None => Ok(self.next(|_| CpusInit(()))),
        }
    }
}

impl<'k, K: Kernel, const N: usize> Bringup<'k, K, CpusInit, N> {
    /// Reads version, features, limits and CMRs.
    ///
    /// # Errors
    /// [`BringupError`].
    ///
    /// # SEAMCALL
    /// SYS.RD on the current CPU, about ten fields and two for each CMR.
    pub fn read_module_info(self) -> Result<Bringup<'k, K, ModuleKnown, N>, BringupError> {
        match self.kernel.run_here(module_info::read_all) {
            Ok(info) => Ok(self.next(|_| ModuleKnown(info))),
            Err(error) => Err(self.fail(&Held::Nothing, BringupStep::ModuleInfo, BringupCause::ModuleInfo(error))),
        }
    }
}

impl<'k, K: Kernel, const N: usize> Bringup<'k, K, ModuleKnown, N> {
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
    pub fn plan(self, memory: &[NodeRange], algorithm: Algorithm) -> Result<Bringup<'k, K, Planned, N>, BringupError> {
        let info = &self.state.0;
        match layout::build(algorithm, memory, &info.cmrs, &info.limits, self.kernel, self.layout) {
            // Found out here and not after SYS.CONFIG, from which there is no way back.
            Ok(()) if self.layout.pamt_ranges().count() > N => {
                let count = self.layout.pamt_ranges().count();
                let cause = BringupCause::Record(PublishError::Full { room: N, count });
                Err(self.fail(&Held::Pamt, BringupStep::Layout, cause))
            }
            Ok(()) => Ok(self.next(|state| Planned(state.0))),
            Err(error) => Err(self.fail(&Held::Nothing, BringupStep::Layout, BringupCause::Layout(error))),
        }
    }
}

impl<'k, K: Kernel, const N: usize> Bringup<'k, K, Planned, N> {
    /// What the module will be given.
    pub fn layout(&self) -> &Layout {
        self.layout
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
    pub fn configure(self) -> Result<Bringup<'k, K, Configured, N>, BringupError> {
        let tdmrs = self.layout.tdmrs();
        let count = tdmrs.len() as u64;
        let pages = ((count + 1) * STRUCTURE_ALIGN).div_ceil(PAGE_SIZE);
        let Some(table) = self.kernel.allocate_any(pages) else {
            return Err(self.fail(&Held::Pamt, BringupStep::Config, BringupCause::NoMemory { pages }));
        };
        write_tdmr_info(self.kernel, table.base(), tdmrs);
        let dynamic = match self.state.0.limits.pamt_4k {
            Pamt4k::Entries => 0,
            Pamt4k::Bitmap { .. } => SYS_CONFIG_DYNAMIC_PAMT,
        };
        let input = Registers::call(Leaf::SYS_CONFIG)
            .rcx_address(table.base())
            .rdx(count)
            .r8(u64::from(self.platform.global_key_id().get()) | dynamic);
        let result = self.kernel.run_here(|cpu| call(cpu, input));
        self.kernel.free(table);
        match result {
            Ok(_) => Ok(self.next(|state| Configured(state.0))),
            Err(error) => Err(self.fail(&Held::Pamt, BringupStep::Config, BringupCause::Seamcall(error))),
        }
    }
}

/// The array of pointers in the first 512 bytes, then one TDMR_INFO per 512 bytes.
fn write_tdmr_info(memory: &mut impl SharedMemory, table: PhysAddr, tdmrs: &[Tdmr]) {
    for (index, tdmr) in (1u64..).zip(tdmrs) {
        let entry = PhysAddr::new(table.get() + index * STRUCTURE_ALIGN);
        memory.write(entry, tdmr.to_tdmr_info().as_bytes());
        memory.write(PhysAddr::new(table.get() + (index - 1) * 8), &entry.get().to_le_bytes());
    }
}

const _: () = assert!(tdx_abi::MAX_TDMRS as u64 * 8 <= STRUCTURE_ALIGN);

impl<'k, K: Kernel, const N: usize> Bringup<'k, K, Configured, N> {
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
    pub fn configure_keys(self) -> Result<Bringup<'k, K, KeysConfigured, N>, BringupError> {
        self.kernel.run_on_all(&WriteBack);
        self.layout.set_private(true);
        if let Err(error) = self.record.publish(self.layout.pamt_ranges()) {
            return Err(self.fail(&Held::Pamt, BringupStep::KeyConfig, BringupCause::Record(error)));
        }
        let error = FirstError::default();
        self.kernel.run_on_each_package(&OneCall {
            input: Registers::call(Leaf::SYS_KEY_CONFIG),
            fine: &[],
            error: &error,
        });
        match error.get() {
            Some(error) => Err(self.fail(&Held::PrivatePamt, BringupStep::KeyConfig, BringupCause::Seamcall(error))),
            None => Ok(self.next(|state| KeysConfigured(state.0))),
        }
    }
}

impl<'k, K: Kernel, const N: usize> Bringup<'k, K, KeysConfigured, N> {
    /// SYS.TDMR.INIT until every TDMR is complete; CPUs work on different TDMRs in parallel.
    ///
    /// # Errors
    /// [`BringupError`], after the PAMTs were reset and given back.
    ///
    /// # SEAMCALL
    /// SYS.TDMR.INIT on every CPU, for different TDMRs in parallel: 256 calls for each GiB with
    /// module 1.5. It makes PAMT private, line by line.
    pub fn init_tdmrs(self) -> Result<Ready<'k>, BringupError> {
        let error = FirstError::default();
        self.kernel.run_on_all(&InitTdmrs { tdmrs: self.layout.tdmrs(), next: AtomicU32::new(0), error: &error });
        match error.get() {
            Some(error) => Err(self.fail(&Held::PrivatePamt, BringupStep::TdmrInit, BringupCause::Seamcall(error))),
            None => Ok(Ready { platform: self.platform, module: self.state.0, layout: self.layout }),
        }
    }
}

impl<'k, K: Kernel, S, const N: usize> Bringup<'k, K, S, N> {
    fn next<T>(self, state: impl FnOnce(S) -> T) -> Bringup<'k, K, T, N> {
        Bringup {
            kernel: self.kernel,
            platform: self.platform,
            record: self.record,
            layout: self.layout,
            state: state(self.state),
        }
    }

    /// The way back. Order: private lines out of every cache, reset, fence, flag, list, memory.
    fn fail(self, held: &Held, step: BringupStep, cause: BringupCause) -> BringupError {
        let mut unwound = Unwound::default();
        if let Held::PrivatePamt = held {
            self.kernel.run_on_all(&WriteBack);
            unwound.reset_lines = self.kernel.run_here(|cpu| reset_ranges(cpu, self.layout.pamt_ranges())).lines;
            self.record.withdraw();
        }
        if let Held::Pamt | Held::PrivatePamt = held {
            unwound.freed_bytes = self.layout.pamt_ranges().map(tdx_abi::PageRange::bytes).sum();
            // Private or not: the lines are reset, or were never written.
            self.layout.set_private(false);
            let _ = self.layout.release(self.kernel);
        }
        self.record.release_claim();
        BringupError { step, cause, unwound }
    }
}
