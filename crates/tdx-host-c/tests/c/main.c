/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/*
 * Drives the software machine through libtdxhost.a: layout, bring-up, ledger, kexec, crash,
 * leftovers. TAP; exit 1 if a test fails.
 */
#include "check.h"

#include <pthread.h>
#include <stdlib.h>

int failures;
static int tests;

enum tdxh_result kexec(struct kernel *kernel, uint32_t policy, uint32_t kind)
{
	return tdxh_kexec(&kernel->host, policy, kind, NULL, 0, &kernel->report, &kernel->error);
}

static uint32_t state_of(struct kernel *kernel, uint64_t page)
{
	uint32_t state = 99;

	CHECK_IS(tdxh_page_state(&kernel->host, page, &state), TDXH_OK);
	return state;
}

static int32_t see_range(void *context, const struct tdxh_range *range)
{
	struct seen *seen = context;

	seen->in_order &= seen->ranges == 0 || seen->last_end < range->start;
	seen->ranges++;
	seen->bytes += range->end - range->start;
	seen->last_end = range->end;
	return seen->ranges == seen->stop_after;
}

static void test_library(void)
{
	char text[40];
	size_t count = 0;
	struct tdxh_cpuid registers = { 0 };
	const struct tdxh_fixup *fixups = tdxh_x86_fixups(&count);

	CHECK_IS(tdxh_abi_version(), TDXH_ABI_VERSION);
	CHECK_IS(strcmp(tdxh_result_name(TDXH_NO_MODULE), "TDXH_NO_MODULE"), 0);
	CHECK_IS(strcmp(tdxh_result_name(12345), "unknown"), 0);
	CHECK(tdxh_errno(TDXH_OK) == 0 && tdxh_errno(TDXH_NO_MODULE) == -19 && tdxh_errno(12345) == -5);
	CHECK_IS(tdxh_status_name(0x8000020000000001, text, sizeof(text)), strlen("TDX_OPERAND_BUSY"));
	CHECK_IS(strcmp(text, "TDX_OPERAND_BUSY"), 0);
	CHECK_IS(tdxh_status_name(0x8000020000000001, text, 4), strlen("TDX_OPERAND_BUSY"));
	CHECK_IS(strcmp(text, "TDX"), 0);
	CHECK_IS(tdxh_status_name(0xc000424200000000, NULL, 0), strlen("unknown"));

	/* Two SEAMCALLs and one RDMSR; RDMSR may be inlined more than once. */
	CHECK(fixups && count >= 3);
	tdxh_x86_cpuid(0, 0, &registers);
	CHECK(registers.eax >= 1);
	tdxh_x86_cpuid(0, 0, NULL);
	tdxh_x86_fence();
}

static void test_arguments(void)
{
	struct kernel *kernel = kernel_boot(1, 0);
	struct kernel *other = kernel_boot(1, 0);
	static struct tdxh_host fresh;
	static struct tdxh_layout empty;
	struct tdxh_kernel bad = kernel->functions;
	struct tdxh_range odd = { 1, PAGE }, reversed = { 2 * PAGE, PAGE }, high = { 0, ((uint64_t)1 << 52) + PAGE };
	struct tdxh_range five[5] = { { 0, 0 } };
	struct tdxh_layout_info info;
	struct tdxh_limits limits = { 64, 16, { 16, 16, 16 } };
	struct tdxh_registers registers = { .rax = PHYMEM_PAGE_RDMD };
	uint64_t words;
	uint32_t state;

	CHECK_IS(tdxh_host_init(NULL, &bad, NULL, kernel->slots, CPUS, NULL, 0), TDXH_NULL);
	CHECK_IS(tdxh_host_init((struct tdxh_host *)((char *)&fresh + 8), &bad, NULL, kernel->slots, CPUS, NULL, 0),
		 TDXH_MISALIGNED);
	CHECK_IS(tdxh_host_init(&kernel->host, &bad, NULL, kernel->slots, CPUS, NULL, 0), TDXH_ALREADY_INITIALIZED);
	CHECK_IS(tdxh_host_init(&fresh, &bad, NULL, NULL, CPUS, NULL, 0), TDXH_NULL);
	CHECK_IS(tdxh_host_init(&fresh, &bad, NULL, other->slots, 0, NULL, 0), TDXH_BAD_VALUE);
	CHECK_IS(tdxh_host_init(&fresh, &bad, NULL, other->slots, CPUS, five, 5), TDXH_BAD_VALUE);
	CHECK_IS(tdxh_host_init(&fresh, &bad, NULL, other->slots, CPUS, &odd, 1), TDXH_BAD_RANGE);
	CHECK_IS(tdxh_host_init(&fresh, &bad, NULL, other->slots, CPUS, NULL, 1), TDXH_NULL);
	bad.struct_size--;
	CHECK_IS(tdxh_host_init(&fresh, &bad, NULL, other->slots, CPUS, NULL, 0), TDXH_BAD_KERNEL);
	bad = kernel->functions;
	bad.fence = NULL;
	CHECK_IS(tdxh_host_init(&fresh, &bad, NULL, other->slots, CPUS, NULL, 0), TDXH_BAD_KERNEL);
	bad = kernel->functions;
	bad.frames.free = NULL;
	CHECK_IS(tdxh_host_init(&fresh, &bad, NULL, other->slots, CPUS, NULL, 0), TDXH_BAD_KERNEL);
	/* After all these the object is as it was. */
	CHECK_IS(tdxh_seamcall(&fresh, &registers, NULL), TDXH_NOT_INITIALIZED);
	CHECK_IS(tdxh_crash(&fresh, TDXH_POLICY_TRACKED, NULL), TDXH_NOT_INITIALIZED);
	CHECK_IS(tdxh_host_init(&fresh, &kernel->functions, NULL, other->slots, CPUS, NULL, 0), TDXH_OK);
	memset(&fresh, 0x5a, sizeof(fresh));
	CHECK_IS(tdxh_seamcall(&fresh, &registers, NULL), TDXH_NOT_INITIALIZED);
	CHECK_IS(tdxh_seamcall(&kernel->host, NULL, NULL), TDXH_NULL);

	CHECK_IS(tdxh_layout_get(&empty, &info), TDXH_NOT_INITIALIZED);
	CHECK_IS(tdxh_layout_build(&empty, 2, kernel->map, MAP_COUNT, NULL, 0, &limits, &kernel->functions.frames, NULL),
		 TDXH_BAD_VALUE);
	CHECK_IS(tdxh_layout_build(&empty, TDXH_FIT, kernel->map, SIZE_MAX, NULL, 0, &limits,
				   &kernel->functions.frames, NULL),
		 TDXH_BAD_VALUE);
	CHECK_IS(tdxh_node_range_set(&kernel->map[0], reversed.start, reversed.end, 0), TDXH_BAD_RANGE);
	CHECK_IS(tdxh_node_range_set(&kernel->map[0], high.start, high.end, 0), TDXH_BAD_RANGE);

	CHECK_IS(tdxh_ledger_words(&kernel->layout, &words), TDXH_NOT_INITIALIZED);
	CHECK_IS(tdxh_page_state(&kernel->host, 0, &state), TDXH_NO_LEDGER);
	CHECK_IS(tdxh_give(&kernel->host, 0, PAGE, NULL), TDXH_NO_LEDGER);
	CHECK_IS(tdxh_give(&kernel->host, PAGE, PAGE, NULL), TDXH_BAD_RANGE);
	CHECK_IS(tdxh_ledger_withdraw(&kernel->host), TDXH_NO_LEDGER);
	CHECK_IS(kexec(kernel, 7, TDXH_KEXEC_NORMAL), TDXH_BAD_VALUE);
	CHECK_IS(kexec(kernel, TDXH_POLICY_TRACKED, 2), TDXH_BAD_VALUE);
	CHECK_IS(kexec(kernel, TDXH_POLICY_EVERYTHING, 0), TDXH_BAD_VALUE);
	CHECK_IS(tdxh_work_step(NULL, NULL), TDXH_WORK_DONE);
	CHECK_IS(tdxh_call_admitted(&kernel->host, 0, NULL, NULL), TDXH_NULL);
	kernel_free(kernel);
	kernel_free(other);
}

/* A machine without TDX: the same calls, and nothing to do. */
static void no_cpuid(void *context, uint32_t leaf, uint32_t subleaf, struct tdxh_cpuid *output)
{
	(void)context, (void)leaf, (void)subleaf;
	memset(output, 0, sizeof(*output));
}

static uint32_t no_rdmsr(void *context, uint32_t msr, uint64_t *value)
{
	(void)context, (void)msr, (void)value;
	return 0;
}

static void test_no_tdx(void)
{
	struct kernel *kernel = kernel_boot(1, 0);
	struct tdxh_processor processor = { NULL, no_cpuid, no_rdmsr };
	static struct tdxh_platform platform;
	static struct tdxh_host host;
	struct tdxh_platform_info info;
	struct tdxh_handover handover;

	CHECK_IS(tdxh_detect(&processor, &platform, &kernel->error), TDXH_NO_TDX);
	CHECK_IS(kernel->error.result, TDXH_NO_TDX);
	CHECK(strstr(kernel->error.text, "MSR 0x87"));
	CHECK_IS(tdxh_platform_get(&platform, &info), TDXH_NOT_INITIALIZED);
	processor.rdmsr = NULL;
	CHECK_IS(tdxh_detect(&processor, &platform, NULL), TDXH_BAD_KERNEL);

	CHECK_IS(tdxh_platform_get(&kernel->platform, &info), TDXH_OK);
	CHECK(info.model == 0x8f && info.has_erratum == 1 && info.first_private_key_id == 32);
	CHECK(info.private_key_id_end == 64 && info.global_key_id == 32 && info.key_id_bits == 6);

	memset(kernel->slots, 0, sizeof(kernel->slots));
	CHECK_IS(tdxh_host_init(&host, &kernel->functions, NULL, kernel->slots, CPUS, NULL, 0), TDXH_OK);
	CHECK_IS(tdxh_bring_up(&host, &kernel->layout, TDXH_FIT, kernel->map, MAP_COUNT, NULL, NULL), TDXH_NO_TDX);
	CHECK_IS(tdxh_check_image(&host, TDXH_POLICY_REFUSE, TDXH_KEXEC_NORMAL, NULL, 0, NULL), TDXH_OK);
	CHECK_IS(tdxh_crash(&host, TDXH_POLICY_TRACKED, &kernel->report), TDXH_OK);
	CHECK_IS(tdxh_report_get(&host, &kernel->report, &handover), TDXH_OK);
	CHECK(handover.outcome == TDXH_OUTCOME_NO_TDX && handover.clean == 1 && handover.lines == 0);
	kernel_free(kernel);
}

static int32_t see_given_up(void *context, const struct tdxh_given_up *given_up)
{
	struct seen *seen = context;

	seen->ranges++;
	seen->bytes += given_up->range.end - given_up->range.start;
	return 0;
}

static void test_layout(void)
{
	struct kernel *kernel = kernel_boot(1, 0);
	/* The second CMR ends 512 MiB before the memory does. */
	struct tdxh_range cmrs[] = { { 1 * MIB, 2 * GIB }, { 4 * GIB, 6 * GIB - 512 * MIB } };
	struct tdxh_range unordered[] = { cmrs[1], cmrs[0] };
	struct tdxh_limits limits = { 64, 16, { 16, 16, 16 } };
	struct tdxh_frames *frames = &kernel->functions.frames;
	struct tdxh_layout *layout = &kernel->layout;
	struct tdxh_layout_info info;
	struct tdxh_tdmr tdmr;
	struct seen seen = { 0 };

	CHECK_IS(tdxh_layout_build(layout, TDXH_FIT, kernel->map, MAP_COUNT, unordered, 2, &limits, frames, &kernel->error),
		 TDXH_UNORDERED);
	CHECK(strstr(kernel->error.text, "CMR list"));
	limits.max_tdmrs = 0;
	CHECK_IS(tdxh_layout_build(layout, TDXH_FIT, kernel->map, MAP_COUNT, cmrs, 2, &limits, frames, &kernel->error),
		 TDXH_TDMRS_EXHAUSTED);
	CHECK(tdxh_errno(TDXH_TDMRS_EXHAUSTED) == -28);
	CHECK_IS(kernel->taken_count, 0);
	limits.max_tdmrs = 64;
	CHECK_IS(tdxh_layout_build(layout, TDXH_FIT, kernel->map, MAP_COUNT, cmrs, 2, &limits, frames, NULL), TDXH_OK);
	CHECK_IS(tdxh_layout_build(layout, TDXH_FIT, kernel->map, MAP_COUNT, cmrs, 2, &limits, frames, NULL),
		 TDXH_LAYOUT_IN_USE);
	CHECK_IS(tdxh_layout_get(layout, &info), TDXH_OK);
	CHECK_IS(info.tdmrs, 2);
	/*
	 * 4 GiB of TDMRs: 4 MiB, 8 KiB and a page for each TDMR's 1 GiB level, of 16-byte entries;
	 * Linux would print 16424 KB.
	 */
	CHECK_IS(info.pamt_bytes, 4 * (4 * MIB + 8192) + 2 * 4096);
	CHECK_IS(info.pamt_bytes / 1024, 16424);
	CHECK_IS(tdxh_layout_tdmr(layout, 1, &tdmr), TDXH_OK);
	CHECK(tdmr.range.start == 4 * GIB && tdmr.range.end == 6 * GIB && tdmr.border == TDXH_BORDER_MEMORY);
	CHECK_IS(tdmr.pamt[0].end - tdmr.pamt[0].start, 8 * MIB);
	CHECK(tdmr.reserved_count == 1 && tdmr.reserved[0].start == 6 * GIB - 512 * MIB);
	CHECK_IS(tdxh_layout_tdmr(layout, 2, &tdmr), TDXH_BAD_VALUE);
	CHECK_IS(tdxh_layout_walk_given_up(layout, kernel->map, MAP_COUNT, cmrs, 2, see_given_up, &seen), TDXH_OK);
	CHECK(seen.ranges == 1 && seen.bytes == 512 * MIB);
	CHECK_IS(tdxh_layout_release(layout, frames), TDXH_OK);
	CHECK_IS(kernel->taken_count, 0);
	CHECK_IS(tdxh_layout_get(layout, &info), TDXH_OK);
	CHECK_IS(info.tdmrs, 0);
	kernel_free(kernel);
}

/* Whatever the CPUs keep between their steps: none leaves work undone. */
static void test_locals(void)
{
	for (int locals = LOCAL_USED; locals <= LOCAL_NULL; locals++) {
		struct kernel *kernel = kernel_boot(1, 0);

		kernel->locals = locals;
		CHECK_IS(kernel_bring_up(kernel), TDXH_OK);
		CHECK_IS(kexec(kernel, TDXH_POLICY_TRACKED, TDXH_KEXEC_NORMAL), TDXH_OK);
		CHECK_IS(kernel_next(kernel), 0);
		kernel_free(kernel);
	}
}

static void test_bring_up(void)
{
	struct kernel *kernel = kernel_boot(1, 0);
	struct tdxh_layout_info info;

	CHECK_IS(kernel_bring_up(kernel), TDXH_OK);
	CHECK(kernel->module.major == 1 && kernel->module.minor == 5 && kernel->module.cmr_count == 2);
	CHECK(kernel->module.cmrs[1].start == 4 * GIB && kernel->module.limits.max_tdmrs == 64);
	CHECK_IS(tdxh_layout_get(&kernel->layout, &info), TDXH_OK);
	CHECK_IS(info.pamt_bytes / 1024, 16424);
	/*
	 * All of it is private, but for what the 1 GiB levels do not need: 2 entries of 16 bytes in
	 * a page each.
	 */
	CHECK_IS(machine_private_lines(kernel->machine) * 64, info.pamt_bytes - 2 * (4096 - 64));
	/* PAMTs only: TDMR_INFO has come back. */
	CHECK_IS(kernel->taken_count, 2);
	CHECK_IS(kernel_bring_up(kernel), TDXH_CLAIMED);
	CHECK_IS(tdxh_layout_release(&kernel->layout, &kernel->functions.frames), TDXH_LAYOUT_PRIVATE);
	kernel_free(kernel);
}

/* A call of each kind fails: everything is undone. */
static void test_bring_up_fails(void)
{
	/* TDX_SYS_NOT_READY, VMfailInvalid, #GP, #UD. */
	static const uint64_t statuses[] = { 0xc000050500000000, 0x8000ff00ffff0000, 0x8000ff000000000d,
					     0x8000ff0000000006 };
	static const enum tdxh_result results[] = { TDXH_SEAMCALL_FAILED, TDXH_NO_MODULE, TDXH_SEAM_OFF, TDXH_NO_VMX };
	static const struct {
		uint32_t leaf, nth, step;
	} calls[] = {
		{ SYS_INIT, 1, TDXH_STEP_SYS_INIT },	     { SYS_LP_INIT, 3, TDXH_STEP_LP_INIT },
		{ SYS_RD, 1, TDXH_STEP_MODULE_INFO },	     { SYS_RD, 16, TDXH_STEP_MODULE_INFO },
		{ SYS_CONFIG, 1, TDXH_STEP_CONFIG },	     { SYS_KEY_CONFIG, 1, TDXH_STEP_KEY_CONFIG },
		{ SYS_KEY_CONFIG, 2, TDXH_STEP_KEY_CONFIG }, { SYS_TDMR_INIT, 1, TDXH_STEP_TDMR_INIT },
		{ SYS_TDMR_INIT, 1000, TDXH_STEP_TDMR_INIT },
	};

	for (int i = 0; i < 4; i++) {
		for (size_t j = 0; j < sizeof(calls) / sizeof(calls[0]); j++) {
			struct kernel *kernel = kernel_boot(1, 0);

			kernel->fail_leaf = calls[j].leaf;
			kernel->fail_in = calls[j].nth;
			kernel->fail_with = statuses[i];
			CHECK_IS(kernel_bring_up(kernel), results[i]);
			CHECK_IS(kernel->error.result, results[i]);
			CHECK_IS(kernel->error.status, statuses[i]);
			CHECK_IS(kernel->error.step, calls[j].step);
			CHECK_IS(kernel->error.input.rax, calls[j].leaf);
			CHECK(kernel->error.attempts == 1 && strlen(kernel->error.text) > 40);
			CHECK_IS(kernel->taken_count, 0);
			CHECK_IS(machine_private_lines(kernel->machine), 0);
			CHECK_IS(kernel_next(kernel), 0);
			kernel_free(kernel);
		}
	}
}

static void test_pages(void)
{
	struct kernel *kernel = kernel_with_tdx(1, 0);
	struct tdxh_host *host = &kernel->host;
	struct tdxh_returning returning = { 0 };
	uint64_t words = 0, page = kernel_page(kernel), end = page + 2 * PAGE;
	struct seen seen = { .in_order = 1 };
	uint64_t small_words[8];

	CHECK_IS(tdxh_ledger_words(&kernel->layout, &words), TDXH_OK);
	/* Two bits for each of 2^20 pages, and two levels of summary for two ranges. */
	CHECK_IS(words, (1 << 20) * 2 / 64 + 2 * (1024 / 64 + 1));
	CHECK_IS(tdxh_ledger_init(host, small_words, 8, NULL), TDXH_LEDGER_IN_USE);
	CHECK_IS(tdxh_ledger_init(host, NULL, 8, NULL), TDXH_NULL);

	CHECK_IS(tdxh_give(host, page, end, &kernel->error), TDXH_OK);
	CHECK_IS(state_of(kernel, page), TDXH_PAGE_IN_FLIGHT);
	CHECK_IS(tdxh_give(host, page, end, &kernel->error), TDXH_WRONG_STATE);
	CHECK(strstr(kernel->error.text, "InFlight"));
	CHECK_IS(tdxh_reset(host, page, end, NULL), TDXH_WRONG_STATE);
	CHECK_IS(tdxh_commit(host, page, end, NULL), TDXH_OK);
	CHECK_IS(state_of(kernel, page + PAGE), TDXH_PAGE_PRIVATE);
	CHECK_IS(tdxh_walk_marked(host, see_range, &seen), TDXH_OK);
	CHECK(seen.ranges == 1 && seen.bytes == 2 * PAGE);
	CHECK_IS(tdxh_ledger_withdraw(host), TDXH_LEDGER_IN_USE);

	CHECK_IS(tdxh_returning_begin(host, &returning), TDXH_OK);
	CHECK_IS(tdxh_returning_begin(host, &returning), TDXH_BUSY);
	CHECK_IS(tdxh_reclaim(host, page, end, NULL), TDXH_OK);
	CHECK_IS(tdxh_returning_settle(&returning), TDXH_OK);
	CHECK_IS(tdxh_returning_settle(&returning), TDXH_NOT_INITIALIZED);
	CHECK_IS(state_of(kernel, page), TDXH_PAGE_RETURNED);
	CHECK_IS(tdxh_reset(host, page, end, NULL), TDXH_OK);
	CHECK_IS(state_of(kernel, page), TDXH_PAGE_SHARED);

	CHECK_IS(tdxh_give(host, page, end, NULL), TDXH_OK);
	CHECK_IS(tdxh_abort(host, page, end, NULL), TDXH_OK);
	CHECK_IS(tdxh_reset(host, page, end, NULL), TDXH_OK);

	CHECK_IS(state_of(kernel, 3 * GIB), TDXH_PAGE_OUTSIDE);
	CHECK_IS(tdxh_give(host, 3 * GIB, 3 * GIB + PAGE, NULL), TDXH_OUTSIDE);
	CHECK_IS(tdxh_give(host, CRASH_START, CRASH_START + PAGE, NULL), TDXH_RESERVED);
	CHECK_IS(tdxh_ledger_withdraw(host), TDXH_OK);
	CHECK_IS(tdxh_give(host, page, end, NULL), TDXH_NO_LEDGER);
	CHECK_IS(tdxh_ledger_init(host, small_words, 8, &kernel->error), TDXH_LEDGER_TOO_SMALL);
	/* Too small leaves the host as it was. */
	CHECK_IS(tdxh_ledger_init(host, kernel->words, MAX_WORDS, NULL), TDXH_OK);
	kernel_free(kernel);
}

/* The life of a TD: its pages are private, and come back as ordinary memory. */
static void test_td(void)
{
	struct kernel *kernel = kernel_with_tdx(1, 0);
	uint64_t pamt_lines = machine_private_lines(kernel->machine);
	struct seen all = { .in_order = 1 }, marked = { .in_order = 1 }, one = { .in_order = 1, .stop_after = 1 };
	struct tdxh_registers registers = { .rax = MNG_CREATE, .rdx = 34 };
	uint64_t page = kernel_page(kernel);
	struct td td;

	CHECK_IS(td_create(kernel, &td, 33), TDXH_OK);
	machine_evict_all(kernel->machine);
	CHECK_IS(machine_private_lines(kernel->machine), pamt_lines + (1 + TDCS_PAGES) * 64);
	/* A page that the module has is not reset, whoever asks. */
	CHECK_IS(tdxh_reset(&kernel->host, td.tdcs[0], td.tdcs[0] + PAGE, NULL), TDXH_WRONG_STATE);
	CHECK_IS(machine_private_lines_in(kernel->machine, td.tdcs[0], td.tdcs[0] + PAGE), 64);
	CHECK_IS(tdxh_walk_marked(&kernel->host, see_range, &marked), TDXH_OK);
	CHECK(marked.bytes == (1 + TDCS_PAGES) * PAGE && marked.in_order);
	CHECK_IS(tdxh_walk_private(&kernel->host, see_range, &all), TDXH_OK);
	CHECK(all.bytes == 16424 * 1024 + (1 + TDCS_PAGES) * PAGE && all.in_order);
	CHECK_IS(tdxh_walk_private(&kernel->host, see_range, &one), TDXH_STOPPED);
	CHECK_IS(one.ranges, 1);

	/* A KeyID that is in use: the call fails, and the page is marked until it is cleared. */
	registers.rcx = page;
	registers.rdx = 33;
	CHECK_IS(tdxh_seamcall_giving(&kernel->host, &registers, page, page + PAGE, &kernel->error),
		 TDXH_SEAMCALL_FAILED);
	CHECK_IS(kernel->error.status >> 32, 0xc0000820);
	CHECK_IS(registers.rax, kernel->error.status);
	CHECK(strstr(kernel->error.text, "TDX_HKID_NOT_FREE"));
	CHECK_IS(state_of(kernel, page), TDXH_PAGE_RETURNED);
	CHECK_IS(tdxh_reset(&kernel->host, page, page + PAGE, NULL), TDXH_OK);

	/* A page of a living TD is not given back, and stays the module's. */
	registers = (struct tdxh_registers){ .rax = PHYMEM_PAGE_RECLAIM, .rcx = td.tdcs[0] };
	CHECK_IS(tdxh_seamcall_returning(&kernel->host, &registers, td.tdcs[0], td.tdcs[0] + PAGE, &kernel->error),
		 TDXH_SEAMCALL_FAILED);
	CHECK_IS(state_of(kernel, td.tdcs[0]), TDXH_PAGE_PRIVATE);

	CHECK_IS(td_destroy(kernel, &td), TDXH_OK);
	CHECK_IS(state_of(kernel, td.tdr), TDXH_PAGE_SHARED);
	CHECK_IS(machine_private_lines(kernel->machine), pamt_lines);
	CHECK_IS(machine_use_memory(kernel->machine, td.tdr, td.tdr + PAGE), 0);
	CHECK_IS(kexec(kernel, TDXH_POLICY_TRACKED, TDXH_KEXEC_NORMAL), TDXH_OK);
	CHECK_IS(kernel_next(kernel), 0);
	kernel_free(kernel);
}

/*
 * A SEAMCALL that the kernel executes by itself: the slot says so, and the CPU's caches are written
 * back.
 */
static void own_seamcall(void *context)
{
	struct kernel *kernel = context;
	struct tdxh_registers registers = { .rax = PHYMEM_PAGE_RDMD, .rcx = 4 * GIB };
	struct tdxh_registers nested = registers;

	machine_seamcall(kernel->machine, this_cpu, &registers);
	CHECK_IS(registers.rax, 0);
	CHECK_IS(tdxh_seamcall(&kernel->host, &nested, NULL), TDXH_OK);
}

static void test_own_seamcalls(void)
{
	struct kernel *kernel = kernel_with_tdx(1, 0);
	struct tdxh_registers registers = { .rax = PHYMEM_PAGE_RDMD, .rcx = 4 * GIB };

	CHECK_IS(tdxh_call_admitted(&kernel->host, PHYMEM_PAGE_RDMD, own_seamcall, kernel), TDXH_OK);
	CHECK_IS(tdxh_offline_this_cpu(&kernel->host), TDXH_OK);
	/* A CPU without a slot can make no SEAMCALL. */
	this_cpu = CPUS;
	CHECK_IS(tdxh_seamcall(&kernel->host, &registers, &kernel->error), TDXH_GATE_CLOSED);
	this_cpu = 0;
	machine_vmxoff(kernel->machine, 0);
	registers.rax = PHYMEM_PAGE_RDMD;
	CHECK_IS(tdxh_seamcall(&kernel->host, &registers, &kernel->error), TDXH_NO_VMX);
	CHECK_IS(tdxh_errno(TDXH_NO_VMX), (unsigned long long)-13);
	kernel_free(kernel);
}

/* A CPU that gives a page of its own and takes it back, again and again. */
struct traffic {
	struct kernel *kernel;
	uint64_t page;
	uint32_t cpu;
};

#define ROUNDS 2000

static void *give_and_take(void *argument)
{
	const struct traffic *traffic = argument;
	struct tdxh_host *host = &traffic->kernel->host;
	uint64_t page = traffic->page, end = page + PAGE;
	struct tdxh_registers registers = { .rax = PHYMEM_PAGE_RDMD, .rcx = 4 * GIB };

	this_cpu = traffic->cpu;
	for (int round = 0; round < ROUNDS; round++) {
		if (tdxh_give(host, page, end, NULL) != TDXH_OK || tdxh_commit(host, page, end, NULL) != TDXH_OK ||
		    tdxh_seamcall(host, &registers, NULL) != TDXH_OK ||
		    tdxh_reclaim(host, page, end, NULL) != TDXH_OK || tdxh_reset(host, page, end, NULL) != TDXH_OK)
			abort();
		registers.rax = PHYMEM_PAGE_RDMD;
		registers.rcx = 4 * GIB;
	}
	return NULL;
}

/*
 * All CPUs at the same time: bring-up, pages in one word of the ledger while another CPU walks it,
 * and the reset.
 */
static void test_parallel(void)
{
	struct kernel *kernel = kernel_boot(1, 0);
	struct traffic traffic[CPUS];
	pthread_t threads[CPUS];
	uint64_t first;

	kernel->parallel = true;
	CHECK_IS(kernel_bring_up(kernel), TDXH_OK);
	CHECK_IS(kernel_make_ledger(kernel), TDXH_OK);
	first = kernel_page(kernel);
	for (uint32_t cpu = 0; cpu < CPUS; cpu++) {
		traffic[cpu] = (struct traffic){ kernel, first + cpu * PAGE, cpu };
		CHECK_IS(pthread_create(&threads[cpu], NULL, give_and_take, &traffic[cpu]), 0);
	}
	for (int round = 0; round < ROUNDS; round++) {
		struct seen seen = { .in_order = true };

		CHECK_IS(tdxh_walk_marked(&kernel->host, see_range, &seen), TDXH_OK);
		CHECK(seen.in_order && seen.bytes <= CPUS * PAGE);
		CHECK(seen.ranges == 0 || (seen.last_end > first && seen.last_end <= first + CPUS * PAGE));
	}
	for (uint32_t cpu = 0; cpu < CPUS; cpu++)
		pthread_join(threads[cpu], NULL);
	CHECK_IS(state_of(kernel, first), TDXH_PAGE_SHARED);
	CHECK_IS(kexec(kernel, TDXH_POLICY_TRACKED, TDXH_KEXEC_NORMAL), TDXH_OK);
	CHECK_IS(kernel_next(kernel), 0);
	kernel_free(kernel);
}

static void run(const char *name, void (*test)(void))
{
	int before = failures;

	test();
	printf("%s %d - %s\n", failures == before ? "ok" : "not ok", ++tests, name);
	fflush(stdout);
}

int main(void)
{
	run("version, names, errnos, instructions", test_library);
	run("wrong arguments are answered and change nothing", test_arguments);
	run("a machine without TDX", test_no_tdx);
	run("layout", test_layout);
	run("bring-up", test_bring_up);
	run("what CPUs keep between their steps", test_locals);
	run("a bring-up that fails is undone", test_bring_up_fails);
	run("pages in the ledger", test_pages);
	run("the life of a TD", test_td);
	run("kexec under each policy", test_kexec);
	run("kexec by CPUs that run nothing once they have stopped", test_alone);
	run("a report that is in use", test_busy_report);
	run("crash image", test_crash_image);
	run("returns that are settled, and one that is not", test_settled);
	run("kexec that resets everything", test_everything);
	run("kexec refused", test_kexec_refused);
	run("kexec in the middle of a return", test_kexec_in_a_return);
	run("a kernel that comes back", test_came_back);
	run("crash on each CPU", test_crash);
	run("crash in a bring-up", test_crash_in_bring_up);
	run("crash with a CPU that does not stop, and the table of leftovers", test_crash_with_a_stuck_cpu);
	run("what is at an address", test_explain);
	run("SEAMCALLs of the kernel's own", test_own_seamcalls);
	run("all CPUs at the same time", test_parallel);
	printf("1..%d\n", tests);
	return failures != 0;
}
