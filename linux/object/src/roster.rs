//! What a takeover table lists beside the records of the host: the TDs of this kernel, its CPUs and
//! their IA32_TSC_ADJUST; and whether TDs of an earlier kernel are left.

use core::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use first_kernel::KeptTd;
use tdx_abi::{KeyId, Page};
use tdx_host::{
    platform::{Cpu as _, CpuTask, Cpus, Msr, Processor as _, Step},
    takeover::TdState,
};

use crate::CPUS;
use crate::cpu::{ThisCpu, ThisProcessor};

/// TDs of this kernel at most.
pub const MAX_TDS: usize = 64;

const TSC_ADJUST: Msr = Msr(0x3b);

/// There may be TDs of an earlier kernel that are neither adopted nor torn down.
static TDS_LEFT: AtomicBool = AtomicBool::new(false);

/// TDs of the earlier kernel may be there that nobody has adopted.
pub fn has_tds_left() -> bool {
    TDS_LEFT.load(Ordering::Relaxed)
}

/// Notes whether they may.
pub(crate) fn set_tds_left(left: bool) {
    TDS_LEFT.store(left, Ordering::Relaxed);
}

/// A TD of this kernel. Never removed, so that a handover reads the list at any time.
struct Place {
    tdr: AtomicU64,
    vcpu: AtomicU64,
    key: AtomicU32,
    state: AtomicU32,
}

static TDS: [Place; MAX_TDS] = [const {
    Place { tdr: AtomicU64::new(0), vcpu: AtomicU64::new(0), key: AtomicU32::new(0), state: AtomicU32::new(0) }
}; MAX_TDS];
static COUNT: AtomicU32 = AtomicU32::new(0);

/// x2APIC ids of the CPUs that had SYS.LP.INIT, plus 1; 0 for none.
static CPU_IDS: [AtomicU64; CPUS] = [const { AtomicU64::new(0) }; CPUS];

/// The x2APIC id of this CPU.
fn apic_id() -> u32 {
    tdx_host::arch::cpuid(0xb, 0).edx
}

/// IA32_TSC_ADJUST of this CPU; 0 where there is none.
pub(crate) fn tsc_adjust() -> u64 {
    ThisProcessor.rdmsr(TSC_ADJUST).unwrap_or(0)
}

struct NoteCpu;

impl CpuTask<ThisCpu> for NoteCpu {
    type Local = ();

    fn step(&self, cpu: &ThisCpu, (): &mut ()) -> Step {
        if let Some(id) = CPU_IDS.get(cpu.id().0 as usize) {
            id.store(u64::from(apic_id()) + 1, Ordering::Relaxed);
        }
        Step::Done
    }
}

/// Notes the CPUs, which have had SYS.LP.INIT. All that are online, and no others.
pub(crate) fn note_cpus(cpus: &impl Cpus<Cpu = ThisCpu>) {
    for id in &CPU_IDS {
        id.store(0, Ordering::Relaxed);
    }
    cpus.run_on_all(&NoteCpu);
}

/// The noted CPUs' x2APIC ids, ascending.
pub(crate) fn cpu_ids() -> impl Iterator<Item = u32> {
    let mut last = 0;
    core::iter::from_fn(move || {
        last = CPU_IDS.iter().map(|id| id.load(Ordering::Relaxed)).filter(|id| *id > last).min()?;
        u32::try_from(last - 1).ok()
    })
}

/// Adds a TD of this kernel's, which it has built or adopted. False if there is no room. One call
/// at a time.
pub fn add(td: KeptTd) -> bool {
    let count = COUNT.load(Ordering::Relaxed);
    let Some(place) = TDS.get(count as usize) else { return false };
    place.tdr.store(td.tdr.index(), Ordering::Relaxed);
    place.vcpu.store(td.vcpu.map_or(0, Page::index), Ordering::Relaxed);
    place.key.store(td.key_id.map_or(0, |key| u32::from(key.get())), Ordering::Relaxed);
    place.state.store(td.state as u32, Ordering::Relaxed);
    // With the place behind it.
    COUNT.store(count + 1, Ordering::Release);
    true
}

const STATES: [TdState; 6] =
    [TdState::Unknown, TdState::Created, TdState::Keyed, TdState::Building, TdState::Runnable, TdState::Dying];

/// The TDs of this kernel.
pub fn tds() -> impl Iterator<Item = KeptTd> + Clone {
    TDS.iter().take(COUNT.load(Ordering::Acquire) as usize).map(|place| {
        let (vcpu, key) = (place.vcpu.load(Ordering::Relaxed), place.key.load(Ordering::Relaxed));
        KeptTd {
            state: STATES.get(place.state.load(Ordering::Relaxed) as usize).copied().unwrap_or(TdState::Unknown),
            tdr: Page::new(place.tdr.load(Ordering::Relaxed)),
            key_id: u16::try_from(key).ok().filter(|key| *key != 0).map(KeyId::new),
            vcpu: Some(vcpu).filter(|page| *page != 0).map(Page::new),
        }
    })
}
