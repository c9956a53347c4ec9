//! PHYMEM.CACHE.WB: writes back the caches of a package, sub-block by sub-block, and notes it for
//! every KeyID that was flushed when it began.

use alloc::vec::Vec;
use tdx_abi::{KeyId, Operand, Status, StatusCode};

use super::Module;
use super::call::{Call, Leaf, operand};
use super::keys::KeyState;
use super::locks::LockId;
use crate::LockMode;

/// RCX: start, or go on after an interrupt.
const START: u64 = 0;
const RESUME: u64 = 1;

/// What a package keeps between an interrupted call and the next.
#[derive(Clone, Debug, Default)]
pub(super) struct WriteBack {
    /// Sub-blocks done; 0 if there is nothing to resume.
    done: u32,
    /// KeyIDs that were flushed when it began.
    flushed: Vec<KeyId>,
}

impl Module {
    pub(super) fn phymem_cache_wb(&mut self, call: &mut Call) -> Leaf {
        let command = call.input.rcx;
        if command > RESUME {
            return operand(StatusCode::OPERAND_INVALID, Operand::RCX);
        }
        let package = call.package();
        if self.locks.acquire(LockId::CacheWriteBack(package), LockMode::Exclusive).is_err() {
            return operand(StatusCode::OPERAND_BUSY, Operand::WBCACHE);
        }
        self.lock_kot(LockMode::Shared)?;
        let Some(state) = self.write_back.get_mut(package.0 as usize) else {
            return operand(StatusCode::OPERAND_BUSY, Operand::WBCACHE);
        };
        if command == START {
            *state = WriteBack::default();
            let flushed = self.keys.iter_mut().filter(|(_, state)| matches!(state, KeyState::Flushed { .. }));
            state.flushed = flushed.map(|(key, _)| key).collect();
            if state.flushed.is_empty() {
                return Ok(StatusCode::NO_HKID_READY_TO_WBCACHE.with(0));
            }
        } else if state.done == 0 {
            return Err(StatusCode::WBCACHE_RESUME_ERROR.into());
        }
        let sub_blocks = call.hardware.config.cache_sub_blocks;
        loop {
            state.done += 1;
            if state.done >= sub_blocks {
                break;
            }
            if call.conditions.interrupt {
                return Err(StatusCode::INTERRUPTED_RESUMABLE.into());
            }
        }
        state.done = 0;
        // Which lines a sub-block holds is not known: nothing counts as written back before the
        // last.
        call.hardware.write_back_package(package);
        for (key, key_state) in self.keys.iter_mut() {
            if let KeyState::Flushed { packages_left } = key_state
                && state.flushed.contains(&key)
            {
                *packages_left &= !(1 << package.0);
            }
        }
        Ok(Status::SUCCESS)
    }
}
