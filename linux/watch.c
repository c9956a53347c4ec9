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
#include <linux/extable.h>
#include <linux/idr.h>
#include <linux/misc_cgroup.h>
#include <linux/mm.h>
#include <linux/smp.h>
#include <linux/string.h>
#include <linux/sysfs.h>
#include <asm/processor-flags.h>

#include "cleanslate.h"

/* tdx_tdmr_list of Linux 6.8 and later. */
struct cleanslate_tdmr_list {
	void *tdmrs;
	int used;
	int stride;
	int count;
};

/*
 * tdx_module_status of Linux 6.8 and later: 0 is not yet, 1 is initialized. Its successors
 * tdx_module_initialized (7.1) and tdx_module_state are, or begin with, a bool: is TDX initialized?
 */
#define MODULE_STATUS_ERROR	2

static const int *module_status;
static const bool *module_initialized;
static const char *state_name;

/* Per CPU, since Linux 6.18: caches may hold lines of a private KeyID. Offset of the variable. */
static bool __percpu *cache_incoherent;

/*
 * Has the kernel written back the caches of this CPU since its last SEAMCALL? Linux 7.2 does before
 * it stops CPUs, and not then, because WBINVD delays the stop.
 */
bool cleanslate_watch_caches_are_clean(void)
{
	return cleanslate_mode == CLEANSLATE_WATCH && cache_incoherent &&
	       !this_cpu_read(*cache_incoherent);
}

/*
 * Linux before 6.18 makes SEAMCALLs with preemption on: the task may move to another CPU between
 * the probe, which marks its CPU, and the instruction.
 */
bool cleanslate_watch_may_migrate(void)
{
	return cleanslate_mode == CLEANSLATE_WATCH && !cache_incoherent;
}

/* A SEAMCALL of this module's own, on this CPU: the kernel is to know of it. Interrupts are off. */
void cleanslate_watch_note_seamcall(void)
{
	if (cache_incoherent)
		this_cpu_write(*cache_incoherent, true);
}

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

static void cleanslate_read_registers(struct cleanslate_registers *registers, u64 rax,
				      const struct cleanslate_args *args)
{
	*registers = (struct cleanslate_registers){
		.rax = rax,
		.rcx = args->rcx,
		.rdx = args->rdx,
		.r8 = args->r8,
		.r9 = args->r9,
		.r10 = args->r10,
		.r11 = args->r11,
		.r12 = args->r12,
		.r13 = args->r13,
	};
}

/*
 * The kernel's wrappers of SEAMCALL. kprobes, because functions in assembly have no call to ftrace.
 *
 * No return probes: the handler of one runs with interrupts on, and a SEAMCALL that an interrupt
 * makes meanwhile (KVM flushes VCPUs by IPI) hits probes that the kernel does not run, because this
 * CPU is in a probe already. The handlers here run with interrupts off: cleanslate_after_probe().
 */
struct cleanslate_wrapper {
	const char *name;
	/* VP.ENTER's: it gives no page, and the CPU is marked since the initialization. */
	bool optional;
	struct kprobe answer, fault, entry;
};

static int cleanslate_before_seamcall(struct kprobe *probe, struct pt_regs *regs)
{
	struct cleanslate_registers call;

	/* VP.ENTER has no probe behind it, and is in nobody's way. */
	if (!container_of(probe, struct cleanslate_wrapper, entry)->optional)
		cleanslate_call_begins();
	cleanslate_read_registers(&call, regs->di, (const void *)regs->si);
	cleanslate_observe_seamcall(raw_smp_processor_id(), &call);
	return 0;
}
NOKPROBE_SYMBOL(cleanslate_before_seamcall);

/* SEAMCALL has left its results in registers; its operands are still in memory. */
static void cleanslate_note_answer(const struct pt_regs *regs, u64 rax)
{
	const struct cleanslate_registers answer = {
		.rax = rax,
		.rcx = regs->cx,
		.rdx = regs->dx,
		.r8 = regs->r8,
		.r9 = regs->r9,
		.r10 = regs->r10,
		.r11 = regs->r11,
		.r12 = regs->r12,
		.r13 = regs->r13,
	};
	struct cleanslate_registers call;

	cleanslate_read_registers(&call, regs->di, (const void *)regs->si);
	cleanslate_observe_return(raw_smp_processor_id(), &call, &answer);
	cleanslate_call_ends();
}
NOKPROBE_SYMBOL(cleanslate_note_answer);

/* The kernel's status of a SEAMCALL that sets CF, and of one that faults: beside the vector. */
#define SEAMCALL_VMFAILINVALID	0x8000ff00ffff0000ull
#define SEAMCALL_FAULT		0x8000ff0000000000ull

static int cleanslate_behind_seamcall(struct kprobe *probe, struct pt_regs *regs)
{
	cleanslate_note_answer(regs, regs->flags & X86_EFLAGS_CF ? SEAMCALL_VMFAILINVALID :
							    regs->ax);
	return 0;
}
NOKPROBE_SYMBOL(cleanslate_behind_seamcall);

/* Where the kernel continues after a SEAMCALL that has raised #UD or #GP. */
static int cleanslate_after_fault(struct kprobe *probe, struct pt_regs *regs)
{
	cleanslate_note_answer(regs, SEAMCALL_FAULT | regs->ax);
	return 0;
}
NOKPROBE_SYMBOL(cleanslate_after_fault);

static struct cleanslate_wrapper wrappers[] = {
	{ .name = "__seamcall" },
	{ .name = "__seamcall_ret" },
	/* Linux 6.17 and later do not allow a probe there. */
	{ .name = "__seamcall_saved_ret", .optional = true },
};

static const bool *all_disarmed;

/* Address of SEAMCALL in a wrapper, or NULL. */
static u8 *cleanslate_find_seamcall(const char *wrapper)
{
	static const u8 seamcall[] = { 0x66, 0x0f, 0x01, 0xcf };
	unsigned long size;
	u8 *code = (u8 *)cleanslate_function(wrapper, &size);
	u8 *end = code + size - sizeof(seamcall);

	for (; code && code < end; code++)
		if (!memcmp(code, seamcall, sizeof(seamcall)))
			return code;
	return NULL;
}

/* Address at which the kernel continues if the instruction faults, or NULL. */
static void *cleanslate_find_fixup(const u8 *instruction)
{
	const struct exception_table_entry *(*search)(unsigned long address);
	const struct exception_table_entry *entry;

	search = (void *)cleanslate_symbol("search_exception_tables");
	entry = search ? cleanslate_call(search, (unsigned long)instruction) : NULL;
	return entry ? (void *)&entry->fixup + entry->fixup : NULL;
}

static int cleanslate_arm_probe(struct kprobe *probe, void *address, kprobe_pre_handler_t handler)
{
	int ret;

	*probe = (struct kprobe){
		.addr = address,
		.pre_handler = handler,
		.post_handler = cleanslate_after_probe,
	};
	ret = address ? register_kprobe(probe) : -ENOENT;
	if (ret)
		probe->addr = NULL;
	return ret;
}

/* The entry last: each SEAMCALL that it observes returns through the other two. */
static int cleanslate_arm_wrapper(struct cleanslate_wrapper *wrapper)
{
	u8 *seamcall;
	int ret;

	if (!wrapper->optional) {
		seamcall = cleanslate_find_seamcall(wrapper->name);
		if (!seamcall)
			return -ENOENT;
		ret = cleanslate_arm_probe(&wrapper->answer, seamcall + 4,
					   cleanslate_behind_seamcall);
		if (!ret)
			ret = cleanslate_arm_probe(&wrapper->fault,
						   cleanslate_find_fixup(seamcall),
						   cleanslate_after_fault);
		if (ret)
			return ret;
	}
	return cleanslate_arm_probe(&wrapper->entry, (void *)cleanslate_symbol(wrapper->name),
				    cleanslate_before_seamcall);
}

static void cleanslate_disarm_probe(struct kprobe *probe)
{
	if (probe->addr)
		unregister_kprobe(probe);
	probe->addr = NULL;
}

static int cleanslate_arm_probes(void)
{
	struct cleanslate_wrapper *wrapper;
	int ret;

	for (wrapper = wrappers; wrapper < wrappers + ARRAY_SIZE(wrappers); wrapper++) {
		ret = cleanslate_arm_wrapper(wrapper);
		if (ret && !wrapper->optional) {
			pr_err("failed to hook %s: %d (unsupported kernel?)\n", wrapper->name, ret);
			return ret;
		}
	}
	return 0;
}

static void cleanslate_disarm_probes(void)
{
	struct cleanslate_wrapper *wrapper;

	for (wrapper = wrappers; wrapper < wrappers + ARRAY_SIZE(wrappers); wrapper++) {
		cleanslate_disarm_probe(&wrapper->entry);
		cleanslate_disarm_probe(&wrapper->fault);
		cleanslate_disarm_probe(&wrapper->answer);
	}
}

/*
 * The probes and handlers of a wrapper, on a function that makes no SEAMCALL (measure.c). A missed
 * hit there is none of a SEAMCALL.
 */
static struct cleanslate_wrapper measured;
/* Hits. One task on one CPU at a time, and between probe and unprobe. */
static u32 measured_hits;

static int cleanslate_before_measured(struct kprobe *probe, struct pt_regs *regs)
{
	measured_hits++;
	/* The call was counted by its caller. */
	return cleanslate_before_seamcall(probe, regs);
}
NOKPROBE_SYMBOL(cleanslate_before_measured);

static int cleanslate_behind_measured(struct kprobe *probe, struct pt_regs *regs)
{
	measured_hits++;
	return cleanslate_behind_seamcall(probe, regs);
}
NOKPROBE_SYMBOL(cleanslate_behind_measured);

/* @answer: where RAX and CF have the answer, and RDI and RSI are still those of @entry. */
int cleanslate_watch_probe(void *entry, void *answer)
{
	int ret;

	measured.optional = true;
	measured_hits = 0;
	ret = cleanslate_arm_probe(&measured.answer, answer, cleanslate_behind_measured);
	if (ret)
		return ret;
	ret = cleanslate_arm_probe(&measured.entry, entry, cleanslate_before_measured);
	if (ret)
		cleanslate_disarm_probe(&measured.answer);
	return ret;
}

/* How many hits there were, at both. */
u32 cleanslate_watch_unprobe(void)
{
	cleanslate_disarm_probe(&measured.entry);
	cleanslate_disarm_probe(&measured.answer);
	return measured_hits;
}

/* Did a probe miss a hit? Counts of probes that are not armed are 0. */
static bool cleanslate_probes_missed(void)
{
	const struct cleanslate_wrapper *wrapper;

	for (wrapper = wrappers; wrapper < wrappers + ARRAY_SIZE(wrappers); wrapper++)
		if (wrapper->entry.nmissed || wrapper->answer.nmissed || wrapper->fault.nmissed)
			return true;
	return false;
}

/* Was a SEAMCALL missed, or may one be now? */
bool cleanslate_watch_misses(void)
{
	return cleanslate_mode == CLEANSLATE_WATCH &&
	       (cleanslate_probes_missed() || (all_disarmed && READ_ONCE(*all_disarmed)));
}

/* Were all SEAMCALLs, resets and stops observed? */
void cleanslate_watch_check(void)
{
	if (cleanslate_mode != CLEANSLATE_WATCH || never_up)
		return;
	if (cleanslate_probes_missed())
		cleanslate_lost("missed SEAMCALLs (kprobe nmissed)");
	if (cleanslate_follow_missed() || cleanslate_unseen_missed() ||
	    cleanslate_handover_missed())
		cleanslate_lost("missed resets or CPU stops (kprobe nmissed)");
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

/*
 * KVM makes a SEAMCALL on the CPU after cleanslate_cpu_offline(), and Linux writes back its caches
 * once it is dead. This runs on another CPU after that.
 */
static int cleanslate_cpu_dead(unsigned int cpu)
{
	cleanslate_cpu_is_clean(cpu);
	return 0;
}

static enum cpuhp_state hotplug, dead;

static void cleanslate_note_this_cpu(void *unused)
{
	cleanslate_cpu_may_hold(smp_processor_id());
}

/*
 * Has KVM never built a TD? That no TD has a KeyID proves nothing: KVM frees it before it reclaims
 * the pages of the TD, and leaks those whose RECLAIM fails. KVM charges a KeyID to the misc cgroup,
 * or the VM is counted, before the first page is given: if neither has happened after the probes
 * are in, every such page is observed.
 */
static bool cleanslate_no_td_was_built(void)
{
	const struct ida *key_ids = (const struct ida *)cleanslate_symbol("tdx_guest_keyid_pool");

	/* Users of the kernel's functions that are not KVM: tests. */
	if (!key_ids || !ida_is_empty(key_ids))
		return false;
#if IS_ENABLED(CONFIG_CGROUP_MISC) && IS_ENABLED(CONFIG_KVM_INTEL_TDX)
	struct cgroup_subsys_state *css;
	bool none;

	/* The highest number of KeyIDs since boot is in the root. Nothing resets it. */
	rcu_read_lock();
	css = task_css(current, misc_cgrp_id);
	while (css->parent)
		css = css->parent;
	none = !atomic64_read(&css_misc(css)->res[MISC_CG_RES_TDX].watermark);
	rcu_read_unlock();
	return none;
#else
	/* VMs since KVM is there: since boot, if it is built in. */
	const unsigned long long *vms = (const void *)cleanslate_symbol("kvm_createvm_count");

	return IS_BUILTIN(CONFIG_KVM) && IS_BUILTIN(CONFIG_KVM_INTEL) && vms && !READ_ONCE(*vms);
#endif
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
	if (cleanslate_symbol("tdh_mng_create") && !cleanslate_no_td_was_built())
		return cleanslate_sweep_learn();
	/* No TD was there, and every SEAMCALL that builds one is observed. */
	cleanslate_set_learning(false);
	return NULL;
}

int cleanslate_watch_state(char *buffer, int at)
{
	const struct cleanslate_wrapper *wrapper;

	for (wrapper = wrappers; wrapper < wrappers + ARRAY_SIZE(wrappers); wrapper++)
		at += sysfs_emit_at(buffer, at, "%s %s\n", wrapper->name,
				    wrapper->entry.addr ? "kprobe" : "none");
	at += sysfs_emit_at(buffer, at, "tdx-state %s\n", module_status || module_initialized ?
			    state_name : "none");
	at += sysfs_emit_at(buffer, at, "pamt %s\n", !cleanslate_is_private() ? "none" :
			    cleanslate_dynamic_pamt() ? "dynamic" : "static");
	return at + sysfs_emit_at(buffer, at, "cache-state %s\n",
				  cache_incoherent ? "cache_state_incoherent" : "none");
}

/* The first of these symbols that the kernel has. */
static void cleanslate_find_state(void)
{
	module_status = (const int *)cleanslate_symbol("tdx_module_status");
	state_name = "tdx_module_status";
	if (module_status)
		return;
	module_initialized = (const bool *)cleanslate_symbol("tdx_module_initialized");
	state_name = "tdx_module_initialized";
	if (module_initialized)
		return;
	module_initialized = (const bool *)cleanslate_symbol("tdx_module_state");
	state_name = "tdx_module_state";
}

/*
 * Why the kernel's own TDX may be on, or come on later, or NULL if it is off for good. Linux 7.1
 * and later initialize TDX once, at boot, by tdx_enable(), which is freed then. If the state says
 * no after that, nothing can initialize TDX any more, and KVM builds no TD. What is left is a
 * SEAMCALL at a machine check and one at a crash.
 */
const char *cleanslate_watch_why_not_off(void)
{
	unsigned long enable = cleanslate_symbol("tdx_enable");

	/* Once, at load: readers do not exclude each other. */
	if (!module_status && !module_initialized)
		cleanslate_find_state();
	if (module_status)
		return "this kernel may initialize TDX at any time";
	if (!module_initialized)
		return "TDX state of this kernel not found";
	if (READ_ONCE(*module_initialized))
		return "this kernel has initialized TDX itself";
	if (!enable || enable < cleanslate_symbol("_sinittext") ||
	    enable >= cleanslate_symbol("_einittext"))
		return "this kernel may initialize TDX at any time";
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
	ret = cpuhp_setup_state_nocalls(CPUHP_BP_PREPARE_DYN, "cleanslate:dead", NULL,
					cleanslate_cpu_dead);
	if (ret < 0) {
		cpuhp_remove_state_nocalls(hotplug);
		goto follow;
	}
	dead = ret;
	cache_incoherent = (bool __percpu *)cleanslate_symbol("cache_state_incoherent");
	/* A SEAMCALL may be under way: that the probes see its end alone. */
	cleanslate_set_learning(true);
	ret = cleanslate_arm_probes();
	if (!ret)
		ret = cleanslate_unseen_init();
	if (ret) {
		cleanslate_watch_exit();
		return ret;
	}
	all_disarmed = (const bool *)cleanslate_symbol("kprobes_all_disarmed");
	cleanslate_find_state();
	cleanslate_mode = CLEANSLATE_WATCH;
	never_up = module_initialized && !READ_ONCE(*module_initialized);
	if (!module_status && !module_initialized) {
		cleanslate_lost("TDX state of this kernel not found");
	} else if (cleanslate_watch_failed()) {
		pr_info("TDX initialization by the kernel failed, it has made no memory private\n");
	} else if (cleanslate_tdx_is_up()) {
		const char *why = cleanslate_learn_state();

		if (why) {
			cleanslate_set_learning(false);
			cleanslate_lost(why);
			cleanslate_stay_loaded();
		}
	} else {
		cleanslate_set_learning(false);
		pr_info("tracking SEAMCALLs, private memory will be reset at kexec\n");
	}
	return 0;
follow:
	cleanslate_follow_exit();
	return ret;
}

void cleanslate_watch_exit(void)
{
	cleanslate_unseen_exit();
	cleanslate_disarm_probes();
	cpuhp_remove_state_nocalls(dead);
	cpuhp_remove_state_nocalls(hotplug);
	cleanslate_follow_exit();
}
