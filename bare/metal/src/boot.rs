//! Boot entry: from QEMU's PVH entry (32 bits, no paging) or from another kernel's jump (long mode,
//! identity map) to Rust, and the loader's start info. It is copied at once, because the loader's
//! memory is not reserved.

use core::arch::global_asm;
use core::ptr::with_exposed_provenance;
use core::str;

global_asm!(
    r#"
    .pushsection .note.pvh, "a", @note
    .balign 4
    .long 4, 4, 18              # owner "Xen", XEN_ELFNOTE_PHYS32_ENTRY
    .asciz "Xen"
    .long pvh_entry
    .popsection

    .pushsection .data.boot, "aw", @progbits
    .balign 4096
    .globl boot_pml4
boot_pml4:
    .quad boot_pdpt + 3
    .fill 511, 8, 0
boot_pdpt:                      # 512 GiB, present, writable, 1 GiB pages
    .set gib, 0
    .rept 512
    .quad (gib << 30) | 0x83
    .set gib, gib + 1
    .endr
    .balign 16
boot_gdt:
    .quad 0
    .quad 0x00af9b000000ffff    # 0x08: 64-bit code
    .quad 0x00cf93000000ffff    # 0x10: data
    .quad 0x00cf9b000000ffff    # 0x18: 32-bit code
boot_gdt_end:
    .globl boot_gdt_pointer
boot_gdt_pointer:
    .word boot_gdt_end - boot_gdt - 1
    .quad boot_gdt
    .popsection

    .pushsection .bss.boot, "aw", @nobits
    .balign 4096
boot_stack:
    .skip 0x20000
boot_stack_end:
    .popsection

    .pushsection .text.boot, "ax", @progbits
    .code32
pvh_entry:
    cli
    cld
    mov edi, ebx
    mov esp, offset boot_stack_end
    mov eax, cr4
    or eax, 0x20                # PAE
    mov cr4, eax
    mov eax, offset boot_pml4
    mov cr3, eax
    mov ecx, 0xc0000080
    rdmsr
    or eax, 0x900               # LME, NXE
    wrmsr
    mov eax, cr0
    or eax, 0x80000001
    mov cr0, eax
    lgdt [boot_gdt_pointer]
    push 0x08
    mov eax, offset entry_64
    push eax
    retf

    .code64
    .globl entry_64
entry_64:                       # edi: start info, below 4 GiB
    cli
    cld
    mov edi, edi
    lea rsp, [rip + boot_stack_end]
    mov rax, offset boot_pml4
    mov cr3, rax
    lgdt [rip + boot_gdt_pointer]
    push 0x08
    lea rax, [rip + 2f]
    push rax
    retfq
2:  mov esi, edi
    call processor_setup
    mov edi, esi
    xor ebp, ebp
    call metal_entry
    ud2

    .globl processor_setup
processor_setup:                # segments, SSE, no-execute; for every CPU. Keeps rsi and rdi.
    mov eax, 0x10
    mov ds, eax
    mov es, eax
    mov ss, eax
    xor eax, eax
    mov fs, eax
    mov gs, eax
    mov ecx, 0xc0000080
    rdmsr
    or eax, 0x800
    wrmsr
    mov rax, cr0
    and rax, ~0xc               # EM, TS
    or rax, 0x10022             # WP, NE, MP
    mov cr0, rax
    mov rax, cr4
    or rax, 0x600               # OSFXSR, OSXMMEXCPT
    mov cr4, rax
    ret
    .popsection
"#
);

/// Magic number of the start info.
pub const MAGIC: u32 = 0x336e_c578;

/// `hvm_start_info`, version 1.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct StartInfo {
    /// [`MAGIC`].
    pub magic: u32,
    /// 1: there is a memory map.
    pub version: u32,
    /// 0.
    pub flags: u32,
    /// Number of modules.
    pub module_count: u32,
    /// Address of the array of [`Module`].
    pub modules: u64,
    /// Address of the command line, zero-terminated; 0 if there is none.
    pub command_line: u64,
    /// Address of the ACPI RSDP.
    pub rsdp: u64,
    /// Address of the array of [`MapEntry`].
    pub memory_map: u64,
    /// Number of its entries.
    pub memory_map_entries: u32,
    /// 0.
    pub reserved: u32,
}

/// A file that the loader has loaded.
#[derive(Clone, Copy, Debug, Default)]
#[repr(C)]
pub struct Module {
    /// Physical address.
    pub address: u64,
    /// Size in bytes.
    pub size: u64,
    /// Address of its command line.
    pub command_line: u64,
    /// 0.
    pub reserved: u64,
}

/// A range of the memory map. Types as in e820: 1 is usable.
#[derive(Clone, Copy, Debug, Default)]
#[repr(C)]
pub struct MapEntry {
    /// Physical address.
    pub address: u64,
    /// Size in bytes.
    pub size: u64,
    /// Type, as in e820.
    pub kind: u32,
    /// 0.
    pub reserved: u32,
}

/// e820 type: RAM.
pub const USABLE: u32 = 1;
/// e820 type: reserved.
pub const RESERVED: u32 = 2;

const MAX_MAP: usize = 64;
const MAX_COMMAND_LINE: usize = 1024;

/// A copy of the loader's start info.
#[derive(Clone, Debug)]
pub struct Boot {
    map: [MapEntry; MAX_MAP],
    map_len: usize,
    command_line: [u8; MAX_COMMAND_LINE],
    command_line_len: usize,
    /// The first module, if there is one.
    pub module: Option<Module>,
    /// Address of the ACPI RSDP.
    pub rsdp: u64,
}

impl Boot {
    /// The memory map, in the order of the loader.
    pub fn map(&self) -> &[MapEntry] {
        &self.map[..self.map_len]
    }

    /// The command line, up to the first byte that is not UTF-8.
    pub fn command_line(&self) -> &str {
        let bytes = &self.command_line[..self.command_line_len];
        str::from_utf8(bytes).unwrap_or_else(|error| str::from_utf8(&bytes[..error.valid_up_to()]).unwrap_or(""))
    }

    /// The value of `name=value` on the command line, or "" for a bare `name`.
    pub fn option(&self, name: &str) -> Option<&str> {
        self.command_line().split_ascii_whitespace().find_map(|word| match word.split_once('=') {
            Some((key, value)) if key == name => Some(value),
            None if word == name => Some(""),
            _ => None,
        })
    }

    /// # Safety
    /// `start` is the address of a start info with all that it points to, mapped one to one.
    unsafe fn read(start: u64) -> Option<Self> {
        let mut boot = Self {
            map: [MapEntry::default(); MAX_MAP],
            map_len: 0,
            command_line: [0; MAX_COMMAND_LINE],
            command_line_len: 0,
            module: None,
            rsdp: 0,
        };
        // SAFETY: promised by the caller; the structures are integers, for which every value is
        // valid.
        unsafe {
            let info = with_exposed_provenance::<StartInfo>(start as usize).read_unaligned();
            if info.magic != MAGIC {
                return None;
            }
            boot.rsdp = info.rsdp;
            let map = with_exposed_provenance::<MapEntry>(info.memory_map as usize);
            boot.map_len = MAX_MAP.min(info.memory_map_entries as usize);
            for (index, entry) in boot.map[..boot.map_len].iter_mut().enumerate() {
                *entry = map.add(index).read_unaligned();
            }
            if info.module_count > 0 {
                boot.module = Some(with_exposed_provenance::<Module>(info.modules as usize).read_unaligned());
            }
            if info.command_line != 0 {
                let text = with_exposed_provenance::<u8>(info.command_line as usize);
                while boot.command_line_len < MAX_COMMAND_LINE {
                    let byte = text.add(boot.command_line_len).read();
                    if byte == 0 {
                        break;
                    }
                    boot.command_line[boot.command_line_len] = byte;
                    boot.command_line_len += 1;
                }
            }
        }
        Some(boot)
    }
}

/// Address range `[start, end)` of this program's image, with its stacks.
pub fn image() -> (u64, u64) {
    unsafe extern "C" {
        static image_start: [u8; 0];
        static image_end: [u8; 0];
    }
    ((&raw const image_start).addr() as u64, (&raw const image_end).addr() as u64)
}

unsafe extern "Rust" {
    /// Main function of the program, on the boot CPU, with interrupts disabled.
    safe fn kernel_main(boot: &Boot) -> !;
}

#[unsafe(no_mangle)]
extern "C" fn metal_entry(start: u64) -> ! {
    crate::interrupts::load(0);
    crate::clock::init();
    // SAFETY: the loader passes the address of its start info, by the PVH boot protocol; the kexec
    // of firstkernel does the same.
    match unsafe { Boot::read(start) } {
        Some(boot) => kernel_main(&boot),
        None => panic!("no PVH start info at {start:#x}"),
    }
}
