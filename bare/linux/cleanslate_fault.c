// SPDX-License-Identifier: GPL-2.0
/*
 * Faults that an audit must find, made on purpose in the ledger of cleanslate.ko: the mark of a
 * page of a TD is removed, or the kernel frees such a page. A test module for a guest of seamvisor
 * with less than 1 GiB above its first: the ledger begins at address 0.
 */
#define pr_fmt(fmt) "cleanslate_fault: " fmt

#include <linux/mm.h>
#include <linux/module.h>

#include "cleanslate_find.h"

static bool unmark, leak;
module_param(unmark, bool, 0444);
MODULE_PARM_DESC(unmark, "remove the mark of a page");
module_param(leak, bool, 0444);
MODULE_PARM_DESC(leak, "free a page that the TDX module has");

/* Of a page that the TDX module has: two bits for each page, 32 pages in a word. */
#define GIVEN		1ul
#define PAGES		(1ul << 18)

static int __init cleanslate_fault_init(void)
{
	unsigned long (*find)(const char *name) = cleanslate_find("kallsyms_lookup_name");
	unsigned long page, shift, **words;
	const char *what = unmark ? "unmarked" : "leaked";

	if (IS_ERR(find))
		return PTR_ERR(find);
	words = (unsigned long **)find("cleanslate:words");
	if (!words || !*words || unmark == leak)
		return -EINVAL;
	for (page = 0; page < PAGES; page++) {
		shift = 2 * (page % 32);
		if (((*words)[page / 32] >> shift & 3) == GIVEN &&
		    page_ref_count(pfn_to_page(page)) == 2)
			break;
	}
	if (page == PAGES)
		return -ENOENT;
	if (unmark)
		clear_bit(shift, &(*words)[page / 32]);
	else
		put_page(pfn_to_page(page));
	printk(KERN_INFO "@ {\"event\":\"fault\",\"what\":\"%s\",\"address\":\"%#lx\"}\n", what,
	       page << PAGE_SHIFT);
	return 0;
}
module_init(cleanslate_fault_init);
MODULE_DESCRIPTION("Spoils the ledger of cleanslate.ko, for tests under seamvisor");
MODULE_LICENSE("GPL");
