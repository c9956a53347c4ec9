//! KeyID bits of a physical address: where they begin on this machine, and whose KeyID it is.

use tdx_abi::KeyIdPartition;

use super::calls::Calls;
use crate::{bootlog::BootLog, host};

/// Memory ends below this bit on every CPU with TDX, and KeyIDs are above the memory.
const LOWEST: u32 = 41;
/// Bits of a physical address.
const WIDTH: u32 = tdx_abi::MAX_PHYS_BITS;

/// What tells where the KeyID begins.
pub(super) const ASKS: &str = "give the log of the whole boot (its line `virt/tdx: BIOS enabled: private KeyID range` \
    tells which bits are the KeyID), or read `rdmsr 0x982` and `rdmsr 0x87` on this machine and explain them \
    (`cleanslate explain --msr 0x982 VALUE`): above the bit that 0x982 gives is the KeyID, and 0x87 tells which KeyIDs \
    are private";

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

/// What is known of an address that may carry a KeyID, where no line tells where KeyIDs begin: it
/// is above all memory of this boot's map or, without a map, above what the lowest KeyID bit
/// leaves.
pub(super) fn perhaps(address: u64, log: &BootLog, calls: &Calls) -> Option<String> {
    if log.key_ids.is_some() || calls.shift().is_some() || address >> WIDTH != 0 || address >> LOWEST == 0 {
        return None;
    }
    let ends = log.e820.iter().map(|row| row.value.range.end.get());
    let ends = ends.chain(log.cmrs.iter().map(|cmr| cmr.value.limit().get()));
    let ends = ends.chain(log.srat.iter().map(|row| row.value.range.end.get()));
    match ends.max() {
        Some(end) if address < end => None,
        Some(end) => Some(format!(
            "address {address:#x} is above all memory of this boot's map (its end is {end:#x}): its upper bits may be \
             a KeyID"
        )),
        None => Some(format!(
            "address {address:#x} is above {} TiB: either the machine has that much memory, or the upper bits are a \
             KeyID",
            (1_u64 << LOWEST) >> 40
        )),
    }
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
    fn what_may_be_a_key_id() {
        let none = Calls::default();
        let told = |address: u64, text: &str| perhaps(address, &log(text), &none);
        assert!(told(0x8_602a_3b4c_5640, "").is_some_and(|text| text.contains("above 2 TiB")));
        let map = "BIOS-e820: [mem 0x0000000000100000-0x000000407fffffff] usable\n";
        assert!(told(0x8_602a_3b4c_5640, map).is_some_and(|text| text.contains("its end is 0x4080000000")));
        assert_eq!(told(0x2a_3b4c_5640, ""), None, "within 2 TiB");
        let big = "BIOS-e820: [mem 0x0000000000100000-0x00000fffffffffff] usable\n";
        assert_eq!(told(0x2a0_3b4c_5640, big), None, "memory of the map");
        let keys = "virt/tdx: BIOS enabled: private KeyID range [64, 128)\n";
        assert_eq!(told(0x202a_3b4c_5640, keys), None, "the log tells where KeyIDs begin");
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
