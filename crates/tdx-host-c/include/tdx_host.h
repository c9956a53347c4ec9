/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/*
 * tdx_host.h - TDX host memory for kernels written in C.
 *
 * The library brings Intel's TDX module up, knows at every instant which physical pages may be
 * TDX-private, and hands a clean machine to the next kernel: at kexec, at a crash, and after a
 * bring-up that failed. It matters most on CPUs with the partial-write erratum (Sapphire Rapids,
 * Emerald Rapids), where a write of less than 64 bytes to a private line poisons it, and a later
 * read is a machine check.
 *
 * It never allocates, never takes a lock, never unwinds, and has no state but what it keeps in the
 * objects below, whose memory is yours (and one counter). It needs memcpy, memmove and memset, and
 * no other symbol. Stack, without that of your functions: 10 KiB in tdxh_bring_up(), 6 KiB in
 * tdxh_layout_build(), 5 KiB in tdxh_kexec(), 4 KiB everywhere else (x86-64, optimized; measured by
 * checks/stack-depth).
 *
 * A kernel's life with it
 * -----------------------
 *
 *      tdxh_detect()             is there TDX? If not, go on with platform = NULL: everything
 *                                below still works, and does nothing
 *      tdxh_host_init()          the one object of the machine; from here on all CPUs may use it
 *      tdxh_bring_up()           SYS.INIT ... TDMR.INIT; on failure everything is undone
 *      tdxh_ledger_init()        before the first page goes to a TD
 *
 *      tdxh_seamcall_giving()    a page goes to the module ...
 *      tdxh_seamcall_returning() ... and is returned ...
 *      tdxh_reset()              ... and is ordinary memory again
 *
 *      tdxh_check_image()        when a kexec image is loaded
 *      tdxh_kexec()              stops the CPUs and cleans up; then you jump
 *      tdxh_crash()              in a panic, on any CPU, at any instant; then you jump
 *      tdxh_table_write()        what the next kernel must not touch
 *
 * The life of a page
 * ------------------
 *
 *      SHARED --give--> IN_FLIGHT --commit--> PRIVATE --reclaim--> RETURNED --reset--> SHARED
 *                           \-------------- abort --------------->/
 *
 * A page that is not SHARED is marked. A page is marked before the SEAMCALL that gives it, and
 * unmarked after every line of it was rewritten with MOVDIR64B and a fence. So a crash between any
 * two instructions finds every private page marked, and no marked page holds anything that is
 * needed.
 *
 * Objects
 * -------
 *
 * The opaque structs are storage. Zero them before they are used for the first time (static storage
 * is zero), keep them where they are, never copy them, never write to them. Their sizes and
 * alignments are part of this header. An object that was not initialized, or is initialized twice,
 * is answered with TDXH_NOT_INITIALIZED or TDXH_ALREADY_INITIALIZED. To use a struct again for
 * something new, zero it; then no other CPU may be using it.
 *
 * Which CPU may do what: struct tdxh_host is shared, any number of CPUs may be in any function with
 * it. The others are for one CPU at a time, and a second one gets TDXH_BUSY at once.
 *
 * Results
 * -------
 *
 * Every function that can fail returns an enum tdxh_result: TDXH_OK (0), or a number from 7000 on.
 * tdxh_errno() gives the negative errno of Linux. Where a function takes a struct tdxh_error
 * pointer, it may be NULL; otherwise it is filled if the function fails for a reason of the
 * machine: the message for people, and the raw status of a SEAMCALL. It is left alone if the
 * function succeeds, or fails because of an argument (TDXH_NULL to TDXH_BAD_KERNEL): zero it before
 * the call.
 *
 * Besides the errors that are named at a function, each returns, where it takes such an argument:
 * TDXH_NULL, TDXH_MISALIGNED, TDXH_NOT_INITIALIZED and TDXH_BUSY for an object; TDXH_BAD_VALUE for
 * a number that is none of its enum or a count that is too large; TDXH_BAD_RANGE for a range that
 * is not made of whole 4 KiB pages, is reversed, or ends above 2^52. Nothing has happened then.
 *
 * Addresses are physical, without KeyID bits, and ranges are half-open: [start, end).
 */
#ifndef TDX_HOST_H
#define TDX_HOST_H

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
#define TDXH_ALIGNED(n) alignas(n)
extern "C" {
#else
#define TDXH_ALIGNED(n) _Alignas(n)
#endif

/*
 * The version of the library, and of its binary interface: compare the second with
 * tdxh_abi_version().
 */
#define TDXH_VERSION "0.1.0"
#define TDXH_ABI_VERSION 4

/*
 * ------------------------------------------------------------------------------------------------------------
 * results --
 */

enum tdxh_result {
	TDXH_OK = 0,
	/* An argument or an object is wrong. Nothing has happened. */
	TDXH_NULL = 7000,                     /* a pointer is NULL */
	TDXH_MISALIGNED = 7001,               /* a pointer is not aligned as its type wants it */
	TDXH_NOT_INITIALIZED = 7002,          /* an object was never initialized, or its storage was not zeroed */
	TDXH_ALREADY_INITIALIZED = 7003,      /* an object is initialized already */
	TDXH_BUSY = 7004,                     /* another CPU is using the object, or this one is, in a callback */
	TDXH_BAD_VALUE = 7005,                /* a number is none of its enum, or a count is too large */
	TDXH_BAD_RANGE = 7006,                /* a range is empty where it must not be, misaligned, reversed, or above 2^52 */
	TDXH_BAD_KERNEL = 7007,               /* struct_size is wrong, or a function pointer is NULL */
	TDXH_STOPPED = 7008,                  /* your visitor returned something else than 0 */
	/* The machine is a host without TDX. No fault: go on without it. */
	TDXH_NO_TDX = 7100,                   /* the CPU lacks MSR 0x87 or 0x982 */
	TDXH_BIOS_OFF = 7101,                 /* the BIOS gave no KeyID to TDX */
	TDXH_TOO_FEW_KEY_IDS = 7102,          /* one private KeyID: none would be left for a TD */
	TDXH_KEY_IDS_DO_NOT_FIT = 7103,       /* an address cannot carry the private KeyIDs */
	TDXH_NO_MOVDIR64B = 7104,             /* private memory could never be reset */
	/* There is no layout. */
	TDXH_LAYOUT_IN_USE = 7200,            /* the layout owns PAMT memory: release it first */
	TDXH_LAYOUT_PRIVATE = 7201,           /* the module has the PAMTs: they cannot be given back */
	TDXH_UNORDERED = 7202,                /* a list is not ascending, or two of its ranges overlap */
	TDXH_PAMT_ENTRY_SIZE = 7203,          /* the module reports PAMT entries of 0 bytes */
	TDXH_NO_USABLE_MEMORY = 7204,         /* no memory that TDX can use */
	TDXH_TDMRS_EXHAUSTED = 7205,          /* more TDMRs are needed than the module allows */
	TDXH_RESERVED_AREAS_EXHAUSTED = 7206, /* a TDMR needs more reserved areas than the module allows */
	TDXH_NO_PAMT_MEMORY = 7207,           /* no contiguous memory for a PAMT */
	/* A SEAMCALL or a bring-up failed. */
	TDXH_NO_MODULE = 7300,                /* VMfailInvalid: the module is not loaded, or it died */
	TDXH_SEAM_OFF = 7301,                 /* #GP: SEAM is not enabled in the BIOS */
	TDXH_NO_VMX = 7302,                   /* #UD: this CPU is not in VMX operation */
	TDXH_SEAMCALL_FAILED = 7303,          /* the module said no: tdxh_error.status */
	TDXH_GATE_CLOSED = 7304,              /* no SEAMCALL was made: a handover is under way, or this CPU has no slot */
	TDXH_CLAIMED = 7305,                  /* a bring-up runs, or TDX is up already */
	TDXH_MODULE_INFO = 7306,              /* what the module says about itself makes no sense */
	TDXH_NO_MEMORY = 7307,                /* no memory for TDMR_INFO, or no room in the record of PAMTs */
	/* The ledger refused. It is unchanged. */
	TDXH_LEDGER_TOO_SMALL = 7400,         /* too few words: tdxh_ledger_words() */
	TDXH_LEDGER_IN_USE = 7401,            /* the host has a ledger already, or pages are marked in it */
	TDXH_NO_LEDGER = 7402,                /* the host has no ledger */
	TDXH_OUTSIDE = 7403,                  /* a page lies outside every TDMR */
	TDXH_RESERVED = 7404,                /* a page belongs to the crash kernel */
	TDXH_WRONG_STATE = 7405,              /* a page is not in the state that the operation starts from */
	TDXH_NOT_RESET = 7406,                /* a page is in no mapping of the kernel, and stays private */
	/* There is no handover. */
	TDXH_HANDOVER_UNDER_WAY = 7500,       /* another kexec or a crash is on its way */
	TDXH_NOT_ALONE = 7501,                /* a CPU did not stop; all run again */
	TDXH_REFUSED_PRIVATE_MEMORY = 7502,   /* the policy is to refuse, and there may be private memory */
	TDXH_REFUSED_SEGMENT = 7503,          /* a segment of the image lies on private memory */
	TDXH_REFUSED_OUTSIDE = 7504,          /* a segment of a crash image lies outside the crash kernel's memory */
	/* The table of leftovers cannot be used: all old memory may be private. */
	TDXH_TABLE_TOO_SMALL = 7600,          /* less than TDXH_TABLE_HEADER_BYTES */
	TDXH_NO_TABLE = 7601,                 /* there is none */
	TDXH_TABLE_VERSION = 7602,            /* of another version */
	TDXH_TABLE_BROKEN = 7603,             /* written half-way, or overwritten */
	TDXH_OTHER = 7999,                    /* something that this version has no number for */
};

/*
 * The TDXH_ABI_VERSION that the library was built with. If it is not that of your header, use
 * nothing else of it.
 */
uint32_t tdxh_abi_version(void);

/*
 * The negative errno that Linux gives for a result, or would: 0 for TDXH_OK, -ENODEV for
 * TDXH_NO_MODULE and for machines without TDX, -EOPNOTSUPP for TDXH_SEAM_OFF, -EACCES for
 * TDXH_NO_VMX, -EIO for other SEAMCALLs, -ENOSPC for exhausted TDMRs, -ENOMEM where memory is
 * missing, -EBUSY, -EINVAL. -EIO for a number that is no result.
 */
int32_t tdxh_errno(uint32_t result);

/*
 * The name of a result, such as "TDXH_NO_MODULE"; "unknown" for a number that is none. A constant:
 * do not free it.
 */
const char *tdxh_result_name(uint32_t result);

/*
 * The name of a completion status, such as "TDX_OPERAND_BUSY", written to the `bytes` bytes at
 * `text` with a zero byte after it, cut off if there is no room. Returns the length of the whole
 * name. `text` may be NULL.
 */
size_t tdxh_status_name(uint64_t status, char *text, size_t bytes);

/*
 * Registers of a SEAMCALL. RAX is the leaf (bits 15:0) and its version (bits 23:16) on entry, the
 * status on return.
 */
struct tdxh_registers {
	uint64_t rax;
	uint64_t rcx;
	uint64_t rdx;
	uint64_t r8;
	uint64_t r9;
	uint64_t r10;
	uint64_t r11;
	uint64_t r12;
	uint64_t r13;
};

/* The step of a bring-up that failed. */
enum tdxh_step {
	TDXH_STEP_NONE = 0,        /* it was not in a bring-up */
	TDXH_STEP_CLAIM = 1,       /* only one bring-up can run */
	TDXH_STEP_SYS_INIT = 2,    /* TDH.SYS.INIT */
	TDXH_STEP_LP_INIT = 3,     /* TDH.SYS.LP.INIT on every CPU */
	TDXH_STEP_MODULE_INFO = 4, /* TDH.SYS.RD */
	TDXH_STEP_LAYOUT = 5,      /* TDMRs and PAMTs */
	TDXH_STEP_CONFIG = 6,      /* TDH.SYS.CONFIG */
	TDXH_STEP_KEY_CONFIG = 7,  /* WBINVD, TDH.SYS.KEY.CONFIG on every package */
	TDXH_STEP_TDMR_INIT = 8,   /* TDH.SYS.TDMR.INIT */
};

#define TDXH_TEXT_SIZE 320

/* What failed. */
struct tdxh_error {
	uint32_t result;              /* enum tdxh_result, as the function returned it */
	uint32_t step;                /* enum tdxh_step */
	uint64_t status;              /* raw completion status of the SEAMCALL that failed; 0 if none did */
	uint32_t cpu;                 /* the CPU that made it */
	uint32_t attempts;            /* calls made, the first one included; 0 if no SEAMCALL failed */
	struct tdxh_registers input;  /* its registers on entry */
	struct tdxh_registers output; /* and on return */
	char text[TDXH_TEXT_SIZE];    /* for people: what failed, and what can be done. ASCII, ends with a zero byte */
};

/*
 * -------------------------------------------------------------------------------------------------
 * opaque objects --
 */

#define TDXH_PLATFORM_SIZE 64
#define TDXH_PLATFORM_ALIGN 8
#define TDXH_HOST_SIZE 40960
#define TDXH_HOST_ALIGN 64
#define TDXH_CPU_SLOT_SIZE 64
#define TDXH_CPU_SLOT_ALIGN 64
#define TDXH_NODE_RANGE_SIZE 24
#define TDXH_NODE_RANGE_ALIGN 8
#define TDXH_LAYOUT_SIZE 32768
#define TDXH_LAYOUT_ALIGN 8
#define TDXH_REPORT_SIZE 768
#define TDXH_REPORT_ALIGN 8
#define TDXH_RETURNING_SIZE 32
#define TDXH_RETURNING_ALIGN 8
#define TDXH_WORK_LOCAL_SIZE 1024
#define TDXH_WORK_LOCAL_ALIGN 16

/* What tdxh_detect() found. */
struct tdxh_platform {
	TDXH_ALIGNED(TDXH_PLATFORM_ALIGN) unsigned char opaque[TDXH_PLATFORM_SIZE];
};

/*
 * The one object of a machine, with layout and ledger. Static: it is used until the machine is
 * handed over.
 */
struct tdxh_host {
	TDXH_ALIGNED(TDXH_HOST_ALIGN) unsigned char opaque[TDXH_HOST_SIZE];
};

/*
 * What one CPU has done; one for each CPU number. Each is written by its own CPU alone, and has a
 * line of its own.
 */
struct tdxh_cpu_slot {
	TDXH_ALIGNED(TDXH_CPU_SLOT_ALIGN) unsigned char opaque[TDXH_CPU_SLOT_SIZE];
};

/* One element of a memory map: tdxh_node_range_set(). May be copied. */
struct tdxh_node_range {
	TDXH_ALIGNED(TDXH_NODE_RANGE_ALIGN) unsigned char opaque[TDXH_NODE_RANGE_SIZE];
};

/* TDMRs with their PAMTs and reserved areas. Large: not for a stack. */
struct tdxh_layout {
	TDXH_ALIGNED(TDXH_LAYOUT_ALIGN) unsigned char opaque[TDXH_LAYOUT_SIZE];
};

/* The host's account of a handover. */
struct tdxh_report {
	TDXH_ALIGNED(TDXH_REPORT_ALIGN) unsigned char opaque[TDXH_REPORT_SIZE];
};

/* A SEAMCALL of your own that returns pages, and is under way. */
struct tdxh_returning {
	TDXH_ALIGNED(TDXH_RETURNING_ALIGN) unsigned char opaque[TDXH_RETURNING_SIZE];
};

/* What one CPU keeps between two steps of a work. */
struct tdxh_work_local {
	TDXH_ALIGNED(TDXH_WORK_LOCAL_ALIGN) unsigned char opaque[TDXH_WORK_LOCAL_SIZE];
};

/* Work for CPUs: you get a pointer to one, and give it to tdxh_work_run() or tdxh_work_step(). */
struct tdxh_work;

/* [start, end), physical addresses, multiples of 4096 but in the results of tdxh_explain(). */
struct tdxh_range {
	uint64_t start;
	uint64_t end;
};

/*
 * ---------------------------------------------------------------------------------------- what
 * your kernel implements --
 */

#define TDXH_ANY_NODE UINT32_MAX

/* A request for contiguous pages. */
struct tdxh_frame_request {
	uint64_t pages;           /* how many 4 KiB pages, all adjacent; at least 1 */
	struct tdxh_range within; /* where they must lie; often exactly as long as the pages: a place, take it or leave it */
	uint32_t node;            /* the preferred NUMA node, or TDXH_ANY_NODE */
	uint32_t reserved;        /* 0 */
};

/* Your allocator of contiguous pages. `context` is handed to both functions. */
struct tdxh_frames {
	void *context;
	/*
	 * Takes request->pages adjacent pages inside request->within, and writes the address of the
	 * first one to *start. Returns 1, or 0 if they cannot be had, which is normal: places are
	 * tried in order of preference. The pages belong to the library until `free`: no other code
	 * writes, moves or reuses them. What they contain does not matter.
	 */
	uint32_t (*allocate)(void *context, const struct tdxh_frame_request *request, uint64_t *start);
	/* Takes back a range, exactly as `allocate` gave it. All its lines are ordinary memory. */
	void (*free)(void *context, const struct tdxh_range *range);
};

/*
 * What your kernel lends. tdxh_host_init() copies the table; the context and the functions stay
 * valid for as long as the machine runs. All functions must be there. `context` is handed to each.
 *
 * They are called on any CPU, on several at once, and each acts on the CPU that calls it. During
 * tdxh_crash() and tdxh_stop_this_cpu_at_crash() they must not take a lock, allocate, or wait for
 * another CPU. None may unwind or longjmp() over the library. On Linux they are the functions in
 * brackets, and the instructions are at the end of this header.
 */
struct tdxh_kernel {
	uint32_t struct_size; /* sizeof(struct tdxh_kernel) */
	uint32_t reserved;    /* 0 */
	void *context;
	struct tdxh_frames frames;

	/*
	 * The number of this CPU, below the number of slots. The caller stays on it until `unpin`;
	 * may nest. [get_cpu()]
	 */
	uint32_t (*pin)(void *context);
	/* Undoes one `pin`. [put_cpu()] */
	void (*unpin)(void *context);
	/* The package (socket) of a CPU. */
	uint32_t (*package_of)(void *context, uint32_t cpu);

	/*
	 * SEAMCALL with these registers, all of which it writes back. If the instruction fails
	 * before the module runs, RAX is one of Linux's software codes and the rest is as on entry.
	 * [tdxh_x86_seamcall()]
	 */
	void (*seamcall)(void *context, struct tdxh_registers *registers);
	/*
	 * One MOVDIR64B of zeros, KeyID 0, to each of `lines` lines of 64 bytes from the physical
	 * address `first` on. No other store will do. Returns how many lines are left, because no
	 * mapping has them: 0 where all memory is mapped. They stay private, and nothing is called
	 * clean or given back. [tdxh_x86_reset_lines() on the direct map, which must be mapped
	 * write-back; it ends at the first line that is not mapped]
	 */
	uint64_t (*reset_lines)(void *context, uint64_t first, uint64_t lines);
	/* MFENCE. [tdxh_x86_fence()] */
	void (*fence)(void *context);
	/* WBINVD on this CPU. [tdxh_x86_write_back_caches()] */
	void (*write_back_caches)(void *context);
	/* CLFLUSHOPT of each line under KeyID 0. [tdxh_x86_flush_lines() on the direct map] */
	void (*flush_lines)(void *context, uint64_t first, uint64_t lines);
	/*
	 * Copies bytes to physical memory, KeyID 0, that came from `frames.allocate`. [memcpy() to
	 * the direct map]
	 */
	void (*write_shared)(void *context, uint64_t address, const uint8_t *bytes, size_t count);

	/*
	 * Runs the work on every online CPU, this one included, at the same time if you can, until
	 * each is done, and returns after that, with all effects visible here.
	 * [on_each_cpu(tdxh_work_run, work, 1), or a worker on each CPU that calls tdxh_work_step()
	 * and reschedules in between: SYS.TDMR.INIT takes seconds on a large host]
	 */
	void (*run_on_all)(void *context, const struct tdxh_work *work);
	/* The same on one CPU of each package, one package after another. */
	void (*run_on_each_package)(void *context, const struct tdxh_work *work);

	/*
	 * Kexec. Makes every other online CPU call tdxh_stop_this_cpu() and then wait with
	 * interrupts off. Returns how many CPUs still run, this one included: 1 if all have
	 * stopped. A CPU counts as stopped once it has returned from that function. The wait is
	 * bounded. From its return on, this CPU has its interrupts off.
	 */
	uint32_t (*stop_other_cpus)(void *context);
	/* Some CPU has not stopped: lets the others go on. */
	void (*resume_other_cpus)(void *context);
	/*
	 * Runs the work on this CPU and on every stopped one, as `run_on_all`. On this CPU alone:
	 * slower, as correct.
	 */
	void (*run_on_stopped)(void *context, const struct tdxh_work *work);

	/*
	 * Crash. Sends an NMI to every other CPU that is online and waits until each has called
	 * tdxh_stop_this_cpu_at_crash(), but not for longer than you can bear.
	 * [nmi_shootdown_cpus(): one second]
	 */
	void (*stop_other_cpus_by_nmi)(void *context);
	/*
	 * Crash. 1 for a CPU that was online at the panic, which is to say that was sent an NMI; 0
	 * otherwise.
	 */
	uint32_t (*is_online)(void *context, uint32_t cpu);
};

/* What a CPU says after a step of a work. */
enum tdxh_work_step_result {
	TDXH_WORK_DONE = 0,  /* this CPU is done */
	TDXH_WORK_AGAIN = 1, /* call again on this CPU; it may do something else in between */
};

/*
 * One short step of the work on this CPU: one SEAMCALL, one WBINVD, or at most 32 MiB of reset.
 * `local` is this CPU's own, and no other code writes it until TDXH_WORK_DONE; zero it when it
 * comes into being, and use it for one work after the other. NULL or misaligned: all steps are made
 * at once. Call it only from the callback that got the work, or from CPUs for which that callback
 * waits. After TDXH_WORK_DONE, and without a work: TDXH_WORK_DONE.
 */
enum tdxh_work_step_result tdxh_work_step(const struct tdxh_work *work, struct tdxh_work_local *local);

/* All steps of the work on this CPU, with 1 KiB of its stack. */
void tdxh_work_run(const struct tdxh_work *work);

/*
 * -------------------------------------------------------------------------------------------------------
 * is there TDX? --
 */

/* Four registers of CPUID. */
struct tdxh_cpuid {
	uint32_t eax;
	uint32_t ebx;
	uint32_t ecx;
	uint32_t edx;
};

/* How to look. `context` is handed to both functions. [tdxh_x86_cpuid(), tdxh_x86_rdmsr()] */
struct tdxh_processor {
	void *context;
	void (*cpuid)(void *context, uint32_t leaf, uint32_t subleaf, struct tdxh_cpuid *output);
	/* Writes the register to *value and returns 1; 0 if it does not exist (#GP). */
	uint32_t (*rdmsr)(void *context, uint32_t msr, uint64_t *value);
};

struct tdxh_platform_info {
	uint32_t family;
	uint32_t model; /* with the extended bits: 0x8f is Sapphire Rapids */
	uint32_t stepping;
	uint32_t has_erratum;          /* 1: a partial write to private memory poisons it */
	uint32_t first_private_key_id; /* private KeyIDs: [first_private_key_id, private_key_id_end) */
	uint32_t private_key_id_end;
	uint32_t global_key_id;        /* the one of PAMT and TDRs: the first; yours begin after it */
	uint32_t key_id_bits;          /* KeyID bits of an address: its bits 51:(52 - key_id_bits) */
};

/*
 * Looks for TDX: CPUID and MSRs 0x87 and 0x982. Writes nothing to the machine. A platform that is
 * there already is replaced.
 *
 * Errors: TDXH_NO_TDX, TDXH_BIOS_OFF, TDXH_TOO_FEW_KEY_IDS, TDXH_KEY_IDS_DO_NOT_FIT,
 * TDXH_NO_MOVDIR64B: no TDX on this machine, and why; the platform is unchanged. TDXH_BAD_KERNEL: a
 * function is NULL.
 */
enum tdxh_result tdxh_detect(const struct tdxh_processor *processor, struct tdxh_platform *platform,
			     struct tdxh_error *error);

/* What was found. */
enum tdxh_result tdxh_platform_get(struct tdxh_platform *platform, struct tdxh_platform_info *info);

/*
 * ---------------------------------------------------------------------------------------------------------
 * the machine --
 */

/*
 * Makes the host. Before any other CPU can come to it.
 *
 * `platform`: what tdxh_detect() found, copied; NULL if it found no TDX. `slots`: one for each CPU
 * number from 0 on, in memory that stays; the library writes them. A CPU without a slot can make no
 * SEAMCALL. `reserved`: memory that is never given to the module, and never written by a handover,
 * whatever it holds: the crash kernel's; at most 4 ranges, copied.
 *
 * Errors: TDXH_BAD_KERNEL; TDXH_ALREADY_INITIALIZED; TDXH_BAD_VALUE: no slots, or more than 4
 * ranges.
 */
enum tdxh_result tdxh_host_init(struct tdxh_host *host, const struct tdxh_kernel *kernel,
				struct tdxh_platform *platform, struct tdxh_cpu_slot *slots, size_t slot_count,
				const struct tdxh_range *reserved, size_t reserved_count);

/*
 * A SEAMCALL that neither gives pages to the module nor takes any back, through the gate, and again
 * where the ABI allows it (no entropy, busy). `registers` are in and out, also on failure. A status
 * without bit 63 is a success: read RAX.
 *
 * Safety: pages go to the module by tdxh_seamcall_giving(), or between tdxh_give() and
 * tdxh_commit(). Never by this alone.
 *
 * Errors: TDXH_NO_MODULE, TDXH_SEAM_OFF, TDXH_NO_VMX, TDXH_SEAMCALL_FAILED, TDXH_GATE_CLOSED.
 */
enum tdxh_result tdxh_seamcall(struct tdxh_host *host, struct tdxh_registers *registers, struct tdxh_error *error);

/*
 * Calls function(context) on this CPU, pinned, if the gate lets a SEAMCALL of this leaf in: for
 * SEAMCALLs that you execute yourself, above all TDH.VP.ENTER (leaf 0). The host then knows that
 * this CPU may hold private lines, and no handover resets memory under it.
 *
 * Every SEAMCALL of your kernel goes through this or through tdxh_seamcall*().
 *
 * Errors: TDXH_GATE_CLOSED: the function was not called.
 */
enum tdxh_result tdxh_call_admitted(struct tdxh_host *host, uint16_t leaf, void (*function)(void *context),
				    void *context);

/*
 * --------------------------------------------------------------------------------------------------
 * layout and bring-up --
 */

enum tdxh_algorithm {
	TDXH_FIT = 0, /* stays inside the module's limits, gives memory up when nothing else is left */
};

/* What the module allows. [module 1.5: 64, 16, { 16, 16, 16 }] */
struct tdxh_limits {
	uint16_t max_tdmrs;
	uint16_t max_reserved_per_tdmr;
	uint16_t pamt_entry_size[3]; /* bytes, for pages of 4 KiB, 2 MiB and 1 GiB */
};

struct tdxh_layout_info {
	uint32_t tdmrs;
	uint32_t reserved; /* 0 */
	uint64_t pamt_bytes;
};

/* Why a TDMR starts where it does. */
enum tdxh_border {
	TDXH_BORDER_MEMORY = 0,         /* memory starts there */
	TDXH_BORDER_NODE = 1,           /* the memory of another node starts there: its PAMT stays local */
	TDXH_BORDER_RESERVED_AREAS = 2, /* there would be too many reserved areas otherwise */
	TDXH_BORDER_PAMT_MEMORY = 3,    /* there is not so much contiguous memory for one PAMT */
};

#define TDXH_MAX_RESERVED 16

struct tdxh_tdmr {
	struct tdxh_range range;   /* 1 GiB granular */
	struct tdxh_range pamt[3]; /* for pages of 4 KiB, 2 MiB and 1 GiB */
	uint32_t node;             /* the node that its PAMT was wanted on */
	uint32_t border;           /* enum tdxh_border */
	uint32_t reserved_count;
	uint32_t padding;          /* 0 */
	struct tdxh_range reserved[TDXH_MAX_RESERVED]; /* what the module must not use, ascending */
};

/* Why TDX does not have a page that the memory map has. */
enum tdxh_give_up {
	TDXH_GIVE_UP_OUTSIDE_CMRS = 0,   /* the platform never let TDX have it */
	TDXH_GIVE_UP_RESERVED_AREAS = 1, /* two reserved areas had to be joined over it */
	TDXH_GIVE_UP_TDMRS = 2,          /* it would need one TDMR too many */
	TDXH_GIVE_UP_PAMT_MEMORY = 3,    /* there is no contiguous memory for its PAMT */
};

struct tdxh_given_up {
	struct tdxh_range range;
	uint32_t reason;   /* enum tdxh_give_up */
	uint32_t reserved; /* 0 */
};

/*
 * Writes one element of a memory map: usable memory of a NUMA node. A memory map is ascending and
 * without overlap. An element that is all zero is an empty range.
 */
enum tdxh_result tdxh_node_range_set(struct tdxh_node_range *element, uint64_t start, uint64_t end, uint32_t node);

/*
 * Lays TDMRs out over a memory map, and takes the pages of their PAMTs from `frames`. No SEAMCALL
 * is made: for planning; tdxh_bring_up() does it by itself. `cmrs` are the module's, ascending, at
 * most 32; empty ones are skipped.
 *
 * Errors: TDXH_LAYOUT_IN_USE, TDXH_UNORDERED, TDXH_PAMT_ENTRY_SIZE, TDXH_NO_USABLE_MEMORY,
 * TDXH_TDMRS_EXHAUSTED, TDXH_RESERVED_AREAS_EXHAUSTED, TDXH_NO_PAMT_MEMORY, TDXH_BAD_KERNEL. Every
 * page that was taken has been given back.
 */
enum tdxh_result tdxh_layout_build(struct tdxh_layout *layout, uint32_t algorithm,
				   const struct tdxh_node_range *memory, size_t memory_count,
				   const struct tdxh_range *cmrs, size_t cmr_count, const struct tdxh_limits *limits,
				   const struct tdxh_frames *frames, struct tdxh_error *error);

/* How large it is: TDMRs, bytes of PAMT. No TDMRs after a failure or a release. */
enum tdxh_result tdxh_layout_get(struct tdxh_layout *layout, struct tdxh_layout_info *info);

/* TDMR number `index`, ascending. Errors: TDXH_BAD_VALUE: there is no such TDMR. */
enum tdxh_result tdxh_layout_tdmr(struct tdxh_layout *layout, uint32_t index, struct tdxh_tdmr *tdmr);

/*
 * Shows you each range of the memory map that TDX does not have, ascending, until `visit` returns
 * something else than 0. Memory map and CMRs are those that the layout was built from. Keep what is
 * named here away from TDs.
 *
 * Errors: TDXH_STOPPED.
 */
enum tdxh_result tdxh_layout_walk_given_up(struct tdxh_layout *layout, const struct tdxh_node_range *memory,
					   size_t memory_count, const struct tdxh_range *cmrs, size_t cmr_count,
					   int32_t (*visit)(void *context, const struct tdxh_given_up *given_up),
					   void *context);

/*
 * Gives the PAMT pages back and empties the layout.
 *
 * Errors: TDXH_LAYOUT_PRIVATE: the module has them; only the way back of a bring-up, or a handover,
 * makes them ordinary memory. TDXH_BAD_KERNEL.
 */
enum tdxh_result tdxh_layout_release(struct tdxh_layout *layout, const struct tdxh_frames *frames);

#define TDXH_MAX_CMRS 32

/* What the module says about itself. */
struct tdxh_module {
	uint16_t major;
	uint16_t minor;
	uint16_t update;
	uint16_t build_num;
	uint32_t build_date; /* 20240129 is 2024-01-29 */
	uint32_t cmr_count;
	uint64_t features;   /* TDX_FEATURES0; bit 53: it has TDH.SYS.DISABLE */
	struct tdxh_limits limits;
	uint16_t reserved[3];
	struct tdxh_range cmrs[TDXH_MAX_CMRS]; /* ascending; those that touch are joined */
};

/*
 * Brings the module up: TDH.SYS.INIT, SYS.LP.INIT on all CPUs, metadata, layout, SYS.CONFIG, WBINVD
 * on all CPUs, SYS.KEY.CONFIG on each package, SYS.TDMR.INIT on all CPUs. Every CPU is in VMX
 * operation, and CPU and memory hotplug are held off. `memory` is the usable memory, ascending,
 * without overlap. On success the host owns the PAMTs, which are private from here on, and `layout`
 * shows its TDMRs. `module` may be NULL. After TDXH_CAN_BRING_UP_AGAIN it first gives the old PAMTs
 * back and empties the host.
 *
 * Safety: after TDXH_CAN_BRING_UP_AGAIN no other CPU is in a function of this library.
 *
 * On failure everything is undone before it returns: caches written back, PAMTs reset with
 * MOVDIR64B, memory given back. The module itself cannot be rolled back. A crash at any instant of
 * it is fine.
 *
 * Errors: those of tdxh_seamcall() and tdxh_layout_build(); TDXH_NO_TDX: the host has no platform;
 * TDXH_CLAIMED; TDXH_MODULE_INFO; TDXH_NO_MEMORY. `error` says which step, which SEAMCALL, and what
 * a person can do.
 */
enum tdxh_result tdxh_bring_up(struct tdxh_host *host, struct tdxh_layout *layout, uint32_t algorithm,
			       const struct tdxh_node_range *memory, size_t memory_count, struct tdxh_module *module,
			       struct tdxh_error *error);

/*
 * ----------------------------------------------------------------------------------------------------------
 * the ledger --
 */

enum tdxh_page_state {
	TDXH_PAGE_SHARED = 0,    /* ordinary memory */
	TDXH_PAGE_PRIVATE = 1,   /* the module has it */
	TDXH_PAGE_RETURNED = 2,  /* the module has returned or refused it; its lines may still be private */
	TDXH_PAGE_IN_FLIGHT = 3, /* the SEAMCALL that gives it has not returned */
	TDXH_PAGE_OUTSIDE = 4,   /* in no TDMR: never private */
};

/* How many 64-bit words a ledger over these TDMRs needs: 0.0062 % of the memory they cover. */
enum tdxh_result tdxh_ledger_words(struct tdxh_layout *layout, uint64_t *words);

/*
 * Makes the ledger of the host's TDMRs, every page SHARED, and publishes it: from here on every
 * handover sees it. Before the first page is given. The words, which need not be zeroed, stay where
 * they are and belong to the library until tdxh_ledger_withdraw(). The reserved ranges of the host
 * can never be given.
 *
 * Errors: TDXH_LEDGER_TOO_SMALL; TDXH_LEDGER_IN_USE: the host has one; TDXH_NOT_INITIALIZED: TDX is
 * not up.
 */
enum tdxh_result tdxh_ledger_init(struct tdxh_host *host, uint64_t *words, size_t word_count,
				  struct tdxh_error *error);

/*
 * Takes the ledger out of use; its memory is yours again. For a kernel that has returned from a
 * handover (TDXH_CAN_BRING_UP_AGAIN), or that has no TD any more.
 *
 * Safety: no other CPU is in a function of this library that uses the ledger, and none takes part
 * in a handover.
 *
 * Errors: TDXH_NO_LEDGER; TDXH_LEDGER_IN_USE: pages are marked in it, and TDX is up.
 */
enum tdxh_result tdxh_ledger_withdraw(struct tdxh_host *host);

/*
 * The state of the page that the address lies in: enum tdxh_page_state. At any instant, on any CPU.
 * Errors: TDXH_NO_LEDGER.
 */
enum tdxh_result tdxh_page_state(struct tdxh_host *host, uint64_t address, uint32_t *state);

/*
 * Shows you each maximal range of marked pages, ascending, until `visit` returns something else
 * than 0. At any instant, on any CPU; while others give and take pages back, a range is as it was
 * at some time during the walk.
 *
 * Errors: TDXH_NO_LEDGER, TDXH_STOPPED.
 */
enum tdxh_result tdxh_walk_marked(struct tdxh_host *host,
				  int32_t (*visit)(void *context, const struct tdxh_range *range), void *context);

/* The same for all that may be private: PAMTs and marked pages. Without a ledger: PAMTs. */
enum tdxh_result tdxh_walk_private(struct tdxh_host *host,
				   int32_t (*visit)(void *context, const struct tdxh_range *range), void *context);

/*
 * -----------------------------------------------------------------------------------------------
 * pages, there and back --
 */

/*
 * Each of the functions below takes [start, end) in one step: all of it or, on an error, nothing.
 * Errors of all: TDXH_NO_LEDGER, TDXH_OUTSIDE, TDXH_RESERVED, TDXH_WRONG_STATE.
 */

/*
 * SHARED -> PRIVATE, by the SEAMCALL in `registers`: flushes your lines of the pages, marks them,
 * calls as tdxh_seamcall(), and enters the answer. If the call fails the pages are RETURNED,
 * because it may have written to them: write them back (PHYMEM.PAGE.WBINVD, unless the
 * result is TDXH_GATE_CLOSED) and tdxh_reset() them.
 *
 * Safety: the pages are yours, out of your allocator, and hold nothing that is needed. They are
 * those that the leaf takes.
 */
enum tdxh_result tdxh_seamcall_giving(struct tdxh_host *host, struct tdxh_registers *registers, uint64_t start,
				      uint64_t end, struct tdxh_error *error);

/*
 * PRIVATE -> RETURNED, by the SEAMCALL in `registers` (MEM.PAGE.REMOVE, PHYMEM.PAGE.RECLAIM, ...),
 * with the time between the answer of the module and its entry in the ledger accounted for. If the
 * call fails the pages are still PRIVATE.
 *
 * Safety: the pages are those that the leaf gives back.
 */
enum tdxh_result tdxh_seamcall_returning(struct tdxh_host *host, struct tdxh_registers *registers, uint64_t start,
					 uint64_t end, struct tdxh_error *error);

/*
 * RETURNED -> SHARED: MOVDIR64B to every line, a fence, and then the mark goes. On success the
 * pages are ordinary memory, and yours.
 *
 * Safety: no cache holds a line of the pages under a private KeyID: PHYMEM.PAGE.WBINVD of each
 * page, or PHYMEM.CACHE.WB on each package after the TD is gone. Otherwise an older line lands on
 * top later.
 */
enum tdxh_result tdxh_reset(struct tdxh_host *host, uint64_t start, uint64_t end, struct tdxh_error *error);

/*
 * The single steps, for a kernel whose SEAMCALLs stand elsewhere:
 *
 *      tdxh_give(); tdxh_call_admitted(... the SEAMCALL ...); tdxh_commit() or tdxh_abort();
 *      tdxh_returning_begin(); tdxh_call_admitted(...); tdxh_reclaim(); tdxh_returning_settle();
 *
 * tdxh_give() flushes your lines of the pages and marks them: SHARED -> IN_FLIGHT. On return the
 * SEAMCALL may be made.
 */
enum tdxh_result tdxh_give(struct tdxh_host *host, uint64_t start, uint64_t end, struct tdxh_error *error);

/* The SEAMCALL has succeeded: IN_FLIGHT -> PRIVATE. */
enum tdxh_result tdxh_commit(struct tdxh_host *host, uint64_t start, uint64_t end, struct tdxh_error *error);

/* The SEAMCALL has failed: IN_FLIGHT -> RETURNED. */
enum tdxh_result tdxh_abort(struct tdxh_host *host, uint64_t start, uint64_t end, struct tdxh_error *error);

/* The module has returned the pages: PRIVATE -> RETURNED. */
enum tdxh_result tdxh_reclaim(struct tdxh_host *host, uint64_t start, uint64_t end, struct tdxh_error *error);

/*
 * Before a SEAMCALL that returns pages: until tdxh_returning_settle() a handover that asks the
 * module (TDXH_POLICY_MODULE) resets every marked page, for any of them may be one that the module
 * knows no more. If it is never settled this stays so.
 *
 * Errors: TDXH_NO_LEDGER; TDXH_BUSY: this object is under way already.
 */
enum tdxh_result tdxh_returning_begin(struct tdxh_host *host, struct tdxh_returning *returning);

/* The answer is in the ledger, or the SEAMCALL failed. The object may be used again. */
enum tdxh_result tdxh_returning_settle(struct tdxh_returning *returning);

/*
 * ------------------------------------------------------------------------------------------------------------
 * handover --
 */

/* What a handover does with private memory. */
enum tdxh_policy {
	TDXH_POLICY_TRACKED = 0,    /* resets PAMTs and every marked page. Needs no module. The one to use */
	TDXH_POLICY_MODULE = 1,     /* asks TDH.SYS.DISABLE, then resets what the module cannot know; without its help, as TRACKED */
	TDXH_POLICY_EVERYTHING = 4, /* resets all memory that you name, and what is private besides. Slow */
	TDXH_POLICY_REFUSE = 6,     /* refuses to kexec: what Linux 6.18 to 7.1 do */
};

enum tdxh_kexec_kind {
	TDXH_KEXEC_NORMAL = 0, /* the next kernel replaces this one */
	TDXH_KEXEC_JUMP = 1,   /* this kernel is returned to, and its TDs with it: nothing is reset */
};

/*
 * May this image be loaded? At load time a refusal still helps. `segments` is where the parts of
 * the image go at the jump.
 *
 * Errors: TDXH_REFUSED_PRIVATE_MEMORY; TDXH_REFUSED_SEGMENT: a kexec jump over memory of TDX, which
 * has to survive.
 */
enum tdxh_result tdxh_check_image(struct tdxh_host *host, uint32_t policy, uint32_t kind,
				  const struct tdxh_range *segments, size_t segment_count, struct tdxh_error *error);

/*
 * May this crash image be loaded? No policy refuses it.
 *
 * Errors: TDXH_REFUSED_SEGMENT: it lies on private memory; TDXH_REFUSED_OUTSIDE: the handover could
 * overwrite it, because it lies outside the host's reserved memory.
 */
enum tdxh_result tdxh_check_crash_image(struct tdxh_host *host, const struct tdxh_range *segments,
					size_t segment_count, struct tdxh_error *error);

/*
 * Hands the machine to the next kernel: closes the gate, stops the other CPUs
 * (kernel.stop_other_cpus), asks the module if the policy wants it, writes caches back, resets on
 * all CPUs (kernel.run_on_stopped), and fills the report. You jump next; make no SEAMCALL in
 * between. `all_memory`, ascending: what TDXH_POLICY_EVERYTHING overwrites, so neither this code
 * nor its stack nor the next image. NULL and 0 otherwise.
 *
 * Errors, all of which leave the host as it was, with the other CPUs running:
 * TDXH_REFUSED_PRIVATE_MEMORY, TDXH_HANDOVER_UNDER_WAY, TDXH_NOT_ALONE. TDXH_BAD_VALUE:
 * TDXH_POLICY_EVERYTHING without memory. The report of an earlier handover is gone.
 */
enum tdxh_result tdxh_kexec(struct tdxh_host *host, uint32_t policy, uint32_t kind,
			    const struct tdxh_range *all_memory, size_t all_memory_count,
			    struct tdxh_report *report, struct tdxh_error *error);

/*
 * What a CPU does in your handler when it is stopped for a kexec, before it acknowledges: WBINVD if
 * it may matter.
 */
enum tdxh_result tdxh_stop_this_cpu(struct tdxh_host *host);

/* The same for a CPU on its way offline. Its caches live on in a package whose other CPUs go on. */
enum tdxh_result tdxh_offline_this_cpu(struct tdxh_host *host);

/*
 * Hands the machine to the crash kernel. On the CPU that panics, with interrupts off, at any
 * instant: inside any other function of this library, in the middle of a bring-up, on any CPU. It
 * takes no lock, allocates nothing, makes no SEAMCALL, blocks nowhere but in
 * kernel.stop_other_cpus_by_nmi, and never writes to reserved memory.
 *
 * A policy that is none counts as TDXH_POLICY_TRACKED; so do MODULE, EVERYTHING and REFUSE.
 * `report` may be NULL; static storage is best. Whatever is wrong with the report, the reset is
 * done.
 *
 * Errors: those of the host and, after the reset, of the report.
 */
enum tdxh_result tdxh_crash(struct tdxh_host *host, uint32_t policy, struct tdxh_report *report);

/*
 * What the NMI handler does on a CPU that a crash stops, before it halts for good: WBINVD if its
 * slot says that it may matter.
 */
enum tdxh_result tdxh_stop_this_cpu_at_crash(struct tdxh_host *host);

enum tdxh_handover_kind {
	TDXH_HANDOVER_KEXEC = 0,
	TDXH_HANDOVER_JUMP = 1,
	TDXH_HANDOVER_CRASH = 2,
};

/* What became of private memory. */
enum tdxh_outcome {
	TDXH_OUTCOME_RESET = 0,             /* what the policy names was reset */
	TDXH_OUTCOME_NO_TDX = 1,            /* nothing to do: this machine has no TDX */
	TDXH_OUTCOME_NO_PRIVATE_MEMORY = 2, /* nothing to do: no memory was handed to the module */
	TDXH_OUTCOME_NO_ERRATUM = 3,        /* nothing to do: leftovers do no harm on this CPU */
	TDXH_OUTCOME_LEFT_FOR_JUMP = 6,     /* left: this kernel is returned to */
	TDXH_OUTCOME_OTHER = 7,             /* something that this version has no number for */
};

/* What TDH.SYS.DISABLE said. */
enum tdxh_module_answer {
	TDXH_MODULE_NOT_ASKED = 0,
	TDXH_MODULE_DISABLED = 1, /* all memory that the module knows is ordinary memory */
	TDXH_MODULE_NO_LEAF = 2,  /* the module does not have it, or was never asked what it has */
	TDXH_MODULE_FAILED = 3,   /* anything but success: tdxh_handover.module_status */
};

struct tdxh_handover {
	uint32_t policy;                  /* enum tdxh_policy, as asked for */
	uint32_t kind;                    /* enum tdxh_handover_kind */
	uint32_t outcome;                 /* enum tdxh_outcome */
	uint32_t module;                  /* enum tdxh_module_answer */
	uint64_t module_status;           /* raw status, if the module failed; 0 otherwise */
	uint64_t lines;                   /* 64-byte lines reset */
	uint64_t lines_left;              /* 64-byte lines that no mapping has, and that stay private */
	uint64_t ranges;                  /* in so many ranges */
	uint32_t not_stopped;             /* CPUs that did not stop in time */
	uint32_t may_hold_private_lines;  /* CPUs that may write private lines back over what was reset */
	uint32_t clean;                   /* 1: nothing is left that can do harm, as far as the host can know */
	uint32_t next_kernel_can_use_tdx; /* 1: the module gave everything back */
};

/* What a handover did. */
enum tdxh_result tdxh_report_get(struct tdxh_host *host, struct tdxh_report *report,
				 struct tdxh_handover *handover);

/* What a kernel can do with TDX after a handover from which it has returned. */
enum tdxh_came_back_result {
	TDXH_TDX_GOES_ON = 0,        /* all as before the kexec jump */
	TDXH_CAN_BRING_UP_AGAIN = 1, /* free the PAMTs (zero the layout), withdraw the ledger, and bring TDX up anew if you like */
	TDXH_TDX_IS_GONE = 2,        /* the module has no PAMTs any more, or something is left: no SEAMCALL, ever */
};

/*
 * This kernel goes on after all: the kernel in between has jumped back, or the jump was not made.
 * *came_back is an enum tdxh_came_back_result.
 */
enum tdxh_result tdxh_came_back(struct tdxh_host *host, struct tdxh_report *report, uint32_t *came_back);

/*
 * -----------------------------------------------------------------------------------------------------------
 * leftovers --
 */

enum tdxh_leftover_kind {
	TDXH_LEFTOVER_PAMT = 1,
	TDXH_LEFTOVER_PAGE = 2, /* of a TD, or on its way to or from the module */
};

enum tdxh_leftover_reason {
	TDXH_LEFTOVER_NOT_RESET = 1, /* the policy was not to reset it */
	TDXH_LEFTOVER_CACHES = 2,    /* a CPU may still write private lines of it back */
	TDXH_LEFTOVER_RESERVED = 3, /* it lies in reserved memory */
	TDXH_LEFTOVER_NOT_MAPPED = 4, /* some of it is in no mapping of the kernel */
};

/* Memory that may still be private, or turn private again. */
struct tdxh_leftover {
	struct tdxh_range range;
	uint32_t kind;   /* enum tdxh_leftover_kind */
	uint32_t reason; /* enum tdxh_leftover_reason */
};

/*
 * Shows you what the next kernel must not touch, until `visit` returns something else than 0. Works
 * from the record and the ledger, which a handover leaves as they are.
 *
 * Errors: TDXH_STOPPED.
 */
enum tdxh_result tdxh_walk_leftovers(struct tdxh_host *host, struct tdxh_report *report,
				     int32_t (*visit)(void *context, const struct tdxh_leftover *leftover),
				     void *context);

/*
 * A table has a header, and an entry for each leftover. Its binary layout is that of the crate's
 * module `handover::leftovers`.
 */
#define TDXH_TABLE_HEADER_BYTES 32
#define TDXH_TABLE_ENTRY_BYTES 24

struct tdxh_written {
	size_t bytes;         /* bytes in use */
	uint32_t entries;
	uint32_t all_private; /* 1: there was no room for all entries, so that the table says: all old memory may be private */
};

struct tdxh_table {
	uint32_t not_stopped;            /* CPUs that did not stop */
	uint32_t may_hold_private_lines; /* CPUs whose caches may hold private lines */
	uint32_t entries;
	uint32_t all_private;            /* 1: there is no list; treat all old memory as private */
};

/*
 * Writes what a handover left to memory that the next kernel finds (for a crash kernel: its own).
 * For the crash path, too. `written` may be NULL.
 *
 * Errors: TDXH_TABLE_TOO_SMALL: what stood there is wiped out.
 */
enum tdxh_result tdxh_table_write(struct tdxh_host *host, struct tdxh_report *report, uint8_t *table,
				  size_t bytes, struct tdxh_written *written);

/*
 * Writes that all old memory may be private. Do it when you reserve the memory: a handover that
 * does not come to its end then leaves that word behind. Errors: TDXH_TABLE_TOO_SMALL.
 */
enum tdxh_result tdxh_table_write_all_private(uint8_t *table, size_t bytes, struct tdxh_written *written);

/*
 * Reads a table and checks all of it before you see any of it. `visit` may be NULL. Errors:
 * TDXH_TABLE_TOO_SMALL, TDXH_NO_TABLE, TDXH_TABLE_VERSION, TDXH_TABLE_BROKEN: treat all old memory
 * as private. TDXH_STOPPED.
 */
enum tdxh_result tdxh_table_read(const uint8_t *table, size_t bytes, struct tdxh_table *info,
				 int32_t (*visit)(void *context, const struct tdxh_leftover *leftover), void *context);

/*
 * --------------------------------------------------------------------------------------------------
 * in a machine check --
 */

enum tdxh_address_kind {
	TDXH_ADDRESS_PAMT = 0, /* of a level that is not known, because no layout was given */
	TDXH_ADDRESS_PAMT_4K = 1,
	TDXH_ADDRESS_PAMT_2M = 2,
	TDXH_ADDRESS_PAMT_1G = 3,
	TDXH_ADDRESS_PRIVATE = 4,       /* a page that the module has */
	TDXH_ADDRESS_IN_FLIGHT = 5,     /* a page that a SEAMCALL may have given to the module */
	TDXH_ADDRESS_RETURNED = 6,      /* a page that was returned and not reset */
	TDXH_ADDRESS_RESERVED = 7,      /* reserved for the crash kernel */
	TDXH_ADDRESS_RESERVED_AREA = 8, /* in a TDMR, in a reserved area */
	TDXH_ADDRESS_SHARED = 9,        /* in a TDMR, and ordinary memory now */
	TDXH_ADDRESS_OUTSIDE = 10,      /* in no TDMR: never private */
};

#define TDXH_NO_TDMR UINT32_MAX
#define TDXH_EXPLANATION_TEXT_SIZE 192

struct tdxh_explanation {
	uint64_t address;        /* without KeyID bits */
	uint32_t kind;           /* enum tdxh_address_kind */
	uint32_t key_id;         /* that the address carried; 0 if none */
	uint32_t may_be_private; /* 1: a partial write to it poisons it, so that the kernel, not the hardware, may be to blame */
	uint32_t tdmr;           /* index of its TDMR, or of the TDMR whose PAMT it is; TDXH_NO_TDMR */
	struct tdxh_range tdmr_range;
	char text[TDXH_EXPLANATION_TEXT_SIZE]; /* the same as a line for the log. ASCII, ends with a zero byte */
};

/*
 * What is at an address, as it stands in IA32_MCi_ADDR or anywhere else, with KeyID bits or
 * without? In any context, at any instant, VMX on or off. The level of a PAMT, and the TDMR, are
 * known once TDX is up.
 */
enum tdxh_result tdxh_explain(struct tdxh_host *host, uint64_t address, struct tdxh_explanation *explanation);

/*
 * --------------------------------------------------------------------------------------------------------
 * instructions --
 */

/*
 * The instructions, for the functions that you implement. Addresses are virtual here.
 *
 * Safety: at CPL 0. SEAMCALL may raise #UD or #GP, RDMSR #GP, MOVDIR64B and CLFLUSHOPT #PF on a
 * page that is not mapped: your handlers look the address of the instruction up in
 * tdxh_x86_fixups(). If it is there they set RAX to 0x8000FF0000000000 | vector (after all but
 * SEAMCALL: to anything) and go on at the other address.
 */

/* Registers of TDH.VP.ENTER. */
struct tdxh_saved_registers {
	struct tdxh_registers base;
	uint64_t r14;
	uint64_t r15;
	uint64_t rbx;
	uint64_t rdi;
	uint64_t rsi;
};

/* An instruction that may fault, and where to go on: each is the distance from its own field. */
struct tdxh_fixup {
	int32_t instruction;
	int32_t fixup;
};

/* CPUID. */
void tdxh_x86_cpuid(uint32_t leaf, uint32_t subleaf, struct tdxh_cpuid *registers);

/* RDMSR: 1 and the value, or 0 if the register does not exist. */
uint32_t tdxh_x86_rdmsr(uint32_t msr, uint64_t *value);

/*
 * SEAMCALL with RAX to R13. The carry flag becomes Linux's software code for VMfailInvalid. Not for
 * TDH.VP.ENTER.
 */
void tdxh_x86_seamcall(struct tdxh_registers *registers);

/* SEAMCALL with all registers but RSP and RBP, which is saved around it: for TDH.VP.ENTER. */
void tdxh_x86_seamcall_saved(struct tdxh_saved_registers *registers);

/*
 * MOVDIR64B of zeros to `lines` lines of 64 bytes from the aligned address `first` on. Not ordered:
 * tdxh_x86_fence(). Returns the lines that are left: not 0 if the instruction faulted and the
 * handler applied the fix-ups. The first of them is at `first` + 64 * (`lines` - left).
 */
uint64_t tdxh_x86_reset_lines(uint8_t *first, uint64_t lines);

/*
 * CLFLUSHOPT of `lines` lines from the aligned address `first` on. Not ordered: tdxh_x86_fence().
 * Returns the lines that are left, as tdxh_x86_reset_lines().
 */
uint64_t tdxh_x86_flush_lines(const uint8_t *first, uint64_t lines);

/* MFENCE. */
void tdxh_x86_fence(void);

/* WBINVD. */
void tdxh_x86_write_back_caches(void);

/* All instructions of the library that may fault; *count of them. */
const struct tdxh_fixup *tdxh_x86_fixups(size_t *count);

#ifdef __cplusplus
}
#endif

#endif /* TDX_HOST_H */
