//! TDG.MEM.PAGE.ACCEPT: the guest takes a pending page, 4 KiB at a time.

use tdx_abi::{Operand, PAGE_SIZE, Page, PageRange, PageSize, PhysAddr, Status, StatusCode};

use super::Module;
use super::locks::LockId;
use super::running::Running;
use super::sept::{Entry, GuestPage, State};
use crate::hardware::Hardware;
use crate::{CpuId, MachineCheck};

/// Pages of 4 KiB in the largest page that can be accepted.
const LARGE: u64 = PageSize::Size2M.pages();

/// How ACCEPT ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Accepted {
    /// With this status in the guest's RAX.
    Status(Status),
    /// An interrupt is pending; the pages so far are written, and the guest repeats the call.
    Interrupted,
    /// EPT violation: the entry where the walk ended, and its level.
    Violation(u64, Entry),
    MachineCheck(MachineCheck),
}

impl Module {
    /// RCX of the call: guest address, and level in bits 2:0.
    pub(super) fn accept(
        &mut self,
        hardware: &mut Hardware,
        cpu: CpuId,
        running: Running,
        rcx: u64,
        interrupt: bool,
    ) -> Accepted {
        let invalid = Accepted::Status(StatusCode::OPERAND_INVALID.operand(Operand::RCX));
        let Ok(guest) = GuestPage::parse(rcx, 0..=1) else { return invalid };
        let Ok(td) = self.td(running.tdr) else { return invalid };
        let (key, shared) = (td.key, td.shared_gpa());
        if guest.check_private(shared).is_err() {
            return invalid;
        }
        let Ok((level, entry)) = self.sept_find(running.tdr, guest) else { return invalid };
        if !self.locks.is_free(LockId::SeptEntry(running.tdr, guest.level, guest.number)) {
            return Accepted::Status(StatusCode::OPERAND_BUSY.operand(Operand::RCX));
        }
        let at = |code: StatusCode| Accepted::Status(code.with(level as u32));
        match entry.state {
            State::Mapped => return at(StatusCode::PAGE_ALREADY_ACCEPTED),
            State::NonLeafMapped | State::NonLeafBlocked if level == guest.level => {
                return at(StatusCode::PAGE_SIZE_MISMATCH);
            }
            State::Pending if level == guest.level => {}
            _ => return Accepted::Violation(level, entry),
        }
        let pages = if level == 0 { 1 } else { LARGE };
        let first = self.td(running.tdr).map_or(0, |td| td.accepted_so_far(guest));
        let mut done = first;
        loop {
            let page = Page::new(entry.page.index() + done);
            hardware.seam_direct_store(PageRange::new(page, Page::new(page.index() + 1)).lines(), key);
            done += 1;
            if done == pages || interrupt {
                break;
            }
        }
        let Ok(td) = self.td_mut(running.tdr) else { return invalid };
        td.set_accepted_so_far(guest, if done == pages { 0 } else { done });
        if done == pages {
            td.debug_memory.clear(guest.number * guest.size().bytes(), guest.size().bytes());
            td.sept.set(guest.level, guest.number, 1, Entry { state: State::Mapped, ..entry });
        }
        let parent = td.sept.get(guest.level + 1, guest.number >> 9);
        let line = PhysAddr::new(parent.page.start().get() + guest.number % (PAGE_SIZE / 8) * 8).line();
        if let Err(check) = hardware.seam_store(cpu, tdx_abi::LineRange::single(line), key) {
            return Accepted::MachineCheck(check);
        }
        if done == pages { Accepted::Status(Status::SUCCESS) } else { Accepted::Interrupted }
    }
}
