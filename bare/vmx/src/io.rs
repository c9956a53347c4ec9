//! Exit qualification of I/O instructions (SDM volume 3, 28.2.1), from EXITINFO1 of SVM.

/// EXITINFO1 holds direction, string, REP, size and port. Whether the port is an immediate operand
/// is not in it: bit 6 stays 0.
pub const fn qualification(info: u64) -> u64 {
    let bytes_less_one = match info >> 4 & 0b111 {
        1 => 0,
        2 => 1,
        _ => 3,
    };
    let (input, string, rep) = (info & 1, info >> 2 & 1, info >> 3 & 1);
    bytes_less_one | input << 3 | string << 4 | rep << 5 | info >> 16 << 16 & 0xffff_0000
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn size_direction_and_port() {
        // OUT of a byte to 0x3f8, IN of four bytes from 0xcf8, REP INSW from 0x1f0.
        assert_eq!(qualification(0x3f8 << 16 | 1 << 4), 0x3f8 << 16);
        assert_eq!(qualification(0xcf8 << 16 | 1 << 6 | 1), 0xcf8 << 16 | 1 << 3 | 3);
        assert_eq!(qualification(0x1f0 << 16 | 1 << 5 | 0b1101), 0x1f0 << 16 | 0b11_1001);
    }
}
