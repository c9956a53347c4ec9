//! VCPUs that run: VP.ENTER, what a guest does while its VCPU is inside, and the way out.
//!
//! Source: the specification as `tdx_abi.md` sections 7, 8 and 10 have it; none of it was observed.
//! A VCPU enters, the guest does what a scenario makes it do, and an interrupt takes it out: no
//! guest code runs here. Translations that the guest may still have in its TLB are modelled: what
//! was blocked while it was inside it can use until it leaves.

use tdx_abi::{LineRange, Operand, Page, PageSize, PhysAddr, Status, StatusCode};

use super::Module;
use super::call::{Call, Leaf, Stop};
use super::sept::{Entry, GuestPage, State};
use super::td::OpState;
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

/// A VCPU on the CPU it runs on.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Running {
    tdr: Page,
    tdvpr: Page,
    /// The TD's epoch when it entered.
    epoch: u64,
}

/// EXIT_REASON of an asynchronous exit: external interrupt.
const EXTERNAL_INTERRUPT: u64 = 1;
/// Bits of RCX that are not the TDVPR: flags of VP.ENTER.
const FLAGS: u64 = 0xfff;

impl Module {
    /// VP.ENTER. Success means that the CPU is inside; [`Self::leave`] gives what the host reads in
    /// RAX after the exit.
    pub(super) fn vp_enter(&mut self, call: &mut Call) -> Leaf {
        if call.input.rcx & FLAGS != 0 {
            return Err(Stop::Refused(Refusal::VpEnterFlagsNotModelled));
        }
        let (tdvpr, tdr) = self.find_vcpu(call, call.input.rcx, Operand::RCX)?;
        self.enter_td(call, tdr, true, OpState::RUNNABLE)?;
        let cpu = call.cpu;
        let td = self.td_mut(tdr)?;
        let epoch = td.epoch;
        let Some(vcpu) = td.vcpus.get_mut(&tdvpr) else { return Err(super::vcpu::missing()) };
        if !vcpu.initialised {
            return Err(StatusCode::VCPU_STATE_INCORRECT.into());
        }
        match vcpu.associated {
            Some(other) if other != cpu => return Err(StatusCode::VCPU_ASSOCIATED.into()),
            Some(_) => {}
            None => {
                vcpu.associated = Some(cpu);
                td.associated += 1;
            }
        }
        self.store_tdvps(call, tdr, tdvpr)?;
        self.store_tdcs(call, tdr)?;
        self.running.insert(cpu, Running { tdr, tdvpr, epoch });
        call.hardware.set_in_guest(cpu, true);
        Ok(Status::SUCCESS)
    }

    /// An interrupt takes the VCPU out. Its state is stored to TDVPS and TDCS, which is the
    /// module's end if they are poisoned. `None` if no VCPU is on this CPU.
    pub(crate) fn leave(&mut self, hardware: &mut Hardware, cpu: CpuId) -> Option<Result<Status, MachineCheck>> {
        let running = self.running.remove(&cpu)?;
        hardware.set_in_guest(cpu, false);
        let Ok(td) = self.td(running.tdr) else { return Some(Ok(Status::new(EXTERNAL_INTERRUPT))) };
        let vcpu = td.vcpus.get(&running.tdvpr).map(|vcpu| vcpu.pages.as_slice()).unwrap_or_default();
        for page in core::iter::once(running.tdvpr).chain(vcpu.iter().copied()).chain(td.tdcs.iter().copied()) {
            if let Err(check) = hardware.seam_store(cpu, super::td::lines_of(page), td.key) {
                return Some(Err(check));
            }
        }
        Some(Ok(Status::new(EXTERNAL_INTERRUPT)))
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
        let guest = GuestPage { level: size as u64, number: gpa / size.bytes() };
        let Some(entry) = self.entry(running, guest) else { return Ok(GuestOutcome::Violation) };
        match entry.state {
            State::Pending => {
                let Ok(key) = self.td(running.tdr).map(|td| td.key) else { return Ok(GuestOutcome::Violation) };
                let pages = tdx_abi::PageRange::new(entry.page, Page::new(entry.page.index() + size.pages()));
                hardware.seam_direct_store(pages.lines(), key);
                if let Ok(td) = self.td_mut(running.tdr) {
                    td.sept.set(guest.level, guest.number, 1, Entry { state: State::Mapped, ..entry });
                }
                // The line of the entry itself.
                let parent = self.td(running.tdr).map(|td| td.sept.get(guest.level + 1, guest.number >> 9));
                if let Ok(parent) = parent {
                    let line = PhysAddr::new(parent.page.start().get() + guest.number % 512 * 8).line();
                    if let Err(check) = hardware.seam_store(cpu, LineRange::single(line), key) {
                        return Ok(GuestOutcome::MachineCheck(check));
                    }
                }
                Ok(GuestOutcome::Done)
            }
            State::Mapped => Ok(GuestOutcome::AlreadyAccepted),
            _ => Ok(GuestOutcome::Violation),
        }
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
        self.running.clear();
    }

    /// Nothing of this TD runs any more, and every leaf that looks says so.
    pub(crate) fn make_fatal(&mut self, tdr: Page) -> bool {
        self.td_mut(tdr).map(|td| td.fatal = true).is_ok()
    }

    fn running(&self, cpu: CpuId) -> Result<Running, Refusal> {
        self.running.get(&cpu).copied().ok_or(Refusal::NoGuestOnCpu { cpu })
    }

    /// The leaf entry of a guest page, if the walk comes to its level. A TD that is fatal, or whose
    /// module has died, does nothing any more.
    fn entry(&self, running: Running, guest: GuestPage) -> Option<Entry> {
        if self.is_dead() || self.td(running.tdr).map_or(true, |td| td.fatal) {
            return None;
        }
        guest.check_private().ok()?;
        let (level, entry) = self.sept_find(running.tdr, guest).ok()?;
        (level == guest.level).then_some(entry)
    }
}
