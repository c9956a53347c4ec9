//! Kernel images, taken apart into pieces with a place for each: an ELF of our own kind (64-bit
//! entry, start info in RDI) and a Linux bzImage (64-bit boot protocol), and what each is told.
//! Refuses everything that does not fit the place it is given.

use core::ops::Range;
use core::ptr::with_exposed_provenance_mut;

use crate::boot::{MAGIC, MapEntry};

/// A piece to be copied, and zeroes behind it.
#[derive(Clone, Copy, Debug, Default)]
#[repr(C)]
pub struct Segment {
    /// Where it goes.
    pub to: u64,
    /// Where it is.
    pub from: u64,
    /// Bytes copied.
    pub bytes: u64,
    /// Bytes in memory; the rest is zeroed.
    pub memory_bytes: u64,
}

/// Pieces at most.
pub const MAX_SEGMENTS: usize = 8;

/// An image, ready to be put in its place.
#[derive(Clone, Copy, Debug, Default)]
pub struct Image {
    segments: [Segment; MAX_SEGMENTS],
    count: usize,
    /// Its first instruction, in long mode.
    pub entry: u64,
}

impl Image {
    /// Its pieces.
    pub fn segments(&self) -> &[Segment] {
        &self.segments[..self.count]
    }

    fn push(&mut self, segment: Segment) -> Result<(), BadImage> {
        let place = self.segments.get_mut(self.count).ok_or(BadImage("it has too many segments"))?;
        *place = segment;
        self.count += 1;
        Ok(())
    }
}

/// Why a file is no image for us.
#[derive(Clone, Copy, Debug)]
pub struct BadImage(pub &'static str);

/// True for a Linux bzImage.
pub fn is_linux(file: &[u8]) -> bool {
    file.get(0x202..0x206) == Some(b"HdrS")
}

fn number<const N: usize>(bytes: &[u8], at: usize) -> Result<u64, BadImage> {
    let piece: [u8; N] = bytes
        .get(at..at + N)
        .and_then(|piece| piece.try_into().ok())
        .ok_or(BadImage("it ends before its header does"))?;
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
    let end = to.checked_add(memory_bytes).ok_or(BadImage("a segment has no end"))?;
    if to < place.start || end > place.end {
        return Err(BadImage("a segment lies outside the place that is kept for kernels"));
    }
    let file_end = offset.checked_add(bytes).ok_or(BadImage("a segment has no end"))?;
    if file_end > file.len() as u64 || bytes > memory_bytes {
        return Err(BadImage("a segment lies outside its file"));
    }
    Ok(Segment { to, from: file.as_ptr().expose_provenance() as u64 + offset, bytes, memory_bytes })
}

/// One of our own kernels.
pub fn elf(file: &[u8], place: &Range<u64>) -> Result<Image, BadImage> {
    if file.get(..6) != Some(b"\x7fELF\x02\x01") {
        return Err(BadImage("not a 64-bit ELF"));
    }
    const LOAD: u64 = 1;
    let mut image = Image { entry: number::<8>(file, 24)?, ..Image::default() };
    let (headers, size, count) = (number::<8>(file, 32)?, number::<2>(file, 54)?, number::<2>(file, 56)?);
    if headers > file.len() as u64 {
        return Err(BadImage("it ends before its header does"));
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

/// Where Linux goes: its own preferred place.
const LINUX: u64 = 16 << 20;

/// A Linux bzImage.
pub fn linux(file: &[u8], place: &Range<u64>) -> Result<Image, BadImage> {
    if !is_linux(file) || number::<2>(file, 0x206)? < 0x20c {
        return Err(BadImage("not a bzImage of boot protocol 2.12 or newer"));
    }
    if number::<2>(file, 0x236)? & 1 == 0 {
        return Err(BadImage("this kernel has no 64-bit entry"));
    }
    let setup = (number::<1>(file, 0x1f1)?.max(4) + 1) * 512;
    let init_size = number::<4>(file, 0x260)?;
    let code = (file.len() as u64).checked_sub(setup).ok_or(BadImage("it ends before its header does"))?;
    let piece = segment(file, setup, LINUX, code, code.max(init_size), place)?;
    let mut image = Image { entry: LINUX + 0x200, ..Image::default() };
    // What it unpacks to needs the room, not the zeros.
    image.push(Segment { memory_bytes: code, ..piece })?;
    Ok(image)
}

/// Copies an image to its place.
///
/// # Safety
/// The place is free memory, mapped one to one, and holds neither the file nor anything in use.
pub unsafe fn put(image: &Image) {
    for segment in image.segments() {
        let to = with_exposed_provenance_mut::<u8>(segment.to as usize);
        let from = with_exposed_provenance_mut::<u8>(segment.from as usize);
        // SAFETY: the caller's for the place; `segment` has checked the file.
        unsafe {
            to.copy_from(from, segment.bytes as usize);
            to.add(segment.bytes as usize).write_bytes(0, (segment.memory_bytes - segment.bytes) as usize);
        }
    }
}

/// Free memory into which numbers are written, one after another.
#[derive(Debug)]
pub struct Notes {
    at: u64,
    end: u64,
}

impl Notes {
    /// In this range.
    ///
    /// # Safety
    /// The range is free memory, zeroed, mapped one to one, and the caller's for as long as what is
    /// written is needed.
    pub unsafe fn new(range: Range<u64>) -> Self {
        Self { at: range.start, end: range.end }
    }

    /// Room for so many bytes, at a multiple of `align`.
    pub fn room(&mut self, bytes: u64, align: u64) -> Result<u64, BadImage> {
        let start = self.at.next_multiple_of(align);
        let end = start.checked_add(bytes).filter(|end| *end <= self.end);
        self.at = end.ok_or(BadImage("what the kernel is told does not fit its page"))?;
        Ok(start)
    }

    /// Appends and returns the address.
    pub fn put(&mut self, bytes: &[u8]) -> Result<u64, BadImage> {
        let address = self.room(bytes.len() as u64, 16)?;
        Self::copy(address, bytes);
        Ok(address)
    }

    fn copy(address: u64, bytes: &[u8]) {
        let to = with_exposed_provenance_mut::<u8>(address as usize);
        // SAFETY: `room` has given the place out of the range that `new` was promised.
        unsafe { to.copy_from_nonoverlapping(bytes.as_ptr(), bytes.len()) };
    }

    /// Page tables that map the first 512 GiB one to one, by pages of 1 GiB, all writable. Returns
    /// the root.
    pub fn identity_map(&mut self) -> Result<u64, BadImage> {
        const OPEN: u64 = 0b11;
        const LARGE: u64 = 0x80;
        let (root, gigabytes) = (self.room(4096, 4096)?, self.room(4096, 4096)?);
        Self::copy(root, &(gigabytes | OPEN).to_le_bytes());
        for gigabyte in 0..512 {
            Self::copy(gigabytes + 8 * gigabyte, &(gigabyte << 30 | OPEN | LARGE).to_le_bytes());
        }
        Ok(root)
    }
}

/// What a kernel is told.
#[derive(Clone, Copy, Debug)]
pub struct Message<'m> {
    /// Its command line.
    pub command_line: &'m str,
    /// The machine's memory.
    pub map: &'m [MapEntry],
    /// Address of the ACPI RSDP; 0: it must be searched for.
    pub rsdp: u64,
    /// For Linux its initrd, for our own kernels a module. May be empty.
    pub module: &'m Range<u64>,
}

fn text(notes: &mut Notes, text: &str) -> Result<u64, BadImage> {
    let address = notes.put(text.as_bytes())?;
    // The notes are zeroed, so this ends the string.
    notes.put(&[0; 16])?;
    Ok(address)
}

/// Start info for one of our own kernels; returns its address.
pub fn tell_own(notes: &mut Notes, message: Message<'_>) -> Result<u64, BadImage> {
    let mut map = None;
    for entry in message.map {
        let address = notes.room(24, 8)?;
        map.get_or_insert(address);
        Notes::copy(address, &entry.address.to_le_bytes());
        Notes::copy(address + 8, &entry.size.to_le_bytes());
        Notes::copy(address + 16, &u64::from(entry.kind).to_le_bytes());
    }
    let command_line = text(notes, message.command_line)?;
    let module = notes.put(&message.module.start.to_le_bytes())?;
    notes.put(&[0; 16])?;
    Notes::copy(module + 8, &(message.module.end - message.module.start).to_le_bytes());
    let modules = u64::from(!message.module.is_empty());
    let words = [
        u64::from(MAGIC) | 1 << 32,
        modules << 32,
        module,
        command_line,
        message.rsdp,
        map.unwrap_or(0),
        message.map.len() as u64,
    ];
    let info = notes.room(56, 16)?;
    for (index, word) in (0..).zip(words) {
        Notes::copy(info + 8 * index, &word.to_le_bytes());
    }
    Ok(info)
}

/// Entries of the memory map that fit the boot parameters.
const E820_MAX: usize = 128;

/// Boot parameters for Linux; returns their address.
pub fn tell_linux(notes: &mut Notes, file: &[u8], message: Message<'_>) -> Result<u64, BadImage> {
    let page = notes.room(4096, 4096)?;
    let command_line = text(notes, message.command_line)?;
    let header_end = 0x202 + number::<1>(file, 0x201)? as usize;
    Notes::copy(page + 0x1f1, file.get(0x1f1..header_end).ok_or(BadImage("it ends before its header does"))?);
    if message.module.end > 1 << 32 || command_line > 1 << 32 || message.map.len() > E820_MAX {
        return Err(BadImage("the initrd or the command line lies above 4 GiB"));
    }
    Notes::copy(page + 0x070, &message.rsdp.to_le_bytes());
    Notes::copy(page + 0x210, &[0xff]);
    Notes::copy(page + 0x218, &(message.module.start as u32).to_le_bytes());
    Notes::copy(page + 0x21c, &((message.module.end - message.module.start) as u32).to_le_bytes());
    Notes::copy(page + 0x228, &(command_line as u32).to_le_bytes());
    Notes::copy(page + 0x1e8, &[message.map.len() as u8]);
    for (index, entry) in (0..).zip(message.map) {
        let at = page + 0x2d0 + 20 * index;
        Notes::copy(at, &entry.address.to_le_bytes());
        Notes::copy(at + 8, &entry.size.to_le_bytes());
        Notes::copy(at + 16, &entry.kind.to_le_bytes());
    }
    Ok(page)
}
