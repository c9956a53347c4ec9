// SPDX-License-Identifier: GPL-2.0
/*
 * Makes the handover of cleanslate.ko return without a reset, for comparisons: the shipped module
 * tracks private memory as ever, and the next kernel gets it. A test module for a guest of
 * seamvisor; on a real machine the next kernel dies.
 */
#define pr_fmt(fmt) "cleanslate_noreset: " fmt

#include <linux/kprobes.h>
#include <linux/module.h>

/* Return from the function at once, with struct cleanslate_handover in RAX and RDX: all zero. */
static int cleanslate_skip(struct kprobe *probe, struct pt_regs *regs)
{
	regs->ax = 0;
	regs->dx = 0;
	regs->ip = *(unsigned long *)regs->sp;
	regs->sp += sizeof(long);
	return 1;
}
NOKPROBE_SYMBOL(cleanslate_skip);

/* A kprobe with a post-handler is not optimized into a jump, which could not change regs->ip. */
static void cleanslate_after_skip(struct kprobe *probe, struct pt_regs *regs, unsigned long flags)
{
}

static struct kprobe probe = {
	.symbol_name = "cleanslate_hand_over",
	.pre_handler = cleanslate_skip,
	.post_handler = cleanslate_after_skip,
};

static int __init cleanslate_noreset_init(void)
{
	int ret = register_kprobe(&probe);

	if (ret)
		pr_err("failed to hook cleanslate_hand_over: %d\n", ret);
	return ret;
}

static void __exit cleanslate_noreset_exit(void)
{
	unregister_kprobe(&probe);
}

module_init(cleanslate_noreset_init);
module_exit(cleanslate_noreset_exit);
MODULE_DESCRIPTION("Makes cleanslate.ko reset nothing, for tests under seamvisor");
MODULE_LICENSE("GPL");
