//! What the machine does not model. Printed with every report, so that a verdict is read with them
//! in mind.

/// One sentence per limit.
pub const LIMITS: &[&str] = &[
    "Clean cache lines are not kept: a read meets memory unless a dirty line of the same KeyID answers.",
    "A cached store always reads the line for ownership, also one that covers all 64 bytes: it brings poison back with it.",
    "Caches are per CPU; a last-level cache shared by a package is not modeled apart from them.",
    "Pending direct stores become visible at MFENCE or WBINVD of their CPU, or when the adversary drains them: a host that relies on another serializing instruction is called wrong. The CPU's own accesses do not see them, and a younger store of its own to the same line is overwritten by them.",
    "The serializing instructions of a kexec jump are not counted as a fence.",
    "A DMA write of a full line makes it a shared line and clears poison; whether real devices do is not documented.",
    "A fast warm reset loses dirty lines but not the bytes that host stores put in them; a read of shared bytes does not look at the owner.",
    "A shared read of a TD-owned line gives zeros; the pattern of real hardware is not known to us.",
    "Shared KeyIDs (MKTME) name the same bytes as KeyID 0; encryption is not modeled.",
    "Without the erratum a partial write to a TD-owned line makes it a shared line (architecture documents, not observed).",
    "Private memory has no bytes: what the module keeps there is its own state, and a measurement has no value.",
    "Which of a TDR's, TDCS's or TDVPS's lines a leaf stores to is not known: all lines of the page count as dirty.",
    "A fast warm reset drops the caches, leaves owner and poison in memory, and starts the module from the beginning.",
    "A SEAMCALL that overlaps others (begin_seamcall, finish_seamcall) has its effects when it begins and keeps every lock that it took until it finishes; a real one writes little by little and gives some locks back earlier. Locks on entries of Secure EPT are from the module's source, not observed; locks on RTMRs and TDMR tables apart from those observed, and host-priority bits, are not kept. A call in flight when the module dies answers VMfailInvalid (assumed).",
    "SYS.INIT checks the CMRs, and refuses an MSR that the machine's configuration names: which values of an MSR are fit is not modeled, nor are the checks of CPUID and those of SYS.LP.INIT.",
    "CPUID_CONFIG, XFAM and the levels of EPT are those of Sapphire Rapids, or of a CPU with x87, SSE and AVX only; other CPUs were not observed. MAX_VCPUS_PER_TD does not exist in 1.5.01: it is answered there only where a machine is configured to (Linux 7.3 needs it).",
    "Event filters of MNG.INIT (1.5.25, R8) are not looked at.",
    "TDH.SYS.DISABLE follows the Linux patches; no module that has it was observed (1.5.25 answers OPERAND_INVALID). Assumed: not ready before the last TDMR is initialized, SYS_BUSY while a VCPU is inside, SYS_BUSY for other leaves once it has begun, the module's own dirty lines flushed before it clears them.",
    "Guests run no code: a scenario says what a guest accepts, stores and loads, and which VM exit it makes. Exits for CPUID (which sets RBX, and no register of a guest beyond R13, RBX or RBP is kept here), MSRs and CR accesses, RDPMC with PERFMON, and exits of debug TDs are refused, and so are TDCALLs that read all global metadata at once or L2 pages, verify reports, run L2 VMs, give information on a #VE by version 1 of VEINFO.GET or change more of TD_CTLS than the #VE of pending pages; instructions that never exit raise #UD, where some raise #GP; an exit for XSETBV, or for RDPMC without PERFMON, resumes the guest without the new XCR0 or the #GP; the filters of single and zero stepping do not exist.",
    "Metadata: which fields there are, and which bits a host reads and writes, is known for all; of the values, those that a host reads of a TD in production, and a few of debug TDs. Refused: guest state in VMCS and TDVPS, VMX capability MSRs, MSR bitmaps and Secure-EPT roots, VP.WR of secondary processor-based controls, VCPU fields of L2 VMs. TD_UUID is made from the TDR's address, measurements read as 0, SEAMDB_INDEX is 0.",
    "CPUID_VALUES are those of TDs with XFAM 7, with the configured bits on top; with other features, leaves that depend on them are refused. Of 1.5.01 only the first 13 were observed. The XSAVE layout is known for x87, SSE and AVX.",
    "The TSC counts at 2 GHz and moves only when MNG.INIT reads it. MEM.RD and MEM.WR see what PAGE.ADD copied and MEM.WR wrote: a guest's own stores have no bytes.",
    "L2 VMs: their Secure-EPT tables are added and removed, by vectors where no table is there yet and by the module's source where one is. No page is mapped in them, which takes a guest's TDG.MEM.PAGE.ATTR.WR, and no L2 VM runs; that a table is blocked is not shown.",
    "Module update: the new module takes over TDs, keys, PAMT and TDMRs. Only an update to the same version was observed, and the size of handoff data only for one of them.",
    "INTERRUPTED_BUSY and TSC_ROLLBACK were never observed and do not occur.",
    "Not modeled: migration and service TDs (their leaves end at the check of the TDR), P-SEAMLDR.",
];
