// SPDX-License-Identifier: GPL-2.0
/*
 * /dev/cleanslate: initialize TDX in a kernel without TDX host support, or take it over
 *
 * By ioctl (cleanslate_ioctl.h), or by writing "up" or "vacuum". Needs CAP_SYS_ADMIN. The kernel
 * log has the reason of an error.
 */
#include <linux/capability.h>
#include <linux/fs.h>
#include <linux/miscdevice.h>
#include <linux/module.h>
#include <linux/string.h>
#include <linux/uaccess.h>

#include "cleanslate.h"
#include "cleanslate_ioctl.h"

static ssize_t cleanslate_write(struct file *file, const char __user *from, size_t size, loff_t *at)
{
	char command[16], *name;
	int ret;

	if (!capable(CAP_SYS_ADMIN))
		return -EPERM;
	if (size >= sizeof(command))
		return -EINVAL;
	if (copy_from_user(command, from, size))
		return -EFAULT;
	command[size] = 0;
	name = strim(command);
	if (!strcmp(name, "up"))
		ret = cleanslate_host_up();
	else if (!strcmp(name, "vacuum"))
		ret = cleanslate_host_vacuum();
	else
		ret = -EINVAL;
	return ret ? ret : size;
}

static long cleanslate_ioctl(struct file *file, unsigned int number, unsigned long argument)
{
	if (!capable(CAP_SYS_ADMIN))
		return -EPERM;
	switch (number) {
	case CLEANSLATE_IOCTL_UP:
		return cleanslate_host_up();
	case CLEANSLATE_IOCTL_VACUUM:
		return cleanslate_host_vacuum();
	}
	return -ENOTTY;
}

static const struct file_operations operations = {
	.owner = THIS_MODULE,
	.write = cleanslate_write,
	.unlocked_ioctl = cleanslate_ioctl,
	.compat_ioctl = compat_ptr_ioctl,
	.llseek = noop_llseek,
};

static struct miscdevice device = {
	.minor = MISC_DYNAMIC_MINOR,
	.name = "cleanslate",
	.mode = 0600,
	.fops = &operations,
};

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
