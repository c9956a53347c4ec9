//! Hostile guest: what a malicious or broken kernel can try on its CPUs under seamvisor. Nothing of
//! it may end the hypervisor or reach its memory. An attempt that succeeds fails the run.

mod interrupts;
mod key_ids;
mod memory;
mod paging;
mod private_memory;
mod registers;
mod rights;
mod seamcalls;
mod td;
mod td_code;
mod td_interrupts;

pub use interrupts::handle;
pub use private_memory::run as on_private_memory;

use metal::println;

use crate::memory::Kernel;

/// Runs hostile TDs, and one that takes interrupts.
pub fn in_td(kernel: &mut Kernel<'_>) {
    let mut pages = td::pages(kernel);
    td::run(&mut pages);
    td_interrupts::run(&mut pages);
}

/// Makes all attempts that need no private memory.
pub fn run() {
    seamcalls::outside_vmx_operation();
    memory::hypervisor_reads_as_ones();
    seamcalls::with_hypervisor_operands();
    memory::hypervisor_reads_as_ones();
    seamcalls::random();
    registers::svm_instructions();
    memory::beyond_the_map();
    key_ids::raise_page_faults();
    rights::of_direct_stores();
    interrupts::store_across_apic_command();
    registers::reserved_cr4_bits();
    registers::apic_base();
    registers::debug_console();
    memory::across_hypervisor_border();
    paging::exit_without_pae();
    memory::hypervisor_reads_as_ones();
    let nmis = interrupts::storms();
    println!("@ {{\"event\":\"hostile\",\"calls\":{},\"nmis\":{nmis}}}", seamcalls::CALLS);
}
