// SPDX-License-Identifier: GPL-2.0
/*
 * Makes the handover of cleanslate.ko return without a reset, for comparisons: the shipped module
 * tracks private memory as ever, and the next kernel gets it. A test module for a guest of
 * seamvisor; on a real machine the next kernel dies.
 *
 * By new instructions at the function's start, and not by a kprobe: the kernel runs none within the
 * handler of another, and a crash may come from one.
 */
#define pr_fmt(fmt) "cleanslate_noreset: " fmt

#include <linux/mm.h>
#include <linux/module.h>
#include <linux/string.h>
#include <linux/vmalloc.h>

#include "cleanslate_find.h"

/*
 * struct cleanslate_handover (linux/object.h) has 40 bytes: the caller passes its address in RDI,
 * ahead of the arguments, and gets it back in RAX. All zeros: nothing was reset.
 */
static const u8 cleanslate_nothing[] = {
	0x48, 0x89, 0xfa,		/* mov %rdi,%rdx */
	0x31, 0xc0,			/* xor %eax,%eax */
	0xb9, 0x05, 0x00, 0x00, 0x00,	/* mov $5,%ecx */
	0xf3, 0x48, 0xab,		/* rep stosq */
	0x48, 0x89, 0xd0,		/* mov %rdx,%rax */
	0xc3,				/* ret */
};

/* Writes through a mapping of its own: the kernel's mapping of code cannot be written to. */
static int cleanslate_patch(u8 *code)
{
	struct page *pages[2];
	u8 *writable;

	pages[0] = vmalloc_to_page(code);
	pages[1] = vmalloc_to_page(code + sizeof(cleanslate_nothing) - 1);
	if (!pages[0] || !pages[1])
		return -EFAULT;
	writable = vmap(pages, 2, VM_MAP, PAGE_KERNEL);
	if (!writable)
		return -ENOMEM;
	memcpy(writable + offset_in_page(code), cleanslate_nothing, sizeof(cleanslate_nothing));
	vunmap(writable);
	return 0;
}

static int __init cleanslate_noreset_init(void)
{
	u8 *code = cleanslate_find("cleanslate_hand_over");
	int ret = IS_ERR(code) ? PTR_ERR(code) : cleanslate_patch(code);

	if (ret)
		pr_err("failed to patch cleanslate_hand_over: %d\n", ret);
	return ret;
}

/* No exit: what was patched stays so, and the module cannot be unloaded. */
module_init(cleanslate_noreset_init);
MODULE_DESCRIPTION("Makes cleanslate.ko reset nothing, for tests under seamvisor");
MODULE_LICENSE("GPL");
