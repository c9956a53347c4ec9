//! Which registers TDG.VP.VMCALL and the VP.ENTER that follows pass, by the mask in the guest's
//! RCX: bit n is general register n, bit 16 + n is XMM n.

/// General registers that a mask can select: all but RAX, RCX and RSP.
pub const SELECTABLE: [u32; 13] = [2, 3, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15];
/// XMM registers.
pub const XMM_REGISTERS: u32 = 16;
/// RBP: kept where it is not selected.
pub const RBP: u32 = 5;

/// General registers that the mask selects.
pub fn general(mask: u64) -> impl Iterator<Item = u32> {
    SELECTABLE.into_iter().filter(move |number| mask >> number & 1 == 1)
}

/// XMM registers that the mask selects.
pub fn xmm(mask: u64) -> impl Iterator<Item = u32> {
    (0..XMM_REGISTERS).filter(move |number| mask >> (16 + number) & 1 == 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rax_rcx_and_rsp_are_never_passed() {
        assert!(general(u64::MAX).eq(SELECTABLE));
        assert!(general(0b1_0011).next().is_none());
    }

    #[test]
    fn linux_passes_r10_to_r15() {
        assert!(general(0xfc00).eq(10..16));
        assert!(xmm(0xfc00).next().is_none());
        assert!(xmm(0x8001_0000).eq([0, 15]));
    }
}
