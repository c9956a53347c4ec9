//! SEAMCALL: the trait, the retry rules of the ABI, and errors that keep the raw status.
//!
//! Two ways to make a call that this crate does not wrap. Both pass the gate, try again where the
//! ABI allows it, and keep the raw status:
//!
//! * [`call`] is safe, and refuses every leaf that could convert or overwrite memory of the host;
//! * [`call_unchecked`] makes any call; its `# Safety` is what the caller promises.
//!
//! # Example
//!
//! ```
//! # mod kernel { include!(concat!(env!("CARGO_MANIFEST_DIR"), "/examples/kernel/mod.rs")); }
//! # let hardware = kernel::Hardware::new();
//! # let tdx = tdx_host::Host::new(hardware.slots());
//! # let mut kernel = kernel::Kernel::with_tdx(&hardware, &tdx);
//! use tdx_abi::{FieldId, Leaf, Registers, StatusCode};
//! use tdx_host::seamcall::{CallError, LeafEffect, call, call_unchecked};
//!
//! let cpu = kernel.cpu();
//! let output = call(&cpu, Registers::call(Leaf::SYS_RD).rdx(FieldId::MAX_TDMRS.0))?;
//! assert_eq!(output.r8, 64);
//!
//! // A leaf that makes memory private is not for safe code.
//! let Err(CallError::Refused(refused)) = call(&cpu, Registers::call(Leaf::SYS_CONFIG)) else { panic!("made") };
//! assert_eq!(refused.effect, Some(LeafEffect::ChangesState));
//!
//! // SAFETY: the module is configured already, so it refuses to be configured again.
//! let error = unsafe { call_unchecked(&cpu, Registers::call(Leaf::SYS_CONFIG)) }.unwrap_err();
//! assert_eq!(error.status().code(), StatusCode::SYS_CONFIG_NOT_PENDING);
//! assert_eq!((error.status().raw(), error.attempts), (0xc000_050c_0000_0000, 1));
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

use core::fmt;
use tdx_abi::{Leaf, LeafCall, Registers, Status, StatusCode};

use crate::effect;
pub use crate::effect::{LeafEffect, leaf_effect};
use crate::gate::{Closed, SeamcallGuard};
use crate::ids::CpuId;
use crate::platform::Cpu;
pub use crate::platform::instruction::Seamcall;

/// Immediate second calls after RND_NO_ENTROPY (`tdx_abi.md` section 1) or KEY_GENERATION_FAILED
/// (section 4: entropy, retry). Linux makes ten calls in all for the first status, and only one for
/// the second.
pub const ENTROPY_RETRIES: u32 = 10;

/// Immediate second calls after a busy status, where the ABI allows one. No leaf spins in the
/// module: the holder of the lock is on its way out, so a bound this large is only met when it
/// never comes.
pub const BUSY_RETRIES: u32 = 10_000;

/// A SEAMCALL that failed. The raw 64-bit status is always there.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct SeamcallError {
    /// Leaf and version.
    pub call: LeafCall,
    /// Where.
    pub cpu: CpuId,
    /// All input registers.
    pub input: Registers,
    /// All output registers; RAX is the status.
    pub registers: Registers,
    /// Calls made, the first one included.
    pub attempts: u32,
}

impl SeamcallError {
    /// The status of the module, or of the instruction.
    pub const fn status(&self) -> Status {
        self.registers.status()
    }

    /// The last of as many attempts as [`Retry::for_leaf`] allows was busy. A lock of the module is
    /// held for one SEAMCALL; held for so long it is that of a VCPU inside its guest, which holds
    /// its TD's TDR (module 1.5.25, observed). The kernel kicks the VCPU, then calls again.
    pub const fn is_still_busy(&self) -> bool {
        let busy = matches!(self.status().code(), StatusCode::SYS_BUSY | StatusCode::OPERAND_BUSY);
        busy && self.attempts > BUSY_RETRIES
    }
}

/// The operands as the module saw and left them: `{:#}` of an error.
fn operands(f: &mut fmt::Formatter<'_>, when: &str, registers: &Registers) -> fmt::Result {
    let Registers { rcx, rdx, r8, r9, .. } = registers;
    write!(f, "; {when} RCX {rcx:#x} RDX {rdx:#x} R8 {r8:#x} R9 {r9:#x}")
}

impl fmt::Display for SeamcallError {
    /// `{:#}` adds the operands, in and out.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let status = self.status();
        write!(f, "SEAMCALL {} failed on {}: {:#018x} {status}", self.call.leaf(), self.cpu, status.raw())?;
        if self.attempts > 1 {
            write!(f, " after {} attempts", self.attempts)?;
        }
        if self.is_still_busy() {
            f.write_str(" (a VCPU inside its guest?)")?;
        }
        if f.alternate() {
            operands(f, "in", &self.input)?;
            operands(f, "out", &self.registers)?;
        }
        Ok(())
    }
}

impl core::error::Error for SeamcallError {}

/// Second calls after INTERRUPTED_RESTARTABLE: an interrupt was pending, and the next call may come
/// to the end.
pub const RESTARTS: u32 = 1_000;

/// How often a call is made again at once.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Retry {
    /// After RND_NO_ENTROPY or KEY_GENERATION_FAILED.
    pub entropy: u32,
    /// After a busy status.
    pub busy: u32,
    /// After INTERRUPTED_RESTARTABLE.
    pub restart: u32,
}

impl Retry {
    /// What the ABI allows for a leaf: entropy everywhere; busy and restart everywhere but in SYS.*
    /// leaves that take no lock, because no leaf waits, so the CPU that holds the lock is on its
    /// way out, and a call that finds it taken has done nothing.
    ///
    /// A VCPU inside the TD is another matter: PREVIOUS_TLB_EPOCH_BUSY is not tried again, the
    /// kernel kicks VCPUs first.
    pub const fn for_leaf(leaf: Leaf) -> Self {
        let busy = match leaf {
            Leaf::SYS_RD | Leaf::SYS_RDALL | Leaf::SYS_INFO | Leaf::VP_ENTER => 0,
            _ => BUSY_RETRIES,
        };
        let restart = match leaf {
            Leaf::MEM_PAGE_PROMOTE | Leaf::MEM_PAGE_DEMOTE => RESTARTS,
            _ => 0,
        };
        Self { entropy: ENTROPY_RETRIES, busy, restart }
    }
}

/// A call that [`call`] does not make, because it could convert or overwrite memory of the host.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct LeafRefused {
    /// Leaf and version.
    pub call: LeafCall,
    /// What the leaf does; `None` if it is not known here, or is not for the TDX module.
    pub effect: Option<LeafEffect>,
}

impl fmt::Display for LeafRefused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let why = match self.effect {
            Some(LeafEffect::WritesMemory) => "writes memory at an operand",
            Some(LeafEffect::ChangesState) => "changes the state of the module or of a TD",
            Some(LeafEffect::MovesPages) => "takes or returns pages",
            Some(LeafEffect::EntersGuest) => "enters a guest",
            Some(LeafEffect::Nothing) => "has an unknown version",
            None => "is unknown",
        };
        write!(f, "SEAMCALL {} ({:#x}) refused: it {why}", self.call.leaf(), self.call.rax())
    }
}

impl core::error::Error for LeafRefused {}

/// Why [`call`] has no answer.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum CallError {
    /// The leaf is not for safe code. No instruction was executed.
    #[error(transparent)]
    Refused(#[from] LeafRefused),
    /// The SEAMCALL failed.
    #[error(transparent)]
    Failed(#[from] SeamcallError),
}

impl CallError {
    /// The completion status, if the call was made.
    pub const fn status(&self) -> Option<Status> {
        match self {
            Self::Refused(_) => None,
            Self::Failed(error) => Some(error.status()),
        }
    }
}

/// Says whether a call is one that [`call`] makes: its leaf is known in this version, and converts,
/// writes and releases no memory of the host.
///
/// # Errors
/// [`LeafRefused`].
pub const fn check_call(input: &Registers) -> Result<(), LeafRefused> {
    let call = input.leaf_call();
    // Bits beyond leaf and version are for the P-SEAMLDR, which can replace the module.
    let effect = if call.reserved() == 0 { leaf_effect(call.leaf()) } else { None };
    match (effect, effect::row(call)) {
        (Some(LeafEffect::Nothing), Some(_)) => Ok(()),
        (effect, _) => Err(LeafRefused { call, effect }),
    }
}

/// Makes a call that can neither convert nor overwrite memory of the host, again where
/// [`Retry::for_leaf`] allows it. Informational statuses are a success; the caller reads RAX.
///
/// Leaves that take or return pages are those of [`crate::td`] and [`crate::dynamic_pamt`], where
/// each page is a value with one owner; for all others there is [`call_unchecked`].
///
/// # Errors
/// [`CallError::Refused`] if [`check_call`] refuses the call. Else as [`call_unchecked`].
///
/// # SEAMCALL
/// The leaf that `input` names, on this CPU, once the gate has admitted it: SYS.RD, MNG.RD, VP.RD,
/// MEM.RD, MEM.SEPT.RD, PHYMEM.PAGE.RDMD, MEM.RANGE.BLOCK, MEM.RANGE.UNBLOCK, MEM.TRACK,
/// PHYMEM.CACHE.WB or PHYMEM.PAGE.WBINVD. The CPU counts as one whose caches may hold private lines
/// from then on, also if the call fails.
pub fn call<C: Cpu>(cpu: &C, input: Registers) -> Result<Registers, CallError> {
    check_call(&input)?;
    // SAFETY: by the table the leaf takes, returns and writes no memory, and changes no state by
    // which another leaf or a guest would.
    Ok(unsafe { call_unchecked(cpu, input) }?)
}

/// Makes any call, again where [`Retry::for_leaf`] allows it. Informational statuses are a success;
/// the caller reads RAX.
///
/// # Errors
/// The last status, with the number of attempts; [`tdx_abi::Status::GATE_CLOSED`] if the gate is
/// closed, and then the instruction was not executed in the last attempt.
///
/// # Safety
/// For what the leaf does with these operands ([`leaf_effect`] has the kinds):
/// * every page that it takes is owned by the caller and marked before the call: an
///   [`InFlightPage`](crate::page::InFlightPage), or a range of the record of private memory;
/// * every page that it returns stays marked until it was written back and reset;
/// * memory that it writes is owned by the caller, and normal;
/// * a change of state lets no other SEAMCALL, no CPU and no guest convert or write memory that
///   its caller does not own. A key is not freed before every cache is written back; a guest's
///   shared memory is memory that may be written by a guest.
/// * The leaf leaves every register but those of [`Registers`] as it was (VP.ENTER does not).
///
/// # SEAMCALL
/// The leaf that `input` names, on this CPU, once the gate has admitted it. The CPU counts as one
/// whose caches may hold private lines from then on, also if the call fails.
pub unsafe fn call_unchecked<C: Cpu>(cpu: &C, input: Registers) -> Result<Registers, SeamcallError> {
    let enter = |leaf| cpu.cpu_gate().enter(leaf);
    // SAFETY: the caller's promise.
    unsafe { call_behind(cpu, input, enter) }
}

/// As [`call_unchecked`], once `enter` has admitted it.
///
/// # Safety
/// As [`call_unchecked`]. `enter` passes the gate of `cpu`.
pub(crate) unsafe fn call_behind<'g, C: Cpu>(
    cpu: &C,
    input: Registers,
    enter: impl Fn(Leaf) -> Result<SeamcallGuard<'g>, Closed>,
) -> Result<Registers, SeamcallError> {
    let mut retry = Retry::for_leaf(input.leaf_call().leaf());
    let mut attempts = 1;
    loop {
        let registers = match enter(input.leaf_call().leaf()) {
            // SAFETY: the caller's promise; the gate has admitted the call.
            Ok(_guard) => unsafe { cpu.seamcall(input) },
            Err(_) => Registers { rax: Status::GATE_CLOSED.raw(), ..input },
        };
        let status = registers.status();
        if !status.is_error() {
            return Ok(registers);
        }
        let budget = match status.code() {
            StatusCode::RND_NO_ENTROPY | StatusCode::KEY_GENERATION_FAILED => &mut retry.entropy,
            StatusCode::SYS_BUSY | StatusCode::OPERAND_BUSY => &mut retry.busy,
            StatusCode::INTERRUPTED_RESTARTABLE => &mut retry.restart,
            _ => &mut 0,
        };
        if *budget == 0 {
            return Err(SeamcallError { call: input.leaf_call(), cpu: cpu.id(), input, registers, attempts });
        }
        *budget -= 1;
        attempts += 1;
        core::hint::spin_loop();
    }
}
