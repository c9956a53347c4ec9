/* SPDX-License-Identifier: MIT OR Apache-2.0 */
#include "kernel.h"

#include <pthread.h>
#include <stdlib.h>
#include <string.h>

_Thread_local uint32_t this_cpu;

/* `pin` without `unpin` on this thread. */
static _Thread_local uint32_t pinned;

static bool is_free(const struct kernel *kernel, uint64_t start, uint64_t end)
{
	for (size_t i = 0; i < kernel->taken_count; i++) {
		if (start < kernel->taken[i].end && kernel->taken[i].start < end)
			return false;
	}
	return end <= CRASH_START || CRASH_END <= start;
}

/* First fit, 1 MiB steps; for a window of a place, its start. */
static uint32_t allocate(void *context, const struct tdxh_frame_request *request, uint64_t *start)
{
	struct kernel *kernel = context;
	uint64_t bytes = request->pages * PAGE;
	uint64_t at = request->within.start > 16 * MIB ? request->within.start : 16 * MIB;

	if (kernel->taken_count == MAX_TAKEN)
		return 0;
	for (; at + bytes <= request->within.end && at + bytes <= 2 * GIB; at += MIB) {
		if (!is_free(kernel, at, at + bytes))
			continue;
		kernel->taken[kernel->taken_count].start = at;
		kernel->taken[kernel->taken_count].end = at + bytes;
		kernel->taken_count++;
		*start = at;
		return 1;
	}
	return 0;
}

static void give_back(void *context, const struct tdxh_range *range)
{
	struct kernel *kernel = context;

	for (size_t i = 0; i < kernel->taken_count; i++) {
		if (kernel->taken[i].start == range->start && kernel->taken[i].end == range->end) {
			kernel->taken[i] = kernel->taken[--kernel->taken_count];
			return;
		}
	}
	abort();
}

static uint32_t pin(void *context)
{
	(void)context;
	pinned++;
	return this_cpu;
}

static void unpin(void *context)
{
	(void)context;
	if (pinned-- == 0)
		abort();
}

static uint32_t package_of(void *context, uint32_t cpu)
{
	struct kernel *kernel = context;

	return machine_package_of(kernel->machine, cpu);
}

static void seamcall(void *context, struct tdxh_registers *registers)
{
	struct kernel *kernel = context;

	if (!pinned)
		abort();
	uint64_t call = atomic_fetch_add(&kernel->calls, 1) + 1;

	if (call == kernel->crash_at) {
		/*
		 * The panic, on this CPU, in the middle of whatever it was doing. It never goes on:
		 * nothing it does has an effect.
		 */
		if (tdxh_crash(&kernel->host, TDXH_POLICY_TRACKED, &kernel->report) != TDXH_OK)
			abort();
		kernel->dead = true;
	}
	if (kernel->dead) {
		registers->rax = 0x8000ff0000010000;
		return;
	}
	if (registers->rax == kernel->fail_leaf && kernel->fail_in && --kernel->fail_in == 0) {
		registers->rax = kernel->fail_with;
		return;
	}
	uint32_t leaf = (uint32_t)registers->rax, before = this_cpu;

	machine_seamcall(kernel->machine, this_cpu, registers);
	if (leaf == kernel->kexec_after && leaf) {
		this_cpu = 1;
		if (tdxh_kexec(&kernel->host, TDXH_POLICY_MODULE, TDXH_KEXEC_NORMAL, NULL, 0, &kernel->report, NULL) != TDXH_OK)
			abort();
		this_cpu = before;
		kernel->dead = true;
	}
}

static uint64_t reset_lines(void *context, uint64_t first, uint64_t lines)
{
	struct kernel *kernel = context;

	if (!kernel->dead)
		machine_reset_lines(kernel->machine, this_cpu, first, lines);
	return 0;
}

static void fence(void *context)
{
	struct kernel *kernel = context;

	if (!kernel->dead)
		machine_fence(kernel->machine, this_cpu);
}

static void write_back_caches(void *context)
{
	struct kernel *kernel = context;

	if (!kernel->dead)
		machine_wbinvd(kernel->machine, this_cpu);
}

static void flush_lines(void *context, uint64_t first, uint64_t lines)
{
	struct kernel *kernel = context;

	if (!kernel->dead)
		machine_flush_lines(kernel->machine, this_cpu, first, lines);
}

static void write_shared(void *context, uint64_t address, const uint8_t *bytes, size_t count)
{
	struct kernel *kernel = context;

	if (!kernel->dead)
		machine_write(kernel->machine, this_cpu, address, bytes, count);
}

/* One step on each CPU in turn, as CPUs that work at the same time would. */
static void run_in_turns(struct kernel *kernel, const struct tdxh_work *work)
{
	/* Used for one work after the other. */
	static struct tdxh_work_local locals[CPUS];
	bool again = true, by_steps = kernel->locals != LOCAL_NULL;
	uint32_t before = this_cpu;

	if (kernel->locals == LOCAL_GARBAGE)
		memset(locals, 0xa5, sizeof(locals));
	while (again) {
		again = false;
		for (uint32_t cpu = 0; cpu < CPUS; cpu++) {
			this_cpu = cpu;
			if (tdxh_work_step(work, by_steps ? &locals[cpu] : NULL) == TDXH_WORK_AGAIN)
				again = true;
		}
	}
	uint64_t calls = kernel->calls;

	/* Who is done stays done. */
	for (uint32_t cpu = 0; by_steps && cpu < CPUS; cpu++) {
		this_cpu = cpu;
		if (tdxh_work_step(work, &locals[cpu]) != TDXH_WORK_DONE || kernel->calls != calls)
			abort();
	}
	this_cpu = before;
}

/* What a thread that plays a CPU is told. */
struct cpu_thread {
	const struct tdxh_work *work;
	uint32_t cpu;
};

static void *work_on_cpu(void *argument)
{
	const struct cpu_thread *told = argument;

	this_cpu = told->cpu;
	tdxh_work_run(told->work);
	return NULL;
}

/* A thread for each CPU, all at once. */
static void run_in_parallel(const struct tdxh_work *work)
{
	pthread_t threads[CPUS];
	struct cpu_thread told[CPUS];

	for (uint32_t cpu = 0; cpu < CPUS; cpu++) {
		told[cpu] = (struct cpu_thread){ work, cpu };
		if (pthread_create(&threads[cpu], NULL, work_on_cpu, &told[cpu]))
			abort();
	}
	for (uint32_t cpu = 0; cpu < CPUS; cpu++)
		pthread_join(threads[cpu], NULL);
}

static void run_on_all(void *context, const struct tdxh_work *work)
{
	struct kernel *kernel = context;

	if (kernel->parallel)
		run_in_parallel(work);
	else
		run_in_turns(kernel, work);
}

static void run_on_stopped(void *context, const struct tdxh_work *work)
{
	struct kernel *kernel = context;

	if (kernel->alone)
		tdxh_work_run(work);
	else
		run_on_all(context, work);
}

/* CPU n sits in package n mod 2. */
static void run_on_each_package(void *context, const struct tdxh_work *work)
{
	uint32_t before = this_cpu;

	(void)context;
	for (uint32_t cpu = 0; cpu < 2; cpu++) {
		this_cpu = cpu;
		tdxh_work_run(work);
	}
	this_cpu = before;
}

static uint32_t stop_others(struct kernel *kernel, enum tdxh_result (*stop)(struct tdxh_host *host))
{
	uint32_t before = this_cpu;
	uint32_t running = 1;

	for (uint32_t cpu = 0; cpu < CPUS; cpu++) {
		if (cpu == before)
			continue;
		if (cpu == kernel->stuck) {
			running++;
			continue;
		}
		this_cpu = cpu;
		if (stop(&kernel->host) != TDXH_OK)
			abort();
	}
	this_cpu = before;
	return running;
}

static uint32_t stop_other_cpus(void *context)
{
	return stop_others(context, tdxh_stop_this_cpu);
}

static void resume_other_cpus(void *context)
{
	struct kernel *kernel = context;

	kernel->resumed = true;
}

static void stop_other_cpus_by_nmi(void *context)
{
	stop_others(context, tdxh_stop_this_cpu_at_crash);
}

static uint32_t is_online(void *context, uint32_t cpu)
{
	(void)context;
	return cpu < CPUS;
}

static void cpuid(void *context, uint32_t leaf, uint32_t subleaf, struct tdxh_cpuid *output)
{
	struct kernel *kernel = context;
	uint32_t found[4];

	machine_cpuid(kernel->machine, leaf, subleaf, found);
	output->eax = found[0];
	output->ebx = found[1];
	output->ecx = found[2];
	output->edx = found[3];
}

static uint32_t rdmsr(void *context, uint32_t msr, uint64_t *value)
{
	struct kernel *kernel = context;

	return machine_rdmsr(kernel->machine, msr, value);
}

struct kernel *kernel_boot(uint32_t has_erratum, uint32_t has_disable)
{
	static const struct tdxh_range reserved = { CRASH_START, CRASH_END };
	struct kernel *kernel = aligned_alloc(TDXH_HOST_ALIGN, sizeof(*kernel));

	if (!kernel)
		abort();
	memset(kernel, 0, sizeof(*kernel));
	kernel->machine = machine_new(CPUS, has_erratum, has_disable);
	if (!kernel->machine)
		abort();
	kernel->stuck = CPUS;
	this_cpu = 0;
	kernel->functions = (struct tdxh_kernel){
		.struct_size = sizeof(struct tdxh_kernel),
		.context = kernel,
		.frames = { .context = kernel, .allocate = allocate, .free = give_back },
		.pin = pin,
		.unpin = unpin,
		.package_of = package_of,
		.seamcall = seamcall,
		.reset_lines = reset_lines,
		.fence = fence,
		.write_back_caches = write_back_caches,
		.flush_lines = flush_lines,
		.write_shared = write_shared,
		.run_on_all = run_on_all,
		.run_on_each_package = run_on_each_package,
		.stop_other_cpus = stop_other_cpus,
		.resume_other_cpus = resume_other_cpus,
		.run_on_stopped = run_on_stopped,
		.stop_other_cpus_by_nmi = stop_other_cpus_by_nmi,
		.is_online = is_online,
	};
	struct tdxh_processor processor = { .context = kernel, .cpuid = cpuid, .rdmsr = rdmsr };

	if (tdxh_detect(&processor, &kernel->platform, &kernel->error) != TDXH_OK)
		abort();
	if (tdxh_host_init(&kernel->host, &kernel->functions, &kernel->platform, kernel->slots, CPUS, &reserved, 1) !=
	    TDXH_OK)
		abort();
	if (tdxh_node_range_set(&kernel->map[0], 1 * MIB, 2 * GIB, 0) != TDXH_OK ||
	    tdxh_node_range_set(&kernel->map[1], 4 * GIB, 6 * GIB, 0) != TDXH_OK)
		abort();
	return kernel;
}

struct kernel *kernel_with_tdx(uint32_t has_erratum, uint32_t has_disable)
{
	struct kernel *kernel = kernel_boot(has_erratum, has_disable);

	if (kernel_bring_up(kernel) != TDXH_OK || kernel_make_ledger(kernel) != TDXH_OK)
		abort();
	return kernel;
}

void kernel_free(struct kernel *kernel)
{
	if (pinned || machine_refused(kernel->machine))
		abort();
	machine_free(kernel->machine);
	free(kernel);
}

enum tdxh_result kernel_bring_up(struct kernel *kernel)
{
	return tdxh_bring_up(&kernel->host, &kernel->layout, TDXH_FIT, kernel->map, MAP_COUNT, &kernel->module,
			     &kernel->error);
}

enum tdxh_result kernel_make_ledger(struct kernel *kernel)
{
	return tdxh_ledger_init(&kernel->host, kernel->words, MAX_WORDS, &kernel->error);
}

uint64_t kernel_page(struct kernel *kernel)
{
	struct tdxh_frame_request request = { .pages = 1, .within = { 0, 2 * GIB }, .node = TDXH_ANY_NODE };
	uint64_t page;

	return allocate(kernel, &request, &page) ? page : 0;
}

void kernel_free_page(struct kernel *kernel, uint64_t page)
{
	struct tdxh_range range = { page, page + PAGE };

	give_back(kernel, &range);
}

uint64_t kernel_next(struct kernel *kernel)
{
	machine_kexec(kernel->machine);
	return machine_use_memory(kernel->machine, 1 * MIB, 2 * GIB) +
	       machine_use_memory(kernel->machine, 4 * GIB, 6 * GIB);
}

/* A call on CPU 0, or on one CPU of each package. */
static enum tdxh_result call(struct kernel *kernel, uint32_t leaf, uint64_t rcx, uint32_t packages)
{
	enum tdxh_result result = TDXH_OK;
	uint32_t before = this_cpu;

	for (uint32_t cpu = 0; cpu < packages && result == TDXH_OK; cpu++) {
		struct tdxh_registers registers = { .rax = leaf, .rcx = rcx };

		this_cpu = cpu;
		result = tdxh_seamcall(&kernel->host, &registers, &kernel->error);
		/* PHYMEM.CACHE.WB goes on where it was interrupted. */
		while (leaf == PHYMEM_CACHE_WB && result == TDXH_SEAMCALL_FAILED && kernel->error.status >> 32 == 0x80000003) {
			registers = (struct tdxh_registers){ .rax = leaf, .rcx = 1 };
			result = tdxh_seamcall(&kernel->host, &registers, &kernel->error);
		}
	}
	this_cpu = before;
	return result;
}

static enum tdxh_result give(struct kernel *kernel, uint32_t leaf, uint64_t page, uint64_t rdx)
{
	struct tdxh_registers registers = { .rax = leaf, .rcx = page, .rdx = rdx };

	/* What the page held before: it must not land on what the module writes there. */
	machine_write(kernel->machine, 2, page + 128, (const uint8_t *)"old", 3);
	return tdxh_seamcall_giving(&kernel->host, &registers, page, page + PAGE, &kernel->error);
}

enum tdxh_result td_create(struct kernel *kernel, struct td *td, uint32_t key_id)
{
	enum tdxh_result result;

	td->key_id = key_id;
	td->tdr = kernel_page(kernel);
	result = give(kernel, MNG_CREATE, td->tdr, key_id);
	if (result == TDXH_OK)
		result = call(kernel, MNG_KEY_CONFIG, td->tdr, 2);
	for (int i = 0; i < TDCS_PAGES && result == TDXH_OK; i++) {
		td->tdcs[i] = kernel_page(kernel);
		result = give(kernel, MNG_ADDCX, td->tdcs[i], td->tdr);
	}
	return result;
}

static enum tdxh_result reclaim(struct kernel *kernel, uint64_t page)
{
	struct tdxh_registers registers = { .rax = PHYMEM_PAGE_RECLAIM, .rcx = page };

	return tdxh_seamcall_returning(&kernel->host, &registers, page, page + PAGE, &kernel->error);
}

enum tdxh_result td_free_key(struct kernel *kernel, const struct td *td)
{
	enum tdxh_result result = call(kernel, MNG_VPFLUSHDONE, td->tdr, 1);

	if (result == TDXH_OK)
		result = call(kernel, PHYMEM_CACHE_WB, 0, 2);
	if (result == TDXH_OK)
		result = call(kernel, MNG_KEY_FREEID, td->tdr, 1);
	return result;
}

enum tdxh_result td_destroy(struct kernel *kernel, struct td *td)
{
	enum tdxh_result result = td_free_key(kernel, td);
	struct tdxh_platform_info info;

	for (int i = 0; i < TDCS_PAGES && result == TDXH_OK; i++) {
		result = reclaim(kernel, td->tdcs[i]);
		if (result == TDXH_OK)
			result = tdxh_reset(&kernel->host, td->tdcs[i], td->tdcs[i] + PAGE, &kernel->error);
		if (result == TDXH_OK)
			kernel_free_page(kernel, td->tdcs[i]);
	}
	if (result == TDXH_OK)
		result = reclaim(kernel, td->tdr);
	if (result == TDXH_OK)
		result = tdxh_platform_get(&kernel->platform, &info);
	if (result == TDXH_OK) {
		/*
		 * The TDR is the one page under the global KeyID: PHYMEM.CACHE.WB did not cover it.
		 */
		uint64_t tagged = td->tdr | (uint64_t)info.global_key_id << (52 - info.key_id_bits);

		result = call(kernel, PHYMEM_PAGE_WBINVD, tagged, 1);
	}
	if (result == TDXH_OK)
		result = tdxh_reset(&kernel->host, td->tdr, td->tdr + PAGE, &kernel->error);
	if (result == TDXH_OK)
		kernel_free_page(kernel, td->tdr);
	return result;
}
