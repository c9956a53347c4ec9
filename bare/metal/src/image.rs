//! Kernel images: parses an ELF with a 64-bit PVH-style entry (start info in RDI) or a Linux
//! bzImage (64-bit boot protocol) into segments. Refuses images that do not fit the place they are
//! given.

use core::ops::Range;
use core::ptr::with_exposed_provenance_mut;

/// A segment: bytes to copy, and zeroes behind them.
#[derive(Clone, Copy, Debug, Default)]
#[repr(C)]
pub struct Segment {
    /// Physical address to load it at.
    pub to: u64,
    /// Address of its bytes in the file.
    pub from: u64,
    /// Number of bytes to copy.
    pub bytes: u64,
    /// Size in memory; the rest is zeroed.
    pub memory_bytes: u64,
}

/// Maximum number of segments.
pub const MAX_SEGMENTS: usize = 8;

/// A parsed image.
#[derive(Clone, Copy, Debug, Default)]
pub struct Image {
    segments: [Segment; MAX_SEGMENTS],
    count: usize,
    /// Address of the entry point, in long mode.
    pub entry: u64,
}

impl Image {
    /// The segments.
    pub fn segments(&self) -> &[Segment] {
        &self.segments[..self.count]
    }

    fn push(&mut self, segment: Segment) -> Result<(), BadImage> {
        let place = self.segments.get_mut(self.count).ok_or(BadImage("too many segments"))?;
        *place = segment;
        self.count += 1;
        Ok(())
    }
}

/// Why an image cannot be loaded.
#[derive(Clone, Copy, Debug)]
pub struct BadImage(pub &'static str);

/// True for a Linux bzImage.
pub fn is_linux(file: &[u8]) -> bool {
    file.get(0x202..0x206) == Some(b"HdrS")
}

/// The little-endian number of `N` bytes at an offset.
pub(crate) fn number<const N: usize>(bytes: &[u8], at: usize) -> Result<u64, BadImage> {
    let piece: [u8; N] =
        bytes.get(at..at + N).and_then(|piece| piece.try_into().ok()).ok_or(BadImage("truncated file"))?;
    Ok(piece.iter().rev().fold(0, |value, byte| value << 8 | u64::from(*byte)))
}

fn segment(
    file: &[u8],
    offset: u64,
    to: u64,
    bytes: u64,
    memory_bytes: u64,
    place: &Range<u64>,
) -> Result<Segment, BadImage> {
    let end = to.checked_add(memory_bytes).ok_or(BadImage("segment address overflow"))?;
    if to < place.start || end > place.end {
        return Err(BadImage("segment outside the memory reserved for kernels"));
    }
    let file_end = offset.checked_add(bytes).ok_or(BadImage("segment address overflow"))?;
    if file_end > file.len() as u64 || bytes > memory_bytes {
        return Err(BadImage("segment outside the file"));
    }
    Ok(Segment { to, from: file.as_ptr().expose_provenance() as u64 + offset, bytes, memory_bytes })
}

/// Parses an ELF of this workspace.
pub fn elf(file: &[u8], place: &Range<u64>) -> Result<Image, BadImage> {
    if file.get(..6) != Some(b"\x7fELF\x02\x01") {
        return Err(BadImage("not a 64-bit ELF"));
    }
    const LOAD: u64 = 1;
    let mut image = Image { entry: number::<8>(file, 24)?, ..Image::default() };
    let (headers, size, count) = (number::<8>(file, 32)?, number::<2>(file, 54)?, number::<2>(file, 56)?);
    if headers > file.len() as u64 {
        return Err(BadImage("truncated file"));
    }
    for index in 0..count {
        let at = (headers + index * size) as usize;
        if number::<4>(file, at)? == LOAD {
            let word = |offset: usize| number::<8>(file, at + offset);
            image.push(segment(file, word(8)?, word(24)?, word(32)?, word(40)?, place)?)?;
        }
    }
    Ok(image)
}

/// Load address of Linux: the default of its `CONFIG_PHYSICAL_START`.
const LINUX: u64 = 16 << 20;

/// Parses a Linux bzImage.
pub fn linux(file: &[u8], place: &Range<u64>) -> Result<Image, BadImage> {
    if !is_linux(file) || number::<2>(file, 0x206)? < 0x20c {
        return Err(BadImage("not a bzImage of boot protocol 2.12 or newer"));
    }
    if number::<2>(file, 0x236)? & 1 == 0 {
        return Err(BadImage("no 64-bit entry point"));
    }
    let setup = (number::<1>(file, 0x1f1)?.max(4) + 1) * 512;
    let init_size = number::<4>(file, 0x260)?;
    let code = (file.len() as u64).checked_sub(setup).ok_or(BadImage("truncated file"))?;
    let piece = segment(file, setup, LINUX, code, code.max(init_size), place)?;
    let mut image = Image { entry: LINUX + 0x200, ..Image::default() };
    // The kernel decompresses to the memory up to `init_size`, which need not be zeroed.
    image.push(Segment { memory_bytes: code, ..piece })?;
    Ok(image)
}

/// Copies an image to its load address.
///
/// # Safety
/// The place is free memory, mapped one to one, and holds neither the file nor anything in use.
pub unsafe fn load(image: &Image) {
    for segment in image.segments() {
        let to = with_exposed_provenance_mut::<u8>(segment.to as usize);
        let from = with_exposed_provenance_mut::<u8>(segment.from as usize);
        // SAFETY: the caller promises the place; `segment` has checked that the bytes are in the
        // file.
        unsafe {
            to.copy_from(from, segment.bytes as usize);
            to.add(segment.bytes as usize).write_bytes(0, (segment.memory_bytes - segment.bytes) as usize);
        }
    }
}
