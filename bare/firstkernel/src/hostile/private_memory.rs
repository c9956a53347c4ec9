//! Use of TD pages as ordinary memory: stores across their border, self-modifying code, page
//! tables, poison.

use core::arch::asm;
use core::ptr::{with_exposed_provenance, with_exposed_provenance_mut};
use metal::println;
use tdx_host::ledger::Ledger;

use super::interrupts;

/// Uses pages of a TD as if they were this kernel's. Ordinary stores make private lines shared
/// without poison, so no machine check is raised.
pub fn run(ledger: Option<&Ledger<'_>>) {
    let Some(range) = ledger.and_then(|ledger| ledger.marked().last()) else { panic!("no TD: use --tds 1") };
    let (first, end) = (range.base().get() as usize, range.limit().get() as usize);
    println!("hostile: private pages [{first:#x}, {end:#x})");
    let border = with_exposed_provenance_mut::<u64>(end).wrapping_byte_sub(3);
    let word: u64;
    // SAFETY: the last bytes of a TD page and the first of the page behind it, which is free.
    unsafe {
        asm!("mov [{place}], {word}", place = in(reg) border, word = in(reg) 0x1122_3344_5566_7788u64, options(nostack));
        asm!("mov {word}, [{place}]", place = in(reg) border, word = out(reg) word, options(nostack));
    }
    assert!(word == 0x1122_3344_5566_7788, "read across private and shared: {word:#x}");

    // mov dword [rip + 1], 42; mov eax, 1; ret. The first changes the operand of the second.
    const CODE: [u8; 16] = [0xc7, 0x05, 1, 0, 0, 0, 42, 0, 0, 0, 0xb8, 1, 0, 0, 0, 0xc3];
    let place = with_exposed_provenance_mut::<u8>(end - 4096);
    // SAFETY: the last page of a TD that never runs. All memory is mapped writable and executable.
    let result = unsafe {
        for (index, byte) in CODE.iter().enumerate() {
            place.add(index).write_volatile(*byte);
        }
        let function: extern "C" fn() -> u32 = core::mem::transmute(place);
        function()
    };
    assert!(result == 42, "self-modifying code on a private page returns {result}");

    // A copy of this kernel's root page table in private memory.
    let root = metal::registers::cr3();
    let copy = end - 2 * 4096;
    // SAFETY: the copy maps the same memory; CR3 is restored.
    unsafe {
        let (from, to) = (with_exposed_provenance::<u64>(root as usize), with_exposed_provenance_mut::<u64>(copy));
        for index in 0..512 {
            to.add(index).write_volatile(from.add(index).read());
        }
        asm!("mov cr3, {}", in(reg) copy as u64, options(nostack));
        asm!("mov cr3, {}", in(reg) root, options(nostack));
    }
    poison_beside_stopped_cpus(end - 3 * 4096);
    println!("@ {{\"event\":\"hostile\",\"calls\":0,\"nmis\":0}}");
}

/// Poisons a page, which the hypervisor then takes from all CPUs. One that this kernel has stopped
/// stays so: after a kexec there is no code any more that it could go on with.
fn poison_beside_stopped_cpus(page: usize) {
    let stopped = interrupts::stop_others();
    // SAFETY: a page of a TD that never runs, and that this kernel does not read.
    unsafe { asm!("movnti [{}], {}", in(reg) page, in(reg) 0u64, options(nostack)) }
    let woken = interrupts::woken();
    println!("hostile: {stopped} CPUs stopped, {woken} woken");
    assert!(woken == 0, "{woken} of {stopped} stopped CPUs have gone on");
}
