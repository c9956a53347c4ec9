//! State of a TD's virtual CPU that VMRUN, VMLOAD and VMSAVE do not switch: XSAVE components,
//! XCR0, DR0 to DR3, TSC_AUX. The host finds what the module leaves: all of it in its initial
//! state, and XCR0 as the TD's XFAM.
//!
//! Source of what is left: how Linux restores its own state after VP.ENTER.

use alloc::boxed::Box;
use core::arch::asm;
use core::arch::x86_64::{__cpuid, __cpuid_count};
use metal::registers::{cr4, rdmsr, set_cr4, wrmsr};
use vmx::xcr0::{COMPONENTS, X87, is_valid};

const TSC_AUX: u32 = 0xc000_0103;
const CR4_OSXSAVE: u64 = 1 << 18;
/// CPUID leaf 1, ECX.
const XSAVE: u32 = 1 << 26;
/// CPUID leaf of RDTSCP, EDX, without which there is no TSC_AUX.
const EXTENDED: u32 = 0x8000_0001;
const RDTSCP: u32 = 1 << 27;
/// Bytes of the area.
const AREA: usize = 4096;
/// MXCSR of a reset CPU, and where it is in the area.
const MXCSR: [u8; 4] = 0x1f80_u32.to_le_bytes();
const MXCSR_OFFSET: usize = 24;

#[repr(C, align(64))]
struct Area([u8; AREA]);

impl Area {
    fn initial() -> Self {
        let mut area = Self([0; AREA]);
        area.0[MXCSR_OFFSET..][..4].copy_from_slice(&MXCSR);
        area
    }
}

/// Extended state of a virtual CPU that does not run.
pub struct ExtendedState {
    area: Box<Area>,
    /// Components that this CPU has. All of them are switched, also those that the TD cannot
    /// switch on: CR4.PKE gives it PKRU.
    supported: u64,
    /// Those that the TD may have.
    allowed: u64,
    xcr0: u64,
    debug: [u64; 4],
    tsc_aux: u64,
}

/// Lets this program use XSAVE on this CPU.
pub fn enable() {
    if __cpuid(1).ecx & XSAVE != 0 {
        // SAFETY: the CPU supports the bit, and the others stay as they are.
        unsafe { set_cr4(cr4() | CR4_OSXSAVE) };
    }
}

/// XCR0 bits of this CPU among [`COMPONENTS`]. 0 if it has no XSAVE or no TSC_AUX, or if they do
/// not fit the area.
fn supported() -> u64 {
    if __cpuid(1).ecx & XSAVE == 0 || __cpuid(EXTENDED).edx & RDTSCP == 0 {
        return 0;
    }
    let components = u64::from(__cpuid_count(0xd, 0).eax) & COMPONENTS;
    // Size and offset of each component behind the legacy area and the header.
    let end = |component: u32| {
        let place = __cpuid_count(0xd, component);
        place.eax as usize + place.ebx as usize
    };
    let fits = (2..64).filter(|component| components >> component & 1 == 1).all(|component| end(component) <= AREA);
    if fits && is_valid(components, components) { components } else { 0 }
}

fn set_xcr0(value: u64) {
    let (low, high) = (value as u32, (value >> 32) as u32);
    // SAFETY: only an `ExtendedState` calls this, so that `supported` is not 0: `enable` has set
    // CR4.OSXSAVE on this CPU. The value is `supported`, or one that `is_valid` takes with it: the
    // CPU has each component, and what it builds on. Rust code here uses SSE at most, which works
    // whatever XCR0 is.
    unsafe { asm!("xsetbv", in("ecx") 0, in("eax") low, in("edx") high, options(nostack, nomem)) }
}

fn xcr0() -> u64 {
    let (low, high): (u32, u32);
    // SAFETY: CR4.OSXSAVE is set, as in `set_xcr0`. Reads only.
    unsafe { asm!("xgetbv", in("ecx") 0, out("eax") low, out("edx") high, options(nostack, nomem)) }
    u64::from(high) << 32 | u64::from(low)
}

/// Loads all components of XCR0 from the area.
///
/// # Safety
/// CR4.OSXSAVE is set; the area holds what XSAVE stores with this XCR0, or zeros but for MXCSR.
#[unsafe(naked)]
unsafe extern "sysv64" fn xrstor(area: *const Area) {
    core::arch::naked_asm!("mov eax, -1", "mov edx, -1", "xrstor64 [rdi]", "ret")
}

/// Saves all components of XCR0 to the area.
///
/// # Safety
/// CR4.OSXSAVE is set; the components of XCR0 end in the area, which is the caller's alone.
#[unsafe(naked)]
unsafe extern "sysv64" fn xsave(area: *mut Area) {
    core::arch::naked_asm!("mov eax, -1", "mov edx, -1", "xsave64 [rdi]", "ret")
}

fn swap_debug_registers(new: [u64; 4]) -> [u64; 4] {
    let mut old = [0; 4];
    // SAFETY: breakpoint addresses have no effect in this program: DR7 enables none of them while
    // it runs, because VMEXIT clears DR7.
    unsafe {
        asm!("mov {}, dr0", out(reg) old[0], options(nostack, nomem));
        asm!("mov {}, dr1", out(reg) old[1], options(nostack, nomem));
        asm!("mov {}, dr2", out(reg) old[2], options(nostack, nomem));
        asm!("mov {}, dr3", out(reg) old[3], options(nostack, nomem));
        asm!("mov dr0, {}", in(reg) new[0], options(nostack, nomem));
        asm!("mov dr1, {}", in(reg) new[1], options(nostack, nomem));
        asm!("mov dr2, {}", in(reg) new[2], options(nostack, nomem));
        asm!("mov dr3, {}", in(reg) new[3], options(nostack, nomem));
    }
    old
}

impl ExtendedState {
    /// Initial state of a virtual CPU whose TD has this XFAM. `None` if this CPU cannot switch it.
    pub fn new(xfam: u64) -> Option<Self> {
        let supported = supported();
        let allowed = xfam & supported;
        // Never with `supported` 0: a valid value has x87.
        is_valid(allowed, supported).then(|| Self {
            area: Box::new(Area::initial()),
            supported,
            allowed,
            xcr0: X87,
            debug: [0; 4],
            tsc_aux: 0,
        })
    }

    /// Loads the state: the TD runs next.
    pub fn load(&mut self) {
        set_xcr0(self.supported);
        // SAFETY: CR4.OSXSAVE is set, as in `set_xcr0`. The area is aligned, and was written by
        // XSAVE with the same XCR0 or is an initial one. Only x87, SSE and wider registers and PKRU
        // change: the ABI lets a call change the registers, no floating-point arithmetic depends on
        // MXCSR, and no page of this program has a protection key, as CR4.PKE is 0.
        unsafe { xrstor(&raw const *self.area) };
        set_xcr0(self.xcr0);
        self.debug = swap_debug_registers(self.debug);
        // SAFETY: `supported` has found RDTSCP, with which the MSR comes. It is read by RDTSCP and
        // RDPID, which this program does not use.
        self.tsc_aux = unsafe {
            let host = rdmsr(TSC_AUX);
            wrmsr(TSC_AUX, self.tsc_aux);
            host
        };
    }

    /// Saves the state, and leaves what the host finds after VP.ENTER.
    pub fn save(&mut self) {
        self.xcr0 = xcr0();
        set_xcr0(self.supported);
        let initial = Area::initial();
        // SAFETY: as in `load`. `supported` has checked that the components end in the area, which
        // belongs to this state alone.
        unsafe {
            xsave(&raw mut *self.area);
            xrstor(&raw const initial);
        }
        set_xcr0(self.allowed);
        self.debug = swap_debug_registers([0; 4]);
        // SAFETY: as in `load`.
        self.tsc_aux = unsafe {
            let guest = rdmsr(TSC_AUX);
            wrmsr(TSC_AUX, 0);
            guest
        };
    }

    /// XSETBV by the TD that runs here. False if it raises #GP.
    pub fn set_xcr0(&self, value: u64) -> bool {
        let valid = is_valid(value, self.allowed);
        if valid {
            set_xcr0(value);
        }
        valid
    }
}
