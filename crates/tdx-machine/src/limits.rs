//! What the machine does not model. Printed with every report, so that a verdict is read with them
//! in mind.

/// One sentence per limit.
pub const LIMITS: &[&str] = &[
    "Clean cache lines are not kept: a read meets memory unless a dirty line of the same KeyID answers.",
    "A cached store always reads the line for ownership, also one that covers all 64 bytes: it brings poison back with it.",
    "Caches are per CPU; a last-level cache shared by a package is not modelled apart from them.",
    "Pending direct stores become visible at MFENCE or WBINVD of their CPU, or when the adversary drains them: a host that relies on another serialising instruction is called wrong. The CPU's own accesses do not see them, and a younger store of its own to the same line is overwritten by them.",
    "The serialising instructions of a kexec jump are not counted as a fence.",
    "A DMA write of a full line makes it a shared line and clears poison; whether real devices do is not documented.",
    "A fast warm reset loses dirty lines but not the bytes that host stores put in them; a read of shared bytes does not look at the owner.",
    "A shared read of a TD-owned line gives zeros; the pattern of real hardware is not known to us.",
    "Shared KeyIDs (MKTME) name the same bytes as KeyID 0; encryption is not modelled.",
    "Without the erratum a partial write to a TD-owned line makes it a shared line (architecture documents, not observed).",
    "Private memory has no bytes: what the module keeps there is its own state, and a measurement has no value.",
    "Which of a TDR's, TDCS's or TDVPS's lines a leaf stores to is not known: all lines of the page count as dirty.",
    "A fast warm reset drops the caches, leaves owner and poison in memory, and starts the module from the beginning.",
    "SEAMCALLs do not overlap: a lock is contended only when it is held on purpose. Host-priority bits are not kept.",
    "SYS.INIT checks the CMRs; it and SYS.LP.INIT check none of the CPUID leaves and MSRs, KeyIDs included, that the real module checks.",
    "TD_PARAMS: XFAM x87, SSE and AVX, four levels of EPT, no CPUID configuration; other values were not recorded and are refused. What SYS.RD says of them is an assumption, given only where a machine is configured to assume it.",
    "Dynamic PAMT is as in the source of later modules, read and not observed; each of its checks happens, no fatal error of it does.",
    "TDH.SYS.DISABLE follows what was promised to Linux; no module that has it was seen. Ours: not ready before the last TDMR is initialised, SYS_BUSY while a VCPU is inside, SYS_BUSY for other leaves once it has begun, the module's own dirty lines flushed before it clears them.",
    "Guests run no code: a VCPU enters, a scenario says what it accepts, stores and loads, and an interrupt takes it out. Read in the specification, not observed: VP.ENTER (which keeps no lock on TDR and TDVPR here while the VCPU is inside), VCPU_ASSOCIATED, ACCEPT, PREVIOUS_TLB_EPOCH_BUSY, TD_FATAL.",
    "Not modelled: migration, service TDs, L2 VMs, metadata reads and writes of TDs and VCPUs, P-SEAMLDR, update of the module.",
];
