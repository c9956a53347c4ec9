//! The next kernel: its file from QEMU's fw_cfg, its image, and what it is told.

use core::ops::Range;
use core::ptr::{with_exposed_provenance, with_exposed_provenance_mut};
use metal::boot::Boot;
use metal::fw_cfg;
use metal::image::{self, BadImage, Image, Message, Notes};
use tdx_abi::PageRange;

use crate::memory::{KERNEL_PLACE, Kernel};
use crate::second;

/// A kernel that is ready to be jumped into.
pub struct Next {
    /// Its image, not yet in its place.
    pub image: Image,
    /// What it finds in RDI and RSI.
    pub argument: u64,
    /// Where the table of leftovers goes.
    pub leftovers: PageRange,
}

/// What Linux is told.
const LINUX_COMMAND_LINE: &str = "console=ttyS0 panic=-1 nokaslr rdinit=/init";

fn addresses(range: PageRange) -> Range<u64> {
    range.base().get()..range.limit().get()
}

/// Copies a file of fw_cfg into pages of its own.
fn file(kernel: &mut Kernel<'_>, name: &str) -> Result<&'static [u8], BadImage> {
    let file = fw_cfg::find(name).ok_or(BadImage("QEMU was given no such file"))?;
    let range = kernel.pages(u64::from(file.size)).ok_or(BadImage("no memory for it"))?;
    let first = range.base().get() as usize;
    // SAFETY: the pages were just allocated, and are at least as long as the file.
    if !unsafe { fw_cfg::read(file, with_exposed_provenance_mut(first)) } {
        return Err(BadImage("QEMU does not give it"));
    }
    // SAFETY: pages of this kernel that are never freed and never written again.
    Ok(unsafe { core::slice::from_raw_parts(with_exposed_provenance(first), file.size as usize) })
}

/// Prepares the kernel that QEMU was given as `opt/cleanslate/next`, Linux with
/// `opt/cleanslate/initrd`.
pub fn next(kernel: &mut Kernel<'_>, boot: &Boot) -> Result<Next, BadImage> {
    const NO_MEMORY: BadImage = BadImage("no memory for it");
    let leftovers = kernel.pages(second::TABLE_BYTES).ok_or(NO_MEMORY)?;
    let notes = kernel.pages(32 << 10).ok_or(NO_MEMORY)?;
    // SAFETY: zeroed pages, allocated for this alone and never freed.
    let mut notes = unsafe { Notes::new(addresses(notes)) };
    let (place, bytes) = (addresses(KERNEL_PLACE), file(kernel, "opt/cleanslate/next")?);
    let told = Message { command_line: "role=second", map: boot.map(), rsdp: boot.rsdp, module: &addresses(leftovers) };
    if !image::is_linux(bytes) {
        let argument = image::tell_own(&mut notes, told)?;
        return Ok(Next { image: image::elf(bytes, &place)?, argument, leftovers });
    }
    let initrd = file(kernel, "opt/cleanslate/initrd")?;
    let start = initrd.as_ptr().addr() as u64;
    let module = start..start + initrd.len() as u64;
    let told = Message { command_line: LINUX_COMMAND_LINE, module: &module, ..told };
    Ok(Next { image: image::linux(bytes, &place)?, argument: image::tell_linux(&mut notes, bytes, told)?, leftovers })
}
