// SPDX-License-Identifier: GPL-2.0
/*
 * Uses free memory as a driver may: takes pages without clearing them, writes a part of each line
 * with a non-temporal store, and reads it back. On a CPU with the partial-write erratum a page that
 * an earlier kernel left private raises a machine check. Ordinary stores do not, which is why a
 * kernel can run for long before it does.
 */
#include <linux/gfp.h>
#include <linux/list.h>
#include <linux/mm.h>
#include <linux/module.h>

#define LINE 64

static int __init cleanslate_use_init(void)
{
	struct page *page, *next;
	unsigned long pages = 0, left;
	struct sysinfo info;
	LIST_HEAD(taken);

	si_meminfo(&info);
	/* A tenth stays free for other users. */
	for (left = info.freeram - info.freeram / 10; left; left--) {
		page = alloc_page(GFP_KERNEL | __GFP_NORETRY | __GFP_NOWARN);
		if (!page)
			break;
		list_add(&page->lru, &taken);
		for (void *line = page_address(page); offset_in_page(line) || line == page_address(page); line += LINE)
			asm volatile("movnti %1, %0" : "=m"(*(u64 *)line) : "r"(0x5555555555555555ul));
		mb();
		for (void *line = page_address(page); offset_in_page(line) || line == page_address(page); line += LINE)
			if (READ_ONCE(*(u64 *)line) != 0x5555555555555555ul)
				pr_err("cleanslate: %px does not hold what was stored there\n", line);
		pages++;
	}
	list_for_each_entry_safe(page, next, &taken, lru) {
		list_del(&page->lru);
		__free_page(page);
	}
	pr_info("cleanslate: %lu free pages written in part and read back\n", pages);
	return 0;
}
module_init(cleanslate_use_init);
MODULE_DESCRIPTION("Uses free memory with partial stores, for tests under seamvisor");
MODULE_LICENSE("GPL");
