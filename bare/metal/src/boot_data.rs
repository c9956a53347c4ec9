//! Boot data for a kernel: memory map, command line, modules, as PVH start info or as Linux
//! `boot_params`, and its first page tables.

use core::ops::Range;
use core::ptr::with_exposed_provenance_mut;

use crate::boot::{MAGIC, MapEntry};
use crate::image::{BadImage, number};

/// A bump allocator for boot data: memory that the kernel reads before it has its own.
#[derive(Debug)]
pub struct BootArea {
    at: u64,
    end: u64,
}

impl BootArea {
    /// Uses this range.
    ///
    /// # Safety
    /// The range is zeroed memory, mapped one to one, that belongs to the caller for as long as the
    /// data is needed.
    pub unsafe fn new(range: Range<u64>) -> Self {
        Self { at: range.start, end: range.end }
    }

    /// Allocates bytes at a multiple of `align`, and returns their address.
    pub fn allocate(&mut self, bytes: u64, align: u64) -> Result<u64, BadImage> {
        let start = self.at.next_multiple_of(align);
        let end = start.checked_add(bytes).filter(|end| *end <= self.end);
        self.at = end.ok_or(BadImage("boot data does not fit its memory"))?;
        Ok(start)
    }

    /// Appends bytes, aligned to 16, and returns their address.
    pub fn append(&mut self, bytes: &[u8]) -> Result<u64, BadImage> {
        let address = self.allocate(bytes.len() as u64, 16)?;
        Self::copy(address, bytes);
        Ok(address)
    }

    fn copy(address: u64, bytes: &[u8]) {
        let to = with_exposed_provenance_mut::<u8>(address as usize);
        // SAFETY: `allocate` has returned the address, in the range that `new` was promised.
        unsafe { to.copy_from_nonoverlapping(bytes.as_ptr(), bytes.len()) };
    }

    /// Writes page tables that map the first 512 GiB one to one, by writable 1 GiB pages. Returns
    /// the address of the root.
    pub fn identity_map(&mut self) -> Result<u64, BadImage> {
        const OPEN: u64 = 0b11;
        const LARGE: u64 = 0x80;
        let (root, gigabytes) = (self.allocate(4096, 4096)?, self.allocate(4096, 4096)?);
        Self::copy(root, &(gigabytes | OPEN).to_le_bytes());
        for gigabyte in 0..512 {
            Self::copy(gigabytes + 8 * gigabyte, &(gigabyte << 30 | OPEN | LARGE).to_le_bytes());
        }
        Ok(root)
    }
}

/// Boot information for a kernel.
#[derive(Clone, Copy, Debug)]
pub struct BootInfo<'m> {
    /// Command line.
    pub command_line: &'m str,
    /// Memory map.
    pub map: &'m [MapEntry],
    /// Address of the ACPI RSDP; 0 if the kernel has to search for it.
    pub rsdp: u64,
    /// The initrd of Linux, or the module of a kernel of this workspace. May be empty.
    pub module: &'m Range<u64>,
}

fn text(area: &mut BootArea, text: &str) -> Result<u64, BadImage> {
    let address = area.append(text.as_bytes())?;
    // The area is zeroed: this terminates the string.
    area.append(&[0; 16])?;
    Ok(address)
}

/// Writes `hvm_start_info` for a kernel of this workspace, and returns its address.
pub fn write_start_info(area: &mut BootArea, info: BootInfo<'_>) -> Result<u64, BadImage> {
    let mut map = None;
    for entry in info.map {
        let address = area.allocate(24, 8)?;
        map.get_or_insert(address);
        BootArea::copy(address, &entry.address.to_le_bytes());
        BootArea::copy(address + 8, &entry.size.to_le_bytes());
        BootArea::copy(address + 16, &u64::from(entry.kind).to_le_bytes());
    }
    let command_line = text(area, info.command_line)?;
    let module = area.append(&info.module.start.to_le_bytes())?;
    area.append(&[0; 16])?;
    BootArea::copy(module + 8, &(info.module.end - info.module.start).to_le_bytes());
    let modules = u64::from(!info.module.is_empty());
    let words = [
        u64::from(MAGIC) | 1 << 32,
        modules << 32,
        module,
        command_line,
        info.rsdp,
        map.unwrap_or(0),
        info.map.len() as u64,
    ];
    let start_info = area.allocate(56, 16)?;
    for (index, word) in (0..).zip(words) {
        BootArea::copy(start_info + 8 * index, &word.to_le_bytes());
    }
    Ok(start_info)
}

/// Maximum number of e820 entries in `boot_params`.
const E820_MAX: usize = 128;

/// Writes `boot_params` for Linux, and returns their address. `file` is the bzImage.
pub fn write_boot_params(area: &mut BootArea, file: &[u8], info: BootInfo<'_>) -> Result<u64, BadImage> {
    let page = area.allocate(4096, 4096)?;
    let command_line = text(area, info.command_line)?;
    let header_end = 0x202 + number::<1>(file, 0x201)? as usize;
    BootArea::copy(page + 0x1f1, file.get(0x1f1..header_end).ok_or(BadImage("truncated file"))?);
    if info.module.end > 1 << 32 || command_line > 1 << 32 {
        return Err(BadImage("initrd or command line above 4 GiB"));
    }
    if info.map.len() > E820_MAX {
        return Err(BadImage("too many memory map entries"));
    }
    BootArea::copy(page + 0x070, &info.rsdp.to_le_bytes());
    BootArea::copy(page + 0x210, &[0xff]);
    BootArea::copy(page + 0x218, &(info.module.start as u32).to_le_bytes());
    BootArea::copy(page + 0x21c, &((info.module.end - info.module.start) as u32).to_le_bytes());
    BootArea::copy(page + 0x228, &(command_line as u32).to_le_bytes());
    BootArea::copy(page + 0x1e8, &[info.map.len() as u8]);
    for (index, entry) in (0..).zip(info.map) {
        let at = page + 0x2d0 + 20 * index;
        BootArea::copy(at, &entry.address.to_le_bytes());
        BootArea::copy(at + 8, &entry.size.to_le_bytes());
        BootArea::copy(at + 16, &entry.kind.to_le_bytes());
    }
    Ok(page)
}
