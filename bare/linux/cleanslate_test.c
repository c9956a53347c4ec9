// SPDX-License-Identifier: GPL-2.0
/*
 * Test variant of cleanslate.ko: /dev/cleanslate_test builds TDs
 *
 * Takes the place of device.c, which it includes: /dev/cleanslate is that of the shipped module. By
 * ioctl (cleanslate_test_ioctl.h), or by writing "td PHASE". Needs CAP_SYS_ADMIN.
 */
#include "cleanslate.h"

int cleanslate_shipped_device_init(void);
void cleanslate_shipped_device_exit(void);

#define cleanslate_device_init cleanslate_shipped_device_init
#define cleanslate_device_exit cleanslate_shipped_device_exit
#include "device.c"
#undef cleanslate_device_init
#undef cleanslate_device_exit

#include "cleanslate_test_ioctl.h"

/* In bare/linux/object. */
int cleanslate_td(u32 phase);

static const char *const phases[] = {
	[CLEANSLATE_TD_RUNNABLE] = "runnable",
	[CLEANSLATE_TD_HALF_BUILT] = "half-built",
	[CLEANSLATE_TD_GONE] = "gone",
	[CLEANSLATE_TD_HALF_GONE] = "half-gone",
};

static int cleanslate_build_td(void *phase)
{
	return cleanslate_td(*(u32 *)phase);
}

static ssize_t cleanslate_test_write(struct file *file, const char __user *from, size_t size,
				     loff_t *at)
{
	char command[32], *name;
	int ret;
	u32 phase;

	if (!capable(CAP_SYS_ADMIN))
		return -EPERM;
	if (size >= sizeof(command))
		return -EINVAL;
	if (copy_from_user(command, from, size))
		return -EFAULT;
	command[size] = 0;
	name = strim(command);
	if (strncmp(name, "td ", 3))
		return -EINVAL;
	ret = match_string(phases, ARRAY_SIZE(phases), name + 3);
	if (ret < 0)
		return ret;
	phase = ret;
	ret = cleanslate_host_run(cleanslate_build_td, &phase);
	return ret ? ret : size;
}

static long cleanslate_test_ioctl(struct file *file, unsigned int number, unsigned long argument)
{
	u32 phase;

	if (!capable(CAP_SYS_ADMIN))
		return -EPERM;
	if (number != CLEANSLATE_IOCTL_TD)
		return -ENOTTY;
	if (get_user(phase, (const u32 __user *)argument))
		return -EFAULT;
	return cleanslate_host_run(cleanslate_build_td, &phase);
}

static const struct file_operations test_operations = {
	.owner = THIS_MODULE,
	.write = cleanslate_test_write,
	.unlocked_ioctl = cleanslate_test_ioctl,
	.compat_ioctl = compat_ptr_ioctl,
	.llseek = noop_llseek,
};

static struct miscdevice test_device = {
	.minor = MISC_DYNAMIC_MINOR,
	.name = "cleanslate_test",
	.mode = 0600,
	.fops = &test_operations,
};

static bool test_registered;

int cleanslate_device_init(void)
{
	int ret = cleanslate_shipped_device_init();

	if (ret)
		return ret;
	ret = misc_register(&test_device);
	test_registered = !ret;
	return ret;
}

void cleanslate_device_exit(void)
{
	if (test_registered)
		misc_deregister(&test_device);
	cleanslate_shipped_device_exit();
}
