//! What a kernel that hands TDX over, or takes it over, does wrongly: around the product, whose
//! code runs as it is. Each is a bug of the catalogue.

use tdx_abi::{KeyId, KeyIdPartition, Leaf, PageRange, Registers, StatusCode, subtract};
use tdx_host::takeover::{Entry, TakeoverTable, TakeoverWriter, TdState};
use tdx_lab::platform::{Act, Deed, Lab, LabError, Operation, Watcher};
use tdx_machine::{AssignedKind, CpuId};

use crate::branch::End;
use crate::bug::Wrong;

/// IA32_TSC_ADJUST.
const TSC_ADJUST: u32 = 0x3b;

const BOOT: CpuId = CpuId(0);

impl Wrong {
    /// What the old kernel does before the jump.
    pub(super) fn after_handover(self, lab: &Lab<'_>, in_flight: &[PageRange], end: End) {
        let pages: Vec<PageRange> = match self {
            Self::ResetsInFlight if matches!(end, End::Kexec(_)) => in_flight.to_vec(),
            Self::ResetsKept => {
                let runs = lab.ask(tdx_machine::Machine::assigned_pages);
                runs.into_iter().filter(|run| run.kind == AssignedKind::Guest).map(|run| run.pages).take(1).collect()
            }
            _ => return,
        };
        for range in pages {
            let _ = lab.act(|machine| machine.direct_store(BOOT, range.lines()).and_then(|()| machine.fence(BOOT)));
        }
    }

    /// The table as this kernel writes it.
    ///
    /// # Errors
    /// [`LabError::Scenario`]: it cannot be written.
    pub(super) fn record(self, lab: &Lab<'_>, record: &[u8]) -> Result<Vec<u8>, LabError> {
        let table = TakeoverTable::read(record).map_err(LabError::scenario)?;
        let mut entries: Vec<Entry> = table.entries().collect();
        match self {
            Self::SeptForgotten => {
                let runs = lab.ask(tdx_machine::Machine::assigned_pages);
                let gone = runs.into_iter().find(|run| run.kind == AssignedKind::Sept).map(|run| run.pages);
                let first = entries.iter().position(|entry| matches!(entry, Entry::Marked(_))).unwrap_or(0);
                let left: Vec<PageRange> = subtract(table.marked(), gone).collect();
                entries.retain(|entry| !matches!(entry, Entry::Marked(_)));
                entries.splice(first..first, left.into_iter().map(Entry::Marked));
                // What is not marked is not in flight.
                entries.retain(|entry| {
                    !matches!(entry, Entry::UnknownToModule(range) if gone.is_some_and(|gone| gone.overlaps(*range)))
                });
            }
            Self::RecordTorn => {
                // The first word is new, the second that of a smaller range.
                let last = entries.iter_mut().rev().find_map(|entry| match entry {
                    Entry::Marked(range) if range.pages() > 1 => Some(range),
                    _ => None,
                });
                if let Some(range) = last {
                    *range = PageRange::new(range.start(), tdx_abi::Page::new(range.start().index() + 1));
                }
                let marked: Vec<PageRange> = entries
                    .iter()
                    .filter_map(|entry| if let Entry::Marked(range) = entry { Some(*range) } else { None })
                    .collect();
                entries.retain(|entry| match entry {
                    Entry::UnknownToModule(range) => subtract([*range], marked.iter().copied()).next().is_none(),
                    _ => true,
                });
            }
            Self::RecordShort => {
                let marks = entries.iter().filter(|entry| matches!(entry, Entry::Marked(_))).count();
                // Without marks there is nothing to cut.
                let first = entries.iter().position(|entry| matches!(entry, Entry::Marked(_)));
                entries.truncate(first.map_or(entries.len(), |first| first + marks / 2));
            }
            Self::KeyIdForgotten => {
                for entry in &mut entries {
                    if let Entry::Td { state, key_id, .. } = entry
                        && *state != TdState::Runnable
                    {
                        *key_id = None;
                    }
                }
            }
            _ => return Ok(record.to_vec()),
        }
        let mut new = vec![0; record.len() + 4096];
        let mut writer = TakeoverWriter::new(&mut new).map_err(LabError::scenario)?;
        entries.into_iter().try_for_each(|entry| writer.entry(entry)).map_err(LabError::scenario)?;
        let used = writer.finish(&table.facts);
        new.truncate(used);
        Ok(new)
    }

    /// What the next kernel does first.
    pub(super) fn at_start(self, lab: &Lab<'_>) {
        if self == Self::TscAdjustRepaired {
            for cpu in 0..lab.ask(tdx_machine::Machine::cpus) {
                let _ = lab.act(|machine| machine.set_msr(CpuId(cpu), TSC_ADJUST, 1 << 40));
            }
        }
    }
}

/// The old kernel's handover, watched.
pub(super) struct Old(pub(super) Wrong);

impl Watcher for Old {
    fn before(&self, _lab: &Lab<'_>, act: &Act) -> Deed {
        if self.0 == Wrong::NoWriteBack && act.operation == Operation::WriteBack { Deed::Skip } else { Deed::AsIs }
    }
}

/// The next kernel, watched.
pub(super) struct New(pub(super) Wrong);

impl Watcher for New {
    fn before(&self, lab: &Lab<'_>, act: &Act) -> Deed {
        let Operation::Seamcall(registers) = act.operation else { return Deed::AsIs };
        match self.0 {
            Wrong::NoLpInit if act.cpu != BOOT => {
                let rax = StatusCode::SYS_LP_INIT_NOT_DONE.with(0).raw();
                Deed::Answer(Registers { rax, ..registers })
            }
            Wrong::GlobalKeyIdReused if registers.leaf_call().leaf() == Leaf::MNG_CREATE => {
                let key = lab.ask(|machine| machine.config().key_ids.and_then(KeyIdPartition::first_private));
                Deed::Call(registers.rdx(u64::from(key.map_or(0, KeyId::get))))
            }
            _ => Deed::AsIs,
        }
    }
}
