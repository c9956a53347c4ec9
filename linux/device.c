// SPDX-License-Identifier: GPL-2.0
/*
 * /dev/cleanslate: one command for each write. "up" brings TDX up; "td FATE" builds a TD and leaves it runnable, half-built, gone or
 * half-gone, for tests. errno says how it went, the log says why.
 */
#include <linux/capability.h>
#include <linux/fs.h>
#include <linux/miscdevice.h>
#include <linux/module.h>
#include <linux/string.h>
#include <linux/uaccess.h>

#include "cleanslate.h"

/* As in object/src/host.rs. */
static const char *const fates[] = { "runnable", "half-built", "gone", "half-gone" };

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

static const struct file_operations operations = { .owner = THIS_MODULE, .write = write, .llseek = noop_llseek };
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
