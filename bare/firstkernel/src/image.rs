//! The next kernel's image: taken from QEMU's fw_cfg, taken apart into pieces with a place for each. Reads an ELF of our own kind
//! (64-bit entry, start info in RDI) and a Linux bzImage (64-bit boot protocol). Refuses everything that does not fit the place
//! kept for kernels.

use arrayvec::ArrayVec;
use core::ptr::{with_exposed_provenance, with_exposed_provenance_mut};
use metal::boot::{self, MapEntry};
use metal::fw_cfg;
use tdx_abi::{PageRange, PhysAddr};

use crate::memory::{KERNEL_PLACE, Kernel};

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
#[derive(Clone, Debug, Default)]
pub struct Image {
    /// Its pieces.
    pub segments: ArrayVec<Segment, MAX_SEGMENTS>,
    /// Its first instruction, in long mode.
    pub entry: u64,
    /// What it finds in RDI and RSI.
    pub argument: u64,
}

/// What the next kernel is told.
#[derive(Clone, Copy, Debug)]
pub struct Message<'m> {
    /// Its command line.
    pub command_line: &'m str,
    /// The machine's memory.
    pub map: &'m [MapEntry],
    /// Address of the ACPI RSDP.
    pub rsdp: u64,
    /// The table of leftovers.
    pub leftovers: PageRange,
}

/// Why there is no image.
#[derive(Clone, Copy, Debug)]
pub struct BadImage(pub &'static str);

fn bytes(range: PageRange, length: usize) -> &'static [u8] {
    let first = with_exposed_provenance(range.base().get() as usize);
    // SAFETY: pages of this kernel that are never freed and, once a file was read into them, never written.
    unsafe { core::slice::from_raw_parts(first, length) }
}

/// Copies a file of fw_cfg into pages of its own.
pub fn file(kernel: &mut Kernel<'_>, name: &str) -> Result<&'static [u8], BadImage> {
    let file = fw_cfg::find(name).ok_or(BadImage("QEMU was given no such file"))?;
    let range = kernel.pages(u64::from(file.size)).ok_or(BadImage("no memory for the file"))?;
    // SAFETY: the pages were just allocated, and are at least as long as the file.
    if !unsafe { fw_cfg::read(file, with_exposed_provenance_mut(range.base().get() as usize)) } {
        return Err(BadImage("QEMU does not give the file"));
    }
    Ok(bytes(range, file.size as usize))
}

/// Writes plain numbers into a page, piece by piece.
struct Page {
    range: PageRange,
    used: u64,
}

impl Page {
    fn new(kernel: &mut Kernel<'_>, size: u64) -> Result<Self, BadImage> {
        Ok(Self { range: kernel.pages(size).ok_or(BadImage("no memory"))?, used: 0 })
    }

    /// Appends and returns the address.
    fn put(&mut self, bytes: &[u8]) -> Result<u64, BadImage> {
        let at = self.used;
        self.put_at(at, bytes)?;
        self.used = (at + bytes.len() as u64).next_multiple_of(16);
        Ok(self.range.base().get() + at)
    }

    fn put_at(&self, offset: u64, bytes: &[u8]) -> Result<(), BadImage> {
        if offset + bytes.len() as u64 > self.range.bytes() {
            return Err(BadImage("what the next kernel is told does not fit its page"));
        }
        let to = with_exposed_provenance_mut::<u8>((self.range.base().get() + offset) as usize);
        // SAFETY: inside the pages that this value owns.
        unsafe { to.copy_from_nonoverlapping(bytes.as_ptr(), bytes.len()) };
        Ok(())
    }
}

fn number<const N: usize>(bytes: &[u8], at: usize) -> Result<u64, BadImage> {
    let piece: [u8; N] = bytes
        .get(at..at + N)
        .and_then(|piece| piece.try_into().ok())
        .ok_or(BadImage("the file ends before its header does"))?;
    Ok(piece.iter().rev().fold(0, |value, byte| value << 8 | u64::from(*byte)))
}

fn check_place(to: u64, memory_bytes: u64) -> Result<(), BadImage> {
    let end = to.checked_add(memory_bytes).ok_or(BadImage("a segment has no end"))?;
    if to < KERNEL_PLACE.base().get() || end > KERNEL_PLACE.limit().get() {
        return Err(BadImage("a segment lies outside the place that is kept for kernels"));
    }
    Ok(())
}

fn segment(file: &[u8], offset: u64, to: u64, bytes: u64, memory_bytes: u64) -> Result<Segment, BadImage> {
    check_place(to, memory_bytes)?;
    let end = offset.checked_add(bytes).ok_or(BadImage("a segment has no end"))?;
    if end > file.len() as u64 || bytes > memory_bytes {
        return Err(BadImage("a segment lies outside its file"));
    }
    Ok(Segment { to, from: file.as_ptr().addr() as u64 + offset, bytes, memory_bytes })
}

/// Our own kernel, an ELF.
pub fn own(kernel: &mut Kernel<'_>, file: &[u8], message: Message<'_>) -> Result<Image, BadImage> {
    if file.get(..6) != Some(b"\x7fELF\x02\x01") {
        return Err(BadImage("not a 64-bit ELF"));
    }
    let mut image = Image { entry: number::<8>(file, 24)?, ..Image::default() };
    let (headers, size, count) = (number::<8>(file, 32)?, number::<2>(file, 54)?, number::<2>(file, 56)?);
    const LOAD: u64 = 1;
    for index in 0..count {
        let at = headers.checked_add(index * size).ok_or(BadImage("headers without end"))? as usize;
        if number::<4>(file, at)? == LOAD {
            let piece = segment(
                file,
                number::<8>(file, at + 8)?,
                number::<8>(file, at + 24)?,
                number::<8>(file, at + 32)?,
                number::<8>(file, at + 40)?,
            )?;
            image.segments.try_push(piece).map_err(|_| BadImage("too many segments"))?;
        }
    }
    let mut page = Page::new(kernel, 8192)?;
    let mut map = ArrayVec::<u8, 2048>::new();
    for entry in message.map {
        let (address, size) = (entry.address.to_le_bytes(), entry.size.to_le_bytes());
        let kind = u64::from(entry.kind).to_le_bytes();
        for part in [address, size, kind] {
            map.try_extend_from_slice(&part).map_err(|_| BadImage("too many ranges of memory"))?;
        }
    }
    let (map, entries) = (page.put(&map)?, message.map.len() as u64);
    let text = page.put(message.command_line.as_bytes())?;
    page.put(&[0])?;
    let mut modules = [0; 32];
    modules[..8].copy_from_slice(&message.leftovers.base().get().to_le_bytes());
    modules[8..16].copy_from_slice(&message.leftovers.bytes().to_le_bytes());
    let modules = page.put(&modules)?;
    let mut info = ArrayVec::<u8, 56>::new();
    // Magic and version, flags and number of modules, then addresses.
    let words = [u64::from(boot::MAGIC) | 1 << 32, 1 << 32, modules, text, message.rsdp, map, entries];
    for word in words {
        info.try_extend_from_slice(&word.to_le_bytes()).map_err(|_| BadImage("start info"))?;
    }
    image.argument = page.put(&info)?;
    Ok(image)
}

/// Where Linux goes: its own preferred place.
const LINUX: u64 = 16 << 20;

/// A Linux bzImage, with an initrd.
pub fn linux(kernel: &mut Kernel<'_>, file: &[u8], initrd: &[u8], message: Message<'_>) -> Result<Image, BadImage> {
    if file.get(0x202..0x206) != Some(b"HdrS") || number::<2>(file, 0x206)? < 0x20c {
        return Err(BadImage("not a bzImage of boot protocol 2.12 or newer"));
    }
    if number::<2>(file, 0x236)? & 1 == 0 {
        return Err(BadImage("this kernel has no 64-bit entry"));
    }
    let setup = (number::<1>(file, 0x1f1)?.max(4) + 1) * 512;
    let init_size = number::<4>(file, 0x260)?;
    let code = (file.len() as u64).checked_sub(setup).ok_or(BadImage("the file ends before its header does"))?;
    let piece = segment(file, setup, LINUX, code, code.max(u64::from(init_size as u32)))?;
    // Zeroing all of init_size would only take time.
    let piece = Segment { memory_bytes: code, ..piece };

    let page = Page::new(kernel, 4096)?;
    let header_end = 0x202 + number::<1>(file, 0x201)? as usize;
    page.put_at(0x1f1, file.get(0x1f1..header_end).ok_or(BadImage("no header"))?)?;
    let mut text = Page::new(kernel, 4096)?;
    let command_line = text.put(message.command_line.as_bytes())?;
    page.put_at(0x070, &message.rsdp.to_le_bytes())?;
    page.put_at(0x210, &[0xff])?;
    page.put_at(0x218, &(initrd.as_ptr().addr() as u32).to_le_bytes())?;
    page.put_at(0x21c, &(initrd.len() as u32).to_le_bytes())?;
    page.put_at(0x228, &(command_line as u32).to_le_bytes())?;
    page.put_at(0x1e8, &[message.map.len() as u8])?;
    for (index, entry) in (0..).zip(message.map) {
        let at = 0x2d0 + 20 * index;
        page.put_at(at, &entry.address.to_le_bytes())?;
        page.put_at(at + 8, &entry.size.to_le_bytes())?;
        page.put_at(at + 16, &entry.kind.to_le_bytes())?;
    }
    let below_4_gib = [page.range, text.range].iter().all(|range| range.limit() <= PhysAddr::new(4 << 30))
        && initrd.as_ptr().addr() + initrd.len() <= 4 << 30;
    if !below_4_gib {
        return Err(BadImage("the boot parameters lie above 4 GiB: give the machine less memory"));
    }
    let mut image = Image { entry: LINUX + 0x200, argument: page.range.base().get(), ..Image::default() };
    image.segments.push(piece);
    Ok(image)
}
