//! Adopts TDs of an earlier kernel, to run them on. The takeover table says which TDs there were;
//! what they are and have is asked of the module.

use arrayvec::ArrayVec;
use core::marker::PhantomData;
use tdx_abi::{KeyId, Leaf, Page, PageRange, PageSize, PamtPageType, PhysAddr, Registers, StatusCode};

use super::error::TdCause;
use super::teardown::page_held;
use super::{Common, Runnable, Td, TdHost};
use crate::key_ids::KeyLease;
use crate::ledger::PageState;
use crate::platform::{Cpu, Cpus};
use crate::seamcall::{SeamcallError, call_unchecked};
use crate::sync::AtomicU64;
use crate::takeover::{Entry, TakeoverTable, TdState};

/// TDs adopted in one walk over the marked pages.
const TDS_A_WALK: usize = 64;

/// Metadata fields of a TD and of a VCPU, by class and code.
mod field {
    pub(super) const CHLDCNT: u64 = 4;
    pub(super) const HKID: u64 = 1 << 56 | 1;
    pub(super) const NUM_VCPUS: u64 = 0x10 << 56 | 1;
    pub(super) const NUM_ASSOC_VCPUS: u64 = 0x10 << 56 | 2;
    pub(super) const OP_STATE: u64 = 0x10 << 56 | 4;
    pub(super) const VCPU_INDEX: u64 = 0x20 << 56 | 2;
    pub(super) const NOTIFICATION_VECTOR: u64 = 0x2;
    pub(super) const POSTED_INTERRUPT_DESCRIPTOR: u64 = 0x2016;
    pub(super) const SHARED_EPTP: u64 = 0x203c;
}

/// OP_STATE of a TD that was finalized, and is not being migrated.
const RUNNABLE: u64 = 2;

/// Why a TD was not adopted. It stays as it is; [`TdHost::vacuum`] tears it down.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum AdoptError {
    /// The table gives it no KeyID: its teardown had begun.
    #[error("the TD has no KeyID any more")]
    NoKeyId,
    /// The table calls it dying: a kernel has begun its teardown. It may have flushed a VCPU whose
    /// state was lost before, in a crash; the module cannot tell.
    #[error("an earlier kernel had begun to tear the TD down")]
    Dying,
    /// The page is no TDR, or is not marked.
    #[error("page {tdr} is not the TDR of a TD")]
    NotATd {
        /// The page.
        tdr: Page,
    },
    /// The module says another KeyID than the table.
    #[error("the TD has KeyID {has}, the takeover table says {listed}")]
    OtherKeyId {
        /// In the table.
        listed: KeyId,
        /// By the module.
        has: u64,
    },
    /// Its KeyID is not one that was taken over, or its TD was adopted already.
    #[error("KeyID {key} is not that of a TD of the earlier kernel, or its TD was adopted already")]
    NotInherited {
        /// The KeyID.
        key: KeyId,
    },
    /// It has no metadata to ask for: it was not built to its end, or its teardown has begun.
    #[error("the TD was caught while it was built or torn down")]
    HalfBuilt,
    /// It was not finalized, or is being migrated.
    #[error("the TD is in OP_STATE {op_state}, a runnable one is in {RUNNABLE}")]
    NotRunnable {
        /// OP_STATE.
        op_state: u64,
    },
    /// Calls about it are TD_FATAL: it can only be torn down.
    #[error("the TD is fatal: it can only be torn down")]
    Fatal,
    /// It has pages that are not marked: this kernel may be using them.
    #[error("pages by the module: {has}, of these marked: {marked}; the takeover table is not complete")]
    Unmarked {
        /// 4 KiB pages that the module counts, its TDR apart.
        has: u64,
        /// Of these, marked.
        marked: u64,
    },
    /// VCPUs that the earlier kernel has not flushed: after a crash, for example. What their CPUs
    /// held of them was lost when VMX operation ended.
    #[error("VCPUs that were not flushed before the handover: {vcpus}; what their CPUs held of them is lost")]
    NotFlushed {
        /// Their number.
        vcpus: u64,
    },
    /// The table does not list all VCPUs.
    #[error("VCPUs by the module: {has}, by the takeover table: {listed}")]
    Vcpus {
        /// By the module.
        has: u64,
        /// In the table.
        listed: u64,
    },
    /// A VCPU of the table that is not one of this TD.
    #[error("page {page} is not a VCPU of this TD")]
    NotAVcpu {
        /// The page.
        page: Page,
    },
    /// The table lists a VCPU twice, and so not all of them.
    #[error("page {page} is listed as two VCPUs of this TD")]
    VcpuTwice {
        /// The page.
        page: Page,
    },
    /// A call failed, or the ledger refused a page.
    #[error("{0}")]
    Td(#[from] TdCause),
}

impl From<SeamcallError> for AdoptError {
    fn from(error: SeamcallError) -> Self {
        if error.status().code() == StatusCode::TD_FATAL { Self::Fatal } else { Self::Td(error.into()) }
    }
}

/// Where a VCPU of an adopted TD finds what its host gives it. What is `None` stays where the
/// earlier kernel had it, if anywhere: in memory that the next kernel may use for something else.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct VcpuHost {
    /// Notification vector and posted-interrupt descriptor, 64 bytes.
    pub posted_interrupts: Option<(u8, PhysAddr)>,
    /// Root of the EPT for shared guest addresses.
    pub shared_ept: Option<PhysAddr>,
}

/// A TD whose KeyID is claimed, before the count of its pages.
struct Candidate<'h> {
    td: u32,
    tdr: Page,
    key: KeyLease<'h>,
    pages: u64,
}

impl<'h> TdHost<'h> {
    /// Adopts every TD of the table that can run: from here on it is a TD of this kernel, as if it
    /// had built it. `adopted` gets each TD of the table by its number there, or why it was not
    /// adopted. Its VCPUs are [`TakeoverTable::vcpus`]; see [`Td::resume_vcpu`].
    ///
    /// The module is asked for all that it tells: whose TDR the page is, KeyID, state, number of
    /// VCPUs, none of which a CPU may hold, and number of pages, all of which must be marked. So a
    /// table that is wrong adopts nothing that is not there, and nothing twice.
    ///
    /// After [`Host::take_over`](crate::Host::take_over).
    ///
    /// # SEAMCALL
    /// MNG.RD and PHYMEM.PAGE.RDMD on this CPU: five fields for each TD, each marked page for each
    /// 64 TDs, each VCPU.
    pub fn adopt<K: Cpus>(
        self,
        cpus: &K,
        table: &TakeoverTable<'_>,
        mut adopted: impl FnMut(u32, Result<Td<'h, Runnable>, AdoptError>),
    ) {
        let mut entries = table.entries();
        let mut more = true;
        while more {
            let mut batch: ArrayVec<Candidate<'h>, TDS_A_WALK> = ArrayVec::new();
            more = false;
            while !batch.is_full()
                && let Some(entry) = entries.next()
            {
                more = true;
                let Entry::Td { td, state, tdr, key_id } = entry else { continue };
                match cpus.run_here(|cpu| self.claim_td(cpu, td, state, tdr, key_id)) {
                    Ok(candidate) => {
                        // There is room: see the condition above.
                        let _ = batch.try_push(candidate);
                    }
                    Err(error) => adopted(td, Err(error)),
                }
            }
            if batch.is_empty() {
                continue;
            }
            cpus.run_here(|cpu| self.count_pages(cpu, &mut batch));
            for candidate in batch {
                let td = candidate.td;
                match cpus.run_here(|cpu| check(cpu, &candidate, table)) {
                    Ok(()) => adopted(td, Ok(self.own(candidate))),
                    Err(error) => {
                        candidate.key.inherit_again();
                        adopted(td, Err(error));
                    }
                }
            }
        }
    }

    /// The KeyID is this kernel's from here on.
    fn claim_td<C: Cpu>(
        self,
        cpu: &C,
        td: u32,
        state: TdState,
        tdr: Page,
        key: Option<KeyId>,
    ) -> Result<Candidate<'h>, AdoptError> {
        let listed = key.ok_or(AdoptError::NoKeyId)?;
        if state == TdState::Dying {
            return Err(AdoptError::Dying);
        }
        // Of a page in no TDMR the module knows nothing.
        let is_marked = self.ledger.state(tdr).is_some_and(|state| state != PageState::Shared);
        if !is_marked || page_held(cpu, tdr)?.page_type != PamtPageType::TDR {
            return Err(AdoptError::NotATd { tdr });
        }
        let has = read(cpu, tdr, field::HKID).map_err(|error| match error.status().code() {
            StatusCode::TD_KEYS_NOT_CONFIGURED
            | StatusCode::TDCS_NOT_ALLOCATED
            | StatusCode::OP_STATE_INCORRECT
            | StatusCode::LIFECYCLE_STATE_INCORRECT => AdoptError::HalfBuilt,
            _ => error.into(),
        })?;
        if has != u64::from(listed.get()) {
            return Err(AdoptError::OtherKeyId { listed, has });
        }
        let key = self.key_ids.adopt(listed).ok_or(AdoptError::NotInherited { key: listed })?;
        Ok(Candidate { td, tdr, key, pages: 0 })
    }

    /// Counts the marked pages that the module has for each candidate. One that was in flight is
    /// the TD's from here on.
    fn count_pages<C: Cpu>(self, cpu: &C, batch: &mut [Candidate<'h>]) {
        for range in self.ledger.marked() {
            let mut at = range.start();
            while at < range.end() {
                // A page of which the module does not answer is not counted: its TD is not adopted.
                let held = page_held(cpu, at).ok();
                let size = held.map_or(PageSize::Size4K, |held| held.size);
                let next = Page::new(at.index() / size.pages() * size.pages() + size.pages());
                let pages = PageRange::new(at, next.min(range.end()));
                let owner = held.and_then(|held| held.tdr);
                // PAMT has no owner for a TDR: it is the TD.
                let of = |candidate: &&mut Candidate<'_>| candidate.tdr == at || owner == Some(candidate.tdr);
                if let Some(candidate) = batch.iter_mut().find(of) {
                    (pages.start().index()..pages.end().index())
                        .for_each(|page| self.settle_in_flight(Page::new(page)));
                    candidate.pages += if at == candidate.tdr { 0 } else { pages.pages() };
                }
                at = next;
            }
        }
    }

    fn settle_in_flight(self, page: Page) {
        if self.ledger.state(page) == Some(PageState::InFlight) {
            let range = PageRange::new(page, Page::new(page.index() + 1));
            // SAFETY: the module has the page for a TD that nobody of this kernel had before: the
            // SEAMCALL that gave it was the earlier kernel's, and has succeeded.
            let _ = unsafe { self.ledger.commit(range) };
        }
    }

    fn own(self, Candidate { tdr, key, pages, .. }: Candidate<'h>) -> Td<'h, Runnable> {
        let common = Common { host: self, tdr, key, pages: AtomicU64::new(pages) };
        Td { common, state: PhantomData }
    }
}

/// It can run, all its pages are marked, and the table has all its VCPUs.
fn check<C: Cpu>(cpu: &C, candidate: &Candidate<'_>, table: &TakeoverTable<'_>) -> Result<(), AdoptError> {
    let tdr = candidate.tdr;
    let op_state = read(cpu, tdr, field::OP_STATE)?;
    if op_state != RUNNABLE {
        return Err(AdoptError::NotRunnable { op_state });
    }
    let (has, marked) = (read(cpu, tdr, field::CHLDCNT)?, candidate.pages);
    if has != marked {
        return Err(AdoptError::Unmarked { has, marked });
    }
    let held = read(cpu, tdr, field::NUM_ASSOC_VCPUS)?;
    if held != 0 {
        return Err(AdoptError::NotFlushed { vcpus: held });
    }
    let mut vcpus = table.vcpus(candidate.td);
    let listed = vcpus.clone().count() as u64;
    while let Some((_, page)) = vcpus.next() {
        is_vcpu(cpu, tdr, page)?;
        if vcpus.clone().any(|(_, other)| other == page) {
            return Err(AdoptError::VcpuTwice { page });
        }
    }
    let has = read(cpu, tdr, field::NUM_VCPUS)?;
    if has == listed { Ok(()) } else { Err(AdoptError::Vcpus { has, listed }) }
}

fn is_vcpu<C: Cpu>(cpu: &C, tdr: Page, page: Page) -> Result<(), AdoptError> {
    let held = page_held(cpu, page)?;
    if held.page_type == PamtPageType::TDVPR && held.tdr == Some(tdr) {
        return Ok(());
    }
    Err(AdoptError::NotAVcpu { page })
}

/// MNG.RD.
fn read<C: Cpu>(cpu: &C, tdr: Page, field: u64) -> Result<u64, SeamcallError> {
    // SAFETY: MNG.RD answers in registers.
    Ok(unsafe { call_unchecked(cpu, Registers::call(Leaf::MNG_RD).rcx_address(tdr.start()).rdx(field))? }.r8)
}

impl Td<'_, Runnable> {
    /// Makes a VCPU of an adopted TD this kernel's, on the CPU that enters it next: tells the
    /// module where its posted-interrupt descriptor and its shared EPT are now. Gives the VCPU's
    /// number in its TD. Then VP.ENTER on this CPU runs the guest on.
    ///
    /// IA32_TSC_ADJUST must be what the table says, on every CPU.
    ///
    /// # Errors
    /// [`AdoptError`]. VCPU_ASSOCIATED: another CPU holds its VMCS; VP.FLUSH there comes first.
    ///
    /// # SEAMCALL
    /// PHYMEM.PAGE.RDMD, VP.RD and VP.WR on this CPU, to which the VCPU then belongs until VP.FLUSH
    /// there.
    ///
    /// # Safety
    /// The descriptor is shared memory that nothing but posted interrupts of this VCPU writes, as
    /// long as the TD lives. The shared EPT maps memory that the guest may read and write, and
    /// nothing else. Both lie in shared memory. The same holds of what is `None`, where the earlier
    /// kernel had it.
    pub unsafe fn resume_vcpu<C: Cpu>(&self, cpu: &C, vcpu: Page, host: &VcpuHost) -> Result<u64, AdoptError> {
        is_vcpu(cpu, self.common.tdr, vcpu)?;
        let on = |leaf| Registers::call(leaf).rcx_address(vcpu.start());
        // SAFETY: VP.RD answers in registers, and makes this CPU hold the VMCS.
        let index = unsafe { call_unchecked(cpu, on(Leaf::VP_RD).rdx(field::VCPU_INDEX))? }.r8;
        let posted = host.posted_interrupts.map(|(vector, descriptor)| {
            let vector = (field::NOTIFICATION_VECTOR, u64::from(vector), 0xffff);
            [vector, (field::POSTED_INTERRUPT_DESCRIPTOR, descriptor.get(), u64::MAX)]
        });
        let shared = host.shared_ept.map(|root| (field::SHARED_EPTP, root.get(), u64::MAX));
        for (field, value, mask) in posted.into_iter().flatten().chain(shared) {
            // SAFETY: by the contract of this function the module and the guest are pointed at
            // memory that they may use.
            unsafe { call_unchecked(cpu, on(Leaf::VP_WR).rdx(field).r8(value).r9(mask))? };
        }
        Ok(index)
    }
}
