// SPDX-License-Identifier: GPL-2.0
/*
 * A kernel that brings TDX up itself: its PAMTs; the pages of its TDs are in follow.c. Probes on its SEAMCALL wrappers see SYS.CONFIG, which names every PAMT, and SYS.KEY.CONFIG, the
 * instant from which they may be private; both come before the first line is. If TDX is up already, the kernel's own list of TDMRs is
 * read, and believed only if every PAMT in it has the size that its TDMR must have.
 */
#define pr_fmt(fmt) "cleanslate: " fmt

#include <linux/cpu.h>
#include <linux/cpuhotplug.h>
#include <linux/idr.h>
#include <linux/io.h>
#include <linux/mm.h>
#include <linux/smp.h>

#include "cleanslate.h"

/* SEAMCALL leaves. */
#define TDH_MNG_CREATE		9
#define TDH_SYS_KEY_CONFIG	31
#define TDH_SYS_LP_INIT		35
#define TDH_SYS_TDMR_INIT	36
#define TDH_SYS_CONFIG		45

#define TDMR_MAX		64
#define PAMT_ENTRY		16

/* TDMR_INFO, the part before its reserved areas. PAMTs are those of 1 GiB, 2 MiB and 4 KiB. */
struct tdmr_info {
	u64 base;
	u64 size;
	struct {
		u64 base;
		u64 size;
	} pamt[3];
};

/* tdx_tdmr_list of Linux 6.8 and later. */
struct tdmr_list {
	void *tdmrs;
	int used;
	int stride;
	int count;
};

/* tdx_module_status of Linux 6.8 and later: 0 is not yet, 1 is up. Its successor, tdx_module_state, begins with a bool: is it up. */
#define TDX_MODULE_ERROR	2

static const int *module_status;
static const bool *module_up;

/*
 * The kernel's own bring-up failed: it has reset every PAMT itself and given their memory to others, which nobody may write to now. Where
 * it has no error to show, it tries once, before there can be modules; an update of the module that fails later looks the same, and is not.
 */
static bool never_up;

bool cleanslate_watch_failed(void)
{
	return never_up || (module_status && READ_ONCE(*module_status) == TDX_MODULE_ERROR);
}

static bool is_up(void)
{
	return (module_status && READ_ONCE(*module_status)) || (module_up && READ_ONCE(*module_up));
}

/* Can this module ask the TDX module itself? A kernel that brings TDX up at boot keeps every CPU in VMX operation. */
bool cleanslate_watch_in_vmx(void)
{
	return cleanslate_follows() && module_up && READ_ONCE(*module_up);
}

static bool note_pamts(const struct tdmr_info *tdmr)
{
	int level;

	for (level = 0; level < 3; level++)
		if (!cleanslate_pamt(tdmr->pamt[level].base, tdmr->pamt[level].size))
			return false;
	return true;
}

static void note_config(const struct seamcall_args *args)
{
	const u64 *pointers = __va(args->rcx);
	u64 index;

	if (args->rdx > TDMR_MAX)
		cleanslate_lost("this kernel configures more TDMRs than there can be");
	for (index = 0; !cleanslate_unknown && index < args->rdx; index++)
		if (!note_pamts(__va(pointers[index])))
			cleanslate_lost("a PAMT of this kernel's cannot be one");
}

static void publish(void)
{
	if (!cleanslate_unknown && cleanslate_publish())
		cleanslate_lost("the PAMTs of this kernel overlap, or were configured before this module listened");
	if (!cleanslate_unknown)
		pr_info("%llu KB of PAMT may be private from now on\n", cleanslate_private_kb());
	cleanslate_keep();
}

static int before_seamcall(struct kprobe *probe, struct pt_regs *regs)
{
	const struct seamcall_args *args = (const void *)regs->si;
	u64 leaf = regs->di;

	cleanslate_seamcall(raw_smp_processor_id(), leaf & 0xffff);
	/* The number without the version; what has more bits is for the P-SEAMLDR. */
	switch (leaf >> 24 ? U16_MAX : leaf & 0xffff) {
	case TDH_SYS_CONFIG:
		note_config(args);
		break;
	case TDH_SYS_KEY_CONFIG:
		if (!cleanslate_unknown && !cleanslate_private_kb())
			publish();
		break;
	case TDH_SYS_TDMR_INIT:
		if (!cleanslate_unknown && !cleanslate_private_kb())
			cleanslate_lost("this module was loaded in the middle of a bring-up");
		break;
	case TDH_MNG_CREATE:
		if (!cleanslate_follows())
			cleanslate_lost("this kernel builds TDs, and how it resets their pages is not known");
		fallthrough;
	default:
		if (cleanslate_follows())
			cleanslate_before_seamcall(leaf, args);
	}
	return 0;
}

/* In assembly, where ftrace has no place. */
static struct kprobe probes[] = {
	{ .symbol_name = "__seamcall", .pre_handler = before_seamcall },
	{ .symbol_name = "__seamcall_ret", .pre_handler = before_seamcall },
	/*
	 * VP.ENTER's wrapper, which newer kernels have in a part that nobody may probe. It gives no page, and its CPU is marked from the
	 * bring-up on.
	 */
	{ .symbol_name = "__seamcall_saved_ret", .pre_handler = before_seamcall },
};
#define NEEDED 2
static int armed;
static const bool *all_disarmed;

static int arm(void)
{
	int ret;

	for (armed = 0; armed < ARRAY_SIZE(probes); armed++) {
		ret = register_kprobe(&probes[armed]);
		if (ret && armed < NEEDED) {
			pr_err("this kernel's %s cannot be listened to (%d): is this kernel newer than this module?\n",
			       probes[armed].symbol_name, ret);
			return ret;
		}
		if (ret)
			break;
	}
	return 0;
}

/* Whatever was not heard makes what is private unknown. */
void cleanslate_watch_check(void)
{
	int index;

	if (cleanslate_mode != CLEANSLATE_WATCH || never_up)
		return;
	for (index = 0; index < armed; index++)
		if (probes[index].nmissed)
			cleanslate_lost("a SEAMCALL of this kernel's was not heard");
	if (cleanslate_follow_missed() || cleanslate_handover_missed())
		cleanslate_lost("a SEAMCALL, a reset or a stop of this kernel's was not heard");
	if (all_disarmed && READ_ONCE(*all_disarmed))
		cleanslate_lost("kprobes are switched off (debugfs kprobes/enabled)");
	if (!cleanslate_unknown && !cleanslate_watch_failed() && is_up() && !cleanslate_private_kb())
		cleanslate_lost("TDX came up unheard");
}

/* A CPU that goes writes its caches back, which nobody can do for it later. One that comes may run a TD as the first thing it does. */

static int cpu_comes(unsigned int cpu)
{
	if (cleanslate_private_kb())
		cleanslate_seamcall(cpu, TDH_SYS_LP_INIT);
	return 0;
}

static int cpu_goes(unsigned int cpu)
{
	if (cleanslate_private_kb())
		cleanslate_stop_this_cpu(cpu);
	return 0;
}

static enum cpuhp_state hotplug;

/* Every PAMT must have the size that the specification gives it: a list of another form would not pass for long. */
static bool is_sane(const struct tdmr_info *tdmr)
{
	int level;

	if (!tdmr->size || tdmr->size & (SZ_1G - 1) || tdmr->base & (SZ_1G - 1))
		return false;
	for (level = 0; level < 3; level++) {
		u64 page = SZ_1G >> (9 * level);

		if (tdmr->pamt[level].size != PAGE_ALIGN(tdmr->size / page * PAMT_ENTRY))
			return false;
	}
	return true;
}

static const char *learn(void)
{
	const struct tdmr_list *list = (const void *)cleanslate_symbol("tdx_tdmr_list");
	int index, cpu;

	if (!list)
		return "TDX is up already, and this kernel's list of TDMRs has no name";
	if (!list->tdmrs || list->used < 1 || list->used > list->count || list->count > TDMR_MAX ||
	    list->stride < (int)sizeof(struct tdmr_info) || list->stride > (int)PAGE_SIZE)
		return "TDX is up already, and this kernel's list of TDMRs is not understood";
	for (index = 0; index < list->used; index++) {
		const struct tdmr_info *tdmr = list->tdmrs + index * list->stride;

		if (!is_sane(tdmr) || !note_pamts(tdmr))
			return "TDX is up already, and a TDMR of this kernel's is not understood";
	}
	/* Which of them have made SEAMCALLs nobody has seen. */
	for_each_online_cpu(cpu)
		cleanslate_seamcall(cpu, TDH_SYS_LP_INIT);
	/* The kernel's KeyIDs: without one there is no TD. */
	if (cleanslate_symbol("tdh_mng_create")) {
		struct ida *key_ids = (struct ida *)cleanslate_symbol("tdx_guest_keyid_pool");

		if (!key_ids || !ida_is_empty(key_ids))
			return "TDs were built before this module was loaded: load it before KVM";
	}
	return NULL;
}

int cleanslate_watch_init(void)
{
	int ret = cleanslate_follow_init();

	if (ret)
		return ret;
	ret = cpuhp_setup_state_nocalls(CPUHP_AP_ONLINE_DYN, "cleanslate", cpu_comes, cpu_goes);
	if (ret < 0)
		goto follow;
	hotplug = ret;
	ret = arm();
	if (ret) {
		cleanslate_watch_exit();
		return ret;
	}
	all_disarmed = (const bool *)cleanslate_symbol("kprobes_all_disarmed");
	module_status = (const int *)cleanslate_symbol("tdx_module_status");
	if (!module_status)
		module_up = (const bool *)cleanslate_symbol("tdx_module_state");
	cleanslate_mode = CLEANSLATE_WATCH;
	never_up = module_up && !READ_ONCE(*module_up);
	if (!module_status && !module_up) {
		cleanslate_lost("this kernel does not say whether TDX is up");
	} else if (cleanslate_watch_failed()) {
		pr_info("this kernel's own TDX bring-up has failed, and nothing is private\n");
	} else if (is_up()) {
		const char *why = learn();

		if (why)
			cleanslate_lost(why);
		publish();
	} else {
		pr_info("listens to this kernel's SEAMCALLs; private memory is reset before a kexec\n");
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
