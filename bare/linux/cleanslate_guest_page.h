/* SPDX-License-Identifier: GPL-2.0 */
/*
 * How this kernel's tdh_* functions name guest pages and levels of Secure EPT, for the test
 * modules. A type cannot be found out by a symbol, so it goes by the version.
 */
#ifndef CLEANSLATE_GUEST_PAGE_H
#define CLEANSLATE_GUEST_PAGE_H

#include <linux/mm.h>
#include <linux/version.h>

#if LINUX_VERSION_CODE < KERNEL_VERSION(7, 2, 0)
/* By struct page; and a level is the TDX module's. */
#define CLEANSLATE_BY_STRUCT_PAGE
#define LEVEL(level)			pg_level_to_tdx_sept_level(level)
#define GUEST_PAGE(page)		(page)
#define GUEST_PAGE_PHYS(argument)	page_to_phys((struct page *)(argument))
#else
/* By frame number; and a level is Linux's. */
#define LEVEL(level)			(level)
#define GUEST_PAGE(page)		page_to_pfn(page)
#define GUEST_PAGE_PHYS(argument)	PFN_PHYS(argument)
#endif

#endif
