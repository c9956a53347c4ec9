// SPDX-License-Identifier: GPL-2.0
/*
 * Uses most of free memory and keeps it: every line holds a canary, a value that depends on its
 * physical address. seamvisor counts canaries that a MOVDIR64B overwrites: the reset before a kexec
 * or a crash must write no memory that is in use. By ordinary stores, which do no harm to a line
 * that is still private.
 */
#define pr_fmt(fmt) "cleanslate_canary: " fmt

#include <linux/gfp.h>
#include <linux/io.h>
#include <linux/mm.h>
#include <linux/module.h>

/* Each of the eight words of a line is this plus the line's address: CANARY of seamvisor. */
#define CANARY	0x6b65657020746800ull
#define LINE	64

static void cleanslate_fill(struct page *page)
{
	u64 *word = page_address(page);
	u64 address = page_to_phys(page);
	int index;

	for (index = 0; index < PAGE_SIZE / sizeof(*word); index++)
		WRITE_ONCE(word[index], CANARY + address + round_down(index * sizeof(*word), LINE));
}

/* What is taken is never given back. */
static int __init cleanslate_canary_init(void)
{
	unsigned long pages = 0, left;
	struct sysinfo info;

	si_meminfo(&info);
	/* Pages freed last are handed out first. A fifth stays free, for the next kernel. */
	for (left = info.freeram - info.freeram / 5; left; left--) {
		struct page *page = alloc_page(GFP_KERNEL | __GFP_NORETRY | __GFP_NOWARN);

		if (!page)
			break;
		cleanslate_fill(page);
		pages++;
	}
	printk(KERN_INFO "@ {\"event\":\"canaries\",\"pages\":%lu}\n", pages);
	return 0;
}
module_init(cleanslate_canary_init);
MODULE_DESCRIPTION("Fills free memory with canaries, for tests under seamvisor");
MODULE_LICENSE("GPL");
