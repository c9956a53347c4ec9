//! Values of XCR0 that XSETBV accepts.

/// x87, which is always on.
pub const X87: u64 = 1 << 0;
const SSE: u64 = 1 << 1;
const AVX: u64 = 1 << 2;
const AVX_512: u64 = 0b111 << 5;
const PKRU: u64 = 1 << 9;
/// Components of which this module knows the rules.
pub const COMPONENTS: u64 = X87 | SSE | AVX | AVX_512 | PKRU;

/// True if a CPU with the components `allowed` accepts the value.
pub const fn is_valid(value: u64, allowed: u64) -> bool {
    value & !(allowed & COMPONENTS) == 0
        && value & X87 != 0
        && (value & AVX == 0 || value & SSE != 0)
        && (value & AVX_512 == 0 || value & AVX_512 == AVX_512 && value & AVX != 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn components_build_on_each_other() {
        for valid in [0x1, 0x3, 0x7, 0x203, 0xe7, 0x2e7] {
            assert!(is_valid(valid, u64::MAX), "{valid:#x}");
        }
        for invalid in [0, 0x2, 0x5, 0xe3, 0x67, 0x1b, 0x6_0007, u64::MAX] {
            assert!(!is_valid(invalid, u64::MAX), "{invalid:#x}");
        }
        assert!(!is_valid(0x7, 0x3), "a component that the CPU lacks");
    }
}
