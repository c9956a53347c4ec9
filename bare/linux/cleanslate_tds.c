// SPDX-License-Identifier: GPL-2.0
/*
 * Builds TDs by the kernel's own tdh_* functions, in the order in which KVM calls them, its faults
 * included: the page of a call that has failed is freed as it is, and so are all guest pages when
 * the TDX module is dead. A test module for a guest of seamvisor: it runs no TD, and must not be
 * loaded beside a KVM that does.
 */
#define pr_fmt(fmt) "cleanslate: " fmt

#include <linux/gfp.h>
#include <linux/mm.h>
#include <linux/module.h>
#include <asm/pgtable_types.h>
#include <asm/tdx.h>

#include "cleanslate_find.h"
#include "cleanslate_guest_page.h"
#include "cleanslate_pairs.h"

static uint tds = 1;
module_param(tds, uint, 0444);
MODULE_PARM_DESC(tds, "TDs: runnable, half built, gone, half gone, and so on");

static bool live;
module_param(live, bool, 0444);
MODULE_PARM_DESC(live, "all TDs are runnable, and no SEAMCALL is made that fails");

static bool drop;
module_param(drop, bool, 0444);
MODULE_PARM_DESC(drop, "drop cleanslate.ko's references to abandoned pages, as if it took none");

static bool dynamic_pamt;
module_param(dynamic_pamt, bool, 0444);
MODULE_PARM_DESC(dynamic_pamt, "TDX has Dynamic PAMT on: pairs of pages come and go as posted for Linux 7.4");

enum fate { RUNNABLE, HALF_BUILT, GONE, HALF_GONE, FATES };
static const char *const fates[] = { "runnable", "half-built", "gone", "half-gone" };

/* Linux before 7.2 resets one page at a time. */
#ifdef CLEANSLATE_BY_STRUCT_PAGE
#define RESET(use) use(tdx_quirk_reset_page)
#else
#define RESET(use) use(tdx_quirk_reset_paddr)
#endif

/* The kernel exports them to KVM alone. */
#define FUNCTIONS(use)											\
	use(tdx_guest_keyid_alloc) use(tdx_guest_keyid_free) use(tdx_get_sysinfo) RESET(use)			\
	use(tdh_mng_create) use(tdh_mng_key_config) use(tdh_mng_addcx) use(tdh_mng_init) use(tdh_vp_create)		\
	use(tdh_vp_addcx) use(tdh_mem_sept_add) use(tdh_mem_page_add) use(tdh_mr_finalize)		\
	use(tdh_mem_page_aug) use(tdh_mem_range_block) use(tdh_mem_track) use(tdh_mem_page_remove)			\
	use(tdh_phymem_page_wbinvd_hkid) use(tdh_vp_flush) use(tdh_mng_vpflushdone) use(tdh_phymem_cache_wb)		\
	use(tdh_mng_key_freeid) use(tdh_phymem_page_reclaim) use(tdh_phymem_page_wbinvd_tdr)
#define DECLARE(name) static typeof(&name) call_##name;
FUNCTIONS(DECLARE)

#define TDH_VP_INIT 22
static u64 (*call_seamcall)(u64 leaf, struct tdx_module_args *args);
static u64 (*call_seamcall_ret)(u64 leaf, struct tdx_module_args *args);

static void reset_page(struct page *page)
{
#ifdef CLEANSLATE_BY_STRUCT_PAGE
	call_tdx_quirk_reset_page(page);
#else
	call_tdx_quirk_reset_paddr(page_to_phys(page), PAGE_SIZE);
#endif
}

static int find_functions(void)
{
	unsigned long (*find)(const char *name) = cleanslate_find("kallsyms_lookup_name");

	if (IS_ERR(find))
		return PTR_ERR(find);
#define FIND(name) call_##name = (void *)find(#name); if (!call_##name) return -ENOENT;
	FUNCTIONS(FIND)
	call_seamcall = (void *)find("__seamcall");
	if (!call_seamcall)
		return -ENOENT;
	if (!dynamic_pamt)
		return 0;
	call_seamcall_ret = (void *)find("__seamcall_ret");
	if (!call_seamcall_ret)
		return -ENOENT;
	return pairs_start(call_seamcall, call_seamcall_ret, reset_page);
}

/* A page that the TDX module has not got, or has returned. */
static void free_page_of_td(struct page *page)
{
	pairs_put(page);
	__free_page(page);
}

/* A TD, and every page of it but its TDR. */
struct life {
	struct tdx_td td;
	struct tdx_vp vp;
	int key_id;
	struct page *pages[64];
	int count;
	/* The first guest page, once there is one. */
	int guest;
};

/* What a TD takes at once is never much; without it there is no test. */
#define COUNTED(allocated)								\
({											\
	struct page *__page = (allocated);						\
	int __ret = __page ? pairs_get(__page) : -ENOMEM;				\
											\
	if (__ret) {									\
		if (__page)								\
			__free_page(__page);						\
		return __ret;								\
	}										\
	__page;										\
})
#define NEW_PAGE() COUNTED(alloc_page(GFP_KERNEL))

/* The page of a call that has failed: KVM frees those of control structures as they are. */
#define GIVE(life, page, call)								\
({											\
	u64 __status = (call);								\
											\
	if (__status) {									\
		pr_err("%s: %#llx\n", #call, __status);					\
		free_page_of_td(page);							\
		return -EIO;								\
	}										\
	if (page != (life)->td.tdr_page)						\
		(life)->pages[(life)->count++] = page;					\
})

#define CALL(call) CALL_THEN(, call)
#define CALL_THEN(then, call)								\
({											\
	u64 __status = (call);								\
											\
	then;										\
	if (__status) {									\
		pr_err("%s: %#llx\n", #call, __status);					\
		return -EIO;								\
	}										\
})

/* TD_PARAMS: x87, SSE and AVX, write-back EPT of four levels, 1 VCPU, 1 GHz. */
static const struct { int offset; u8 value; } parameters[] = { { 8, 7 }, { 16, 1 }, { 24, 0x1e }, { 40, 40 } };

/* A TD that is half gone has this many pages, and one that is returned and not reset. */
#define HALF_GONE_PAGES 7

/*
 * A page amid free memory. Linux uses memory from the ends of its free blocks, so the next kernel
 * has not overwritten this page by whole lines, which does no harm, before it writes to all free
 * memory in part.
 */
static struct page *page_amid_free_memory(uint number)
{
	const gfp_t flags = GFP_KERNEL | __GFP_NORETRY | __GFP_NOWARN;
	const unsigned long pages = 1 << MAX_PAGE_ORDER;
	struct page *block, *next, *kept = NULL;
	unsigned long blocks = 0, index;
	LIST_HEAD(taken);

	while ((block = alloc_pages(flags, MAX_PAGE_ORDER))) {
		list_add(&block->lru, &taken);
		blocks++;
	}
	/* The middle block for the middle TD. */
	blocks = blocks * (2 * number + 1) / (2 * tds);
	list_for_each_entry_safe(block, next, &taken, lru) {
		list_del(&block->lru);
		if (blocks--) {
			__free_pages(block, MAX_PAGE_ORDER);
			continue;
		}
		split_page(block, MAX_PAGE_ORDER);
		for (index = 0; index < pages; index++)
			if (index != pages / 2)
				__free_page(block + index);
		kept = block + pages / 2;
	}
	return kept;
}

static int build(struct life *life, uint number, bool half)
{
	const struct tdx_sys_info_td_ctrl *sizes = &call_tdx_get_sysinfo()->td_ctrl;
	struct page *shared, *page;
	u64 error1, error2, gpa;
	int index, level;

	shared = alloc_page(GFP_KERNEL | __GFP_ZERO);
	if (!shared)
		return -ENOMEM;
	life->key_id = call_tdx_guest_keyid_alloc();
	if (life->key_id < 0)
		return life->key_id;
	life->td.tdr_page = NEW_PAGE();
	GIVE(life, life->td.tdr_page, call_tdh_mng_create(&life->td, life->key_id));
	CALL(call_tdh_mng_key_config(&life->td));
	for (index = 0; index < sizes->tdcs_base_size / PAGE_SIZE; index++) {
		if (half && index == 3)
			return 0;
		page = NEW_PAGE();
		GIVE(life, page, call_tdh_mng_addcx(&life->td, page));
	}
	for (index = 0; index < ARRAY_SIZE(parameters); index++)
		((u8 *)page_address(shared))[parameters[index].offset] = parameters[index].value;
	CALL(call_tdh_mng_init(&life->td, page_to_phys(shared), &error1));

	/* One page too many: the module has filled it before it refuses it. */
	if (!live) {
		page = NEW_PAGE();
		pr_info("a page too many: %#llx\n", call_tdh_mng_addcx(&life->td, page));
		free_page_of_td(page);
	}

	page = NEW_PAGE();
	life->vp.tdvpr_page = page;
	life->vp.tdvpr_pa = page_to_phys(page);
	GIVE(life, page, call_tdh_vp_create(&life->td, &life->vp));
	for (index = 1; index < sizes->tdvps_base_size / PAGE_SIZE; index++) {
		page = COUNTED(life->count == HALF_GONE_PAGES ? page_amid_free_memory(number) : alloc_page(GFP_KERNEL));
		GIVE(life, page, call_tdh_vp_addcx(&life->vp, page));
	}
	/* Version 0: version 1, which this kernel's function asks for, came after module 1.5.01. */
	preempt_disable();
	CALL_THEN(preempt_enable(), call_seamcall(TDH_VP_INIT, &(struct tdx_module_args){ .rcx = life->vp.tdvpr_pa }));
	for (level = PG_LEVEL_512G; level >= PG_LEVEL_2M; level--) {
		page = NEW_PAGE();
		GIVE(life, page, call_tdh_mem_sept_add(&life->td, 0, LEVEL(level), page, &error1, &error2));
	}
	life->guest = life->count;
	for (gpa = 0; gpa < 2 * PAGE_SIZE; gpa += PAGE_SIZE) {
		page = NEW_PAGE();
		GIVE(life, page, call_tdh_mem_page_add(&life->td, gpa, GUEST_PAGE(page), shared, &error1, &error2));
	}
	CALL(call_tdh_mr_finalize(&life->td));
	for (; gpa < 16 * PAGE_SIZE; gpa += PAGE_SIZE) {
		page = NEW_PAGE();
		GIVE(life, page, call_tdh_mem_page_aug(&life->td, gpa, LEVEL(PG_LEVEL_4K), GUEST_PAGE(page), &error1, &error2));
	}
	__free_page(shared);
	return 0;
}

/* The last page leaves the TD while it lives. */
static int remove_one(struct life *life)
{
	struct page *page = life->pages[life->count - 1];
	u64 error1, error2, gpa = 15 * PAGE_SIZE;

	CALL(call_tdh_mem_range_block(&life->td, gpa, LEVEL(PG_LEVEL_4K), &error1, &error2));
	CALL(call_tdh_mem_track(&life->td));
	CALL(call_tdh_mem_page_remove(&life->td, gpa, LEVEL(PG_LEVEL_4K), &error1, &error2));
	CALL(call_tdh_phymem_page_wbinvd_hkid(life->key_id, GUEST_PAGE(page)));
	reset_page(page);
	free_page_of_td(page);
	life->count--;
	return 0;
}

/*
 * A SEAMCALL has failed, and the VMM ends. As in KVM of 7.3: guest_memfd frees the guest pages as
 * they are, the pages of control structures are leaked.
 */
static void abandon(struct life *life)
{
	while (life->guest && life->count > life->guest) {
		struct page *page = life->pages[--life->count];
		bool held = page_ref_count(page) > 1;

		__free_page(page);
		/* cleanslate.ko's, if it has one. */
		if (drop && held)
			__free_page(page);
	}
}

static int tear_down(struct life *life, bool half)
{
	u64 type, owner, size;

	CALL(call_tdh_vp_flush(&life->vp));
	CALL(call_tdh_mng_vpflushdone(&life->td));
	CALL(call_tdh_phymem_cache_wb(false));
	CALL(call_tdh_mng_key_freeid(&life->td));
	while (life->count) {
		struct page *page = life->pages[--life->count];

		CALL(call_tdh_phymem_page_reclaim(page, &type, &owner, &size));
		/* Returned, and not yet reset: the module knows nothing of it any more. */
		if (half && life->count == HALF_GONE_PAGES)
			return 0;
		reset_page(page);
		free_page_of_td(page);
	}
	CALL(call_tdh_phymem_page_reclaim(life->td.tdr_page, &type, &owner, &size));
	CALL(call_tdh_phymem_page_wbinvd_tdr(&life->td));
	reset_page(life->td.tdr_page);
	free_page_of_td(life->td.tdr_page);
	call_tdx_guest_keyid_free(life->key_id);
	return 0;
}

static enum fate fate_of(uint number)
{
	return live ? RUNNABLE : number % FATES;
}

static int live_one(uint number)
{
	const enum fate fate = fate_of(number);
	/* Never freed: what a TD still has is told to nobody else. */
	struct life *life = kzalloc(sizeof(*life), GFP_KERNEL);
	int ret;

	if (!life)
		return -ENOMEM;
	ret = build(life, number, fate == HALF_BUILT);
	if (!ret && fate != HALF_BUILT)
		ret = remove_one(life);
	if (!ret && (fate == GONE || fate == HALF_GONE))
		ret = tear_down(life, fate == HALF_GONE);
	if (ret == -EIO)
		abandon(life);
	return ret;
}

static int __init cleanslate_tds_init(void)
{
	uint number;
	int ret = find_functions();

	if (ret)
		return ret;
	if (!call_tdx_get_sysinfo()) {
		pr_info("TDX is not up\n");
		return 0;
	}
	for (number = 0; number < tds; number++) {
		/* VP.INIT and VP.FLUSH must be made on one CPU. */
		migrate_disable();
		ret = live_one(number);
		migrate_enable();
		if (ret == -EIO) {
			pairs_tell();
			printk(KERN_INFO "@ {\"event\":\"td-abandoned\",\"number\":%u}\n", number);
			return 0;
		}
		if (ret)
			return ret;
		printk(KERN_INFO "@ {\"event\":\"td\",\"number\":%u,\"phase\":\"%s\",\"by\":\"kernel\"}\n", number,
		       fates[fate_of(number)]);
	}
	pairs_tell();
	return 0;
}
module_init(cleanslate_tds_init);
MODULE_DESCRIPTION("Builds TDs by the kernel's own functions, for tests under seamvisor");
MODULE_LICENSE("GPL");
