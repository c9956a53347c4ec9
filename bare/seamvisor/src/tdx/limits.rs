//! Known differences from the software machine, printed with the summary.

/// One sentence each.
pub const LIMITS: &[&str] = &[
    "Stores to pages without a private or poisoned line are not intercepted: the host's dirty lines are not tracked, and a missing CLFLUSH before a page is given to the module is not detected.",
    "A cached store to a trapped page is written back at once: it stays in no cache.",
    "MFENCE cannot be intercepted: a MOVDIR64B is visible at once, and a missing fence is not detected.",
    "Non-temporal stores are checked one by one; write combining to a full line is not modelled.",
    "Addresses with a KeyID other than 0 fault in the guest's page walk; shared (MKTME) KeyIDs cannot be used.",
    "WBINVD on one CPU writes back the lines that SEAMCALLs on that CPU left dirty; the shared last-level cache of hardware is not modelled.",
    "No nested guests: VM entry and TDH.VP.ENTER do not run code.",
    "DMA by devices is not checked, and can reach the hypervisor's own memory: devices are passed through, and there is no IOMMU.",
];
