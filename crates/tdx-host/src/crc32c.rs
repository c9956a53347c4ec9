//! CRC-32C of the tables for the next kernel, by a table of 256 words: they can have millions of
//! bytes.

const TABLE: [u32; 256] = {
    let mut table = [0; 256];
    let mut byte = 0;
    while byte < 256 {
        let mut crc = byte as u32;
        let mut bit = 0;
        while bit < 8 {
            crc = if crc & 1 == 1 { crc >> 1 ^ 0x82f6_3b78 } else { crc >> 1 };
            bit += 1;
        }
        table[byte] = crc;
        byte += 1;
    }
    table
};

/// A checksum under way.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Crc(u32);

impl Crc {
    pub(crate) const fn new() -> Self {
        Self(u32::MAX)
    }

    #[must_use]
    pub(crate) fn add(self, bytes: &[u8]) -> Self {
        let next = |crc: u32, byte: &u8| {
            let index = (crc as u8 ^ byte) as usize;
            crc >> 8 ^ TABLE.get(index).copied().unwrap_or(0)
        };
        Self(bytes.iter().fold(self.0, next))
    }

    pub(crate) const fn end(self) -> u32 {
        !self.0
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    /// The check value of the CRC catalogue, and a vector of RFC 3720 (32 bytes of zeros).
    #[test]
    fn it_is_crc32c() {
        assert_eq!(Crc::new().add(b"1234").add(b"56789").end(), 0xe306_9283);
        assert_eq!(Crc::new().add(&[0; 32]).end(), 0x8a91_36aa);
    }
}
