// SPDX-License-Identifier: GPL-2.0
/*
 * cleanslate: resets TDX private memory before the next kernel starts.
 *
 * Three kinds of machine: one with nothing to do; one whose kernel brings TDX up, which is watched (watch.c); one whose kernel cannot,
 * where this module can (host.c). On the last two handover.c resets what may be private, right before machine_kexec() jumps.
 */
#define pr_fmt(fmt) "cleanslate: " fmt

#include <linux/kexec.h>
#include <linux/module.h>
#include <linux/moduleparam.h>
#include <asm/msr.h>

#include "cleanslate.h"

enum cleanslate_mode cleanslate_mode = CLEANSLATE_IDLE;
const char *cleanslate_unknown;
u32 cleanslate_policy;

/* As in object/src/handover.rs. */
static const char *const policies[] = { "tracked", "none", "refuse" };

static int set_policy(const char *value, const struct kernel_param *kp)
{
	int policy = sysfs_match_string(policies, value);

	if (policy < 0)
		return policy;
	cleanslate_policy = policy;
	return 0;
}

static int get_policy(char *buffer, const struct kernel_param *kp)
{
	return sysfs_emit(buffer, "%s\n", policies[cleanslate_policy]);
}

static const struct kernel_param_ops policy_ops = { .set = set_policy, .get = get_policy };
module_param_cb(policy, &policy_ops, NULL, 0644);
MODULE_PARM_DESC(policy, "tracked: reset what may be private (default); none: leave it; refuse: let no kexec image in while anything may be private");

bool cleanslate_rdmsr(u32 msr, u64 *value)
{
	return !rdmsrq_safe(msr, value);
}

void cleanslate_panic(void)
{
	panic("cleanslate: bug in the Rust object");
}

void cleanslate_say(const char *text, size_t length)
{
	pr_info("%.*s\n", (int)length, text);
}

u64 cleanslate_tracking_off(void)
{
	u64 cet = 0;

	preempt_disable();
	if (cpu_feature_enabled(X86_FEATURE_IBT)) {
		rdmsrq(MSR_IA32_S_CET, cet);
		wrmsrq(MSR_IA32_S_CET, cet & ~CET_ENDBR_EN);
	}
	return cet;
}

void cleanslate_tracking_on(u64 cet)
{
	if (cpu_feature_enabled(X86_FEATURE_IBT))
		wrmsrq(MSR_IA32_S_CET, cet);
	preempt_enable();
}

/* The address of a symbol, exported or not; 0 if there is none. */
unsigned long cleanslate_symbol(const char *name)
{
	struct kprobe lookup = { .symbol_name = "kallsyms_lookup_name" };
	unsigned long (*find)(const char *name);

	if (register_kprobe(&lookup))
		return 0;
	find = (void *)lookup.addr;
	unregister_kprobe(&lookup);
	return cleanslate_call(find, name);
}

/* Once for each reason at most: the first one stands. From any context. */
void cleanslate_lost(const char *why)
{
	if (!cmpxchg(&cleanslate_unknown, NULL, why))
		pr_err("what is private is not known (%s): no kexec image is let in\n", why);
}

/* Something may be private from now on: without this module nobody would know what. */
void cleanslate_keep(void)
{
	if (!try_module_get(THIS_MODULE))
		pr_emerg("memory becomes private while this module is unloaded: nobody will reset it\n");
}

/* The kernel's own TDX host code, by whatever name of it: then this module must not be a host of its own. */
static bool kernel_is_host(void)
{
	static const char *const names[] = { "__seamcall", "tdx_enable", "tdx_cpu_enable", "tdx_module_status", "tdx_tdmr_list" };
	int index;

	for (index = 0; index < ARRAY_SIZE(names); index++)
		if (cleanslate_symbol(names[index]))
			return true;
	return false;
}

static int __init start(void)
{
	u32 found = cleanslate_detect();
	int ret;

	if (!found) {
		pr_info("no TDX on this machine: nothing to do\n");
		return 0;
	}
	if (!(found & 2)) {
		pr_info("this CPU lacks the partial-write erratum: what is left private harms nobody\n");
		return 0;
	}
	if (nr_cpu_ids > cleanslate_cpus()) {
		pr_err("%u CPUs, and only %u can be watched\n", nr_cpu_ids, cleanslate_cpus());
		return -E2BIG;
	}
	ret = cleanslate_handover_init();
	if (ret)
		return ret;
	ret = kernel_is_host() ? cleanslate_watch_init() : cleanslate_host_init();
	if (ret) {
		cleanslate_handover_exit();
		return ret;
	}
	/* Neither of them is worth a kexec that nobody makes safe. The device is last: from there on TDX can come up. */
	if (cleanslate_report_init())
		pr_warn("nothing to be seen in /sys/kernel/cleanslate\n");
	if (cleanslate_mode == CLEANSLATE_HOST && cleanslate_device_init())
		pr_warn("no /dev/cleanslate: TDX cannot be brought up\n");
	return 0;
}

static void __exit stop(void)
{
	if (cleanslate_mode == CLEANSLATE_IDLE)
		return;
	if (cleanslate_mode == CLEANSLATE_HOST)
		cleanslate_device_exit();
	cleanslate_report_exit();
	if (cleanslate_mode == CLEANSLATE_WATCH)
		cleanslate_watch_exit();
	else
		cleanslate_host_exit();
	cleanslate_handover_exit();
	if (cleanslate_private_kb())
		pr_emerg("memory became private while this module was unloaded: nobody will reset it\n");
}

module_init(start);
module_exit(stop);
MODULE_DESCRIPTION("Resets TDX private memory before the next kernel starts");
MODULE_LICENSE("GPL");
