//! KeyID bits of a physical address: where they begin on this machine, and whose KeyID it is.

use tdx_abi::KeyIdPartition;

use super::calls::Calls;
use crate::{bootlog::BootLog, host};

/// Memory ends below this bit on every CPU with TDX, and KeyIDs are above the memory.
const LOWEST: u32 = 41;
/// Bits of a physical address.
const WIDTH: u32 = tdx_abi::MAX_PHYS_BITS;

/// An address and the KeyID in it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Keyed {
    /// The KeyID.
    pub(super) key_id: u64,
    /// The address without it.
    pub(super) address: u64,
    /// The KeyID of the module itself, with which it protects PAMTs and TDRs.
    pub(super) global: bool,
    /// How it is known where the KeyID begins.
    pub(super) ground: &'static str,
}

/// The KeyID of an address; `None` if there is none, or if nothing tells where it begins.
pub(super) fn of(address: u64, log: &BootLog, calls: &Calls) -> Option<Keyed> {
    let split = log.key_ids.map(|at| at.value);
    let (shift, ground) =
        calls.shift().map(|shift| (shift, "the exit of a TD shows address 0 with its KeyID")).or_else(|| {
            split.map(|split| (host::key_id_field(split).shift(), "the private KeyIDs of this boot are the highest"))
        })?;
    if !(LOWEST..WIDTH).contains(&shift) || address >> WIDTH != 0 {
        return None;
    }
    let key_id = address >> shift;
    let private = split.is_none_or(|split| is_private(split, key_id));
    let global = split.is_some_and(|split| key_id == u64::from(split.shared()) + 1);
    let keyed = Keyed { key_id, address: address & ((1 << shift) - 1), global, ground };
    (key_id != 0 && private).then_some(keyed)
}

fn is_private(split: KeyIdPartition, key_id: u64) -> bool {
    u64::from(split.shared()) < key_id && key_id < split.private_end()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn log(text: &str) -> BootLog {
        BootLog::read("x", text.as_bytes()).unwrap()
    }

    #[test]
    fn address_and_key_id_apart() {
        let keys = log("virt/tdx: BIOS enabled: private KeyID range [64, 128)\n");
        let keyed = of(0x8_602a_3b4c_5640, &keys, &Calls::default()).unwrap();
        assert_eq!((keyed.key_id, keyed.address, keyed.global), (0x43, 0x2a_3b4c_5640, false));
        assert!(of(0x8_002a_3b4c_5640, &keys, &Calls::default()).unwrap().global);
        assert_eq!(of(0x2a_3b4c_5640, &keys, &Calls::default()), None, "no KeyID");
        assert_eq!(of(0x202a_3b4c_5640, &keys, &Calls::default()), None, "a shared KeyID");
        assert_eq!(of(0x8_602a_3b4c_5640, &log(""), &Calls::default()), None, "nothing tells the width");
    }
}
