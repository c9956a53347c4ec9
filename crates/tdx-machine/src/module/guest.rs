//! VCPUs that are inside: memory accesses of the guest, and the interrupt that takes it out.
//!
//! No guest code runs here: a scenario says what the guest does. Translations that the guest may
//! still have in its TLB are modeled: what was blocked while it was inside it can use until it
//! leaves.

use tdx_abi::{LineRange, Page, PageSize, PhysAddr, Status, StatusCode};

use super::Module;
use super::accept::Accepted;
use super::running::Running;
use super::sept::{Entry, GuestPage, State};
use super::vcpu_state::VcpuState;
use crate::hardware::Hardware;
use crate::{CpuId, MachineCheck, Refusal};

/// How an act of a guest ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum GuestOutcome {
    /// It happened.
    Done,
    /// ACCEPT of a page that the guest has accepted before.
    AlreadyAccepted,
    /// EPT violation: no such page, blocked, or not accepted yet. A real guest would exit to the
    /// host.
    Violation,
    /// A machine check, in the guest.
    MachineCheck(MachineCheck),
}

/// EXIT_REASON of an asynchronous exit: external interrupt.
const EXTERNAL_INTERRUPT: u64 = 1;

impl Module {
    /// An interrupt takes the VCPU out. Its state is stored to TDVPS and TDCS, which is the
    /// module's end if they are poisoned. `None` if no VCPU is on this CPU.
    pub(crate) fn leave(&mut self, hardware: &mut Hardware, cpu: CpuId) -> Option<Result<Status, MachineCheck>> {
        let running = self.running(cpu).ok()?;
        self.leave_guest(cpu, VcpuState::Ready);
        hardware.set_in_guest(cpu, false);
        let saved = self.store_guest_state(hardware, cpu, running);
        Some(saved.map(|()| Status::new(EXTERNAL_INTERRUPT)))
    }

    /// Stores to every page of TDVPS and TDCS, as an exit does.
    pub(super) fn store_guest_state(
        &self,
        hardware: &mut Hardware,
        cpu: CpuId,
        running: Running,
    ) -> Result<(), MachineCheck> {
        let Ok(td) = self.td(running.tdr) else { return Ok(()) };
        let vcpu = td.vcpus.get(&running.tdvpr).map(|vcpu| vcpu.pages.as_slice()).unwrap_or_default();
        for page in core::iter::once(running.tdvpr).chain(vcpu.iter().copied()).chain(td.tdcs.iter().copied()) {
            hardware.seam_store(cpu, super::td::lines_of(page), td.key)?;
        }
        Ok(())
    }

    /// The guest accepts the pending page of this size: its lines are written under the TD's key.
    pub(crate) fn guest_accept(
        &mut self,
        hardware: &mut Hardware,
        cpu: CpuId,
        gpa: u64,
        size: PageSize,
    ) -> Result<GuestOutcome, Refusal> {
        let running = self.running(cpu)?;
        if self.is_dead() || self.td(running.tdr).map_or(true, |td| td.fatal) {
            return Ok(GuestOutcome::Violation);
        }
        let rcx = gpa & !(size.bytes() - 1) | size as u64;
        Ok(match self.accept(hardware, cpu, running, rcx, false) {
            Accepted::Status(Status::SUCCESS) => GuestOutcome::Done,
            Accepted::Status(status) if status.code() == StatusCode::PAGE_ALREADY_ACCEPTED => {
                GuestOutcome::AlreadyAccepted
            }
            Accepted::MachineCheck(check) => GuestOutcome::MachineCheck(check),
            Accepted::Status(_) | Accepted::Interrupted | Accepted::Violation(..) => GuestOutcome::Violation,
        })
    }

    /// The guest stores to, or loads, the line at a private address of its own.
    pub(crate) fn guest_access(
        &mut self,
        hardware: &mut Hardware,
        cpu: CpuId,
        gpa: u64,
        store: bool,
    ) -> Result<GuestOutcome, Refusal> {
        let running = self.running(cpu)?;
        let mapped = [PageSize::Size4K, PageSize::Size2M, PageSize::Size1G].into_iter().find_map(|size| {
            let guest = GuestPage { level: size as u64, number: gpa / size.bytes() };
            let entry = self.entry(running, guest)?;
            let stale = entry.state == State::Blocked && running.epoch <= self.pamt.get(entry.page, size).epoch;
            (entry.state == State::Mapped || stale).then_some((entry.page, size))
        });
        let (Some((page, size)), Ok(td)) = (mapped, self.td(running.tdr)) else { return Ok(GuestOutcome::Violation) };
        let line = PhysAddr::new(page.start().get() + gpa % size.bytes()).line();
        let done = if store {
            hardware.seam_store(cpu, LineRange::single(line), td.key)
        } else {
            hardware.seam_load(cpu, LineRange::single(line), td.key)
        };
        Ok(done.map_or_else(GuestOutcome::MachineCheck, |()| GuestOutcome::Done))
    }

    /// No VCPU that entered in an earlier epoch than the present one is still inside.
    pub(super) fn previous_epoch_has_left(&self, tdr: Page, epoch: u64) -> bool {
        self.running.values().all(|running| running.tdr != tdr || running.epoch >= epoch)
    }

    /// All VCPUs are out: the CPUs were reset, or another kernel has taken over.
    pub(crate) fn abandon_guests(&mut self) {
        let cpus: alloc::vec::Vec<CpuId> = self.running.keys().copied().collect();
        for cpu in cpus {
            self.leave_guest(cpu, VcpuState::Ready);
        }
    }

    /// Nothing of this TD runs any more, and every leaf that looks says so.
    pub(crate) fn make_fatal(&mut self, tdr: Page) -> bool {
        self.td_mut(tdr).map(|td| td.fatal = true).is_ok()
    }

    /// The VM that runs on this CPU: 0 is L1.
    pub(crate) fn vm_on(&self, cpu: CpuId) -> Option<u8> {
        self.running.get(&cpu).map(|_| 0)
    }

    /// Does the guest reach this private address without an EPT violation?
    pub(super) fn is_accessible(&self, running: Running, gpa: u64) -> bool {
        let guest = GuestPage { level: 0, number: gpa >> 12 };
        self.sept_find(running.tdr, guest).is_ok_and(|(_, entry)| entry.state == State::Mapped)
    }

    pub(super) fn running(&self, cpu: CpuId) -> Result<Running, Refusal> {
        self.running.get(&cpu).copied().ok_or(Refusal::NoGuestOnCpu { cpu })
    }

    /// The leaf entry of a guest page, if the walk comes to its level. A TD that is fatal, or whose
    /// module has died, does nothing any more.
    pub(super) fn entry(&self, running: Running, guest: GuestPage) -> Option<Entry> {
        if self.is_dead() || self.td(running.tdr).map_or(true, |td| td.fatal) {
            return None;
        }
        guest.check_private(self.td(running.tdr).ok()?.shared_gpa()).ok()?;
        let (level, entry) = self.sept_find(running.tdr, guest).ok()?;
        (level == guest.level).then_some(entry)
    }
}
