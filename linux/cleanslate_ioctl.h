/* SPDX-License-Identifier: GPL-2.0 WITH Linux-syscall-note */
/*
 * ioctls of /dev/cleanslate
 *
 * Errors: EPERM (no CAP_SYS_ADMIN), EEXIST (TDX is initialized), EBUSY (KVM uses VMX, or the system
 * is being suspended), ENOMEM (also if TDX was initialized without memory to track pages of TDs: a
 * second try allocates it), EIO (the TDX module failed), EINVAL (the takeover table is refused, or
 * other CPUs are online than in the kernel before), ENODEV (there is nothing to tear down), ENOTTY.
 * The kernel log has the reason.
 */
#ifndef CLEANSLATE_IOCTL_H
#define CLEANSLATE_IOCTL_H

#include <linux/ioctl.h>
#include <linux/types.h>

/* Initialize TDX, or take it over from the kernel before. */
#define CLEANSLATE_IOCTL_UP	_IO(0xcd, 0)

/* Tear down the TDs of the kernel before that were not adopted. After CLEANSLATE_IOCTL_UP. */
#define CLEANSLATE_IOCTL_VACUUM	_IO(0xcd, 2)

#endif
