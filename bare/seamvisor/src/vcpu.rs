//! One virtual CPU on its real one: enter, leave, find out why, go on. What is done about each
//! reason is in the files named for it.

use alloc::boxed::Box;
use arrayvec::ArrayVec;
use core::arch::asm;
use core::sync::atomic::{AtomicU64, Ordering};
use metal::lapic::{self, Ipi};
use metal::registers::{rdmsr, wrmsr};

use crate::guest_memory;
use crate::nested::{DETOUR_PAGES, Detour};
use crate::vmcb::{self, Segment, Vmcb, exit};
use crate::world_switch::{self, GuestRegisters};
use crate::{control_registers, cpuid, invalid_opcode, io, kick, msr, page_fault, summary, tdx};

/// A page and the frame that stands for it.
pub type Shown = ArrayVec<(u64, u64), DETOUR_PAGES>;

/// What goes on with pages in sight that are otherwise not.
enum Step {
    /// One instruction runs alone. TF and IF, and DR6, as the guest has them.
    Instruction { flags: u64, dr6: u64 },
    /// An event arrives; the pages stay until the guest leaves again.
    Delivery,
    /// An IRET runs alone, and an NMI waits for it. It loads TF and IF itself.
    Return,
}

const TRAP: u64 = 1 << 8;
const INTERRUPTS: u64 = 1 << 9;

/// A virtual CPU.
pub struct Vcpu {
    /// Its number, and that of the CPU it runs on.
    pub number: usize,
    /// Its VMCB.
    pub vmcb: Box<Vmcb>,
    host: Box<Vmcb>,
    /// Its other registers.
    pub registers: Box<GuestRegisters>,
    /// CR4.VMXE as the guest sees it: the real one must stay 0.
    pub vmxe: bool,
    detour: Detour,
    step: Option<Step>,
    /// What the last step showed, and where it was: an instruction that needs more pages gets them
    /// one fault at a time.
    shown: (u64, Shown),
    root: u64,
    /// The guest handles an NMI; the next one waits for its IRET.
    in_nmi: bool,
    /// Where that IRET is, from when it is reached until it has run.
    nmi_return: Option<u64>,
    /// A frame that stands for memory which is not there.
    pub nothing: u64,
}

const EFER: u32 = 0xc000_0080;
const EFER_SVME: u64 = 1 << 12;
const VM_HSAVE_PA: u32 = 0xc001_0117;

/// Exits by code, up to 0x40f; the last counts all others.
pub static EXITS: [AtomicU64; EXIT_CODES + 1] = [const { AtomicU64::new(0) }; EXIT_CODES + 1];
const EXIT_CODES: usize = 0x410;

fn zeroed_page() -> Box<Vmcb> {
    // SAFETY: a VMCB is numbers; zero is legal for all of them.
    unsafe { Box::<Vmcb>::new_zeroed().assume_init() }
}

fn address(page: &Vmcb) -> u64 {
    core::ptr::from_ref(page).expose_provenance() as u64
}

/// What other CPUs of the guest have sent, as it stands before an entry.
enum Mail {
    /// Nothing that could be answered.
    None,
    /// It can be answered at once.
    Now,
    /// An event is injected before.
    AfterTheEvent,
}

impl Vcpu {
    /// On this CPU, which gets SVM switched on for good.
    pub fn new(number: usize) -> Self {
        let save = Box::leak(zeroed_page());
        let root = tdx::lock().map().root();
        // SAFETY: the CPU has SVM, which `main` has checked; the save area is a page of its own,
        // for ever. With GIF 0 nothing interrupts this program any more, but in `open_the_window`.
        unsafe {
            wrmsr(EFER, rdmsr(EFER) | EFER_SVME);
            wrmsr(VM_HSAVE_PA, address(save));
            asm!("clgi", options(nostack, nomem));
        }
        let mut vmcb = zeroed_page();
        vmcb.intercept_cr = vmcb::INTERCEPT_CR4_READ | vmcb::INTERCEPT_CR4_WRITE;
        vmcb.intercept_exceptions = 1 << metal::interrupts::INVALID_OPCODE;
        vmcb.intercept_1 = vmcb::INTERCEPT_1;
        vmcb.intercept_2 = vmcb::INTERCEPT_2;
        vmcb.io_permissions = io::permissions();
        vmcb.msr_permissions = msr::permissions();
        vmcb.asid = 1;
        vmcb.nested_paging = 1;
        vmcb.nested_cr3 = root;
        vmcb.efer = EFER_SVME;
        vmcb.pat = 0x0007_0406_0007_0406;
        vmcb.dr6 = 0xffff_0ff0;
        vmcb.dr7 = 0x400;
        vmcb.rflags = 2;
        Self {
            number,
            vmcb,
            host: zeroed_page(),
            registers: Box::default(),
            vmxe: false,
            detour: Detour::new(),
            step: None,
            shown: (0, Shown::new()),
            root,
            in_nmi: false,
            nmi_return: None,
            nothing: address(Box::leak(zeroed_page())),
        }
    }

    /// Runs for ever.
    pub fn run(mut self, starts_running: bool) -> ! {
        if !starts_running {
            self.wait_for_startup();
        }
        loop {
            self.answer_mail();
            if self.enter() {
                self.leave();
            }
        }
    }

    /// False if there was mail that came after the last look: whoever sent it saw this CPU outside
    /// its guest, and sent no kick.
    fn enter(&mut self) -> bool {
        kick::enters(self.number);
        match self.mail() {
            Mail::Now => {
                kick::has_left(self.number);
                return false;
            }
            // The event that is injected comes first; then this ends the entry.
            Mail::AfterTheEvent => lapic::send(self.number as u32, Ipi::Nmi),
            Mail::None => {}
        }
        // SAFETY: `new` has switched SVM on; the VMCB is this CPU's own, its nested tables show
        // nothing of this program.
        unsafe { world_switch::run(&raw mut *self.registers, &raw mut *self.vmcb, &raw mut *self.host) };
        kick::has_left(self.number);
        true
    }

    /// What [`Self::answer_mail`] would find now.
    fn mail(&self) -> Mail {
        let mailbox = kick::mailbox(self.number);
        if mailbox.init.load(Ordering::SeqCst) && !tdx::lock().in_vmx_operation(self.number) {
            return Mail::Now;
        }
        // A step, and a handler of NMIs, end by themselves.
        if self.in_nmi || self.step.is_some() || !mailbox.nmi.load(Ordering::SeqCst) {
            return Mail::None;
        }
        if self.vmcb.inject == 0 { Mail::Now } else { Mail::AfterTheEvent }
    }

    fn leave(&mut self) {
        // Seen in QEMU 7.2 with several CPUs under load, and not explained: where the guest's state
        // should be stands this program's own, as if one exit had been made twice. The guest cannot
        // be gone on with.
        if crate::is_hidden(self.vmcb.rip >> 12) && crate::is_hidden(self.vmcb.cr3 >> 12) {
            summary::end(summary::EMULATOR_FAULT, metal::exit::PANIC);
        }
        let code = self.vmcb.exit_code;
        EXITS[(code as usize).min(EXIT_CODES)].fetch_add(1, Ordering::Relaxed);
        // An event that was on its way goes on at the next entry, unless something else comes
        // first.
        self.vmcb.inject = if vmcb::is_event(self.vmcb.exit_interrupt) { self.vmcb.exit_interrupt } else { 0 };
        if self.step.is_some() {
            if code == exit::NMI && !matches!(self.step, Some(Step::Delivery)) {
                open_the_window();
                return;
            }
            let guest_traps = self.finish_step();
            if (exit::EXCEPTION..=exit::EXCEPTION_LAST).contains(&code) {
                self.exception_in_step((code - exit::EXCEPTION) as u8, guest_traps);
                return;
            }
        } else {
            self.shown.1.clear();
        }
        match code {
            exit::NMI => open_the_window(),
            exit::CPUID => cpuid::answer(self),
            exit::MSR => msr::answer(self),
            exit::CR4_READ | exit::CR4_WRITE => control_registers::answer(self),
            exit::IOIO => io::answer(self),
            exit::WBINVD | vmcb::INVD => {
                tdx::lock().write_back(self.number);
                self.skip(2);
            }
            exit::NESTED_PAGE_FAULT => page_fault::answer(self),
            c if c == exit::EXCEPTION + u64::from(metal::interrupts::INVALID_OPCODE) => invalid_opcode::answer(self),
            exit::VMRUN..=exit::SKINIT | vmcb::INVLPGA => self.inject_exception(metal::interrupts::INVALID_OPCODE),
            vmcb::IRET => {
                self.in_nmi = false;
                self.nmi_return = Some(self.vmcb.rip);
                self.vmcb.intercept_1 &= !vmcb::INTERCEPT_IRET;
            }
            exit::SHUTDOWN => summary::end("shutdown", metal::exit::PANIC),
            exit::INVALID => panic!("the guest's state is not valid: {:#x?}", self.state()),
            other => panic!("exit {other:#x} was not asked for: {:#x?}", self.state()),
        }
    }

    /// RIP, CR0, CR3, CR4, EFER, for messages.
    fn state(&self) -> [u64; 5] {
        [self.vmcb.rip, self.vmcb.cr0, self.vmcb.cr3, self.vmcb.cr4, self.vmcb.efer]
    }

    /// The instruction is done: on to the next.
    pub fn skip(&mut self, bytes: u64) {
        self.vmcb.rip = self.vmcb.rip.wrapping_add(bytes);
        if guest_memory::bitness(&self.vmcb) != 64 {
            self.vmcb.rip &= 0xffff_ffff;
        }
        self.vmcb.interrupt_shadow = 0;
    }

    /// An exception without error code, at the current instruction.
    pub fn inject_exception(&mut self, vector: u8) {
        self.vmcb.inject = vmcb::exception(vector);
    }

    /// #GP(0) at the current instruction.
    pub fn inject_general_protection(&mut self) {
        self.vmcb.inject = vmcb::exception_with_code(metal::interrupts::GENERAL_PROTECTION, 0);
    }

    /// The pages of a step that this same instruction was in the middle of.
    pub fn shown_before(&self) -> Shown {
        if self.shown.0 == self.vmcb.rip { self.shown.1.clone() } else { Shown::new() }
    }

    /// Lets the current instruction run alone, with these pages shown. Interrupts wait, and
    /// exceptions come here first.
    pub fn step_with(&mut self, shown: Shown) {
        self.step = Some(Step::Instruction { flags: self.vmcb.rflags & (TRAP | INTERRUPTS), dr6: self.vmcb.dr6 });
        self.vmcb.rflags = self.vmcb.rflags & !INTERRUPTS | TRAP;
        self.detour(shown);
    }

    /// Lets an event that is on its way arrive, with these pages shown for it.
    pub fn deliver_with(&mut self, shown: Shown) {
        self.step = Some(Step::Delivery);
        self.detour(shown);
        // Right after the event the pages are to go again.
        lapic::send(self.number as u32, Ipi::Nmi);
    }

    fn detour(&mut self, shown: Shown) {
        self.vmcb.nested_cr3 = self.detour.show(tdx::lock().map(), &shown);
        self.vmcb.intercept_exceptions = u32::MAX;
        self.shown = (self.vmcb.rip, shown);
    }

    /// Back to the common map. True if the guest had TF set itself.
    fn finish_step(&mut self) -> bool {
        self.vmcb.intercept_exceptions = 1 << metal::interrupts::INVALID_OPCODE;
        self.vmcb.nested_cr3 = self.root;
        match self.step.take() {
            Some(Step::Instruction { flags, dr6 }) => {
                self.vmcb.rflags = self.vmcb.rflags & !(TRAP | INTERRUPTS) | flags;
                self.vmcb.dr6 = dr6;
                flags & TRAP != 0
            }
            Some(Step::Return) => {
                if self.nmi_return == Some(self.vmcb.rip) {
                    // It has not run: TF is ours.
                    self.vmcb.rflags &= !TRAP;
                } else {
                    self.nmi_return = None;
                }
                false
            }
            Some(Step::Delivery) | None => self.vmcb.rflags & TRAP != 0,
        }
    }

    /// Nothing is there: all bytes are ones.
    pub fn forget_nothing(&mut self) {
        let page = core::ptr::with_exposed_provenance_mut::<u8>(self.nothing as usize);
        // SAFETY: a page of this program that only this CPU's guest sees, and only while it runs.
        unsafe { page.write_bytes(0xff, 4096) };
    }

    /// Nothing is there but one word.
    pub fn nothing_but(&mut self, offset: u64, word: u32) {
        let page = core::ptr::with_exposed_provenance_mut::<u32>(self.nothing as usize);
        // SAFETY: as above; the word is aligned and ends in the page.
        unsafe { page.add(offset as usize % 4096 / 4).write(word) };
    }

    /// #DB says that the step is done; anything else is the guest's own.
    fn exception_in_step(&mut self, vector: u8, guest_traps: bool) {
        const DEBUG: u8 = 1;
        const PAGE_FAULT: u8 = 14;
        const WITH_CODE: u32 = 1 << 8 | 0b1_1111 << 10 | 1 << 17 | 1 << 21;
        match vector {
            DEBUG if !guest_traps => {}
            metal::interrupts::INVALID_OPCODE => invalid_opcode::answer(self),
            _ => {
                if vector == PAGE_FAULT {
                    self.vmcb.cr2 = self.vmcb.exit_info_2;
                }
                self.vmcb.inject = if WITH_CODE >> vector & 1 == 1 {
                    vmcb::exception_with_code(vector, self.vmcb.exit_info_1 as u32)
                } else {
                    vmcb::exception(vector)
                };
            }
        }
    }

    /// What other CPUs of the guest have sent.
    fn answer_mail(&mut self) {
        let mailbox = kick::mailbox(self.number);
        // INIT waits as long as the CPU is in VMX operation, as on real hardware.
        if mailbox.init.load(Ordering::SeqCst) && !tdx::lock().in_vmx_operation(self.number) {
            self.wait_for_startup();
        }
        if self.vmcb.inject != 0 || self.in_nmi || self.step.is_some() || !mailbox.nmi.load(Ordering::SeqCst) {
            return;
        }
        if self.nmi_return == Some(self.vmcb.rip) {
            // One handler must not come on top of the other: first the IRET, alone.
            self.vmcb.rflags |= TRAP;
            self.vmcb.intercept_exceptions = u32::MAX;
            self.step = Some(Step::Return);
        } else {
            mailbox.nmi.store(false, Ordering::SeqCst);
            self.nmi_return = None;
            self.in_nmi = true;
            self.vmcb.intercept_1 |= vmcb::INTERCEPT_IRET;
            self.vmcb.inject = vmcb::NMI;
        }
    }

    fn wait_for_startup(&mut self) {
        let mailbox = kick::mailbox(self.number);
        mailbox.init.store(false, Ordering::SeqCst);
        self.finish_step();
        let page = loop {
            match mailbox.startup.swap(0, Ordering::SeqCst) {
                0 => kick::sleep(self.number),
                page => break page & 0xff,
            }
        };
        mailbox.init.store(false, Ordering::SeqCst);
        self.reset(page);
    }

    /// Real mode, at the page that SIPI named.
    fn reset(&mut self, page: u64) {
        let vmcb = &mut self.vmcb;
        let data = Segment { selector: 0, attributes: 0x93, limit: 0xffff, base: 0 };
        (vmcb.es, vmcb.ss, vmcb.ds, vmcb.fs, vmcb.gs) = (data, data, data, data, data);
        vmcb.cs = Segment { selector: (page << 8) as u16, attributes: 0x9b, limit: 0xffff, base: page << 12 };
        vmcb.gdtr = Segment { limit: 0xffff, ..Segment::default() };
        vmcb.idtr = vmcb.gdtr;
        vmcb.ldtr = Segment { attributes: 0x82, limit: 0xffff, ..Segment::default() };
        vmcb.tr = Segment { attributes: 0x8b, limit: 0xffff, ..Segment::default() };
        (vmcb.cr0, vmcb.cr3, vmcb.cr4, vmcb.cr2) = (0x10, 0, 0, 0);
        (vmcb.efer, vmcb.rflags, vmcb.rip, vmcb.rsp, vmcb.rax) = (EFER_SVME, 2, 0, 0, 0);
        (vmcb.dr6, vmcb.dr7, vmcb.cpl, vmcb.inject, vmcb.interrupt_shadow) = (0xffff_0ff0, 0x400, 0, 0, 0);
        *self.registers = GuestRegisters::default();
        self.vmxe = false;
        (self.in_nmi, self.nmi_return) = (false, None);
        self.vmcb.intercept_1 &= !vmcb::INTERCEPT_IRET;
    }

    /// Long mode at `entry` with identity page tables at `page_tables`, `argument` in RDI and RSI:
    /// what our own kernels and the 64-bit boot protocol of Linux expect.
    pub fn start_in_long_mode(&mut self, entry: u64, argument: u64, page_tables: u64) {
        self.reset(0);
        let vmcb = &mut self.vmcb;
        let data = Segment { selector: 0x18, attributes: 0xc93, limit: u32::MAX, base: 0 };
        (vmcb.es, vmcb.ss, vmcb.ds, vmcb.fs, vmcb.gs) = (data, data, data, data, data);
        vmcb.cs = Segment { selector: 0x10, attributes: 0xa9b, limit: u32::MAX, base: 0 };
        vmcb.cr0 = 0x8000_0031;
        vmcb.cr3 = page_tables;
        vmcb.cr4 = 0x20;
        vmcb.efer = EFER_SVME | 0x500;
        vmcb.rip = entry;
        self.registers.rdi = argument;
        self.registers.rsi = argument;
    }
}

/// Lets a pending NMI, which is a kick, arrive and vanish: it would end each VMRUN at once.
fn open_the_window() {
    // SAFETY: with GIF 1 an NMI is taken on a stack of its own by a handler that does nothing;
    // interrupts stay off.
    unsafe { asm!("stgi", "nop", "clgi", options(nostack)) }
}
