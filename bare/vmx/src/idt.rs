//! Which gate of the IDT INT n passes (SDM volume 3, "Flags and vectors of software interrupts").

/// Error code: of a gate in the IDT.
const IN_IDT: u32 = 1 << 1;
/// Byte of a gate with its privilege level in bits 6:5.
const TYPE: u64 = 5;

/// Address of the byte of a gate that says who may use it. `None`: the gate is beyond the table.
pub fn type_address(base: u64, limit: u32, long_mode: bool, vector: u8) -> Option<u64> {
    let size = if long_mode { 16 } else { 8 };
    let gate = u64::from(vector) * size;
    (gate + size - 1 <= u64::from(limit)).then(|| base.wrapping_add(gate + TYPE))
}

/// True if INT n at this privilege level passes the gate with this byte.
pub const fn allows(kind: u8, privilege_level: u8) -> bool {
    kind >> 5 & 3 >= privilege_level
}

/// Error code of the #GP of one that does not.
pub const fn error_code(vector: u8) -> u32 {
    (vector as u32) << 3 | IN_IDT
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn user_code_passes_gates_of_its_level_alone() {
        // Present interrupt gates of levels 0 and 3.
        let (kernel, user) = (0x8e, 0xee);
        assert!(allows(kernel, 0) && allows(user, 0) && allows(user, 3));
        assert!(!allows(kernel, 3) && !allows(kernel, 1));
        assert_eq!(error_code(0x80), 0x402);
    }

    #[test]
    fn a_gate_ends_in_the_table() {
        assert_eq!(type_address(0x1000, 0xfff, true, 0xff), Some(0x1ff5));
        assert_eq!(type_address(0x1000, 0xffe, true, 0xff), None);
        assert_eq!(type_address(0x1000, 0x7ff, false, 0xff), Some(0x17fd));
        assert_eq!(type_address(0, 0, true, 0), None);
        assert_eq!(type_address(u64::MAX, 0xfff, true, 1), Some(0x14));
    }
}
