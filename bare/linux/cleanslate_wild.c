// SPDX-License-Identifier: GPL-2.0
/*
 * A wild pointer: stores eight bytes past the cache to each page of a range that is not its own. On
 * a CPU with the partial-write erratum this poisons private lines, and the next read of them is a
 * machine check; a dump reads all of memory. With `read=1` it reads back what it has stored, and
 * this kernel takes the machine check. With `td_pages=N` the store is to so many pages of TDs. With
 * `write_back=1` caches are written back first: a private line that is in a cache alone is none in
 * memory yet, is not poisoned by the store, and overwrites it later. Events say how many pages they
 * were.
 */
#include <linux/io.h>
#include <linux/mm.h>
#include <linux/module.h>
#include <linux/sched.h>
#include <linux/sizes.h>
#include <linux/smp.h>
#include <linux/string.h>
#include <asm/special_insns.h>

#include "cleanslate_find.h"

static ulong address;
module_param(address, ulong, 0444);
static ulong pages = 1;
module_param(pages, ulong, 0444);
static bool read;
module_param(read, bool, 0444);

static ulong td_pages;
module_param(td_pages, ulong, 0444);
static bool write_back;
module_param(write_back, bool, 0444);

static void cleanslate_wild_write_back(void *unused)
{
	wbinvd();
}

static void cleanslate_wild_store(ulong at)
{
	asm volatile("movnti %1, %0" : "=m"(*(u64 *)__va(at)) : "r"(~0ul));
	mb();
}

/* Which pages are private, cleanslate.ko says. */
static int cleanslate_wild_tds(void)
{
	u32 (*explain)(u64 address, char *text, u32 room) = cleanslate_find("cleanslate_explain");
	ulong page, found = 0;
	char text[200];
	u32 length;

	if (IS_ERR(explain))
		return PTR_ERR(explain);
	for (page = 256; found < td_pages && page < SZ_4G >> PAGE_SHIFT; page++) {
		cond_resched();
		if (!pfn_valid(page))
			continue;
		length = explain(page << PAGE_SHIFT, text, sizeof(text) - 1);
		text[length] = 0;
		if (!strstr(text, "page of a TD"))
			continue;
		cleanslate_wild_store(page << PAGE_SHIFT);
		found++;
	}
	printk(KERN_INFO "@ {\"event\":\"wild\",\"pages\":%lu,\"of\":\"TDs\"}\n", found);
	return 0;
}

static int __init cleanslate_wild_init(void)
{
	ulong page;

	if (write_back)
		on_each_cpu(cleanslate_wild_write_back, NULL, 1);
	if (td_pages)
		return cleanslate_wild_tds();
	if (!address)
		return 0;
	for (page = 0; page < pages; page++)
		cleanslate_wild_store(address + page * PAGE_SIZE);
	printk(KERN_INFO "@ {\"event\":\"wild\",\"pages\":%lu,\"of\":\"%#lx\"}\n", pages, address);
	if (read)
		pr_info("cleanslate: %#llx is read there\n", READ_ONCE(*(u64 *)__va(address)));
	return 0;
}
static void __exit cleanslate_wild_exit(void)
{
}

module_init(cleanslate_wild_init);
module_exit(cleanslate_wild_exit);
MODULE_DESCRIPTION("Writes where it must not, for tests under seamvisor");
MODULE_LICENSE("GPL");
