//! Known differences from the software machine, printed with the summary.

/// One sentence each.
pub const LIMITS: &[&str] = &[
    "Stores to pages without a private or poisoned line are not intercepted: the host's dirty lines are not tracked, and a missing CLFLUSH before a page is given to the module is not detected.",
    "A cached store to a trapped page is written back at once: it stays in no cache.",
    "MFENCE cannot be intercepted: a MOVDIR64B is visible at once, and a missing fence is not detected.",
    "Non-temporal stores are checked one by one; write combining to a full line is not modeled.",
    "An address with a KeyID other than 0 is #PF with the reserved-bit error, also with a shared (MKTME) KeyID, which hardware accepts; a delivery of an event that meets one is a double fault.",
    "WBINVD on one CPU writes back the lines that SEAMCALLs on that CPU left dirty; the shared last-level cache of hardware is not modeled.",
    "A HLT with interrupts enabled can end without an interrupt.",
    "VM entry does not run code: of nested guests only TDs run (TDH.VP.ENTER).",
    "Interrupts of a TD: what MOV to CR8 lets through, a second NMI during the handler of the first, and what waits for the end of the shadow of MOV SS come at the next VM exit. An interrupt in the shadow of STI executes the STI again.",
    "TDs: the TSC is the host's, single and zero stepping and busy answers of VP.ENTER do not occur. CPUID has the values of TDs with XFAM 7; MSRs other than those of SYSCALL, SYSENTER, FS, GS, EFER, PAT, TSC_AUX and the virtual APIC are #VE; CR0 and CR4 are not enforced. TDs with five levels of EPT, or with a shared page that is private memory, are stopped.",
    "A TD's own stores do not reach the machine's caches. A TD that touches a page of which the host has taken or poisoned a line gets the machine check whichever line it touches. Instructions can be fetched from shared memory.",
    "DMA by devices is not checked, and can reach the hypervisor's own memory: devices are passed through, and there is no IOMMU.",
];
