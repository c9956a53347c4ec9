// SPDX-License-Identifier: GPL-2.0
/*
 * Test variant of cleanslate.ko: /dev/cleanslate_test builds TDs
 *
 * Takes the place of device.c, which it includes: /dev/cleanslate is that of the shipped module. By
 * ioctl (cleanslate_test_ioctl.h), or by writing "td PHASE" or "adopt". "fill N" gives N pages of
 * 2 MiB to TDs. Needs CAP_SYS_ADMIN.
 */
#include <linux/math64.h>
#include <asm/apic.h>
#include <asm/cpufeature.h>
#include <asm/fpu/api.h>
#include <asm/fpu/xcr.h>
#include <asm/tsc.h>

#include "cleanslate.h"

int cleanslate_shipped_device_init(void);
void cleanslate_shipped_device_exit(void);

#define cleanslate_device_init cleanslate_shipped_device_init
#define cleanslate_device_exit cleanslate_shipped_device_exit
#include "device.c"
#undef cleanslate_device_init
#undef cleanslate_device_exit

#include "cleanslate_test.h"
#include "cleanslate_test_ioctl.h"

/*
 * VP.ENTER: interrupts are taken afterwards, and what the TD may leave in registers of this CPU is
 * not the kernel's.
 */
void cleanslate_quietly(void (*run)(void *argument), void *argument)
{
	static const u32 registers[] = {
		MSR_STAR, MSR_LSTAR, MSR_CSTAR, MSR_SYSCALL_MASK, MSR_KERNEL_GS_BASE, MSR_TSC_AUX,
	};
	u64 values[ARRAY_SIZE(registers)], features, supervisor = 0;
	unsigned long flags;
	int index;

	kernel_fpu_begin();
	local_irq_save(flags);
	features = xgetbv(XCR_XFEATURE_ENABLED_MASK);
	if (cpu_feature_enabled(X86_FEATURE_XSAVES))
		rdmsrq(MSR_IA32_XSS, supervisor);
	for (index = 0; index < ARRAY_SIZE(registers); index++)
		rdmsrq(registers[index], values[index]);
	run(argument);
	for (index = 0; index < ARRAY_SIZE(registers); index++)
		wrmsrq(registers[index], values[index]);
	if (cpu_feature_enabled(X86_FEATURE_XSAVES))
		wrmsrq(MSR_IA32_XSS, supervisor);
	xsetbv(XCR_XFEATURE_ENABLED_MASK, features);
	local_irq_restore(flags);
	kernel_fpu_end();
}

/*
 * The TDX module has acknowledged the interrupt that took the TD out. KVM calls its handler; here
 * it comes again once interrupts are on.
 */
void cleanslate_interrupt(u8 vector)
{
	apic->eoi();
	apic->send_IPI_self(vector);
}

void cleanslate_counted(u32 cpu, u64 counter, u64 count, u64 starts)
{
	printk(KERN_INFO "@ {\"event\":\"td-counts\",\"cpu\":%u,\"counter\":%llu,\"register\":%llu,\"starts\":%llu}\n",
	       cpu, counter, count, starts);
}

void cleanslate_entered(u64 cycles)
{
	printk(KERN_INFO "@ {\"event\":\"first-entry\",\"after_microseconds\":%llu}\n",
	       div_u64(cycles * 1000, tsc_khz));
}

/* Where TDX is taken over for the vacuum alone, there are no TDs. */
static int cleanslate_adopt_now(void *unused)
{
	return cleanslate_host_is_for_vacuum() ? -EOPNOTSUPP : cleanslate_adopt();
}

static const char *const phases[] = {
	[CLEANSLATE_TD_RUNNABLE] = "runnable",
	[CLEANSLATE_TD_HALF_BUILT] = "half-built",
	[CLEANSLATE_TD_GONE] = "gone",
	[CLEANSLATE_TD_HALF_GONE] = "half-gone",
};

static int cleanslate_build_td(void *phase)
{
	return cleanslate_host_is_for_vacuum() ? -EOPNOTSUPP : cleanslate_td(*(u32 *)phase);
}

static int cleanslate_fill_now(void *pages)
{
	return cleanslate_host_is_for_vacuum() ? -EOPNOTSUPP : cleanslate_fill(*(u64 *)pages);
}

static ssize_t cleanslate_test_write(struct file *file, const char __user *from, size_t size,
				     loff_t *at)
{
	char command[32], *name;
	u64 pages;
	u32 phase;
	int ret;

	if (!capable(CAP_SYS_ADMIN))
		return -EPERM;
	if (size >= sizeof(command))
		return -EINVAL;
	if (copy_from_user(command, from, size))
		return -EFAULT;
	command[size] = 0;
	name = strim(command);
	if (!strcmp(name, "adopt")) {
		ret = cleanslate_host_run(cleanslate_adopt_now, NULL);
		return ret ? ret : size;
	}
	if (!strncmp(name, "fill ", 5)) {
		ret = kstrtou64(name + 5, 10, &pages);
		if (!ret)
			ret = cleanslate_host_run(cleanslate_fill_now, &pages);
		return ret ? ret : size;
	}
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
	if (number == CLEANSLATE_IOCTL_ADOPT)
		return cleanslate_host_run(cleanslate_adopt_now, NULL);
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
