//! TDH.SYS.DISABLE, as the Linux patches describe it: the module returns all memory that it uses,
//! as normal lines, and is as after loading.
//!
//! No module that has it was observed. Source: `linux.md` 2.7. Assumed and unverified: which
//! statuses come when; that it is not ready before the last TDMR is initialized; that it is busy
//! while a VCPU is inside a TD; that other leaves answer SYS_BUSY once it has begun; that the
//! module flushes its own dirty lines before it clears them. What PAMT says is not assigned it does
//! not touch.

use alloc::vec::Vec;
use tdx_abi::{LineRange, PageSize, Status, StatusCode};

use super::call::{Call, Leaf};
use super::{Module, SysState};
use crate::LockMode;

impl Module {
    pub(super) fn sys_disable(&mut self, call: &mut Call) -> Leaf {
        self.lock_sys(LockMode::Exclusive)?;
        if self.state == SysState::Shutdown {
            return Err(StatusCode::SYS_SHUTDOWN.into());
        }
        if self.state != SysState::Ready || !self.tdmrs.iter().all(super::tdmr::Tdmr::is_complete) {
            return Err(StatusCode::SYS_NOT_READY.into());
        }
        // A VCPU that is inside uses what would be cleared: the host takes it out first.
        if !self.running.is_empty() {
            return Err(StatusCode::SYS_BUSY.into());
        }
        let known = self.known_lines();
        let mut done = self.disabling.unwrap_or(0);
        for lines in known.iter().skip(done) {
            call.hardware.seam_clear(*lines);
            done += 1;
            if call.conditions.interrupt && done < known.len() {
                self.disabling = Some(done);
                return Err(StatusCode::INTERRUPTED_RESUMABLE.into());
            }
        }
        *self = Self::new(&call.hardware.config);
        Ok(Status::SUCCESS)
    }

    /// All memory the module knows of: assigned pages, then the PAMTs that say so. The same list
    /// until the end.
    fn known_lines(&self) -> Vec<LineRange> {
        let pages = self.assigned().into_iter().map(|run| run.pages.lines());
        let pamt = self.tdmrs.iter().flat_map(|tdmr| PageSize::ALL.map(|level| tdmr.whole_pamt(level)));
        pages.chain(pamt).collect()
    }
}
