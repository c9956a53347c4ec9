// SPDX-License-Identifier: GPL-2.0
/*
 * Tracking of pages of the kernel's TDs, by the operands of its SEAMCALLs
 *
 * A page is given to the TDX module as an operand of a SEAMCALL, and every SEAMCALL goes through
 * the kernel's wrappers. A probe at their entry marks the page before the call is made, a probe
 * behind the instruction records the result (watch.c), and a hook on the kernel's reset of a page,
 * which this module does itself, clears the mark. A missed probe, an unknown leaf or a page outside
 * of the ledger means that private memory is not tracked completely: cleanslate_lost().
 *
 * A reference keeps each marked page out of the page allocator, because the kernel may free a page
 * that is still private: the page of a SEAMCALL that failed, or guest memory when the TDX module is
 * dead. The reset before the next kernel starts overwrites marked pages.
 */
#define pr_fmt(fmt) "cleanslate: " fmt

#include <linux/io.h>
#include <linux/mm.h>
#include <linux/slab.h>
#include <linux/smp.h>
#include <linux/sysfs.h>
#include <linux/vmalloc.h>

#include "cleanslate.h"

bool cleanslate_hold(u64 page)
{
	return !pfn_valid(page) || folio_try_get(page_folio(pfn_to_page(page)));
}

void cleanslate_release(u64 page)
{
	if (pfn_valid(page))
		folio_put(page_folio(pfn_to_page(page)));
}

bool cleanslate_only_held(u64 page)
{
	struct folio *folio;

	if (!pfn_valid(page))
		return false;
	folio = page_folio(pfn_to_page(page));
	return !folio_test_large(folio) && folio_ref_count(folio) == 1;
}

bool cleanslate_has_page(u64 page)
{
	return pfn_valid(page);
}

/*
 * The kernel's reset of returned pages. Done here, so that reset and mark change together. The CPU
 * that stores is the one that fences.
 */
static bool cleanslate_on_reset(struct pt_regs *regs)
{
	cleanslate_reset_pages(get_cpu(), regs->di, regs->si);
	put_cpu();
	return true;
}

static bool cleanslate_on_page_reset(struct pt_regs *regs)
{
	cleanslate_reset_pages(get_cpu(), page_to_phys((struct page *)regs->di), PAGE_SIZE);
	put_cpu();
	return true;
}

/*
 * Linux 6.18 to 7.1 have the first for one page, which calls the second, which is static there: the
 * compiler may leave nothing of it to hook. Later ones have the second alone.
 */
static struct cleanslate_hook resets[] = {
	{ .name = "tdx_quirk_reset_page", .enter = cleanslate_on_page_reset, .may_skip = true },
	{ .name = "tdx_quirk_reset_paddr", .enter = cleanslate_on_reset, .may_skip = true },
};

static u64 *words;

/* Did the hook miss a reset? */
bool cleanslate_follow_missed(void)
{
	return cleanslate_hook_missed(resets, ARRAY_SIZE(resets));
}

/* Arms the hooks that this kernel has functions for. */
static int cleanslate_arm_resets(void)
{
	int index, ret;

	for (index = 0; index < ARRAY_SIZE(resets); index++) {
		if (!cleanslate_symbol(resets[index].name))
			continue;
		ret = cleanslate_arm(&resets[index], 1);
		if (ret)
			return ret;
	}
	return 0;
}

int cleanslate_follow_init(void)
{
	const struct cleanslate_memory *memory;
	u32 count;
	int ret;

	if (!cleanslate_symbol(resets[0].name) && !cleanslate_symbol(resets[1].name))
		return 0;
	memory = cleanslate_memory_map(&count);
	if (!memory)
		return -E2BIG;
	words = vzalloc(cleanslate_follow_words(memory, count) * sizeof(u64));
	if (!words || cleanslate_follow(words, memory, count)) {
		pr_err("failed to allocate the page ledger (64 KB per GiB of memory)\n");
		return -ENOMEM;
	}
	cleanslate_dump_ledger(words, cleanslate_follow_words(memory, count));
	ret = cleanslate_arm_resets();
	if (ret)
		cleanslate_follow_exit();
	return ret;
}

int cleanslate_follow_state(char *buffer, int at)
{
	int index;

	for (index = 0; index < ARRAY_SIZE(resets); index++)
		at += sysfs_emit_at(buffer, at, "%s %s\n", resets[index].name,
				    !resets[index].armed ? "none" :
				    resets[index].by_ftrace ? "ftrace" : "kprobe");
	return at;
}

void cleanslate_follow_exit(void)
{
	cleanslate_disarm(resets, ARRAY_SIZE(resets));
}

/*
 * The Rust object reads the ledger in every hook and probe of this module, also after an init
 * function that failed: to be called last, when all are unregistered. Unregistering one waits for
 * its handlers.
 */
void cleanslate_follow_free(void)
{
	vfree(words);
	words = NULL;
}
