//! The next kernel: its file from QEMU's fw_cfg, its parsed image, its boot data.

use core::ops::Range;
use core::ptr::{with_exposed_provenance, with_exposed_provenance_mut};
use metal::boot::Boot;
use metal::boot_data::{self, BootArea, BootInfo};
use metal::fw_cfg;
use metal::image::{self, BadImage, Image};
use tdx_abi::PageRange;

use crate::memory::{KERNEL_PLACE, Kernel};
use crate::{relay, second};

/// A prepared next kernel.
pub struct Next {
    /// Parsed image, not yet copied to its load address.
    pub image: Image,
    /// RDI and RSI: address of the start info or `boot_params`.
    pub argument: u64,
    /// Pages for the table of leftovers, or the takeover table.
    pub table: PageRange,
}

/// Command line for Linux.
const LINUX_COMMAND_LINE: &str = "console=ttyS0 panic=-1 nokaslr rdinit=/init";

fn addresses(range: PageRange) -> Range<u64> {
    range.base().get()..range.limit().get()
}

/// Copies a fw_cfg file into allocated pages.
fn file(kernel: &mut Kernel<'_>, name: &str) -> Result<&'static [u8], BadImage> {
    let file = fw_cfg::find(name).ok_or(BadImage("no such fw_cfg file"))?;
    let range = kernel.pages(u64::from(file.size)).ok_or(BadImage("no memory"))?;
    let first = range.base().get() as usize;
    // SAFETY: the pages were just allocated, and are at least as long as the file.
    if !unsafe { fw_cfg::read(file, with_exposed_provenance_mut(first)) } {
        return Err(BadImage("cannot read fw_cfg"));
    }
    // SAFETY: pages of this kernel that are never freed and not written again.
    Ok(unsafe { core::slice::from_raw_parts(with_exposed_provenance(first), file.size as usize) })
}

/// Prepares the kernel that QEMU was given as `opt/cleanslate/next`, Linux with
/// `opt/cleanslate/initrd`. `command_line` is for one that is no Linux.
pub fn next(kernel: &mut Kernel<'_>, boot: &Boot, command_line: &str) -> Result<Next, BadImage> {
    const NO_MEMORY: BadImage = BadImage("no memory");
    let table = kernel.pages(second::TABLE_BYTES.max(relay::TABLE_BYTES)).ok_or(NO_MEMORY)?;
    let boot_data = kernel.pages(32 << 10).ok_or(NO_MEMORY)?;
    // SAFETY: zeroed pages that were just allocated and are never freed.
    let mut area = unsafe { BootArea::new(addresses(boot_data)) };
    let (place, bytes) = (addresses(KERNEL_PLACE), file(kernel, "opt/cleanslate/next")?);
    let info = BootInfo { command_line, map: boot.map(), rsdp: boot.rsdp, module: &addresses(table) };
    if !image::is_linux(bytes) {
        let argument = boot_data::write_start_info(&mut area, info)?;
        return Ok(Next { image: image::elf(bytes, &place)?, argument, table });
    }
    let initrd = file(kernel, "opt/cleanslate/initrd")?;
    let start = initrd.as_ptr().addr() as u64;
    let module = start..start + initrd.len() as u64;
    let info = BootInfo { command_line: LINUX_COMMAND_LINE, module: &module, ..info };
    Ok(Next {
        image: image::linux(bytes, &place)?,
        argument: boot_data::write_boot_params(&mut area, bytes, info)?,
        table,
    })
}
