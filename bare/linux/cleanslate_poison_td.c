// SPDX-License-Identifier: GPL-2.0
/*
 * A wild pointer into memory of a TD that runs. When KVM gives the TD a page while it runs
 * (PAGE.AUG) for the time `aug`, eight bytes of the last page that the TD was built of (PAGE.ADD)
 * are stored to: past the cache, which poisons the line on a CPU with the partial-write erratum, or
 * with `full=1` by an ordinary store. The TD's next access to the line is a machine check.
 */
#include <linux/io.h>
#include <linux/kprobes.h>
#include <linux/mm.h>
#include <linux/module.h>

#include "cleanslate_guest_page.h"

static int aug = 2;
module_param(aug, int, 0444);
static bool full;
module_param(full, bool, 0444);

static phys_addr_t target;
static atomic_t given = ATOMIC_INIT(0);

/* The third argument of tdh_mem_page_add() is the page. */
static int cleanslate_poison_td_add(struct kprobe *probe, struct pt_regs *regs)
{
	WRITE_ONCE(target, GUEST_PAGE_PHYS(regs_get_kernel_argument(regs, 2)));
	return 0;
}

static int cleanslate_poison_td_aug(struct kprobe *probe, struct pt_regs *regs)
{
	u64 *line = __va(READ_ONCE(target));

	if (!READ_ONCE(target) || atomic_inc_return(&given) != aug)
		return 0;
	if (full)
		WRITE_ONCE(*line, ~0ul);
	else
		asm volatile("movnti %1, %0" : "=m"(*line) : "r"(~0ul));
	mb();
	printk(KERN_INFO "@ {\"event\":\"td-poisoned\",\"full\":%d}\n", full);
	return 0;
}

static struct kprobe probes[] = {
	{ .symbol_name = "tdh_mem_page_add", .pre_handler = cleanslate_poison_td_add },
	{ .symbol_name = "tdh_mem_page_aug", .pre_handler = cleanslate_poison_td_aug },
};
static struct kprobe *const all[] = { &probes[0], &probes[1] };

static int __init cleanslate_poison_td_init(void)
{
	return register_kprobes((struct kprobe **)all, ARRAY_SIZE(all));
}

static void __exit cleanslate_poison_td_exit(void)
{
	unregister_kprobes((struct kprobe **)all, ARRAY_SIZE(all));
}

module_init(cleanslate_poison_td_init);
module_exit(cleanslate_poison_td_exit);
MODULE_DESCRIPTION("Writes to memory of a TD, for tests under seamvisor");
MODULE_LICENSE("GPL");
