//! The emulated TDX host behind the guest's memory: the software machine, and the nested page
//! tables that trap accesses to private and poisoned memory.
//!
//! Not covered: see [`LIMITS`].

mod access;
mod frames;
mod limits;
mod map;
mod pamt;
mod seamcall;

use alloc::collections::BTreeMap;
use alloc::string::String;
use alloc::vec::Vec;
use core::ops::Range;
use metal::println;
use spin::{Mutex, MutexGuard, Once};
use tdx_abi::{Line, LineRange, PhysAddr};
use tdx_machine::{ConfigError, CpuId, Machine, MachineCheck, MachineConfig};

pub use access::Access;
pub use limits::LIMITS;

use crate::nested::{Nested, Rights};
use crate::ranges::{self, Ranges};
use frames::Frames;
use pamt::Pamt;

/// A machine check of the guest, for the summary.
#[derive(Clone, Debug)]
pub struct MachineCheckRecord {
    /// Bank contents and reason.
    pub check: MachineCheck,
    /// Guest RIP.
    pub rip: u64,
    /// The instruction, or the kind of access.
    pub instruction: String,
    /// What the line was when it became private.
    pub kind: &'static str,
    /// Number of private lines at that time. 0 after a clean handover.
    pub private_then: u64,
}

/// The machine, and the trapped pages that follow from its state.
pub struct Tdx {
    /// The software machine.
    pub machine: Machine,
    map: Nested,
    /// Pages that are not writable in `map`.
    trapped: Ranges,
    /// The trapped pages that are not readable either.
    unmapped: Ranges,
    /// Lines owned by a private KeyID, as of the last [`Tdx::sync_map`].
    private: Ranges,
    /// PAMT pages that will become private. They are trapped from SYS.CONFIG on, so that the
    /// TDMR.INITs do not kick all CPUs each time.
    future_pamt: Ranges,
    pamts: Vec<Pamt>,
    /// What each page was when it became private. Kept when the module forgets the page.
    kinds: BTreeMap<u64, &'static str>,
    /// Machine checks of the host so far.
    pub checks: Vec<MachineCheckRecord>,
    /// Machine checks of TDs so far.
    pub td_checks: Vec<MachineCheckRecord>,
    /// Contents of private pages of TDs.
    pub frames: Frames,
    /// Virtual CPUs of TDs, by TDVPR page: which VP.INIT they come from.
    births: BTreeMap<u64, u64>,
    /// VP.INITs so far.
    inits: u64,
    /// SEAMCALLs that the machine does not model.
    pub refused: u64,
    /// Every SYS.CONFIG asks for Dynamic PAMT, whatever the guest says.
    pub assumes_dynamic_pamt: bool,
}

static TDX: Once<Mutex<Tdx>> = Once::new();

/// Creates the machine, with nested page tables that do not map the `hidden` pages.
pub fn init(config: MachineConfig, hidden: &[Range<u64>]) -> Result<(), ConfigError> {
    let machine = Machine::new(config)?;
    let map = Nested::identity();
    for page in hidden.iter().cloned().flatten() {
        map.set(page, Rights::NotPresent);
    }
    TDX.call_once(|| {
        Mutex::new(Tdx {
            machine,
            map,
            trapped: Ranges::new(),
            unmapped: Ranges::new(),
            private: Ranges::new(),
            future_pamt: Ranges::new(),
            pamts: Vec::new(),
            kinds: BTreeMap::new(),
            checks: Vec::new(),
            td_checks: Vec::new(),
            frames: Frames::new(),
            births: BTreeMap::new(),
            inits: 0,
            refused: 0,
            assumes_dynamic_pamt: false,
        })
    });
    Ok(())
}

/// Locks the machine. Panics before [`init`].
pub fn lock() -> MutexGuard<'static, Tdx> {
    match TDX.get() {
        Some(tdx) => tdx.lock(),
        None => panic!("the machine is not initialized"),
    }
}

/// Lines that `bytes` at `address` touch.
fn touched(address: u64, bytes: u64) -> LineRange {
    LineRange::touching(PhysAddr::new(address), bytes.max(1))
}

impl Tdx {
    /// The shared nested page tables.
    pub fn map(&self) -> &Nested {
        &self.map
    }

    /// VMXON or VMXOFF of this CPU. Returns whether it is in VMX operation afterwards.
    pub fn set_vmx_operation(&mut self, cpu: usize, on: bool) -> bool {
        let id = CpuId(cpu as u32);
        let done = if on { self.machine.vmxon(id) } else { self.machine.vmxoff(id) };
        match done {
            Ok(()) => on,
            Err(refusal) => {
                println!("VMX operation of CPU {cpu}: {refusal}");
                !on
            }
        }
    }

    /// True if the address has no KeyID.
    pub fn is_memory_address(&self, address: u64) -> bool {
        address & !self.machine.config().key_id_field.memory_mask() == 0
    }

    /// True if writes to this page, and possibly reads, exit because of its private or poisoned
    /// lines.
    pub fn is_trapped(&self, page: u64) -> bool {
        ranges::contains(&self.trapped, page)
    }

    /// Which VP.INIT the virtual CPU at this TDVPR page comes from. `None`: from none.
    pub fn vcpu_birth(&self, tdvpr: u64) -> Option<u64> {
        self.births.get(&tdvpr).copied()
    }

    /// What the page of a line was when it became private.
    pub fn kind(&self, line: Line) -> &'static str {
        self.kinds.get(&line.page().index()).copied().unwrap_or("memory that was never private")
    }
}
