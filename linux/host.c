// SPDX-License-Identifier: GPL-2.0
/*
 * A kernel without TDX host code: what the Rust object needs to bring TDX up. VMX operation on every CPU, memory, pages, CPUs to run on.
 * Refuses CPUs that come online after the bring-up and sleep states, which the TDX module does not survive.
 */
#define pr_fmt(fmt) "cleanslate: " fmt

#include <linux/cpu.h>
#include <linux/cpuhotplug.h>
#include <linux/gfp.h>
#include <linux/io.h>
#include <linux/ioport.h>
#include <linux/memory.h>
#include <linux/mm.h>
#include <linux/module.h>
#include <linux/mutex.h>
#include <linux/slab.h>
#include <linux/suspend.h>
#include <linux/version.h>
#include <linux/vmalloc.h>
#include <linux/workqueue.h>
#include <asm/msr.h>
#include <asm/tlbflush.h>

#include "cleanslate.h"

static unsigned long long pool_base, pool_bytes;
module_param(pool_base, ullong, 0444);
MODULE_PARM_DESC(pool_base, "first byte of memory reserved at boot (memmap=SIZE$BASE) for PAMTs");
module_param(pool_bytes, ullong, 0444);
MODULE_PARM_DESC(pool_bytes, "its size in bytes");

static void *pool;

/* One bring-up, one TD at a time. */
static DEFINE_MUTEX(host_lock);
static bool is_up, trying, asleep;
static cpumask_t in_vmx, initialized;
static struct page *vmx_regions[NR_CPUS];
static enum cpuhp_state hotplug;

/* VMX operation. Linux 7.2 and later count its users themselves. */

#if LINUX_VERSION_CODE >= KERNEL_VERSION(7, 2, 0)

static int (*get_vmx)(int feature);
static void (*put_vmx)(int feature);

static int find_vmx(void)
{
	get_vmx = (void *)cleanslate_symbol("x86_virt_get_ref");
	put_vmx = (void *)cleanslate_symbol("x86_virt_put_ref");
	return get_vmx && put_vmx ? 0 : -ENOENT;
}

static int enter_vmx(void)
{
	int ret = cleanslate_call(get_vmx, X86_FEATURE_VMX);

	if (!ret)
		cpumask_set_cpu(smp_processor_id(), &in_vmx);
	return ret;
}

static void leave_vmx(void)
{
	u64 cet = cleanslate_tracking_off();

	put_vmx(X86_FEATURE_VMX);
	cleanslate_tracking_on(cet);
}

#else

static int find_vmx(void)
{
	return 0;
}

static int enter_vmx(void)
{
	unsigned int cpu = smp_processor_id();
	u64 control, basic, address;

	if (__read_cr4() & X86_CR4_VMXE)
		return -EBUSY;
	if (rdmsrq_safe(MSR_IA32_FEAT_CTL, &control) || !(control & FEAT_CTL_LOCKED) ||
	    !(control & FEAT_CTL_VMX_ENABLED_OUTSIDE_SMX))
		return -EOPNOTSUPP;
	rdmsrq(MSR_IA32_VMX_BASIC, basic);
	address = page_to_phys(vmx_regions[cpu]);
	*(u32 *)page_address(vmx_regions[cpu]) = (u32)basic & 0x7fffffff;
	cr4_set_bits(X86_CR4_VMXE);
	/* Before: an NMI that stops this CPU leaves VMX operation, and a VMXOFF too much is caught. */
	cpumask_set_cpu(cpu, &in_vmx);
	asm goto("1: vmxon %[address]\n\t"
		 "jbe %l[fault]\n\t"
		 _ASM_EXTABLE(1b, %l[fault])
		 : : [address] "m"(address) : "cc", "memory" : fault);
	return 0;
fault:
	cpumask_clear_cpu(cpu, &in_vmx);
	cr4_clear_bits(X86_CR4_VMXE);
	return -EIO;
}

static void leave_vmx(void)
{
	asm goto("1: vmxoff\n\t"
		 _ASM_EXTABLE(1b, %l[fault])
		 : : : "cc", "memory" : fault);
fault:
	cr4_clear_bits(X86_CR4_VMXE);
}

#endif

/* From any context: of a CPU that is stopped, or that jumps. At a crash, a kernel that counts the users of VMX leaves it by itself. */
void cleanslate_host_leave(bool crash)
{
	if (cpumask_test_and_clear_cpu(raw_smp_processor_id(), &in_vmx) && !(crash && LINUX_VERSION_CODE >= KERNEL_VERSION(7, 2, 0)))
		leave_vmx();
}

static void enter_vmx_here(void *result)
{
	int ret = enter_vmx();

	if (ret)
		atomic_set(result, ret);
}

static void leave_vmx_here(void *unused)
{
	cleanslate_host_leave(false);
}

/* What the Rust object asks for. */

void *cleanslate_map(u64 address)
{
	if (address - pool_base < pool_bytes)
		return pool + (address - pool_base);
	return __va(address);
}

struct cpu_work {
	struct work_struct work;
	void (*run)(void *task);
	void *task;
};

static void do_cpu_work(struct work_struct *work)
{
	struct cpu_work *cpu_work = container_of(work, struct cpu_work, work);

	cpu_work->run(cpu_work->task);
}

void cleanslate_on_all(void (*run)(void *task), void *task)
{
	static struct cpu_work works[NR_CPUS];
	int cpu;

	for_each_online_cpu(cpu) {
		works[cpu].run = run;
		works[cpu].task = task;
		INIT_WORK(&works[cpu].work, do_cpu_work);
		queue_work_on(cpu, system_wq, &works[cpu].work);
	}
	for_each_online_cpu(cpu)
		flush_work(&works[cpu].work);
}

struct package_work {
	void (*run)(void *task);
	void *task;
};

static long do_package_work(void *argument)
{
	struct package_work *work = argument;

	work->run(work->task);
	return 0;
}

void cleanslate_on_each_package(void (*run)(void *task), void *task)
{
	struct package_work work = { run, task };
	int cpu, before;

	for_each_online_cpu(cpu) {
		for_each_online_cpu(before)
			if (cleanslate_package(before) == cleanslate_package(cpu))
				break;
		if (before == cpu)
			work_on_cpu(cpu, do_package_work, &work);
	}
}

u32 cleanslate_pin(void)
{
	migrate_disable();
	return raw_smp_processor_id();
}

void cleanslate_unpin(void)
{
	migrate_enable();
}

u32 cleanslate_this_cpu(void)
{
	return raw_smp_processor_id();
}

u32 cleanslate_package(u32 cpu)
{
	return topology_physical_package_id(cpu);
}

void cleanslate_rest(void)
{
	cond_resched();
}

/* Hotplug and sleep. */

static int cpu_comes(unsigned int cpu)
{
	if (!is_up)
		return 0;
	if (!cpumask_test_cpu(cpu, &initialized)) {
		pr_err("CPU %u was not there when TDX was brought up, and stays offline\n", cpu);
		return -EOPNOTSUPP;
	}
	return enter_vmx();
}

static int cpu_goes(unsigned int cpu)
{
	if (is_up)
		cleanslate_stop_this_cpu(cpu);
	cleanslate_host_leave(false);
	return 0;
}

static int before_memory(struct notifier_block *block, unsigned long action, void *argument)
{
	const struct memory_notify *range = argument;

	if (action != MEM_GOING_ONLINE && action != MEM_GOING_OFFLINE)
		return NOTIFY_OK;
	if (trying)
		return notifier_from_errno(-EBUSY);
	/* The TDX module takes no page from there, and whose page is which nobody tells the allocator. */
	if (is_up && action == MEM_GOING_ONLINE &&
	    !cleanslate_covers(PFN_PHYS(range->start_pfn), PFN_PHYS(range->start_pfn + range->nr_pages))) {
		pr_err("memory that was not there when TDX was brought up stays offline\n");
		return notifier_from_errno(-EPERM);
	}
	return NOTIFY_OK;
}

static struct notifier_block memory_notifier = { .notifier_call = before_memory };

static int before_sleep(struct notifier_block *block, unsigned long action, void *argument)
{
	switch (action) {
	case PM_SUSPEND_PREPARE:
	case PM_HIBERNATION_PREPARE:
	case PM_RESTORE_PREPARE:
		break;
	case PM_POST_SUSPEND:
	case PM_POST_HIBERNATION:
	case PM_POST_RESTORE:
		asleep = false;
		return NOTIFY_OK;
	default:
		return NOTIFY_OK;
	}
	mutex_lock(&host_lock);
	asleep = !is_up;
	mutex_unlock(&host_lock);
	if (asleep)
		return NOTIFY_OK;
	pr_err("no sleep while TDX is up: the TDX module would not survive it\n");
	return notifier_from_errno(-EBUSY);
}

static struct notifier_block sleep_notifier = { .notifier_call = before_sleep };

/* Up. */

static int bring_up(void)
{
	struct cleanslate_memory reserved = { pool_base, pool_bytes, NUMA_NO_NODE };
	atomic_t failed = ATOMIC_INIT(0);
	const struct cleanslate_memory *memory;
	u64 *ledger, *key_ids;
	u32 memory_count;
	int ret;

	memory = cleanslate_memory_map(&memory_count);
	if (!memory)
		return -E2BIG;
	on_each_cpu(enter_vmx_here, &failed, 1);
	ret = atomic_read(&failed);
	if (ret == -EBUSY)
		pr_err("another user of VMX is there: unload kvm_intel first\n");
	else if (ret)
		pr_err("a CPU does not enter VMX operation (%d): is VMX enabled in the firmware?\n", ret);
	if (ret)
		goto leave;
	ret = cleanslate_bring_up(memory, memory_count, reserved);
	if (ret)
		goto leave;
	cpumask_copy(&initialized, cpu_online_mask);
	cleanslate_keep();
	is_up = true;
	ledger = vzalloc(cleanslate_words(false) * sizeof(u64));
	key_ids = vzalloc(cleanslate_words(true) * sizeof(u64));
	if (!ledger || !key_ids || cleanslate_ledger(ledger, key_ids)) {
		pr_err("no memory for the ledger: TDX is up, and no TD can be built\n");
		vfree(ledger);
		vfree(key_ids);
		return -ENOMEM;
	}
	return 0;
leave:
	on_each_cpu(leave_vmx_here, NULL, 1);
	return ret;
}

int cleanslate_host_up(void)
{
	int ret;

	mutex_lock(&host_lock);
	trying = true;
	cpus_read_lock();
	ret = is_up ? -EEXIST : asleep ? -EBUSY : bring_up();
	cpus_read_unlock();
	trying = false;
	mutex_unlock(&host_lock);
	return ret;
}

int cleanslate_host_td(u32 fate)
{
	int ret;

	mutex_lock(&host_lock);
	cpus_read_lock();
	ret = is_up ? cleanslate_td(fate) : -EPERM;
	cpus_read_unlock();
	mutex_unlock(&host_lock);
	return ret;
}

int cleanslate_host_pages(struct cleanslate_pages *pages)
{
	int ret = 0;

	*pages = (struct cleanslate_pages){};
	mutex_lock(&host_lock);
	cpus_read_lock();
	if (is_up || cleanslate_watch_in_vmx()) {
		cleanslate_pin();
		ret = cleanslate_pages(pages);
		cleanslate_unpin();
	}
	cpus_read_unlock();
	mutex_unlock(&host_lock);
	return ret;
}

static int map_pool(void)
{
	if (!pool_bytes)
		return 0;
	if (pool_base & ~PAGE_MASK || pool_bytes & ~PAGE_MASK || pool_base + pool_bytes < pool_base ||
	    region_intersects(pool_base, pool_bytes, IORESOURCE_SYSTEM_RAM, IORES_DESC_NONE) != REGION_DISJOINT) {
		pr_err("pool_base and pool_bytes do not name memory that was reserved at boot (memmap=SIZE$BASE)\n");
		return -EINVAL;
	}
	pool = memremap(pool_base, pool_bytes, MEMREMAP_WB);
	return pool ? 0 : -ENOMEM;
}

int cleanslate_host_init(void)
{
	int cpu, ret;

	ret = find_vmx();
	if (ret) {
		pr_err("this kernel does not say how to enter VMX operation\n");
		return ret;
	}
	ret = map_pool();
	if (ret)
		return ret;
	ret = -ENOMEM;
	for_each_possible_cpu(cpu) {
		vmx_regions[cpu] = alloc_page(GFP_KERNEL | __GFP_ZERO);
		if (!vmx_regions[cpu])
			goto pages;
	}
	ret = cpuhp_setup_state_nocalls(CPUHP_AP_ONLINE_DYN, "cleanslate", cpu_comes, cpu_goes);
	if (ret < 0)
		goto pages;
	hotplug = ret;
	ret = register_pm_notifier(&sleep_notifier);
	if (ret)
		goto cpus;
	ret = register_memory_notifier(&memory_notifier);
	if (ret)
		goto sleep;
	cleanslate_mode = CLEANSLATE_HOST;
	pr_info("this kernel has no TDX host code; \"up\" to /dev/cleanslate brings TDX up\n");
	return 0;
sleep:
	unregister_pm_notifier(&sleep_notifier);
cpus:
	cpuhp_remove_state_nocalls(hotplug);
pages:
	for_each_possible_cpu(cpu)
		if (vmx_regions[cpu])
			__free_page(vmx_regions[cpu]);
	if (pool)
		memunmap(pool);
	return ret;
}

/* Only before TDX is up: from then on the module is kept. */
void cleanslate_host_exit(void)
{
	int cpu;

	unregister_memory_notifier(&memory_notifier);
	unregister_pm_notifier(&sleep_notifier);
	cpuhp_remove_state_nocalls(hotplug);
	for_each_possible_cpu(cpu)
		__free_page(vmx_regions[cpu]);
	if (pool)
		memunmap(pool);
}
