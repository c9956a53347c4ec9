// SPDX-License-Identifier: GPL-2.0
/*
 * A wild pointer: stores eight bytes past the cache to each page of a range that is not its own. On
 * a CPU with the partial-write erratum this poisons private lines, and the next read of them is a
 * machine check; a dump reads all of memory. With `read=1` it reads back what it has stored, and
 * this kernel takes the machine check.
 */
#include <linux/io.h>
#include <linux/mm.h>
#include <linux/module.h>

static ulong address;
module_param(address, ulong, 0444);
static ulong pages = 1;
module_param(pages, ulong, 0444);
static bool read;
module_param(read, bool, 0444);

static int __init cleanslate_wild_init(void)
{
	ulong page;

	if (!address)
		return 0;
	for (page = 0; page < pages; page++)
		asm volatile("movnti %1, %0" : "=m"(*(u64 *)__va(address + page * PAGE_SIZE)) : "r"(~0ul));
	mb();
	pr_info("cleanslate: %lu pages from %#lx on were written to by mistake\n", pages, address);
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
