/* SPDX-License-Identifier: GPL-2.0 */
/*
 * Dynamic PAMT as it was posted for Linux 7.4, for the test modules: each 4 KiB page that the TDX
 * module is to get is counted in its 2 MiB first. The first one there adds a pair of pages for PAMT
 * entries, the last one removes it. A pair is reset before it is freed, whether the TDX module has
 * had it or not; one that cannot be removed stays with the TDX module.
 *
 * Not as there: all TDs are built by one task, so that the counts need no lock, and no call is made
 * from an RCU callback; a pair is allocated only where there is none, while that series allocates
 * one each time and resets and frees what it does not need.
 */
#ifndef CLEANSLATE_PAIRS_H
#define CLEANSLATE_PAIRS_H

#include <linux/gfp.h>
#include <linux/mm.h>
#include <linux/vmalloc.h>
#include <asm/tdx.h>

#define TDH_PHYMEM_PAMT_ADD	58
#define TDH_PHYMEM_PAMT_REMOVE	59
/* Beside the address: the level of the page. */
#define PAIRS_2M		1

static struct {
	/* Pages that the TDX module has or is about to get, by 2 MiB; NULL: no Dynamic PAMT. */
	u32 *users;
	/* Their number. */
	unsigned long count;
	/* __seamcall() and __seamcall_ret(): seamcall() is a macro in 6.18. */
	u64 (*make)(u64 leaf, struct tdx_module_args *args);
	u64 (*make_ret)(u64 leaf, struct tdx_module_args *args);
	void (*reset)(struct page *page);
	/* Pairs that the TDX module was given, has returned, and was to return and has not. */
	uint added, removed, stuck;
} pairs;

static int pairs_start(void *make, void *make_ret, void (*reset)(struct page *page))
{
	pairs.make = make;
	pairs.make_ret = make_ret;
	pairs.reset = reset;
	/* Memory may begin at 4 GiB again; what lies higher than this is refused. */
	pairs.count = DIV_ROUND_UP(get_num_physpages() + PFN_DOWN(SZ_4G), PTRS_PER_PTE);
	pairs.users = vzalloc(array_size(pairs.count, sizeof(*pairs.users)));
	return pairs.users ? 0 : -ENOMEM;
}

static u32 *pairs_users(struct page *page)
{
	return &pairs.users[page_to_pfn(page) / PTRS_PER_PTE];
}

static u64 pairs_2m(struct page *page)
{
	return ALIGN_DOWN(page_to_phys(page), PMD_SIZE) | PAIRS_2M;
}

static void pairs_free(struct page *first, struct page *second)
{
	pairs.reset(first);
	__free_page(first);
	pairs.reset(second);
	__free_page(second);
}

/* Before a page goes to the TDX module. 0, or a negative errno. */
static int pairs_get(struct page *page)
{
	struct tdx_module_args args = {};
	struct page *first, *second;
	u64 status;

	if (!pairs.users)
		return 0;
	if (page_to_pfn(page) / PTRS_PER_PTE >= pairs.count)
		return -ERANGE;
	if (*pairs_users(page)) {
		++*pairs_users(page);
		return 0;
	}
	first = alloc_page(GFP_KERNEL);
	second = alloc_page(GFP_KERNEL);
	if (!first || !second) {
		if (first)
			__free_page(first);
		if (second)
			__free_page(second);
		return -ENOMEM;
	}
	args.rcx = pairs_2m(page);
	args.rdx = page_to_phys(first);
	args.r8 = page_to_phys(second);
	preempt_disable();
	status = pairs.make(TDH_PHYMEM_PAMT_ADD, &args);
	preempt_enable();
	if (status) {
		pr_err("PAMT.ADD: %#llx\n", status);
		pairs_free(first, second);
		return -EIO;
	}
	pairs.added++;
	*pairs_users(page) = 1;
	return 0;
}

/* After the TDX module has returned a page, or refused it. */
static void pairs_put(struct page *page)
{
	struct tdx_module_args args = {};
	u64 status;

	if (!pairs.users || --*pairs_users(page))
		return;
	args.rcx = pairs_2m(page);
	preempt_disable();
	status = pairs.make_ret(TDH_PHYMEM_PAMT_REMOVE, &args);
	preempt_enable();
	if (status) {
		pr_err("PAMT.REMOVE: %#llx\n", status);
		pairs.stuck++;
		*pairs_users(page) = 1;
		return;
	}
	pairs.removed++;
	pairs_free(phys_to_page(args.rdx), phys_to_page(args.r8));
}

static void pairs_tell(void)
{
	if (pairs.users)
		printk(KERN_INFO "@ {\"event\":\"pairs\",\"added\":%u,\"removed\":%u,\"stuck\":%u}\n",
		       pairs.added, pairs.removed, pairs.stuck);
}

#endif
