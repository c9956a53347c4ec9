/* SPDX-License-Identifier: GPL-2.0 WITH Linux-syscall-note */
/*
 * The orders that /dev/cleanslate takes by ioctl(). errno says how it went, the kernel's log says why:
 * EEXIST (TDX is up), EPERM (it is not), EBUSY (KVM is in VMX operation, or the machine is going to sleep), ENOMEM, EIO (the TDX module refused),
 * EINVAL, ENOTTY.
 */
#ifndef CLEANSLATE_IOCTL_H
#define CLEANSLATE_IOCTL_H

#include <linux/ioctl.h>
#include <linux/types.h>

/* Brings TDX up. */
#define CLEANSLATE_IOCTL_UP	_IO(0xcd, 0)

/* Builds a TD for a test and leaves it at this point of its life: one of CLEANSLATE_TD_*. What it holds it holds until the next kexec. */
#define CLEANSLATE_IOCTL_TD	_IOW(0xcd, 1, __u32)

#define CLEANSLATE_TD_RUNNABLE		0
#define CLEANSLATE_TD_HALF_BUILT	1
#define CLEANSLATE_TD_GONE		2
#define CLEANSLATE_TD_HALF_GONE		3

#endif
