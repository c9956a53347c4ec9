// SPDX-License-Identifier: GPL-2.0
/*
 * /dev/cleanslate: orders to bring TDX up and to build TDs for tests. By ioctl for programs (cleanslate_ioctl.h), by words for shells: "up", or
 * "td FATE", one order for each write. errno says how it went, the log says why. Refuses whoever may not administer the system.
 */
#include <linux/capability.h>
#include <linux/fs.h>
#include <linux/miscdevice.h>
#include <linux/module.h>
#include <linux/string.h>
#include <linux/uaccess.h>

#include "cleanslate.h"
#include "cleanslate_ioctl.h"

/* As in object/src/host.rs. */
static const char *const fates[] = {
	[CLEANSLATE_TD_RUNNABLE] = "runnable",
	[CLEANSLATE_TD_HALF_BUILT] = "half-built",
	[CLEANSLATE_TD_GONE] = "gone",
	[CLEANSLATE_TD_HALF_GONE] = "half-gone",
};

static int obey(char *command)
{
	int fate;

	if (!strcmp(command, "up"))
		return cleanslate_host_up();
	if (strncmp(command, "td ", 3))
		return -EINVAL;
	fate = match_string(fates, ARRAY_SIZE(fates), command + 3);
	return fate < 0 ? -EINVAL : cleanslate_host_td(fate);
}

static ssize_t write(struct file *file, const char __user *from, size_t size, loff_t *at)
{
	char command[32];
	int ret;

	if (!capable(CAP_SYS_ADMIN))
		return -EPERM;
	if (size >= sizeof(command))
		return -EINVAL;
	if (copy_from_user(command, from, size))
		return -EFAULT;
	command[size] = 0;
	ret = obey(strim(command));
	return ret ? ret : size;
}

static long command(struct file *file, unsigned int number, unsigned long argument)
{
	u32 fate;

	if (!capable(CAP_SYS_ADMIN))
		return -EPERM;
	switch (number) {
	case CLEANSLATE_IOCTL_UP:
		return cleanslate_host_up();
	case CLEANSLATE_IOCTL_TD:
		if (get_user(fate, (const u32 __user *)argument))
			return -EFAULT;
		return fate < ARRAY_SIZE(fates) ? cleanslate_host_td(fate) : -EINVAL;
	default:
		return -ENOTTY;
	}
}

static const struct file_operations operations = {
	.owner = THIS_MODULE,
	.write = write,
	.unlocked_ioctl = command,
	.compat_ioctl = compat_ptr_ioctl,
	.llseek = noop_llseek,
};
static struct miscdevice device = { .minor = MISC_DYNAMIC_MINOR, .name = "cleanslate", .mode = 0600, .fops = &operations };

static bool registered;

int cleanslate_device_init(void)
{
	int ret = misc_register(&device);

	registered = !ret;
	return ret;
}

void cleanslate_device_exit(void)
{
	if (registered)
		misc_deregister(&device);
}
