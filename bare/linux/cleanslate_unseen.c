// SPDX-License-Identifier: GPL-2.0
/*
 * What a kernel to come may have, and cleanslate.ko would not see: a function that splits guest
 * pages and calls no SEAMCALL wrapper that is observed, and a copy of a function that resets pages,
 * as compilers make them. To be loaded before cleanslate.ko. Writing to the parameter calls the
 * first, which does nothing. A test module for a guest of seamvisor.
 */
#define pr_fmt(fmt) "cleanslate_unseen: " fmt

#include <linux/linkage.h>
#include <linux/module.h>

#include <asm/ibt.h>

u64 tdh_mem_page_demote(u64 gpa);

noinline u64 tdh_mem_page_demote(u64 gpa)
{
	pr_info("pages are split at %#llx\n", gpa);
	return 0;
}

asm(".pushsection .text\n"
    ".type tdx_quirk_reset_paddr.part.0, @function\n"
    "tdx_quirk_reset_paddr.part.0:\n"
    ASM_ENDBR
    ASM_RET
    ".size tdx_quirk_reset_paddr.part.0, . - tdx_quirk_reset_paddr.part.0\n"
    ".popsection\n");

static int cleanslate_split(const char *value, const struct kernel_param *parameter)
{
	return tdh_mem_page_demote(0x200000) ? -EIO : 0;
}

static const struct kernel_param_ops split_ops = { .set = cleanslate_split };
module_param_cb(split, &split_ops, NULL, 0200);
MODULE_PARM_DESC(split, "call the function that splits pages");

static int __init cleanslate_unseen_init(void)
{
	return 0;
}

/* No exit: a hook of cleanslate.ko may be in it. */
module_init(cleanslate_unseen_init);
MODULE_DESCRIPTION("Functions that cleanslate.ko does not see, for tests under seamvisor");
MODULE_LICENSE("GPL");
