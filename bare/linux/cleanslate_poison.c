// SPDX-License-Identifier: GPL-2.0
/*
 * Takes a page out of the direct map, as Linux does after a memory error of that page: the same
 * function, without the error. A test module for a guest of seamvisor.
 */
#define pr_fmt(fmt) "cleanslate_poison: " fmt

#include <linux/kprobes.h>
#include <linux/mm.h>
#include <linux/module.h>

static ulong address;
module_param(address, ulong, 0444);
MODULE_PARM_DESC(address, "physical address of the page");

static int __init cleanslate_poison_init(void)
{
	struct kprobe function = { .symbol_name = "set_mce_nospec" };
	int (*set_mce_nospec)(unsigned long page);
	int ret = register_kprobe(&function);

	if (ret)
		return ret;
	set_mce_nospec = (void *)function.addr;
	unregister_kprobe(&function);
	ret = set_mce_nospec(address >> PAGE_SHIFT);
	if (ret)
		return ret;
	printk(KERN_INFO "@ {\"event\":\"page-with-error\",\"address\":\"%#lx\"}\n", address);
	return 0;
}
module_init(cleanslate_poison_init);
MODULE_DESCRIPTION("Takes a page out of the direct map, for tests under seamvisor");
MODULE_LICENSE("GPL");
