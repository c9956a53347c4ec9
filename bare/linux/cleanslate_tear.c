// SPDX-License-Identifier: GPL-2.0
/*
 * Overwrites a bit of the table by which a crash kernel leaves private memory out of its dump: in
 * the kernel that is going to crash a bit of its index, which is prepared in advance; with `root=`,
 * in the crash kernel, a bit of the root. A test module for a guest of seamvisor.
 */
#define pr_fmt(fmt) "cleanslate_tear: " fmt

#include <linux/io.h>
#include <linux/module.h>

#include "cleanslate_find.h"

static unsigned long long root;
module_param(root, ullong, 0444);
MODULE_PARM_DESC(root, "in a crash kernel: physical address of the root");

static int __init cleanslate_tear_init(void)
{
	unsigned long (*find)(const char *name) = cleanslate_find("kallsyms_lookup_name");
	u64 **index, address = root, *word;

	if (IS_ERR(find))
		return PTR_ERR(find);
	if (!root) {
		index = (u64 **)find("cleanslate:index_addresses");
		if (!index || !*index)
			return -ENOENT;
		address = **index;
	}
	word = memremap(address, PAGE_SIZE, MEMREMAP_WB);
	if (!word)
		return -ENOMEM;
	word[9] ^= 1 << 12;
	printk(KERN_INFO "@ {\"event\":\"torn\",\"address\":\"%#llx\"}\n", address);
	memunmap(word);
	return 0;
}

module_init(cleanslate_tear_init);
MODULE_DESCRIPTION("Overwrites the table for a crash kernel, for tests under seamvisor");
MODULE_LICENSE("GPL");
