// SPDX-License-Identifier: GPL-2.0
/*
 * A kernel with TDX host support: probes on its SEAMCALL wrappers
 *
 * The Rust object learns the PAMTs from the operands of SEAMCALLs, before any line is private, and
 * the pages of TDs (follow.c). If TDX is initialized already, it learns the PAMTs from the kernel's
 * list of TDMRs.
 */
#define pr_fmt(fmt) "cleanslate: " fmt

#include <linux/cpu.h>
#include <linux/cpuhotplug.h>
#include <linux/idr.h>
#include <linux/mm.h>
#include <linux/smp.h>

#include "cleanslate.h"

/* tdx_tdmr_list of Linux 6.8 and later. */
struct cleanslate_tdmr_list {
	void *tdmrs;
	int used;
	int stride;
	int count;
};

/*
 * tdx_module_status of Linux 6.8 and later: 0 is not yet, 1 is initialized. Its successor
 * tdx_module_state begins with a bool: is TDX initialized?
 */
#define MODULE_STATUS_ERROR	2

static const int *module_status;
static const bool *module_initialized;

/*
 * The kernel's initialization failed: it has reset the PAMTs and freed them, and they must not be
 * written to. A kernel without a status for errors tries once, before modules are loaded.
 */
static bool never_up;

bool cleanslate_watch_failed(void)
{
	return never_up || (module_status && READ_ONCE(*module_status) == MODULE_STATUS_ERROR);
}

static bool cleanslate_tdx_is_up(void)
{
	return (module_status && READ_ONCE(*module_status)) ||
	       (module_initialized && READ_ONCE(*module_initialized));
}

/* A kernel that initializes TDX at boot keeps every CPU in VMX operation. */
bool cleanslate_watch_in_vmx(void)
{
	return cleanslate_follows() && module_initialized && READ_ONCE(*module_initialized);
}

static int cleanslate_before_seamcall(struct kprobe *probe, struct pt_regs *regs)
{
	struct cleanslate_registers call;

	cleanslate_read_registers(&call, regs->di, (const void *)regs->si);
	cleanslate_observe_seamcall(raw_smp_processor_id(), &call);
	return 0;
}

#define BEFORE(name) {							\
	.symbol_name = (name),						\
	.pre_handler = cleanslate_before_seamcall,			\
	.post_handler = cleanslate_after_probe,				\
}

/* kprobes, because functions in assembly have no call to ftrace. */
static struct kprobe probes[] = {
	BEFORE("__seamcall"),
	BEFORE("__seamcall_ret"),
	/*
	 * The wrapper of VP.ENTER, optional: newer kernels do not allow a probe there. It gives no
	 * page, and the CPU is marked since the initialization.
	 */
	BEFORE("__seamcall_saved_ret"),
};

#define NEEDED 2
static int armed;
static const bool *all_disarmed;

static int cleanslate_arm_probes(void)
{
	int ret;

	for (armed = 0; armed < ARRAY_SIZE(probes); armed++) {
		ret = register_kprobe(&probes[armed]);
		if (ret && armed < NEEDED) {
			pr_err("failed to hook %s: %d (unsupported kernel?)\n",
			       probes[armed].symbol_name, ret);
			return ret;
		}
		if (ret)
			break;
	}
	return 0;
}

/* Were all SEAMCALLs, resets and stops observed? */
void cleanslate_watch_check(void)
{
	int index;

	if (cleanslate_mode != CLEANSLATE_WATCH || never_up)
		return;
	for (index = 0; index < armed; index++)
		if (probes[index].nmissed)
			cleanslate_lost("missed SEAMCALLs (kprobe nmissed)");
	if (cleanslate_follow_missed() || cleanslate_handover_missed())
		cleanslate_lost("missed SEAMCALL returns, resets or CPU stops (kprobe nmissed)");
	if (all_disarmed && READ_ONCE(*all_disarmed))
		cleanslate_lost("kprobes are disabled (debugfs kprobes/enabled)");
	if (!cleanslate_unknown && !cleanslate_watch_failed() && cleanslate_tdx_is_up() &&
	    !cleanslate_is_private())
		cleanslate_lost("TDX was initialized without being observed");
}

/* A CPU that comes online may run a TD before its first observed SEAMCALL. */
static int cleanslate_cpu_online(unsigned int cpu)
{
	if (cleanslate_is_private())
		cleanslate_cpu_may_hold(cpu);
	return 0;
}

/* Nobody can write back the caches of a CPU that is offline. */
static int cleanslate_cpu_offline(unsigned int cpu)
{
	unsigned long flags;

	if (!cleanslate_is_private())
		return 0;
	/* A SEAMCALL between the write-back and its note would be forgotten. */
	local_irq_save(flags);
	cleanslate_stop_this_cpu(cpu);
	local_irq_restore(flags);
	return 0;
}

static enum cpuhp_state hotplug;

static void cleanslate_note_this_cpu(void *unused)
{
	cleanslate_cpu_may_hold(smp_processor_id());
}

/* TDX is initialized already. Why its private memory is not tracked completely, or NULL. */
static const char *cleanslate_learn_state(void)
{
	const struct cleanslate_tdmr_list *list;
	const char *why;

	list = (const void *)cleanslate_symbol("tdx_tdmr_list");
	if (!list)
		return "TDX already initialized, tdx_tdmr_list not found";
	if (!list->tdmrs || list->used < 1 || list->used > list->count ||
	    list->stride < 1 || list->stride > (int)PAGE_SIZE)
		return "TDX already initialized, unexpected tdx_tdmr_list";
	why = cleanslate_learn(list->tdmrs, list->used, list->stride);
	if (why)
		return why;
	/* Any of them may have made SEAMCALLs, and may be in one: each writes its own record. */
	on_each_cpu(cleanslate_note_this_cpu, NULL, 1);
	/* A TD has a KeyID of this pool. */
	if (cleanslate_symbol("tdh_mng_create")) {
		struct ida *key_ids = (struct ida *)cleanslate_symbol("tdx_guest_keyid_pool");

		if (!key_ids || !ida_is_empty(key_ids))
			return "TDs created before this module; load it before kvm_intel";
	}
	return NULL;
}

int cleanslate_watch_init(void)
{
	int ret = cleanslate_follow_init();

	if (ret)
		return ret;
	ret = cpuhp_setup_state_nocalls(CPUHP_AP_ONLINE_DYN, "cleanslate",
					cleanslate_cpu_online, cleanslate_cpu_offline);
	if (ret < 0)
		goto follow;
	hotplug = ret;
	ret = cleanslate_arm_probes();
	if (ret) {
		cleanslate_watch_exit();
		return ret;
	}
	all_disarmed = (const bool *)cleanslate_symbol("kprobes_all_disarmed");
	module_status = (const int *)cleanslate_symbol("tdx_module_status");
	if (!module_status)
		module_initialized = (const bool *)cleanslate_symbol("tdx_module_state");
	cleanslate_mode = CLEANSLATE_WATCH;
	never_up = module_initialized && !READ_ONCE(*module_initialized);
	if (!module_status && !module_initialized) {
		cleanslate_lost("TDX state of this kernel not found");
	} else if (cleanslate_watch_failed()) {
		pr_info("TDX initialization by the kernel failed, no private memory\n");
	} else if (cleanslate_tdx_is_up()) {
		const char *why = cleanslate_learn_state();

		if (why) {
			cleanslate_lost(why);
			cleanslate_keep();
		}
	} else {
		pr_info("tracking SEAMCALLs, private memory will be reset at kexec\n");
	}
	return 0;
follow:
	cleanslate_follow_exit();
	return ret;
}

void cleanslate_watch_exit(void)
{
	while (armed)
		unregister_kprobe(&probes[--armed]);
	cpuhp_remove_state_nocalls(hotplug);
	cleanslate_follow_exit();
}
