// SPDX-License-Identifier: GPL-2.0
/*
 * Shrinks PAMT_4K in tdx_tdmr_list to the size of a bitmap of one bit for each page, in a Linux
 * that does not know Dynamic PAMT: what Linux 7.4 has by the series that was posted. A test module
 * for a guest of seamvisor with `dynamic-pamt=assumed`, to be loaded before cleanslate.ko, which
 * reads the list. It makes no SEAMCALL and stays loaded.
 *
 * What differs from that series: it reads the bits for each page from the TDX module, allocates
 * only so much, and sets bit 16 of R8 in SYS.CONFIG itself. Here the rest of PAMT_4K stays
 * allocated for good, and the TDX module never writes to it. Pairs: cleanslate_pairs.h.
 */
#define pr_fmt(fmt) "cleanslate_dynamic_pamt: " fmt

#include <linux/mm.h>
#include <linux/module.h>

#include "cleanslate_find.h"

/* TDMR_INFO, without its reserved areas. */
struct dynamic_pamt_tdmr {
	u64 base, size;
	u64 pamt_1g_base, pamt_1g_size, pamt_2m_base, pamt_2m_size, pamt_4k_base, pamt_4k_size;
};

/* tdx_tdmr_list of Linux 6.8 and later. */
struct dynamic_pamt_list {
	void *tdmrs;
	int used;
	int stride;
};

static int __init dynamic_pamt_init(void)
{
	unsigned long (*find)(const char *name) = cleanslate_find("kallsyms_lookup_name");
	struct dynamic_pamt_tdmr *tdmr;
	struct dynamic_pamt_list *list;
	int index;

	if (IS_ERR(find))
		return PTR_ERR(find);
	list = (void *)find("tdx_tdmr_list");
	if (!list)
		return -ENOENT;
	if (!list->tdmrs)
		return -ENODEV;
	for (index = 0; index < list->used; index++) {
		tdmr = list->tdmrs + index * list->stride;
		tdmr->pamt_4k_size = PAGE_ALIGN(tdmr->size / PAGE_SIZE / BITS_PER_BYTE);
	}
	printk(KERN_INFO "@ {\"event\":\"dynamic-pamt\",\"tdmrs\":%d}\n", list->used);
	return 0;
}
module_init(dynamic_pamt_init);
MODULE_DESCRIPTION("Makes TDMRs those of Dynamic PAMT, for tests under seamvisor");
MODULE_LICENSE("GPL");
