/* SPDX-License-Identifier: GPL-2.0 WITH Linux-syscall-note */
/*
 * ioctls of /dev/cleanslate_test, in the test variant of cleanslate.ko
 *
 * Errors: EPERM (no CAP_SYS_ADMIN), ENODEV (TDX is not initialized), EINVAL, ENOMEM, EIO (the TDX
 * module failed, or there is no page), ENOTTY. The kernel log has the reason.
 */
#ifndef CLEANSLATE_TEST_IOCTL_H
#define CLEANSLATE_TEST_IOCTL_H

#include <linux/ioctl.h>
#include <linux/types.h>

/* Build a TD and leave it in a phase: CLEANSLATE_TD_*. What it owns stays private until a kexec. */
#define CLEANSLATE_IOCTL_TD	_IOW(0xcd, 1, __u32)

/* Adopt the TDs of the kernel before that can run, and let them count on. */
#define CLEANSLATE_IOCTL_ADOPT	_IO(0xcd, 3)

#define CLEANSLATE_TD_RUNNABLE		0
#define CLEANSLATE_TD_HALF_BUILT	1
#define CLEANSLATE_TD_GONE		2
#define CLEANSLATE_TD_HALF_GONE		3

#endif
