// SPDX-License-Identifier: GPL-2.0
/*
 * cleanslate: reset TDX private memory before the next kernel starts
 *
 * On CPUs with the partial-write erratum a small store to private memory that the previous kernel
 * left behind poisons the line, and the next read of it is a machine check. This module tracks
 * private memory of a kernel with TDX host support (watch.c, follow.c), or initializes TDX itself
 * in a kernel without (host.c), and resets private memory right before machine_kexec() jumps
 * (handover.c).
 */
#define pr_fmt(fmt) "cleanslate: " fmt

#include <linux/kexec.h>
#include <linux/module.h>
#include <linux/moduleparam.h>
#include <asm/msr.h>

#include "cleanslate.h"

/*
 * Such a kernel checks the type of a function before each indirect call. The functions of the Rust
 * object have no type, and neither have functions of the kernel whose address is not taken.
 */
#if defined(CONFIG_CFI_CLANG) || defined(CONFIG_CFI)
#error "cleanslate: kernels with control flow integrity (CFI) are not supported"
#endif

enum cleanslate_mode cleanslate_mode = CLEANSLATE_IDLE;
const char *cleanslate_unknown;
u32 cleanslate_policy;

static const char *const policies[] = {
	[CLEANSLATE_POLICY_TRACKED] = "tracked",
	[CLEANSLATE_POLICY_MODULE] = "module",
	[CLEANSLATE_POLICY_REFUSE] = "refuse",
	[CLEANSLATE_POLICY_KEEP] = "keep",
};

static int cleanslate_set_policy(const char *value, const struct kernel_param *kp)
{
	int policy = sysfs_match_string(policies, value);

	if (policy < 0)
		return policy;
	/* At load, the mode is not known yet. */
	if (policy == CLEANSLATE_POLICY_KEEP && cleanslate_mode != CLEANSLATE_IDLE &&
	    !cleanslate_keep_is_possible())
		return -EINVAL;
	if (policy == CLEANSLATE_POLICY_MODULE && cleanslate_taken_over())
		pr_info("policy=module is as tracked after a takeover: the TDX module is not asked\n");
	cleanslate_policy = policy;
	return 0;
}

static int cleanslate_get_policy(char *buffer, const struct kernel_param *kp)
{
	return sysfs_emit(buffer, "%s\n", policies[cleanslate_policy]);
}

static const struct kernel_param_ops policy_ops = {
	.set = cleanslate_set_policy,
	.get = cleanslate_get_policy,
};
module_param_cb(policy, &policy_ops, NULL, 0644);
MODULE_PARM_DESC(policy,
		 "tracked: reset tracked private memory at kexec (default); module: ask the TDX module first, then reset; refuse: reject kexec images while memory may be private; keep: leave TDX to a next kernel that takes it over, else as tracked (only when the module is loaded)");

bool cleanslate_rdmsr(u32 msr, u64 *value)
{
	return !rdmsrq_safe(msr, value);
}

void cleanslate_panic(void)
{
	panic("cleanslate: Rust panic");
}

void cleanslate_log(const char *text, size_t length)
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

static unsigned long (*find_symbol)(const char *name);
static int (*find_size)(unsigned long address, unsigned long *size, unsigned long *offset);

/* Without the symbol table, "no such symbol" would be taken for "no such code in this kernel". */
static int __init cleanslate_find_symbol_table(void)
{
	struct kprobe lookup = { .symbol_name = "kallsyms_lookup_name" };
	int ret = register_kprobe(&lookup);

	if (ret) {
		pr_err("failed to find the symbol table: %d (CONFIG_KPROBES, CONFIG_KALLSYMS?)\n",
		       ret);
		return ret;
	}
	find_symbol = (void *)lookup.addr;
	unregister_kprobe(&lookup);
	find_size = (void *)cleanslate_symbol("kallsyms_lookup_size_offset");
	if (!find_size || !cleanslate_symbol("machine_kexec")) {
		pr_err("symbol table of this kernel is not complete (CONFIG_KALLSYMS?)\n");
		return -ENOENT;
	}
	return 0;
}

/* Address of a symbol, exported or not; 0 if there is none. */
unsigned long cleanslate_symbol(const char *name)
{
	return cleanslate_call(find_symbol, name);
}

/* Address and size of a function; 0 if there is none. */
unsigned long cleanslate_function(const char *name, unsigned long *size)
{
	unsigned long address = cleanslate_symbol(name), offset;

	if (!address || !cleanslate_call(find_size, address, size, &offset) || offset)
		return 0;
	return address;
}

void cleanslate_lost(const char *why)
{
	const char *before = cmpxchg(&cleanslate_unknown, NULL, why);

	/* What is being learned will not be known then. */
	if (before == cleanslate_learning)
		before = cmpxchg(&cleanslate_unknown, cleanslate_learning, why) ==
			 cleanslate_learning ? NULL : before;
	if (why == cleanslate_learning)
		pr_info("%s; refusing kexec images until then\n", why);
	else if (!before)
		pr_err("lost track of TDX private memory (%s); refusing kexec images\n", why);
}

void cleanslate_stay_loaded(void)
{
	if (!try_module_get(THIS_MODULE))
		pr_emerg("memory becomes private during unload and will not be reset\n");
}

/* TDX host support of the kernel, of any version? Then this module must not initialize TDX. */
static bool cleanslate_kernel_is_host(void)
{
	static const char *const names[] = {
		"__seamcall", "tdx_enable", "tdx_cpu_enable", "tdx_module_status", "tdx_tdmr_list",
	};
	int index;

	for (index = 0; index < ARRAY_SIZE(names); index++)
		if (cleanslate_symbol(names[index]))
			return true;
	return false;
}

/*
 * A kernel with TDX host support. If the kernel before has kept TDX, its own initialization has
 * failed, because the TDX module is up already: this module becomes the host, to tear the TDs of
 * the kernel before down. A pool is enough for that: a table that stands there is not to be missed
 * because takeover= was.
 */
static int __init cleanslate_init_beside_host(void)
{
	const char *why;

	if (!cleanslate_keep_is_wanted() && !cleanslate_pool_is_given())
		return cleanslate_watch_init();
	why = cleanslate_vacuum_refusal();
	if (!why)
		return cleanslate_host_init(true);
	/* Then SYS.INIT has not failed, and nothing was kept. */
	if (!cleanslate_keep_is_wanted())
		return cleanslate_watch_init();
	if (!cleanslate_takeover_is_wanted()) {
		pr_err("policy=keep is for kernels without TDX host support: this one initializes TDX itself\n");
		return -EOPNOTSUPP;
	}
	pr_err("takeover= needs a kernel without TDX host support, or one whose own TDX is off for good: %s\n",
	       why);
	return -EOPNOTSUPP;
}

/* The end of a load that failed, and of an unload: no probe runs any more. */
static void cleanslate_free_all(void)
{
	if (cleanslate_is_private())
		pr_emerg("memory became private during unload and will not be reset\n");
	cleanslate_dump_exit();
	cleanslate_follow_free();
	cleanslate_memory_exit();
}

static int __init cleanslate_init(void)
{
	int ret;

	if (cleanslate_dump_is_wanted())
		return cleanslate_dump_read_init();
	switch (cleanslate_detect()) {
	case CLEANSLATE_NO_TDX:
		pr_info("TDX not available, nothing to do\n");
		return 0;
	case CLEANSLATE_TDX:
		pr_info("CPU not affected by the partial-write erratum, nothing to do\n");
		return 0;
	}
	if (nr_cpu_ids > cleanslate_max_cpus()) {
		pr_err("%u possible CPUs, at most %u supported\n", nr_cpu_ids,
		       cleanslate_max_cpus());
		return -E2BIG;
	}
	ret = cleanslate_find_symbol_table();
	if (ret)
		return ret;
	ret = cleanslate_memory_init();
	if (ret)
		return ret;
	cleanslate_dump_init();
	ret = cleanslate_handover_init();
	if (ret) {
		cleanslate_dump_exit();
		cleanslate_memory_exit();
		return ret;
	}
	ret = cleanslate_kernel_is_host() ? cleanslate_init_beside_host() :
					    cleanslate_host_init(false);
	if (ret) {
		if (cleanslate_takeover_is_wanted())
			pr_emerg("not loaded, and takeover= was given: memory may be private, and nothing refuses a kexec that would use it\n");
		cleanslate_handover_exit();
		cleanslate_free_all();
		return ret;
	}
	/* A reset at kexec matters more than sysfs. The device is last: it can initialize TDX. */
	ret = cleanslate_report_init();
	if (ret)
		pr_warn("failed to create /sys/kernel/cleanslate: %d\n", ret);
	if (cleanslate_mode == CLEANSLATE_HOST) {
		ret = cleanslate_device_init();
		if (ret)
			pr_warn("failed to register /dev/cleanslate: %d\n", ret);
	}
	return 0;
}

static void __exit cleanslate_exit(void)
{
	if (cleanslate_mode == CLEANSLATE_IDLE)
		return;
	if (cleanslate_mode == CLEANSLATE_HOST)
		cleanslate_device_exit();
	cleanslate_sweep_exit();
	cleanslate_report_exit();
	/* Before the probes: memory that becomes private now is noticed, and the log says so. */
	cleanslate_handover_exit();
	if (cleanslate_mode == CLEANSLATE_WATCH)
		cleanslate_watch_exit();
	else
		cleanslate_host_exit();
	cleanslate_free_all();
}

module_init(cleanslate_init);
module_exit(cleanslate_exit);
MODULE_DESCRIPTION("Resets TDX private memory before the next kernel starts");
MODULE_VERSION("0.1.0");
MODULE_LICENSE("GPL");
