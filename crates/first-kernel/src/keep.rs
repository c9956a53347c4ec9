//! The takeover table of a first kernel: what its host knows, and its own list of TDs.

use tdx_abi::{KeyId, Page};
use tdx_host::{
    Host,
    ledger::PageState,
    takeover::{Entry, TakeoverError, TakeoverFacts, TakeoverWriter, TdState},
};

use crate::hypervisor::Slot;

/// What the hypervisor knows of a TD.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct KeptTd {
    /// How far it has come.
    pub state: TdState,
    /// Page of its TDR.
    pub tdr: Page,
    /// Its KeyID. `None`: freed.
    pub key_id: Option<KeyId>,
    /// Page of its VCPU.
    pub vcpu: Option<Page>,
}

impl Slot<'_> {
    /// What there is to tell of it. `None`: there is no TD.
    pub fn kept(&self) -> Option<KeptTd> {
        let (state, tdr, key_id, vcpu) = match self {
            Self::Empty => return None,
            Self::Created(td) => (TdState::Created, td.tdr(), Some(td.key_id()), None),
            Self::Keyed(td, _) => (TdState::Keyed, td.tdr(), Some(td.key_id()), None),
            Self::Building(td, build) => (TdState::Building, td.tdr(), Some(td.key_id()), build.vcpu()),
            Self::Runnable(td, vcpu) => (TdState::Runnable, td.tdr(), Some(td.key_id()), Some(*vcpu)),
            Self::Dying(td, vcpu) => (TdState::Dying, td.tdr(), Some(td.key_id()), *vcpu),
            Self::Dead(td, vcpu) => (TdState::Dying, td.tdr(), None, *vcpu),
        };
        Some(KeptTd { state, tdr, key_id, vcpu })
    }
}

/// Writes the takeover table of a kernel, as it is at this instant, and gives its bytes. `cpus` are
/// the x2APIC ids, ascending, of the CPUs that had SYS.LP.INIT. Does not allocate, lock or wait: a
/// crash writes it, too.
///
/// A kernel that is interrupted in the middle of a teardown or of a vacuum has TDs, VCPUs and
/// KeyIDs in its list that are gone: what the ledger and the KeyIDs do not have any more is left
/// out.
///
/// # Errors
/// [`TakeoverError::TooSmall`]: nothing reads as a table there.
pub fn write_takeover(
    table: &mut [u8],
    tdx: &Host<'_>,
    facts: &TakeoverFacts,
    cpus: impl Iterator<Item = u32>,
    tds: impl Iterator<Item = KeptTd> + Clone,
) -> Result<usize, TakeoverError> {
    let mut writer = TakeoverWriter::new(table)?;
    tdx.write_takeover(&mut writer)?;
    for cpu in cpus {
        writer.entry(Entry::Cpu(cpu))?;
    }
    let is_marked =
        |page: Page| tdx.ledger().and_then(|ledger| ledger.state(page)).is_some_and(|state| state != PageState::Shared);
    let tds = tds.filter(|td| is_marked(td.tdr));
    // The KeyID of a TD that is dying may be free, and another's already.
    let has = |td: &KeptTd, key: KeyId| {
        td.key_id == Some(key)
            && (td.state != TdState::Dying || tds.clone().all(|other| other.tdr == td.tdr || other.key_id != Some(key)))
    };
    let in_use = |key: KeyId| tdx.key_ids().is_some_and(|key_ids| key_ids.in_use().any(|used| used == key));
    if let Some(key_ids) = tdx.key_ids() {
        for key in key_ids.in_use().filter(|key| !tds.clone().any(|td| has(&td, *key))) {
            writer.entry(Entry::LostKeyId(key))?;
        }
    }
    for (number, td) in (1..).zip(tds.clone()) {
        let KeptTd { state, tdr, .. } = td;
        let key_id = td.key_id.filter(|key| has(&td, *key) && in_use(*key));
        writer.entry(Entry::Td { td: number, state, tdr, key_id })?;
    }
    let vcpus = (1..).zip(tds).filter_map(|(number, td)| Some((number, td.vcpu?)));
    for (td, vcpu) in vcpus.filter(|(_, vcpu)| is_marked(*vcpu)) {
        writer.entry(Entry::Vcpu { td, vcpu: 0, page: vcpu })?;
    }
    Ok(writer.finish(facts))
}
