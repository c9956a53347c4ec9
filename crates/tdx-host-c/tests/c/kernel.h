/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/*
 * A kernel in C on the software machine: as small as one can be that brings TDX up, runs a TD and
 * hands the machine over.
 */
#ifndef KERNEL_H
#define KERNEL_H

#include "tdx_host.h"
#include "software_machine.h"

#include <stdatomic.h>
#include <stdbool.h>

#define CPUS 4
#define MIB ((uint64_t)1 << 20)
#define GIB ((uint64_t)1 << 30)
#define PAGE ((uint64_t)4096)

/*
 * The crash kernel's memory, and memory that is only in the memory map. The machine has [1M, 2G)
 * and [4G, 6G).
 */
#define CRASH_START (1 * GIB)
#define CRASH_END (1 * GIB + 256 * MIB)
#define MAP_COUNT 2

#define MAX_TAKEN 64
#define MAX_WORDS (1 << 16)

struct kernel {
	struct machine *machine;
	/* Work runs on a thread for each CPU; otherwise CPUs take turns. */
	bool parallel;
	/* CPUs that have stopped run nothing any more. */
	bool alone;
	/* What CPUs that take turns give to tdxh_work_step(). */
	enum { LOCAL_USED, LOCAL_GARBAGE, LOCAL_NULL } locals;
	/* A CPU that ignores every request to stop; CPUS: none. */
	uint32_t stuck;
	/*
	 * The n-th SEAMCALL of a leaf is not made, and answered with `fail_with`; n counts down to
	 * 0.
	 */
	uint32_t fail_leaf;
	uint64_t fail_in;
	uint64_t fail_with;
	/* SEAMCALLs so far; the CPU that makes number `crash_at` panics before it. */
	_Atomic uint64_t calls;
	/*
	 * After the next SEAMCALL of this leaf, before anybody hears its answer, CPU 1 kexecs under
	 * TDXH_POLICY_MODULE.
	 */
	uint32_t kexec_after;
	uint64_t crash_at;
	bool dead;
	bool resumed;
	struct tdxh_range taken[MAX_TAKEN];
	size_t taken_count;

	struct tdxh_kernel functions;
	struct tdxh_platform platform;
	struct tdxh_host host;
	struct tdxh_cpu_slot slots[CPUS];
	struct tdxh_layout layout;
	uint64_t words[MAX_WORDS];
	struct tdxh_node_range map[MAP_COUNT];
	struct tdxh_module module;
	struct tdxh_report report;
	struct tdxh_error error;
};

/* The CPU that this thread plays. */
extern _Thread_local uint32_t this_cpu;

/* A machine and a kernel that has looked for TDX and has made its host. */
struct kernel *kernel_boot(uint32_t has_erratum, uint32_t has_disable);
/* The same, with TDX up and a ledger in use. */
struct kernel *kernel_with_tdx(uint32_t has_erratum, uint32_t has_disable);
void kernel_free(struct kernel *kernel);

enum tdxh_result kernel_bring_up(struct kernel *kernel);
enum tdxh_result kernel_make_ledger(struct kernel *kernel);

/* A page out of the allocator; 0 if there is none. */
uint64_t kernel_page(struct kernel *kernel);
void kernel_free_page(struct kernel *kernel, uint64_t page);

/*
 * The machine is in the hands of the next kernel, which uses all memory: lines that raise a machine
 * check.
 */
uint64_t kernel_next(struct kernel *kernel);

#define TDCS_PAGES 6

/* A TD with its key configured and its control pages added. */
struct td {
	uint64_t tdr;
	uint64_t tdcs[TDCS_PAGES];
	uint32_t key_id;
};

enum tdxh_result td_create(struct kernel *kernel, struct td *td, uint32_t key_id);
/* The TD runs no more, and its KeyID is free: what is left are pages. */
enum tdxh_result td_free_key(struct kernel *kernel, const struct td *td);
enum tdxh_result td_destroy(struct kernel *kernel, struct td *td);

/* SEAMCALL leaves. */
enum {
	MNG_ADDCX = 1,
	MNG_KEY_CONFIG = 8,
	MNG_CREATE = 9,
	MNG_VPFLUSHDONE = 19,
	MNG_KEY_FREEID = 20,
	PHYMEM_PAGE_RDMD = 24,
	PHYMEM_PAGE_RECLAIM = 28,
	SYS_KEY_CONFIG = 31,
	SYS_INIT = 33,
	SYS_RD = 34,
	SYS_LP_INIT = 35,
	SYS_TDMR_INIT = 36,
	PHYMEM_CACHE_WB = 40,
	PHYMEM_PAGE_WBINVD = 41,
	SYS_CONFIG = 45,
};

#endif
