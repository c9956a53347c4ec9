// SPDX-License-Identifier: GPL-2.0
/*
 * Makes this kernel refuse every kexec image on a CPU with the partial-write erratum, in the first
 * statement of machine_kexec_prepare() and with the errno of Linux 6.18 to 7.1. A test module for a
 * guest of seamvisor, loaded before cleanslate.ko: of two kprobes of a function the later one comes
 * first.
 */
#define pr_fmt(fmt) "cleanslate_refuse: " fmt

#include <linux/cpufeature.h>
#include <linux/kprobes.h>
#include <linux/module.h>

static noinline int cleanslate_refuse_image(void)
{
	pr_info("Not allowed on platform with tdx_pw_mce bug\n");
	return -EOPNOTSUPP;
}

static int cleanslate_on_prepare(struct kprobe *probe, struct pt_regs *regs)
{
	if (!boot_cpu_has_bug(X86_BUG_TDX_PW_MCE))
		return 0;
	regs->ip = (unsigned long)cleanslate_refuse_image;
	return 1;
}

/* A kprobe with a post-handler is not optimized into a jump, which could not change regs->ip. */
static void cleanslate_after_prepare(struct kprobe *probe, struct pt_regs *regs, unsigned long flags)
{
}

static struct kprobe probe = {
	.symbol_name = "machine_kexec_prepare",
	.pre_handler = cleanslate_on_prepare,
	.post_handler = cleanslate_after_prepare,
};

static int __init cleanslate_refuse_init(void)
{
	return register_kprobe(&probe);
}

/* No exit: the kernel refuses to the end. */
module_init(cleanslate_refuse_init);
MODULE_DESCRIPTION("Refuses kexec images as Linux 6.18 does, for tests under seamvisor");
MODULE_LICENSE("GPL");
