/* SPDX-License-Identifier: GPL-2.0 */
/*
 * Addresses of functions that the kernel does not export, for the test modules
 */
#ifndef CLEANSLATE_FIND_H
#define CLEANSLATE_FIND_H

#include <linux/err.h>
#include <linux/kprobes.h>

/* Where the kernel puts a probe: after an ENDBR64 if the function has one. Or ERR_PTR(). */
static inline void *cleanslate_find(const char *function)
{
	struct kprobe probe = { .symbol_name = function };
	int ret = register_kprobe(&probe);

	if (ret)
		return ERR_PTR(ret);
	unregister_kprobe(&probe);
	return (void *)probe.addr;
}

#endif
