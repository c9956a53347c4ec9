//! Loads the guest: the image is QEMU's `-initrd`, firstkernel or Linux; its command line is what
//! follows ` -- ` on this program's.

use core::ops::Range;
use core::ptr::{with_exposed_provenance, with_exposed_provenance_mut};
use metal::boot::{self, Boot, MapEntry};
use metal::boot_data::{self, BootArea, BootInfo};
use metal::fw_cfg;
use metal::image::{self, BadImage};

/// Initial state of the guest.
pub struct Guest {
    /// Address of the first instruction.
    pub entry: u64,
    /// RDI and RSI: address of the start info or boot parameters.
    pub argument: u64,
    /// Physical address of the root page table.
    pub page_tables: u64,
}

/// Low memory of the guest for start info, boot parameters and page tables.
const BOOT_DATA: Range<u64> = 0x1_0000..0x2_0000;
/// Where the kernel is loaded.
const PLACE: Range<u64> = (16 << 20)..(256 << 20);

/// Loads the guest.
pub fn guest(boot: &Boot, map: &[MapEntry]) -> Guest {
    match load(boot, map) {
        Ok(guest) => guest,
        Err(BadImage(why)) => panic!("cannot load the guest: {why}; give QEMU its image by `-initrd`"),
    }
}

fn load(boot: &Boot, map: &[MapEntry]) -> Result<Guest, BadImage> {
    let module = boot.module.ok_or(BadImage("no image"))?;
    // SAFETY: where QEMU has loaded the file. It does not overlap the place that is written below,
    // which is checked before the first write.
    let file = unsafe {
        core::slice::from_raw_parts(with_exposed_provenance::<u8>(module.address as usize), module.size as usize)
    };
    if module.address < PLACE.end {
        return Err(BadImage("the file overlaps the load address: give the machine more memory, 512 MiB"));
    }
    let command_line = boot.command_line().split_once(" -- ").map_or("", |(_, guest)| guest);
    // SAFETY: conventional memory of the guest, which does not run yet. The trampoline at 0x8000
    // and the memory below it are not written.
    let mut area = unsafe {
        with_exposed_provenance_mut::<u8>(BOOT_DATA.start as usize)
            .write_bytes(0, (BOOT_DATA.end - BOOT_DATA.start) as usize);
        BootArea::new(BOOT_DATA)
    };
    let page_tables = area.identity_map()?;
    let info = BootInfo { command_line, map, rsdp: boot.rsdp, module: &(0..0) };
    let (image, argument) = if image::is_linux(file) {
        let initrd = initrd(map, module.address)?;
        let argument = boot_data::write_boot_params(&mut area, file, BootInfo { module: &initrd, ..info })?;
        (image::linux(file, &PLACE)?, argument)
    } else {
        (image::elf(file, &PLACE)?, boot_data::write_start_info(&mut area, info)?)
    };
    // SAFETY: memory of the guest, which does not run yet; it holds neither this program nor the
    // file.
    unsafe { image::load(&image) };
    Ok(Guest { entry: image.entry, argument, page_tables })
}

/// Loads the guest's initrd below the file of its image. Empty if QEMU was given none.
fn initrd(map: &[MapEntry], below: u64) -> Result<Range<u64>, BadImage> {
    let Some(file) = fw_cfg::find("opt/cleanslate/initrd") else { return Ok(0..0) };
    let start = below.saturating_sub(u64::from(file.size)) & !0xfff;
    let range = start..start + u64::from(file.size);
    let is_memory = |entry: &&MapEntry| {
        entry.kind == boot::USABLE && entry.address <= range.start && range.end <= entry.address + entry.size
    };
    if range.start < PLACE.end || map.iter().find(is_memory).is_none() {
        return Err(BadImage("no room for the initrd"));
    }
    // SAFETY: memory of the guest, checked above.
    if !unsafe { fw_cfg::read(file, with_exposed_provenance_mut(range.start as usize)) } {
        return Err(BadImage("cannot read the initrd from fw_cfg"));
    }
    Ok(range)
}
