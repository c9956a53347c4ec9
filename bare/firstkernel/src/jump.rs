//! Jump into the next kernel: a relocated page of code switches to its own page tables, copies the
//! image to its load address, and enters it.

use core::arch::global_asm;
use core::ptr::{with_exposed_provenance, with_exposed_provenance_mut};
use metal::boot_data::BootArea;
use metal::image::{Image, MAX_SEGMENTS, Segment};
use tdx_abi::{PAGE_SIZE, PageRange};

use crate::memory::Kernel;

global_asm!(
    r#"
    .pushsection .text.jump, "ax", @progbits
    .globl jump_start
jump_start:                     # rdi: parameters
    cli
    cld
    mov rbx, rdi
    mov rsp, [rbx + 8]
    mov rax, [rbx]
    mov cr3, rax
    mov r8, [rbx + 32]
    lea r9, [rbx + 40]
1:  test r8, r8
    je 2f
    mov rdi, [r9]
    mov rsi, [r9 + 8]
    mov rcx, [r9 + 16]
    mov rdx, [r9 + 24]
    sub rdx, rcx
    rep movsb
    mov rcx, rdx
    xor eax, eax
    rep stosb
    add r9, 32
    dec r8
    jmp 1b
2:  mov rax, [rbx + 16]
    mov rdi, [rbx + 24]
    mov rsi, rdi
    xor ebp, ebp
    xor ebx, ebx
    jmp rax
    .globl jump_end
jump_end:
    .popsection
"#
);

unsafe extern "C" {
    static jump_start: [u8; 0];
    static jump_end: [u8; 0];
}

#[repr(C)]
struct Parameters {
    page_tables: u64,
    stack: u64,
    entry: u64,
    argument: u64,
    count: u64,
    segments: [Segment; MAX_SEGMENTS],
}

/// Control pages: code, parameters and stack, page tables. Allocated before the handover.
pub struct ControlPages {
    code: PageRange,
    page_tables: u64,
}

const PAGES: u64 = 4;

impl ControlPages {
    /// Allocates and fills them. The page tables map the first 512 GiB one to one and writable.
    /// `None` if there is no memory.
    pub fn new(kernel: &mut Kernel<'_>) -> Option<Self> {
        let range = kernel.pages(PAGES * PAGE_SIZE)?;
        let (base, end) = (range.base().get(), range.limit().get());
        // SAFETY: four zeroed pages that were just allocated. The code is shorter than the first;
        // parameters and stack are in the second; the rest is for the page tables.
        unsafe {
            let (from, until) = (&raw const jump_start, &raw const jump_end);
            with_exposed_provenance_mut::<u8>(base as usize)
                .copy_from_nonoverlapping(from.cast(), until.addr() - from.addr());
            let page_tables = BootArea::new(base + 2 * PAGE_SIZE..end).identity_map().ok()?;
            Some(Self { code: range, page_tables })
        }
    }

    /// Jumps into the image. Overwrites this kernel.
    ///
    /// # Safety
    /// All other CPUs are stopped, interrupts are disabled, and everything that the image needs is
    /// in its segments or outside their load addresses.
    pub unsafe fn jump(self, image: &Image, argument: u64) -> ! {
        let base = self.code.base().get();
        let mut segments = [Segment::default(); MAX_SEGMENTS];
        segments[..image.segments().len()].copy_from_slice(image.segments());
        let parameters = Parameters {
            page_tables: self.page_tables,
            stack: base + 2 * PAGE_SIZE,
            entry: image.entry,
            argument,
            count: image.segments().len() as u64,
            segments,
        };
        let place = base + PAGE_SIZE;
        // SAFETY: the second control page belongs to this kernel. The code takes the address of the
        // parameters and does not return; the caller promises the rest.
        unsafe {
            with_exposed_provenance_mut::<Parameters>(place as usize).write(parameters);
            let code: extern "sysv64" fn(u64) -> ! = core::mem::transmute(with_exposed_provenance::<u8>(base as usize));
            code(place)
        }
    }
}
