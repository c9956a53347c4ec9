/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/* Kexec, crash, leftovers, and what is at an address. */
#include "check.h"

static struct tdxh_handover handover_of(struct kernel *kernel)
{
	struct tdxh_handover handover;

	memset(&handover, 0xff, sizeof(handover));
	CHECK_IS(tdxh_report_get(&kernel->host, &kernel->report, &handover), TDXH_OK);
	return handover;
}

static int32_t see_leftover(void *context, const struct tdxh_leftover *leftover)
{
	struct seen *seen = context;

	seen->ranges++;
	seen->bytes += leftover->range.end - leftover->range.start;
	return seen->ranges == seen->stop_after;
}


/* Every policy, with a TD, on both kinds of CPU and both kinds of module. */
void test_kexec(void)
{
	static const struct {
		uint32_t policy, has_erratum, has_disable, outcome, module, clean, dies;
	} table[] = {
		{ TDXH_POLICY_TRACKED, 1, 0, TDXH_OUTCOME_RESET, TDXH_MODULE_NOT_ASKED, 1, 0 },
		{ TDXH_POLICY_MODULE, 1, 0, TDXH_OUTCOME_RESET, TDXH_MODULE_NO_LEAF, 1, 0 },
		{ TDXH_POLICY_MODULE, 1, 1, TDXH_OUTCOME_RESET, TDXH_MODULE_DISABLED, 1, 0 },
		{ TDXH_POLICY_TRACKED, 0, 0, TDXH_OUTCOME_NO_ERRATUM, TDXH_MODULE_NOT_ASKED, 1, 0 },
	};

	for (size_t i = 0; i < sizeof(table) / sizeof(table[0]); i++) {
		struct kernel *kernel = kernel_with_tdx(table[i].has_erratum, table[i].has_disable);
		struct seen seen = { 0 };
		struct tdxh_handover handover;
		struct td td;
		uint64_t dead;

		CHECK_IS(td_create(kernel, &td, 33), TDXH_OK);
		CHECK_IS(kexec(kernel, table[i].policy, TDXH_KEXEC_NORMAL), TDXH_OK);
		handover = handover_of(kernel);
		CHECK_IS(handover.policy, table[i].policy);
		CHECK_IS(handover.kind, TDXH_HANDOVER_KEXEC);
		CHECK_IS(handover.outcome, table[i].outcome);
		CHECK_IS(handover.module, table[i].module);
		CHECK_IS(handover.clean, table[i].clean);
		CHECK_IS(handover.next_kernel_can_use_tdx, table[i].module == TDXH_MODULE_DISABLED);
		CHECK(handover.not_stopped == 0 && handover.may_hold_private_lines == 0);
		CHECK((handover.module_status != 0) == (table[i].module == TDXH_MODULE_FAILED));
		CHECK_IS(tdxh_walk_leftovers(&kernel->host, &kernel->report, see_leftover, &seen), TDXH_OK);
		CHECK_IS(seen.bytes == 0, table[i].clean);
		dead = kernel_next(kernel);
		CHECK_IS(dead != 0, table[i].dies);
		kernel_free(kernel);
	}
}

/* CPUs that have stopped run nothing more: they have written their caches back on the way. */
void test_alone(void)
{
	struct kernel *kernel = kernel_with_tdx(1, 0);
	struct td td;

	CHECK_IS(td_create(kernel, &td, 33), TDXH_OK);
	kernel->alone = true;
	CHECK_IS(kexec(kernel, TDXH_POLICY_TRACKED, TDXH_KEXEC_NORMAL), TDXH_OK);
	CHECK(handover_of(kernel).clean == 1 && handover_of(kernel).may_hold_private_lines == 0);
	CHECK_IS(kernel_next(kernel), 0);
	kernel_free(kernel);
}

/* A report is for one user at a time: not for a visitor that is shown it. */
static int32_t use_again(void *context, const struct tdxh_leftover *leftover)
{
	struct kernel *kernel = context;
	struct tdxh_handover handover;

	(void)leftover;
	CHECK_IS(tdxh_report_get(&kernel->host, &kernel->report, &handover), TDXH_BUSY);
	CHECK_IS(tdxh_crash(&kernel->host, TDXH_POLICY_TRACKED, &kernel->report), TDXH_BUSY);
	return 1;
}

void test_busy_report(void)
{
	struct kernel *kernel = kernel_with_tdx(1, 0);

	CHECK_IS(kexec(kernel, TDXH_POLICY_TRACKED, TDXH_KEXEC_JUMP), TDXH_OK);
	CHECK_IS(tdxh_walk_leftovers(&kernel->host, &kernel->report, use_again, kernel), TDXH_STOPPED);
	/* The crash had no place for its report, and has reset everything. */
	CHECK_IS(machine_private_lines(kernel->machine), 0);
	CHECK_IS(kernel_next(kernel), 0);
	kernel_free(kernel);
}

/* The crash image is checked before there is a ledger. */
void test_crash_image(void)
{
	struct kernel *kernel = kernel_boot(1, 0);
	struct tdxh_range crash = { CRASH_START, CRASH_END };

	CHECK_IS(tdxh_check_crash_image(&kernel->host, &crash, 1, NULL), TDXH_OK);
	CHECK_IS(kernel_bring_up(kernel), TDXH_OK);
	CHECK_IS(tdxh_check_crash_image(&kernel->host, &crash, 1, NULL), TDXH_OK);
	crash.end += PAGE;
	CHECK_IS(tdxh_check_crash_image(&kernel->host, &crash, 1, NULL), TDXH_REFUSED_OUTSIDE);
	kernel_free(kernel);
}

/* Once a return is settled the module is believed again: nothing that it knows is reset twice. */
void test_settled(void)
{
	for (int settle = 0; settle < 2; settle++) {
		struct kernel *kernel = kernel_with_tdx(1, 1);
		struct tdxh_returning returning = { 0 };
		struct td td;

		CHECK_IS(td_create(kernel, &td, 33), TDXH_OK);
		CHECK_IS(tdxh_returning_begin(&kernel->host, &returning), TDXH_OK);
		if (settle)
			CHECK_IS(tdxh_returning_settle(&returning), TDXH_OK);
		CHECK_IS(kexec(kernel, TDXH_POLICY_MODULE, TDXH_KEXEC_NORMAL), TDXH_OK);
		CHECK_IS(handover_of(kernel).lines, settle ? 0 : (1 + TDCS_PAGES) * 64);
		CHECK_IS(kernel_next(kernel), 0);
		kernel_free(kernel);
	}
}

void test_everything(void)
{
	struct kernel *kernel = kernel_with_tdx(1, 0);
	/* Not the PAMTs and the TD, which lie below: they are reset, too. */
	struct tdxh_range memory[] = { { 512 * MIB, 1 * GIB }, { 4 * GIB, 6 * GIB } };
	struct td td;

	CHECK_IS(td_create(kernel, &td, 33), TDXH_OK);
	CHECK_IS(tdxh_kexec(&kernel->host, TDXH_POLICY_EVERYTHING, TDXH_KEXEC_NORMAL, memory, 2, &kernel->report, NULL),
		 TDXH_OK);
	CHECK(handover_of(kernel).lines > (512 * MIB + 2 * GIB) / 64);
	CHECK_IS(kernel_next(kernel), 0);
	kernel_free(kernel);
}

void test_kexec_refused(void)
{
	struct kernel *kernel = kernel_with_tdx(1, 0);
	struct tdxh_range crash = { CRASH_START, CRASH_START + 16 * MIB }, usual = { 4 * GIB, 4 * GIB + 16 * MIB };
	struct tdxh_range on_td;
	struct tdxh_registers registers = { .rax = PHYMEM_PAGE_RDMD, .rcx = 4 * GIB };
	struct td td;

	CHECK_IS(td_create(kernel, &td, 33), TDXH_OK);
	on_td.start = td.tdr;
	on_td.end = td.tdr + PAGE;
	CHECK_IS(tdxh_check_image(&kernel->host, TDXH_POLICY_TRACKED, TDXH_KEXEC_NORMAL, &on_td, 1, NULL), TDXH_OK);
	CHECK_IS(tdxh_check_image(&kernel->host, TDXH_POLICY_TRACKED, TDXH_KEXEC_JUMP, &usual, 1, NULL), TDXH_OK);
	CHECK_IS(tdxh_check_image(&kernel->host, TDXH_POLICY_TRACKED, TDXH_KEXEC_JUMP, &on_td, 1, &kernel->error),
		 TDXH_REFUSED_SEGMENT);
	CHECK_IS(tdxh_check_image(&kernel->host, TDXH_POLICY_REFUSE, TDXH_KEXEC_NORMAL, NULL, 0, &kernel->error),
		 TDXH_REFUSED_PRIVATE_MEMORY);
	CHECK(strstr(kernel->error.text, "06_8F"));
	CHECK_IS(tdxh_check_crash_image(&kernel->host, &crash, 1, NULL), TDXH_OK);
	CHECK_IS(tdxh_check_crash_image(&kernel->host, &usual, 1, NULL), TDXH_REFUSED_OUTSIDE);
	CHECK_IS(kexec(kernel, TDXH_POLICY_REFUSE, TDXH_KEXEC_NORMAL), TDXH_REFUSED_PRIVATE_MEMORY);

	/* A CPU that does not stop: the host goes on, TD and all. */
	kernel->stuck = 2;
	CHECK_IS(kexec(kernel, TDXH_POLICY_TRACKED, TDXH_KEXEC_NORMAL), TDXH_NOT_ALONE);
	CHECK(kernel->resumed && strstr(kernel->error.text, "CPU 2"));
	CHECK_IS(tdxh_seamcall(&kernel->host, &registers, NULL), TDXH_OK);
	kernel->stuck = CPUS;
	CHECK_IS(kexec(kernel, TDXH_POLICY_TRACKED, TDXH_KEXEC_NORMAL), TDXH_OK);
	/* The gate is closed. */
	CHECK_IS(tdxh_seamcall(&kernel->host, &registers, NULL), TDXH_GATE_CLOSED);
	CHECK_IS(tdxh_call_admitted(&kernel->host, 0, (void (*)(void *))machine_kexec, NULL), TDXH_GATE_CLOSED);
	CHECK_IS(kexec(kernel, TDXH_POLICY_TRACKED, TDXH_KEXEC_NORMAL), TDXH_HANDOVER_UNDER_WAY);
	CHECK_IS(kernel_next(kernel), 0);
	kernel_free(kernel);
}

void test_came_back(void)
{
	struct kernel *kernel = kernel_with_tdx(1, 1);
	struct tdxh_registers registers = { .rax = PHYMEM_PAGE_RDMD, .rcx = 4 * GIB };
	uint32_t back = 99;
	struct td td;

	CHECK_IS(td_create(kernel, &td, 33), TDXH_OK);
	CHECK_IS(kexec(kernel, TDXH_POLICY_TRACKED, TDXH_KEXEC_JUMP), TDXH_OK);
	CHECK_IS(handover_of(kernel).outcome, TDXH_OUTCOME_LEFT_FOR_JUMP);
	CHECK_IS(tdxh_came_back(&kernel->host, &kernel->report, &back), TDXH_OK);
	CHECK_IS(back, TDXH_TDX_GOES_ON);
	CHECK_IS(tdxh_seamcall(&kernel->host, &registers, NULL), TDXH_OK);

	CHECK_IS(kexec(kernel, TDXH_POLICY_MODULE, TDXH_KEXEC_NORMAL), TDXH_OK);
	CHECK_IS(tdxh_came_back(&kernel->host, &kernel->report, NULL), TDXH_NULL);
	CHECK_IS(tdxh_came_back(&kernel->host, &kernel->report, &back), TDXH_OK);
	CHECK_IS(back, TDXH_CAN_BRING_UP_AGAIN);
	CHECK_IS(tdxh_ledger_withdraw(&kernel->host), TDXH_OK);
	CHECK_IS(kernel_bring_up(kernel), TDXH_OK);
	CHECK_IS(kernel_make_ledger(kernel), TDXH_OK);
	CHECK_IS(td_create(kernel, &td, 33), TDXH_OK);
	CHECK_IS(kexec(kernel, TDXH_POLICY_TRACKED, TDXH_KEXEC_NORMAL), TDXH_OK);
	CHECK_IS(tdxh_came_back(&kernel->host, &kernel->report, &back), TDXH_OK);
	CHECK_IS(back, TDXH_TDX_IS_GONE);
	CHECK_IS(kernel_next(kernel), 0);
	kernel_free(kernel);
}

/*
 * A panic on each CPU, with a TD, before each of a number of SEAMCALLs of a bring-up, and with a
 * CPU that does not hear the NMI.
 */
void test_crash(void)
{
	for (uint32_t cpu = 0; cpu < CPUS; cpu++) {
		struct kernel *kernel = kernel_with_tdx(1, 0);
		struct td td;

		CHECK_IS(td_create(kernel, &td, 33), TDXH_OK);
		this_cpu = cpu;
		/* A number that is no policy must not cost the next kernel its life. */
		CHECK_IS(tdxh_crash(&kernel->host, cpu == 3 ? 77 : TDXH_POLICY_TRACKED, &kernel->report), TDXH_OK);
		CHECK(handover_of(kernel).clean == 1 && handover_of(kernel).kind == TDXH_HANDOVER_CRASH);
		CHECK_IS(machine_private_lines(kernel->machine), 0);
		CHECK_IS(kernel_next(kernel), 0);
		kernel_free(kernel);
	}
}

void test_crash_in_bring_up(void)
{
	for (uint64_t call = 1; call < 1000; call += 37) {
		struct kernel *kernel = kernel_boot(1, 0);

		kernel->crash_at = call;
		kernel_bring_up(kernel);
		CHECK(kernel->dead);
		CHECK_IS(kernel_next(kernel), 0);
		kernel_free(kernel);
	}
}

void test_crash_with_a_stuck_cpu(void)
{
	struct kernel *kernel = kernel_with_tdx(1, 0);
	static uint8_t table[4096];
	struct tdxh_written written = { 0 };
	struct tdxh_table read = { 0 };
	struct tdxh_handover handover;
	struct seen walked = { 0 }, listed = { 0 }, first = { .stop_after = 1 };
	struct td td;

	CHECK_IS(tdxh_table_write_all_private(table, sizeof(table), &written), TDXH_OK);
	CHECK(written.all_private == 1 && written.bytes == TDXH_TABLE_HEADER_BYTES);
	CHECK_IS(tdxh_table_read(table, sizeof(table), &read, NULL, NULL), TDXH_OK);
	CHECK(read.all_private == 1 && read.entries == 0);

	CHECK_IS(td_create(kernel, &td, 33), TDXH_OK);
	kernel->stuck = 1;
	CHECK_IS(tdxh_crash(&kernel->host, TDXH_POLICY_TRACKED, &kernel->report), TDXH_OK);
	handover = handover_of(kernel);
	CHECK(handover.clean == 0 && handover.not_stopped == 1 && handover.may_hold_private_lines == 1);
	CHECK_IS(tdxh_walk_leftovers(&kernel->host, &kernel->report, see_leftover, &walked), TDXH_OK);
	CHECK_IS(tdxh_walk_leftovers(&kernel->host, &kernel->report, see_leftover, &first), TDXH_STOPPED);
	CHECK(walked.ranges > 1 && first.ranges == 1);

	CHECK_IS(tdxh_table_write(&kernel->host, &kernel->report, table, sizeof(table), &written), TDXH_OK);
	CHECK_IS(written.entries, walked.ranges);
	CHECK_IS(written.bytes, TDXH_TABLE_HEADER_BYTES + walked.ranges * TDXH_TABLE_ENTRY_BYTES);
	CHECK_IS(tdxh_table_read(table, sizeof(table), &read, see_leftover, &listed), TDXH_OK);
	CHECK(read.entries == walked.ranges && read.not_stopped == 1 && read.may_hold_private_lines == 1);
	CHECK(listed.ranges == walked.ranges && listed.bytes == walked.bytes);

	/* No room for all of them: all is private. Broken tables are not believed. */
	CHECK_IS(tdxh_table_write(&kernel->host, &kernel->report, table, TDXH_TABLE_HEADER_BYTES + 30, &written), TDXH_OK);
	CHECK(written.all_private == 1 && written.entries == 0);
	CHECK_IS(tdxh_table_write(&kernel->host, &kernel->report, table, sizeof(table), NULL), TDXH_OK);
	table[40] ^= 1;
	CHECK_IS(tdxh_table_read(table, sizeof(table), &read, see_leftover, &listed), TDXH_TABLE_BROKEN);
	table[8] = 2;
	CHECK_IS(tdxh_table_read(table, sizeof(table), &read, NULL, NULL), TDXH_TABLE_VERSION);
	table[0] = 0;
	CHECK_IS(tdxh_table_read(table, sizeof(table), &read, NULL, NULL), TDXH_NO_TABLE);
	CHECK_IS(tdxh_table_write(&kernel->host, &kernel->report, table, 31, NULL), TDXH_TABLE_TOO_SMALL);
	kernel_free(kernel);
}

void test_explain(void)
{
	struct kernel *kernel = kernel_with_tdx(1, 0);
	struct tdxh_explanation found;
	struct tdxh_tdmr tdmr;
	struct td td;

	CHECK_IS(td_create(kernel, &td, 33), TDXH_OK);
	CHECK_IS(tdxh_layout_tdmr(&kernel->layout, 0, &tdmr), TDXH_OK);
	CHECK_IS(tdxh_explain(&kernel->host, td.tdcs[0] + 64, &found), TDXH_OK);
	CHECK(found.kind == TDXH_ADDRESS_PRIVATE && found.may_be_private == 1 && found.tdmr == 0 && found.key_id == 0);
	CHECK(strstr(found.text, "page of a TD in TDMR 0"));
	CHECK_IS(tdxh_explain(&kernel->host, td.tdcs[0] | (uint64_t)33 << 46, &found), TDXH_OK);
	CHECK(found.key_id == 33 && found.address == td.tdcs[0]);
	CHECK_IS(tdxh_explain(&kernel->host, tdmr.pamt[1].start, &found), TDXH_OK);
	CHECK(found.kind == TDXH_ADDRESS_PAMT_2M && found.tdmr == 0);
	CHECK_IS(tdxh_explain(&kernel->host, CRASH_START, &found), TDXH_OK);
	CHECK(found.kind == TDXH_ADDRESS_RESERVED && found.may_be_private == 0);
	CHECK_IS(tdxh_explain(&kernel->host, 3 * GIB, &found), TDXH_OK);
	CHECK_IS(found.kind, TDXH_ADDRESS_OUTSIDE);
	CHECK_IS(tdxh_explain(&kernel->host, 5 * GIB, &found), TDXH_OK);
	CHECK_IS(found.kind, TDXH_ADDRESS_SHARED);
	kernel_free(kernel);
}

/*
 * The module has let go of a page, and the ledger does not know it yet: a kexec that asks the
 * module still resets it.
 */
void test_kexec_in_a_return(void)
{
	for (int by_steps = 0; by_steps < 2; by_steps++) {
		struct kernel *kernel = kernel_with_tdx(1, 1);
		struct tdxh_returning returning = { 0 };
		struct tdxh_registers registers = { .rax = PHYMEM_PAGE_RECLAIM };
		struct td td;

		CHECK_IS(td_create(kernel, &td, 33), TDXH_OK);
		CHECK_IS(td_free_key(kernel, &td), TDXH_OK);
		registers.rcx = td.tdcs[0];
		kernel->kexec_after = PHYMEM_PAGE_RECLAIM;
		if (by_steps) {
			CHECK_IS(tdxh_returning_begin(&kernel->host, &returning), TDXH_OK);
			CHECK_IS(tdxh_seamcall(&kernel->host, &registers, NULL), TDXH_OK);
		} else {
			tdxh_seamcall_returning(&kernel->host, &registers, td.tdcs[0], td.tdcs[0] + PAGE, NULL);
		}
		CHECK(kernel->dead);
		CHECK_IS(handover_of(kernel).module, TDXH_MODULE_DISABLED);
		CHECK_IS(kernel_next(kernel), 0);
		kernel_free(kernel);
	}
}
