// SPDX-License-Identifier: GPL-2.0
/*
 * SEAMCALLs where KVM makes them to flush VCPUs: in interrupts that CPU 0 sends to CPU 1, which
 * makes others in a loop; with `offline=1` on a CPU that goes offline, as late as those of a module
 * that was loaded first. Each asks for the owner of a page that no TD has, and changes nothing. A
 * test module for a guest of seamvisor, where every CPU is in VMX operation.
 */
#define pr_fmt(fmt) "cleanslate_storm: " fmt

#include <linux/cpuhotplug.h>
#include <linux/gfp.h>
#include <linux/jiffies.h>
#include <linux/kthread.h>
#include <linux/mm.h>
#include <linux/module.h>
#include <linux/smp.h>
#include <asm/tdx.h>

#include "cleanslate_find.h"

static uint ipis = 1000;
module_param(ipis, uint, 0444);
MODULE_PARM_DESC(ipis, "interrupts that make a SEAMCALL");

static uint seconds;
module_param(seconds, uint, 0444);
MODULE_PARM_DESC(seconds, "go on for so long, however many interrupts that are");

static bool offline;
module_param(offline, bool, 0444);
MODULE_PARM_DESC(offline, "make one on each CPU that goes offline, and no others");

#define TDH_PHYMEM_PAGE_RDMD	24
#define STORM_CPU		1

static u64 (*cleanslate_call_seamcall)(u64 leaf, struct tdx_module_args *args);
static struct page *page;
/* SEAMCALLs that the TDX module refused, and interrupts that were not sent. */
static atomic_t failed = ATOMIC_INIT(0);

static void cleanslate_storm_once(void *unused)
{
	struct tdx_module_args args = { .rcx = page_to_phys(page) };

	if (cleanslate_call_seamcall(TDH_PHYMEM_PAGE_RDMD, &args))
		atomic_inc(&failed);
}

static int cleanslate_storm_loop(void *calls)
{
	while (!kthread_should_stop()) {
		preempt_disable();
		cleanslate_storm_once(NULL);
		preempt_enable();
		++*(u64 *)calls;
		cond_resched();
	}
	return 0;
}

static int cleanslate_storm_offline(unsigned int cpu)
{
	preempt_disable();
	cleanslate_storm_once(NULL);
	preempt_enable();
	return 0;
}

static int __init cleanslate_storm_init(void)
{
	struct task_struct *task;
	unsigned long end = jiffies + seconds * HZ;
	uint sent;
	u64 calls = 0;
	int ret;

	if (!cpu_online(STORM_CPU))
		return -ENODEV;
	cleanslate_call_seamcall = cleanslate_find("__seamcall_ret");
	if (IS_ERR(cleanslate_call_seamcall))
		return PTR_ERR(cleanslate_call_seamcall);
	page = alloc_page(GFP_KERNEL);
	if (!page)
		return -ENOMEM;
	if (offline) {
		ret = cpuhp_setup_state_nocalls(CPUHP_AP_ONLINE_DYN, "cleanslate_storm", NULL,
						cleanslate_storm_offline);
		if (ret < 0)
			__free_page(page);
		return min(ret, 0);
	}
	task = kthread_create_on_cpu(cleanslate_storm_loop, &calls, STORM_CPU, "storm/%u");
	if (IS_ERR(task)) {
		__free_page(page);
		return PTR_ERR(task);
	}
	wake_up_process(task);
	for (sent = 0; seconds ? time_before(jiffies, end) : sent < ipis; sent++) {
		if (smp_call_function_single(STORM_CPU, cleanslate_storm_once, NULL, 1))
			atomic_inc(&failed);
		cond_resched();
	}
	kthread_stop(task);
	__free_page(page);
	pr_info("%u SEAMCALLs in interrupts, %llu outside of them\n", sent, calls);
	printk(KERN_INFO "@ {\"event\":\"storm\",\"ipis\":%u,\"failed\":%d}\n", sent,
	       atomic_read(&failed));
	return 0;
}
module_init(cleanslate_storm_init);
MODULE_DESCRIPTION("Makes SEAMCALLs in interrupts, for tests under seamvisor");
MODULE_LICENSE("GPL");
