// SPDX-License-Identifier: GPL-2.0
/*
 * A kernel without TDX host support: initialize TDX; or one whose own TDX is off for good: take TDX
 * over from the kernel before, to tear its TDs down
 *
 * Enters VMX operation on every CPU and provides CPUs, memory and locking to the Rust object. While
 * TDX is enabled, CPUs that were offline during the initialization stay offline, memory that no
 * TDMR covers cannot be onlined, and suspend is refused, because the TDX module does not survive
 * it.
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
#include <linux/reboot.h>
#include <linux/slab.h>
#include <linux/suspend.h>
#include <linux/sysfs.h>
#include <linux/vmalloc.h>
#include <linux/workqueue.h>
#include <asm/e820/api.h>
#include <asm/msr.h>
#include <asm/tlbflush.h>

#include "cleanslate.h"

static unsigned long long pool_base, pool_bytes;
module_param(pool_base, ullong, 0444);
MODULE_PARM_DESC(pool_base, "physical address of memory reserved at boot for PAMTs (memmap=SIZE$BASE)");
module_param(pool_bytes, ullong, 0444);
MODULE_PARM_DESC(pool_bytes, "size of that memory in bytes");

static void *pool;

/* Serializes the initialization and users of the TDX module. */
static DEFINE_MUTEX(host_lock);
static bool is_up, initializing, suspended;
static cpumask_t in_vmx, initialized;
static struct page *vmx_regions[NR_CPUS];
static enum cpuhp_state hotplug;

/*
 * VMX operation. Linux 7.1 and later count its users: both functions, or none. Distributions move
 * code between versions, so that the symbol table decides.
 */
static int (*get_vmx)(int feature);
static void (*put_vmx)(int feature);

/*
 * The kernel has TDX host support, and its own TDX is off for good: what the kernel before has kept
 * is torn down and then reset, and that is all.
 */
static bool for_vacuum;

bool cleanslate_pool_is_given(void)
{
	return pool_bytes;
}

bool cleanslate_host_is_for_vacuum(void)
{
	return for_vacuum;
}

/* What cr4_set_bits() is made of. Linux 6.19 and later export it to KVM alone. */
static void (*update_cr4)(unsigned long set, unsigned long clear);

static int cleanslate_find_vmx(void)
{
	get_vmx = (void *)cleanslate_symbol("x86_virt_get_ref");
	put_vmx = (void *)cleanslate_symbol("x86_virt_put_ref");
	update_cr4 = (void *)cleanslate_symbol("cr4_update_irqsoff");
	if (!get_vmx != !put_vmx)
		return -ENOENT;
	return get_vmx || update_cr4 ? 0 : -ENOENT;
}

/*
 * Why this module cannot be the host in a kernel with TDX host support, not even for the vacuum,
 * or NULL. KVM may enter and leave VMX operation there at any time: the kernel must count users.
 */
const char *cleanslate_vacuum_refusal(void)
{
	const char *why = cleanslate_watch_why_not_off();

	if (!why && (cleanslate_find_vmx() || !get_vmx))
		why = "this kernel does not count the users of VMX operation (x86_virt_get_ref)";
	return why;
}

/* Is the kernel's own TDX still off? 0, or a negative errno: then nothing is torn down. */
int cleanslate_host_check(void)
{
	const char *why = for_vacuum ? cleanslate_watch_why_not_off() : NULL;

	if (!why)
		return 0;
	cleanslate_lost(why);
	return -EBUSY;
}

int cleanslate_vmx_state(char *buffer, int at)
{
	return at + sysfs_emit_at(buffer, at, "vmx %s\n", get_vmx ? "x86_virt_get_ref" : "vmxon");
}

static void cleanslate_change_cr4(unsigned long set, unsigned long clear)
{
	unsigned long flags;
	u64 cet;

	local_irq_save(flags);
	cet = cleanslate_tracking_off();
	update_cr4(set, clear);
	cleanslate_tracking_on(cet);
	local_irq_restore(flags);
}

static int cleanslate_enter_vmx_itself(unsigned int cpu)
{
	u64 control, basic, address;

	if (__read_cr4() & X86_CR4_VMXE)
		return -EBUSY;
	if (rdmsrq_safe(MSR_IA32_FEAT_CTL, &control) || !(control & FEAT_CTL_LOCKED) ||
	    !(control & FEAT_CTL_VMX_ENABLED_OUTSIDE_SMX))
		return -EOPNOTSUPP;
	rdmsrq(MSR_IA32_VMX_BASIC, basic);
	address = page_to_phys(vmx_regions[cpu]);
	*(u32 *)page_address(vmx_regions[cpu]) = (u32)basic & 0x7fffffff;
	cleanslate_change_cr4(X86_CR4_VMXE, 0);
	/* Before VMXON: an NMI that stops this CPU does VMXOFF, whose fault is handled. */
	cpumask_set_cpu(cpu, &in_vmx);
	asm goto("1: vmxon %[address]\n\t"
		 "jbe %l[fault]\n\t"
		 _ASM_EXTABLE(1b, %l[fault])
		 : : [address] "m"(address) : "cc", "memory" : fault);
	return 0;
fault:
	cpumask_clear_cpu(cpu, &in_vmx);
	cleanslate_change_cr4(0, X86_CR4_VMXE);
	return -EIO;
}

static int cleanslate_enter_vmx(void)
{
	unsigned int cpu = smp_processor_id();
	int ret;

	if (!get_vmx)
		return cleanslate_enter_vmx_itself(cpu);
	ret = cleanslate_call(get_vmx, X86_FEATURE_VMX);
	if (!ret)
		cpumask_set_cpu(cpu, &in_vmx);
	return ret;
}

/*
 * Where the kernel counts users and stops its CPUs, it has executed VMXOFF before this: the
 * function finds that (#UD), and virt_rebooting, which is set then, makes it no fault.
 */
static void cleanslate_leave_vmx(void)
{
	u64 cet;

	if (put_vmx) {
		cet = cleanslate_tracking_off();
		put_vmx(X86_FEATURE_VMX);
		cleanslate_tracking_on(cet);
		return;
	}
	asm goto("1: vmxoff\n\t"
		 _ASM_EXTABLE(1b, %l[fault])
		 : : : "cc", "memory" : fault);
fault:
	cleanslate_change_cr4(0, X86_CR4_VMXE);
}

/*
 * Leaves VMX operation on a CPU that stops or jumps. From any context. At a crash, a kernel that
 * counts the users of VMX operation leaves it itself.
 */
void cleanslate_host_leave(bool crash)
{
	if (!cpumask_test_and_clear_cpu(raw_smp_processor_id(), &in_vmx))
		return;
	if (!crash || !put_vmx)
		cleanslate_leave_vmx();
}

static void cleanslate_enter_vmx_here(void *result)
{
	int ret = cleanslate_enter_vmx();

	if (ret)
		atomic_set(result, ret);
}

static void cleanslate_leave_vmx_here(void *unused)
{
	cleanslate_host_leave(false);
}

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

static void cleanslate_do_cpu_work(struct work_struct *work)
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
		INIT_WORK(&works[cpu].work, cleanslate_do_cpu_work);
		/* The name of the kernel's queue differs between kernels. */
		schedule_work_on(cpu, &works[cpu].work);
	}
	for_each_online_cpu(cpu)
		flush_work(&works[cpu].work);
}

struct package_work {
	void (*run)(void *task);
	void *task;
};

static long cleanslate_do_package_work(void *argument)
{
	struct package_work *work = argument;

	work->run(work->task);
	return 0;
}

void cleanslate_on_each_package(void (*run)(void *task), void *task)
{
	struct package_work work = { .run = run, .task = task };
	int cpu, before;

	for_each_online_cpu(cpu) {
		for_each_online_cpu(before)
			if (cleanslate_package(before) == cleanslate_package(cpu))
				break;
		if (before == cpu)
			work_on_cpu(cpu, cleanslate_do_package_work, &work);
	}
}

/*
 * Not preempt_disable(), because callers ask the TDX module about many pages. CpuGate of the Rust
 * object wants no other SEAMCALL on this CPU between its note and the instruction: only the host
 * makes SEAMCALLs, and host_lock excludes all others.
 */
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

u32 cleanslate_node(u32 cpu)
{
	return cpu_to_node(cpu);
}

void cleanslate_cond_resched(void)
{
	cond_resched();
}

static int cleanslate_cpu_online(unsigned int cpu)
{
	if (!is_up)
		return 0;
	if (!cpumask_test_cpu(cpu, &initialized)) {
		pr_err("CPU %u was offline during TDX initialization, keeping it offline\n", cpu);
		return -EOPNOTSUPP;
	}
	return cleanslate_enter_vmx();
}

static int cleanslate_cpu_offline(unsigned int cpu)
{
	unsigned long flags;

	/* What it holds of a VCPU would be lost at VMXOFF, and the next kernel would not know. */
	if (is_up && cleanslate_keep_has_vcpus()) {
		pr_err("CPU %u stays online: it may hold VCPUs of TDs that policy=keep is to keep\n",
		       cpu);
		return -EBUSY;
	}
	/* A SEAMCALL between the write-back and its note would be forgotten. */
	local_irq_save(flags);
	if (is_up)
		cleanslate_stop_this_cpu(cpu);
	local_irq_restore(flags);
	cleanslate_host_leave(false);
	return 0;
}

static int cleanslate_before_memory(struct notifier_block *block, unsigned long action,
				    void *argument)
{
	const struct memory_notify *range = argument;

	if (action != MEM_GOING_ONLINE && action != MEM_GOING_OFFLINE)
		return NOTIFY_OK;
	if (initializing)
		return notifier_from_errno(-EBUSY);
	if (!is_up || action != MEM_GOING_ONLINE)
		return NOTIFY_OK;
	/* The TDX module takes no page from there, and the page allocator does not know. */
	if (!cleanslate_covers(PFN_PHYS(range->start_pfn),
			       PFN_PHYS(range->start_pfn + range->nr_pages))) {
		pr_err("refusing to online memory not covered by a TDMR\n");
		return notifier_from_errno(-EPERM);
	}
	return NOTIFY_OK;
}

static struct notifier_block memory_notifier = { .notifier_call = cleanslate_before_memory };

static int cleanslate_before_suspend(struct notifier_block *block, unsigned long action,
				     void *argument)
{
	switch (action) {
	case PM_SUSPEND_PREPARE:
	case PM_HIBERNATION_PREPARE:
	case PM_RESTORE_PREPARE:
		break;
	case PM_POST_SUSPEND:
	case PM_POST_HIBERNATION:
	case PM_POST_RESTORE:
		suspended = false;
		return NOTIFY_OK;
	default:
		return NOTIFY_OK;
	}
	mutex_lock(&host_lock);
	suspended = !is_up && !cleanslate_taken_over();
	mutex_unlock(&host_lock);
	if (suspended)
		return NOTIFY_OK;
	pr_err("suspend is not supported while TDX is enabled\n");
	return notifier_from_errno(-EBUSY);
}

/*
 * A CPU in VMX operation ignores INIT, by which some machines reset. A kexec leaves VMX operation
 * after its reset (cleanslate_host_leave()).
 */
static int cleanslate_before_reboot(struct notifier_block *block, unsigned long action,
				    void *argument)
{
	const bool *is_kexec = (const bool *)cleanslate_symbol("kexec_in_progress");

	if (is_kexec && READ_ONCE(*is_kexec))
		return NOTIFY_DONE;
	cpus_read_lock();
	on_each_cpu(cleanslate_leave_vmx_here, NULL, 1);
	cpus_read_unlock();
	return NOTIFY_DONE;
}

static struct notifier_block reboot_notifier = { .notifier_call = cleanslate_before_reboot };

static struct notifier_block suspend_notifier = { .notifier_call = cleanslate_before_suspend };

static int cleanslate_call_bring_up(const struct cleanslate_memory *memory, u32 count)
{
	u64 table = cleanslate_keep_is_possible() ? CLEANSLATE_TAKEOVER_BYTES : 0;
	struct cleanslate_memory reserved = {
		.base = pool_base + table,
		.bytes = pool_bytes - table,
		.node = CLEANSLATE_ANY_NODE,
	};
	void *work = kvmalloc(cleanslate_work_bytes(), GFP_KERNEL);
	int ret;

	if (!work)
		return -ENOMEM;
	ret = cleanslate_bring_up(memory, count, reserved, work);
	kvfree(work);
	return ret;
}

/*
 * The ledger of pages of TDs, once TDX is initialized. TDX stays so without it, and its PAMTs are
 * reset at kexec.
 */
static int cleanslate_start_tracking(void)
{
	static u64 *words;
	int ret = -EINVAL;

	/* Neither freed nor tried again if that fails: part of it may be in use. */
	if (!words) {
		words = vzalloc(cleanslate_track_words() * sizeof(u64));
		ret = words ? cleanslate_track(words) : -ENOMEM;
		if (!ret)
			cleanslate_dump_ledger(words, cleanslate_track_words());
	}
	if (ret)
		pr_err("TDX is initialized, but pages cannot be tracked: %d; no TDs%s\n", ret,
		       ret == -ENOMEM ? " until \"up\" is tried again" : "");
	return ret;
}

static int cleanslate_enter_vmx_on_all(void)
{
	atomic_t failed = ATOMIC_INIT(0);
	int ret;

	on_each_cpu(cleanslate_enter_vmx_here, &failed, 1);
	ret = atomic_read(&failed);
	if (ret == -EBUSY && get_vmx)
		pr_err("VMX operation is being left on a CPU; try again\n");
	else if (ret == -EBUSY)
		pr_err("VMX already in use; unload kvm_intel first\n");
	else if (ret)
		pr_err("failed to enter VMX operation: %d (VMX disabled by the BIOS?)\n", ret);
	return ret;
}

/* TDX is up already, by the kernel before. */
static int cleanslate_join(void)
{
	int ret = cleanslate_enter_vmx_on_all();

	if (!ret)
		ret = cleanslate_take_over_join();
	if (ret) {
		on_each_cpu(cleanslate_leave_vmx_here, NULL, 1);
		return ret;
	}
	cpumask_copy(&initialized, cpu_online_mask);
	is_up = true;
	return 0;
}

static int cleanslate_initialize(void)
{
	const struct cleanslate_memory *memory;
	u32 memory_count;
	int ret;

	memory = cleanslate_memory_map(&memory_count);
	if (!memory)
		return -E2BIG;
	ret = cleanslate_enter_vmx_on_all();
	if (ret)
		goto leave;
	ret = cleanslate_call_bring_up(memory, memory_count);
	if (ret)
		goto leave;
	cpumask_copy(&initialized, cpu_online_mask);
	cleanslate_stay_loaded();
	is_up = true;
	return cleanslate_start_tracking();
leave:
	on_each_cpu(cleanslate_leave_vmx_here, NULL, 1);
	return ret;
}

static int cleanslate_refuse_to_initialize(void)
{
	pr_err("refusing to initialize TDX: the kernel has TDX host support of its own\n");
	return -EOPNOTSUPP;
}

int cleanslate_host_up(void)
{
	int ret = cleanslate_host_check();

	if (ret)
		return ret;
	mutex_lock(&host_lock);
	initializing = true;
	cpus_read_lock();
	if (is_up)
		ret = cleanslate_follows() ? -EEXIST : cleanslate_start_tracking();
	else if (suspended)
		ret = -EBUSY;
	else if (cleanslate_takeover_refused())
		ret = cleanslate_takeover_retry() ?: cleanslate_join();
	else if (cleanslate_taken_over())
		ret = cleanslate_join();
	else if (for_vacuum)
		ret = cleanslate_refuse_to_initialize();
	else
		ret = cleanslate_initialize();
	cpus_read_unlock();
	initializing = false;
	mutex_unlock(&host_lock);
	return ret;
}

/* From any context. */
bool cleanslate_host_is_up(void)
{
	return READ_ONCE(is_up);
}

/* Does this CPU alone run TDX? Then it can leave it alone, too. */
bool cleanslate_host_is_one_cpu(void)
{
	return cpumask_weight(&initialized) == 1;
}

/* Runs a function that uses the TDX module; -ENODEV if TDX is not initialized. */
int cleanslate_host_run(int (*function)(void *argument), void *argument)
{
	int ret = -ENODEV;

	mutex_lock(&host_lock);
	cpus_read_lock();
	if (is_up)
		ret = function(argument);
	cpus_read_unlock();
	mutex_unlock(&host_lock);
	return ret;
}

static int cleanslate_add_bytes(struct resource *resource, void *bytes)
{
	*(u64 *)bytes += resource_size(resource);
	return 0;
}

/*
 * Is all of it memory, by the firmware's map, which memmap= does not change? By address, because
 * Linux 7.2 and later export the function to KVM alone. It says whether any byte of a range is of a
 * type: of each page the first and the last must be memory, since a region may end inside a page.
 */
static bool cleanslate_pool_is_ram(void)
{
	typeof(e820__mapped_raw_any) *is_mapped =
		(void *)cleanslate_symbol("e820__mapped_raw_any");
	u64 address;

	if (!is_mapped)
		return false;
	for (address = pool_base; address < pool_base + pool_bytes; address += PAGE_SIZE) {
		u64 end = address + PAGE_SIZE;

		if (!cleanslate_call(is_mapped, address, address + 1, E820_TYPE_RAM) ||
		    !cleanslate_call(is_mapped, end - 1, end, E820_TYPE_RAM))
			return false;
		cond_resched();
	}
	return true;
}

/*
 * The pool is written to, at the latest by the reset before the next kernel starts. It must be
 * memory that this kernel does not use and knows as reserved, all of it: not device memory, and not
 * what a driver has claimed.
 */
static const char *cleanslate_check_pool(void)
{
	u64 reserved = 0;

	if (pool_base & ~PAGE_MASK || pool_bytes & ~PAGE_MASK ||
	    pool_base + pool_bytes < pool_base)
		return "not a range of pages";
	walk_iomem_res_desc(IORES_DESC_RESERVED, IORESOURCE_MEM, pool_base,
			    pool_base + pool_bytes - 1, &reserved, cleanslate_add_bytes);
	if (reserved != pool_bytes)
		return "not reserved at boot (memmap=SIZE$BASE)";
	return cleanslate_pool_is_ram() ? NULL : "not memory by the firmware's map";
}

static void cleanslate_unmap_pool(void)
{
	if (!pool)
		return;
	memunmap(pool);
	pool = NULL;
	release_mem_region(pool_base, pool_bytes);
}

static int cleanslate_map_pool(void)
{
	const char *why;

	if (!pool_bytes)
		return 0;
	why = cleanslate_check_pool();
	if (!why && !request_mem_region(pool_base, pool_bytes, "cleanslate"))
		why = "in use (/proc/iomem)";
	if (why) {
		pr_err("pool_base and pool_bytes: [%#llx, %#llx) is %s\n", pool_base,
		       pool_base + pool_bytes, why);
		return -EINVAL;
	}
	pool = memremap(pool_base, pool_bytes, MEMREMAP_WB);
	if (pool)
		return 0;
	release_mem_region(pool_base, pool_bytes);
	return -ENOMEM;
}

/* With @vacuum_alone, cleanslate_vacuum_refusal() has been asked. */
int cleanslate_host_init(bool vacuum_alone)
{
	int cpu, ret;

	for_vacuum = vacuum_alone;
	ret = cleanslate_find_vmx();
	if (ret) {
		pr_err("x86_virt_get_ref, x86_virt_put_ref or cr4_update_irqsoff not found (unsupported kernel?)\n");
		return ret;
	}
	ret = cleanslate_map_pool();
	/* With takeover= the module is there to refuse images: cleanslate_keep_start() says so. */
	if (ret && cleanslate_takeover_is_wanted())
		pool_bytes = 0;
	else if (ret)
		return ret;
	ret = cleanslate_keep_init(pool_base, pool_bytes, pool);
	if (ret)
		goto unmap;
	ret = -ENOMEM;
	for_each_possible_cpu(cpu) {
		vmx_regions[cpu] = alloc_page(GFP_KERNEL | __GFP_ZERO);
		if (!vmx_regions[cpu])
			goto pages;
	}
	ret = cpuhp_setup_state_nocalls(CPUHP_AP_ONLINE_DYN, "cleanslate",
					cleanslate_cpu_online, cleanslate_cpu_offline);
	if (ret < 0)
		goto pages;
	hotplug = ret;
	ret = register_pm_notifier(&suspend_notifier);
	if (ret)
		goto cpus;
	ret = register_memory_notifier(&memory_notifier);
	if (ret)
		goto suspend;
	ret = register_reboot_notifier(&reboot_notifier);
	if (ret)
		goto memory;
	cleanslate_mode = CLEANSLATE_HOST;
	if (for_vacuum)
		pr_info("kernel has TDX host support, and its own TDX is off: TDX can be taken over for the vacuum alone, no TD is built, adopted or kept\n");
	cleanslate_keep_start(pool);
	if (!for_vacuum && !cleanslate_taken_over() && !cleanslate_takeover_refused())
		pr_info("kernel has no TDX host support; write \"up\" to /dev/cleanslate to initialize TDX\n");
	return 0;
memory:
	unregister_memory_notifier(&memory_notifier);
suspend:
	unregister_pm_notifier(&suspend_notifier);
cpus:
	cpuhp_remove_state_nocalls(hotplug);
pages:
	for_each_possible_cpu(cpu)
		if (vmx_regions[cpu])
			__free_page(vmx_regions[cpu]);
unmap:
	cleanslate_unmap_pool();
	return ret;
}

/* Only before TDX is initialized: from then on the module cannot be unloaded. */
void cleanslate_host_exit(void)
{
	int cpu;

	unregister_reboot_notifier(&reboot_notifier);
	unregister_memory_notifier(&memory_notifier);
	unregister_pm_notifier(&suspend_notifier);
	cpuhp_remove_state_nocalls(hotplug);
	for_each_possible_cpu(cpu)
		__free_page(vmx_regions[cpu]);
	cleanslate_unmap_pool();
}
