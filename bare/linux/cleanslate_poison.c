// SPDX-License-Identifier: GPL-2.0
/*
 * Takes a page out of the direct map, as Linux does after a memory error of that page: the same
 * function, without the error. A test module for a guest of seamvisor.
 */
#define pr_fmt(fmt) "cleanslate_poison: " fmt

#include <linux/mm.h>
#include <linux/module.h>

#include "cleanslate_find.h"

static ulong address;
module_param(address, ulong, 0444);
MODULE_PARM_DESC(address, "physical address of the page");

static int __init cleanslate_poison_init(void)
{
	int (*set_mce_nospec)(unsigned long page) = cleanslate_find("set_mce_nospec");
	int ret;

	if (IS_ERR(set_mce_nospec))
		return PTR_ERR(set_mce_nospec);
	ret = set_mce_nospec(address >> PAGE_SHIFT);
	if (ret)
		return ret;
	printk(KERN_INFO "@ {\"event\":\"page-with-error\",\"address\":\"%#lx\"}\n", address);
	return 0;
}
module_init(cleanslate_poison_init);
MODULE_DESCRIPTION("Takes a page out of the direct map, for tests under seamvisor");
MODULE_LICENSE("GPL");
