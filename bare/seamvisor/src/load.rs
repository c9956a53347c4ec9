//! Puts the guest in its place: QEMU's `-initrd` is its image, one of our kernels or Linux, told
//! what the command line of this program has behind ` -- `.

use core::ops::Range;
use core::ptr::{with_exposed_provenance, with_exposed_provenance_mut};
use metal::boot::{self, Boot, MapEntry};
use metal::fw_cfg;
use metal::image::{self, BadImage, Message, Notes};

/// Where the guest starts.
pub struct Guest {
    /// Its first instruction.
    pub entry: u64,
    /// What it finds in RDI and RSI.
    pub argument: u64,
    /// Its first page tables.
    pub page_tables: u64,
}

/// Low memory of the guest in which it is told everything.
const NOTES: Range<u64> = 0x1_0000..0x2_0000;
/// Where kernels may lie.
const PLACE: Range<u64> = (16 << 20)..(256 << 20);

/// Loads the guest.
pub fn guest(boot: &Boot, map: &[MapEntry]) -> Guest {
    match load(boot, map) {
        Ok(guest) => guest,
        Err(BadImage(why)) => panic!("no guest: {why}; give QEMU its image by `-initrd`"),
    }
}

fn load(boot: &Boot, map: &[MapEntry]) -> Result<Guest, BadImage> {
    let module = boot.module.ok_or(BadImage("there is none"))?;
    // SAFETY: where QEMU has put it, above the place that is written below, which is checked.
    let file = unsafe {
        core::slice::from_raw_parts(with_exposed_provenance::<u8>(module.address as usize), module.size as usize)
    };
    if module.address < PLACE.end {
        return Err(BadImage("its file lies where it must go: give the machine 512 MiB or more"));
    }
    let command_line = boot.command_line().split_once(" -- ").map_or("", |(_, guest)| guest);
    // SAFETY: conventional memory of the guest, which does not run yet; 0x8000 and what is below
    // stay as they are.
    let mut notes = unsafe {
        with_exposed_provenance_mut::<u8>(NOTES.start as usize).write_bytes(0, (NOTES.end - NOTES.start) as usize);
        Notes::new(NOTES)
    };
    let page_tables = notes.identity_map()?;
    let told = Message { command_line, map, rsdp: boot.rsdp, module: &(0..0) };
    let (image, argument) = if image::is_linux(file) {
        let initrd = initrd(map, module.address)?;
        let argument = image::tell_linux(&mut notes, file, Message { module: &initrd, ..told })?;
        (image::linux(file, &PLACE)?, argument)
    } else {
        (image::elf(file, &PLACE)?, image::tell_own(&mut notes, told)?)
    };
    // SAFETY: memory of the guest, which does not run yet, and which holds neither this program nor
    // the file.
    unsafe { image::put(&image) };
    Ok(Guest { entry: image.entry, argument, page_tables })
}

/// The guest's initrd, below the file of its image. Empty if QEMU was given none.
fn initrd(map: &[MapEntry], below: u64) -> Result<Range<u64>, BadImage> {
    let Some(file) = fw_cfg::find("opt/cleanslate/initrd") else { return Ok(0..0) };
    let start = below.saturating_sub(u64::from(file.size)) & !0xfff;
    let range = start..start + u64::from(file.size);
    let is_memory = |entry: &&MapEntry| {
        entry.kind == boot::USABLE && entry.address <= range.start && range.end <= entry.address + entry.size
    };
    if range.start < PLACE.end || map.iter().find(is_memory).is_none() {
        return Err(BadImage("no room for its initrd"));
    }
    // SAFETY: memory of the guest, checked above.
    if !unsafe { fw_cfg::read(file, with_exposed_provenance_mut(range.start as usize)) } {
        return Err(BadImage("QEMU does not give its initrd"));
    }
    Ok(range)
}
