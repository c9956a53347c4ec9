//! Virtual APIC of a TD's virtual CPU, as VMX virtualizes it without exits: virtual-interrupt
//! delivery, APIC-register virtualization, x2APIC mode (SDM volume 3, "APIC virtualization and
//! virtual interrupts").
//!
//! RVI and SVI of the SDM are the highest bits of IRR and ISR here: no instruction makes them
//! differ.

/// Offset of the first MSR of the x2APIC.
pub const FIRST_MSR: u32 = 0x800;
/// Last MSR of the range that VMX virtualizes.
pub const LAST_MSR: u32 = 0x8ff;

const TPR: u32 = 0x808;
const PPR: u32 = 0x80a;
const EOI: u32 = 0x80b;
const ISR: u32 = 0x810;
const TMR: u32 = 0x818;
const IRR: u32 = 0x820;
const SELF_IPI: u32 = 0x83f;
/// Registers of 32 bits in a set of 256 vectors.
const WORDS: u32 = 8;
/// Vectors below it are reserved.
const FIRST_VECTOR: u8 = 16;
/// Page offset of the self-IPI register, in the qualification of an APIC-write exit.
const SELF_IPI_OFFSET: u64 = 0x3f0;

/// A bit for each vector.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
struct Vectors([u64; 4]);

impl Vectors {
    fn highest(self) -> Option<u8> {
        let (index, word) = self.0.iter().enumerate().rfind(|(_, word)| **word != 0)?;
        Some((64 * index as u32 + 63 - word.leading_zeros()) as u8)
    }

    fn insert(&mut self, vector: u8) {
        self.0[usize::from(vector / 64)] |= 1 << (vector % 64);
    }

    fn remove(&mut self, vector: u8) {
        self.0[usize::from(vector / 64)] &= !(1 << (vector % 64));
    }

    /// The 32 vectors of a register.
    fn word(self, index: u32) -> u64 {
        self.0[index as usize / 2 % 4] >> (32 * (index % 2)) & 0xffff_ffff
    }
}

/// What WRMSR of an x2APIC register comes to.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Write {
    /// Done without an exit.
    Done,
    /// #GP.
    GeneralProtection,
    /// Done, and an APIC-write exit with this qualification.
    Exit(u64),
    /// Not virtualized.
    Other,
}

/// A virtual APIC. Its initial state is that of a page of zeros.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct VirtualApic {
    tpr: u8,
    requested: Vectors,
    in_service: Vectors,
}

const fn class(priority: u8) -> u8 {
    priority & 0xf0
}

impl VirtualApic {
    /// Processor priority.
    pub fn priority(&self) -> u8 {
        let serviced = class(self.in_service.highest().unwrap_or(0));
        if class(self.tpr) >= serviced { self.tpr } else { serviced }
    }

    /// The pending virtual interrupt: requested, and of a higher class than the processor's
    /// priority. Whether the guest is interruptible is not looked at.
    pub fn pending(&self) -> Option<u8> {
        self.requested.highest().filter(|vector| class(*vector) > class(self.priority()))
    }

    /// Delivers the pending interrupt: it is in service.
    pub fn accept(&mut self) -> Option<u8> {
        let vector = self.pending()?;
        self.requested.remove(vector);
        self.in_service.insert(vector);
        Some(vector)
    }

    /// Adds the requests of a posted-interrupt descriptor.
    pub fn post(&mut self, requests: [u64; 4]) {
        for (word, new) in self.requested.0.iter_mut().zip(requests) {
            *word |= new;
        }
    }

    /// Bits 7:4 of the task priority, as MOV from CR8 reads them.
    pub fn cr8(&self) -> u8 {
        self.tpr >> 4
    }

    /// MOV to CR8.
    pub fn set_cr8(&mut self, value: u8) {
        self.tpr = value << 4;
    }

    /// RDMSR of an x2APIC register. `None`: not virtualized. What is not virtualized is what KVM
    /// of Linux 7.3 emulates for a TD (`tdx_has_emulated_msr`).
    pub fn read(&self, msr: u32) -> Option<u64> {
        Some(match msr {
            TPR => self.tpr.into(),
            PPR => self.priority().into(),
            // Write-only; the page holds 0.
            EOI | SELF_IPI => 0,
            _ if (ISR..ISR + WORDS).contains(&msr) => self.in_service.word(msr - ISR),
            // No interrupt is level-triggered.
            _ if (TMR..TMR + WORDS).contains(&msr) => 0,
            _ if (IRR..IRR + WORDS).contains(&msr) => self.requested.word(msr - IRR),
            _ => return None,
        })
    }

    /// WRMSR of an x2APIC register.
    pub fn write(&mut self, msr: u32, value: u64) -> Write {
        match (msr, u8::try_from(value)) {
            (TPR, Ok(value)) => self.tpr = value,
            (EOI, Ok(0)) => {
                if let Some(vector) = self.in_service.highest() {
                    self.in_service.remove(vector);
                }
            }
            (SELF_IPI, Ok(vector)) if vector < FIRST_VECTOR => return Write::Exit(SELF_IPI_OFFSET),
            (SELF_IPI, Ok(vector)) => self.requested.insert(vector),
            (TPR | EOI | SELF_IPI, _) => return Write::GeneralProtection,
            _ => return Write::Other,
        }
        Write::Done
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn posted(vectors: &[u8]) -> VirtualApic {
        let mut apic = VirtualApic::default();
        let mut requests = Vectors::default();
        vectors.iter().for_each(|vector| requests.insert(*vector));
        apic.post(requests.0);
        apic
    }

    #[test]
    fn higher_classes_interrupt_handlers_of_lower_ones() {
        let mut apic = posted(&[0x41, 0x4f, 0x51]);
        assert_eq!(apic.accept(), Some(0x51));
        assert_eq!((apic.pending(), apic.priority()), (None, 0x50), "of a lower class");
        assert_eq!(apic.write(EOI, 0), Write::Done);
        assert_eq!(apic.accept(), Some(0x4f));
        assert_eq!(apic.pending(), None, "0x41 is of the same class");
        apic.post(posted(&[0xff]).requested.0);
        assert_eq!(apic.accept(), Some(0xff));
        for (priority, pending) in [(0x40, None), (0, Some(0x41))] {
            apic.write(EOI, 0);
            assert_eq!((apic.priority(), apic.pending()), (priority, pending));
        }
        assert_eq!(apic.accept(), Some(0x41));
    }

    #[test]
    fn a_request_that_waits_is_one() {
        let mut apic = posted(&[0x41]);
        apic.post(posted(&[0x41]).requested.0);
        assert_eq!((apic.accept(), apic.write(EOI, 0), apic.accept()), (Some(0x41), Write::Done, None));
        assert_eq!((apic.write(EOI, 0), apic), (Write::Done, VirtualApic::default()), "nothing in service");
    }

    #[test]
    fn the_task_priority_holds_back() {
        let mut apic = posted(&[0x42]);
        for (tpr, pending) in [(0x40, None), (0x4f, None), (0x3f, Some(0x42)), (0xff, None)] {
            assert_eq!(apic.write(TPR, tpr), Write::Done);
            assert_eq!((apic.pending(), apic.read(PPR), apic.read(TPR)), (pending, Some(tpr), Some(tpr)), "{tpr:#x}");
        }
        apic.set_cr8(3);
        assert_eq!((apic.read(TPR), apic.cr8(), apic.accept()), (Some(0x30), 3, Some(0x42)));
        assert_eq!(apic.read(PPR), Some(0x40), "that of the interrupt in service");
    }

    #[test]
    fn registers_of_an_x2apic() {
        let mut apic = posted(&[0x41, 0xc3]);
        assert_eq!((apic.read(IRR + 2), apic.read(IRR + 6)), (Some(1 << 1), Some(1 << 3)));
        apic.accept();
        assert_eq!((apic.read(ISR + 6), apic.read(IRR + 6), apic.read(IRR + 2)), (Some(1 << 3), Some(0), Some(1 << 1)));
        assert_eq!((apic.read(TMR + 7), apic.read(EOI)), (Some(0), Some(0)));
        // ID, version, SVR, ICR, LVT and timer are KVM's; those that only read are, too.
        for msr in [0x802, 0x803, 0x80d, 0x80f, 0x828, 0x830, 0x832, 0x838, 0x839, 0x840, 0x8ff] {
            assert_eq!((apic.read(msr), apic.write(msr, 1)), (None, Write::Other), "{msr:#x}");
        }
        for msr in [PPR, ISR, TMR + 7, IRR] {
            assert_eq!(apic.write(msr, 0), Write::Other);
        }
    }

    #[test]
    fn an_interrupt_to_itself() {
        let mut apic = VirtualApic::default();
        assert_eq!(apic.write(SELF_IPI, 0x0f), Write::Exit(0x3f0));
        assert_eq!(apic.write(SELF_IPI, 0x10), Write::Done);
        assert_eq!(apic.pending(), Some(0x10));
        for (msr, value) in [(TPR, 0x100), (EOI, 1), (EOI, 1 << 32), (SELF_IPI, 0x141)] {
            assert_eq!(apic.write(msr, value), Write::GeneralProtection, "{msr:#x} {value:#x}");
        }
    }
}
