//! The writer: one pass, no allocation, no lock.

use super::entry::Entry;
use super::{CHECKSUM_AT, ENTRY, HEADER, MAGIC, TakeoverError, VERSION, WrittenBy};
use crate::crc32c::Crc;
use crate::handover::Suspects;

/// What the header says beside the entries.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct TakeoverFacts {
    /// What writes the table.
    pub written_by: WrittenBy,
    /// IA32_TSC_ADJUST, which is the same on all CPUs.
    pub tsc_adjust: u64,
    /// The TSC now.
    pub tsc: u64,
    /// The global KeyID: [`crate::platform::TdxPlatform::global_key_id`].
    pub global_key_id: tdx_abi::KeyId,
    /// CPUs that did not stop.
    pub not_stopped: u32,
    /// CPUs whose caches may hold private lines.
    pub may_hold_private_lines: u32,
}

/// Writes a table into memory that the caller has reserved for it. Until [`TakeoverWriter::finish`]
/// nothing reads as a table there.
#[derive(Debug)]
#[must_use = "a table that is not finished does not read"]
pub struct TakeoverWriter<'t> {
    header: &'t mut [u8],
    room: &'t mut [u8],
    given: usize,
    entries: u64,
    crc: Crc,
    last: Option<Entry>,
}

/// Whether an entry may come after another one.
pub(super) fn follows(last: Option<&Entry>, next: &Entry) -> bool {
    let Some(last) = last else {
        return !matches!(next, Entry::Td { td, .. } if *td != 1);
    };
    if last.kind() != next.kind() {
        return last.kind() < next.kind() && !matches!(next, Entry::Td { td, .. } if *td != 1);
    }
    match (last, next) {
        (Entry::Td { td: last, .. }, Entry::Td { td, .. }) => Some(*td) == last.checked_add(1),
        _ => match (last.range(), next.range()) {
            (Some(last), Some(next)) => last.end() <= next.start(),
            _ => last.td().is_some() || matches!(last, Entry::Pair { .. }) || last.first_word() < next.first_word(),
        },
    }
}

impl<'t> TakeoverWriter<'t> {
    /// Begins a table, and wipes the header of what stood there.
    ///
    /// # Errors
    /// [`TakeoverError::TooSmall`].
    pub fn new(table: &'t mut [u8]) -> Result<Self, TakeoverError> {
        let given = table.len();
        let wiped = given.min(HEADER);
        if let Some(header) = table.get_mut(..wiped) {
            header.fill(0);
        }
        let (header, room) = table.split_at_mut_checked(HEADER).ok_or(TakeoverError::TooSmall { given, entries: 0 })?;
        Ok(Self { header, room, given, entries: 0, crc: Crc::new(), last: None })
    }

    /// Adds an entry, in the order of their kinds.
    ///
    /// # Errors
    /// [`TakeoverError::Entry`] for one that no reader takes, [`TakeoverError::Order`],
    /// [`TakeoverError::TooSmall`]; the entry is not in the table.
    pub fn entry(&mut self, entry: Entry) -> Result<(), TakeoverError> {
        let index = self.entries;
        let bytes = entry.to_bytes();
        if Entry::from_bytes(&bytes) != Some(entry) {
            return Err(TakeoverError::Entry { index });
        }
        if !follows(self.last.as_ref(), &entry) {
            return Err(TakeoverError::Order { index });
        }
        let at = usize::try_from(index).ok().and_then(|index| index.checked_mul(ENTRY));
        let place = at.and_then(|at| self.room.get_mut(at..)).and_then(<[u8]>::first_chunk_mut::<ENTRY>);
        let place = place.ok_or(TakeoverError::TooSmall { given: self.given, entries: index + 1 })?;
        *place = bytes;
        self.crc = self.crc.add(place);
        self.entries += 1;
        self.last = Some(entry);
        Ok(())
    }

    /// Ends the table: from here on it reads. Returns its bytes.
    pub fn finish(self, facts: &TakeoverFacts) -> usize {
        let written_by: u16 = match facts.written_by {
            WrittenBy::Kexec => 1,
            WrittenBy::Crash => 2,
        };
        let fields: [&[u8]; 12] = [
            &MAGIC,
            &VERSION.to_le_bytes(),
            &written_by.to_le_bytes(),
            &(ENTRY as u32).to_le_bytes(),
            &self.entries.to_le_bytes(),
            &facts.tsc_adjust.to_le_bytes(),
            &facts.tsc.to_le_bytes(),
            &facts.global_key_id.get().to_le_bytes(),
            &[0; 2],
            &facts.not_stopped.to_le_bytes(),
            &facts.may_hold_private_lines.to_le_bytes(),
            &[0; 8],
        ];
        let mut header = [0; HEADER];
        for (place, byte) in header.iter_mut().zip(fields.into_iter().flatten()) {
            *place = *byte;
        }
        let (before, sum) = header.split_at_mut(CHECKSUM_AT);
        sum.copy_from_slice(&self.crc.add(before).end().to_le_bytes());
        for (place, byte) in self.header.iter_mut().zip(header) {
            *place = byte;
        }
        HEADER + self.entries as usize * ENTRY
    }
}

impl TakeoverFacts {
    /// With the suspects of a handover's report.
    #[must_use]
    pub fn with_suspects(self, suspects: &Suspects) -> Self {
        Self { not_stopped: suspects.not_stopped, may_hold_private_lines: suspects.may_hold_private_lines, ..self }
    }
}
