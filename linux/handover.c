// SPDX-License-Identifier: GPL-2.0
/*
 * Kexec and crash: refuse images, write back caches, reset private memory before the jump
 *
 * Hooks, in the order in which the kernel reaches them: machine_kexec_prepare() when an image is
 * loaded, kernel_kexec() at kexec -e, machine_shutdown() (parallel.c), stop_this_cpu() and
 * kdump_nmi_callback() on the other CPUs, machine_kexec() right before the jump. Images and kexec
 * can be refused in the first two. In the place of machine_kexec() it is too late to refuse, and
 * everything that may be private is reset, unless all CPUs have done so before.
 */
#define pr_fmt(fmt) "cleanslate: " fmt

#include <linux/cpu.h>
#include <linux/delay.h>
#include <linux/kexec.h>
#include <linux/ktime.h>
#include <linux/math64.h>
#include <linux/module.h>
#include <linux/sched.h>
#include <linux/smp.h>
#include <linux/spinlock.h>
#include <linux/sysfs.h>
#include <asm/cpufeature.h>
#include <asm/processor.h>

#include "cleanslate.h"

/* Returned by value, and by cleanslate_noreset.ko in place of the Rust object. */
static_assert(sizeof(struct cleanslate_handover) == 40);

/* Is there private memory, known or not? None after a failed initialization by the kernel. */
static bool cleanslate_affected(void)
{
	return (cleanslate_is_private() || cleanslate_unknown) && !cleanslate_watch_failed();
}

/* The image of kexec -e. NULL in a kernel without the symbol. */
static struct kimage *const *loaded_image;

/*
 * The last decisions on images and kexecs; string constants. Without a lock: the handler of a
 * kprobe counts as an NMI. Each decision has a place of its own until DECISIONS more are made.
 */
#define DECISIONS	4

struct cleanslate_decision {
	const char *verdict, *reason;
};

static struct cleanslate_decision decisions[DECISIONS] = { { .verdict = "none yet" } };
/* Decisions that have been begun, and the last one that is whole. */
static atomic_t decisions_begun = ATOMIC_INIT(0);
static u32 decision;

static void cleanslate_decide(const char *verdict, const char *reason)
{
	u32 number = atomic_inc_return(&decisions_begun);
	struct cleanslate_decision *place = &decisions[number % DECISIONS];

	WRITE_ONCE(place->verdict, verdict);
	WRITE_ONCE(place->reason, reason);
	/* The place is whole before it is named: pairs with the acquire of a reader. */
	smp_store_release(&decision, number);
	if (reason)
		pr_err("%s: %s\n", verdict, reason);
}

int cleanslate_verdict(char *buffer)
{
	const struct cleanslate_decision *place;
	const char *verdict, *reason;
	u32 number;

	do {
		/* Pairs with the release of the decision. */
		number = smp_load_acquire(&decision);
		place = &decisions[number % DECISIONS];
		verdict = READ_ONCE(place->verdict);
		reason = READ_ONCE(place->reason);
		/* Read before the place was given to a later decision? */
		smp_rmb();
	} while ((u32)atomic_read(&decisions_begun) - number >= DECISIONS);
	return sysfs_emit(buffer, "%s%s%s\n", verdict, reason ? ": " : "", reason ?: "");
}

/* Why a kexec is refused, or NULL. */
const char *cleanslate_kexec_refusal(void)
{
	cleanslate_watch_check();
	if (!cleanslate_affected())
		return NULL;
	if (cleanslate_unknown)
		return cleanslate_unknown;
	if (cleanslate_check_load(cleanslate_policy))
		return "memory may be private and policy=refuse";
	return NULL;
}

/*
 * Linux 6.18 to 7.1 with TDX host support refuse every image on a CPU with the erratum, because
 * they reset nothing. This module does, so that an operator can ask it to lift that refusal.
 */
static bool lift_refusal;
module_param(lift_refusal, bool, 0644);
MODULE_PARM_DESC(lift_refusal,
		 "accept kexec and crash images that this kernel refuses because of the partial-write erratum (default: N)");

static int (*machine_kexec_prepare_function)(struct kimage *image);
static const struct task_struct *lifting;
static bool was_lifted;

/*
 * A task in cleanslate_prepare() sleeps, and no hook waits for it: the module must not be unloaded
 * from then on. False if it is being unloaded; or loaded, because a load that fails frees it
 * whatever its count. Callers hold kexec's lock.
 */
static bool cleanslate_pin_module(void)
{
	static bool pinned;

	if (!pinned)
		pinned = READ_ONCE(THIS_MODULE->state) == MODULE_STATE_LIVE &&
			 try_module_get(THIS_MODULE);
	return pinned;
}

static bool cleanslate_may_lift(void)
{
	return READ_ONCE(lift_refusal) && !cleanslate_unknown;
}

/* It sleeps. Indirect branch tracking is off on this CPU meanwhile, as in cleanslate_call(). */
static int cleanslate_call_prepare(struct kimage *image)
{
	u64 cet;
	int ret;

	migrate_disable();
	cet = cleanslate_tracking_off();
	preempt_enable();
	ret = machine_kexec_prepare_function(image);
	preempt_disable();
	cleanslate_tracking_on(cet);
	migrate_enable();
	return ret;
}

/*
 * In the place of machine_kexec_prepare(). If that refuses the image, it is called again, and does
 * not see the erratum. Callers hold kexec's lock, so that there is one at a time. Meanwhile no CPU
 * comes online, which would take over the bits of boot_cpu_data. The kernel's reset of TD pages
 * looks at the bit, too; the module hooks it at its entry and does its work.
 */
static int cleanslate_prepare(struct kimage *image)
{
	unsigned long *capabilities = (unsigned long *)boot_cpu_data.x86_capability;
	int ret;

	WRITE_ONCE(lifting, current);
	ret = cleanslate_call_prepare(image);
	if (ret == -EOPNOTSUPP && boot_cpu_has_bug(X86_BUG_TDX_PW_MCE) && cleanslate_may_lift()) {
		cpus_read_lock();
		clear_bit(X86_BUG_TDX_PW_MCE, capabilities);
		ret = cleanslate_call_prepare(image);
		set_bit(X86_BUG_TDX_PW_MCE, capabilities);
		cpus_read_unlock();
		if (!ret) {
			was_lifted = true;
			pr_info("accepted a kexec image that the kernel refuses on this CPU\n");
		}
	}
	WRITE_ONCE(lifting, NULL);
	return ret;
}

int cleanslate_lift_state(char *buffer, int at)
{
	return at + sysfs_emit_at(buffer, at, "kexec-refusal %s\n",
			     was_lifted ? "lifted" : lift_refusal ? "may be lifted" : "kept");
}

static bool cleanslate_before_load(struct pt_regs *regs)
{
	const struct kimage *image = (const void *)regs->di;
	const char *why = NULL;

	/* From cleanslate_prepare(). */
	if (READ_ONCE(lifting) == current)
		return false;
	/* A crash kernel runs in memory that was never private, and is needed for a dump. */
	if (image->type != KEXEC_TYPE_CRASH) {
		why = cleanslate_kexec_refusal();
		if (!why && image->preserve_context && cleanslate_affected())
			why = "preserve_context kexec is not supported with TDX enabled";
		cleanslate_decide(why ? "kexec image refused" : "kexec image accepted", why);
	}
	if (why) {
		regs->ax = -EPERM;
		return true;
	}
	cleanslate_watch_check();
	if (READ_ONCE(lift_refusal) && machine_kexec_prepare_function && cleanslate_pin_module())
		regs->ip = (unsigned long)cleanslate_prepare;
	return false;
}

static bool cleanslate_jump_is_loaded(void)
{
	const struct kimage *image;

	if (!IS_ENABLED(CONFIG_KEXEC_JUMP))
		return false;
	image = loaded_image ? READ_ONCE(*loaded_image) : NULL;
	return !image || image->preserve_context;
}

/* The state may have changed since the image was loaded. */
static bool cleanslate_before_kexec(struct pt_regs *regs)
{
	const char *why = cleanslate_kexec_refusal();

	/* This kernel would come back to a TDX module whose PAMTs were reset. */
	if (!why && cleanslate_affected() && cleanslate_jump_is_loaded())
		why = "preserve_context kexec is not supported with TDX enabled";
	if (!why)
		return false;
	cleanslate_decide("kexec refused", why);
	regs->ax = -EPERM;
	return true;
}

/* One line, with all that may be left and not the first reason alone. */
static void cleanslate_log_handover(const struct cleanslate_handover *done, u64 ns)
{
	const char *more = "";
	char text[200];
	int length = 0;

	if (done->running)
		length += scnprintf(text + length, sizeof(text) - length,
				    ", but %u other CPUs are still running", done->running);
	else if (done->forced)
		length += scnprintf(text + length, sizeof(text) - length, ", but %s",
				    done->forced);
	if (done->left)
		length += scnprintf(text + length, sizeof(text) - length,
				    ", but %llu could not be written", done->left);
	if (done->suspects)
		length += scnprintf(text + length, sizeof(text) - length,
				    ", but %u CPUs may write back stale lines", done->suspects);
	/* Not beside a reason that says as much. */
	if (cleanslate_unknown || (!length && !done->clean))
		more = ", but some may be left";
	if (length)
		pr_emerg("reset %llu private lines%.*s%s\n", done->lines, length, text, more);
	else
		pr_emerg("reset %llu private lines in %llu us%s\n", done->lines,
			 div_u64(ns, NSEC_PER_USEC), more);
}

/*
 * Linux waits one second for the NMIs at a crash. A CPU may be in its WBINVD then, and its lines
 * would land on what is reset. WBINVD of the largest caches takes less than this.
 */
#define WRITE_BACK_MS	1000

static void cleanslate_wait_for_write_backs(void)
{
	int ms;

	for (ms = 0; ms < WRITE_BACK_MS && cleanslate_writing_back(); ms++)
		mdelay(1);
}

/* The policy of this handover; the log says why TDX is not kept. */
static u32 cleanslate_policy_now(u32 when)
{
	const char *why;

	if (cleanslate_policy != CLEANSLATE_POLICY_KEEP || when == CLEANSLATE_CRASH)
		return cleanslate_policy;
	/* What was decided by all CPUs together stays so. */
	if (when == CLEANSLATE_REST)
		return CLEANSLATE_POLICY_KEEP;
	why = cleanslate_keep_why_not(loaded_image ? READ_ONCE(*loaded_image) : NULL);
	/* VP.FLUSH of a VCPU is for the CPU that holds it, in VMX operation. */
	if (!why && when != CLEANSLATE_TOGETHER && !cleanslate_host_is_one_cpu())
		why = "not all CPUs came together";
	if (!why)
		return CLEANSLATE_POLICY_KEEP;
	pr_emerg("policy=keep: resetting, because %s\n", why);
	return CLEANSLATE_POLICY_TRACKED;
}

/* True if TDX was kept. */
static bool cleanslate_hand_over_now(u32 when)
{
	struct cleanslate_handover done;
	u64 start = ktime_get_mono_fast_ns();

	cleanslate_report_progress(smp_processor_id());
	done = cleanslate_hand_over(cleanslate_policy_now(when), smp_processor_id(),
				    num_online_cpus(), nr_cpu_ids, when);
	if (done.kept) {
		if (when != CLEANSLATE_REST)
			pr_emerg("TDX stays as it is for the next kernel%s%s; took %llu us\n",
				 done.forced ? ", but " : "", done.forced ?: "",
				 div_u64(ktime_get_mono_fast_ns() - start, NSEC_PER_USEC));
		return true;
	}
	/* A next kernel that was told of a table is not to look for it. */
	if (when != CLEANSLATE_CRASH && done.none_left && !cleanslate_unknown)
		cleanslate_keep_write_reset();
	if (when == CLEANSLATE_REST && done.clean && !done.lines)
		pr_emerg("no private lines were left to reset before the jump\n");
	else
		cleanslate_log_handover(&done, ktime_get_mono_fast_ns() - start);
	return false;
}

/* The other CPUs are in cleanslate_captured(); interrupts are off. */
void cleanslate_reset_together(void)
{
	bool kept = cleanslate_hand_over_now(CLEANSLATE_TOGETHER);
	u64 least, most;
	u32 cpus;

	/* Here, because cleanslate_noreset.ko takes the place of the handover. */
	cleanslate_release_captured();
	if (kept)
		return;
	cpus = cleanslate_shares(&least, &most);
	pr_emerg("%u CPUs have reset %llu to %llu lines each\n", cpus, least, most);
	if (nr_online_nodes > 1)
		pr_emerg("%llu of them were of another NUMA node\n", cleanslate_lines_far());
}

static void (*machine_kexec_function)(struct kimage *image);

/* The image for which all is done; machine_kexec() goes on with it. */
static const struct kimage *handed_over;

/*
 * In the place of machine_kexec(), which it calls, and not in a probe: the handler of a kprobe
 * counts as an NMI, in which printk() writes to no console, and there is no later. The kernel calls
 * machine_kexec() with interrupts off, so that nothing runs between the hook and this function.
 */
static void cleanslate_jump(struct kimage *image)
{
	bool crash = image->type == KEXEC_TYPE_CRASH;
	unsigned long flags;
	u64 cet;

	/* As machine_kexec() does next: nothing may run between the reset and the jump. */
	local_irq_save(flags);
	cleanslate_watch_check();
	if (!cleanslate_affected()) {
		if (crash)
			cleanslate_dump_nothing_left();
		else
			cleanslate_keep_write_reset();
	} else if (!crash) {
		cleanslate_hand_over_now(cleanslate_parallel_was_made() && !cleanslate_unknown ?
					 CLEANSLATE_REST : CLEANSLATE_KEXEC);
	} else {
		cleanslate_wait_for_write_backs();
		if (!cleanslate_dump_leave(image)) {
			cleanslate_hand_over_now(CLEANSLATE_CRASH);
			cleanslate_dump_nothing_left();
		}
	}
	cleanslate_host_leave(crash);
	/* A crash before this line, or in a jump to another image, comes here again. */
	handed_over = image;
	cet = cleanslate_tracking_off();
	machine_kexec_function(image);
	/* A preserve_context kexec has come back. */
	cleanslate_tracking_on(cet);
	handed_over = NULL;
	local_irq_restore(flags);
}

static bool cleanslate_before_jump(struct pt_regs *regs)
{
	if ((const void *)regs->di != handed_over)
		regs->ip = (unsigned long)cleanslate_jump;
	return false;
}

/*
 * Linux 6.12 stops CPUs without WBINVD. Their dirty private lines would be written back over lines
 * that were reset, when the next kernel writes back caches. A CPU in VMX operation ignores INIT.
 */
static bool cleanslate_before_stop(struct pt_regs *regs)
{
	if (cleanslate_affected()) {
		if (cleanslate_watch_caches_are_clean())
			cleanslate_cpu_is_clean(raw_smp_processor_id());
		else
			cleanslate_stop_this_cpu(raw_smp_processor_id());
	}
	cleanslate_host_leave(false);
	return false;
}

static bool cleanslate_before_crash_stop(struct pt_regs *regs)
{
	if (cleanslate_watch_may_migrate() && cleanslate_is_private())
		cleanslate_cpu_may_hold(raw_smp_processor_id());
	cleanslate_stop_this_cpu_at_crash(raw_smp_processor_id());
	cleanslate_host_leave(true);
	return false;
}

static struct cleanslate_hook hooks[] = {
	{ .name = "machine_kexec", .enter = cleanslate_before_jump, .may_skip = true },
	{ .name = "machine_kexec_prepare", .enter = cleanslate_before_load, .may_skip = true },
	{ .name = "kernel_kexec", .enter = cleanslate_before_kexec, .may_skip = true },
	{ .name = "stop_this_cpu", .enter = cleanslate_before_stop },
	{ .name = "kdump_nmi_callback", .enter = cleanslate_before_crash_stop },
};

bool cleanslate_handover_missed(void)
{
	return cleanslate_hook_missed(hooks, ARRAY_SIZE(hooks));
}

int cleanslate_hooks_state(char *buffer, int at)
{
	int index;

	for (index = 0; index < ARRAY_SIZE(hooks); index++)
		at += sysfs_emit_at(buffer, at, "%s %s\n", hooks[index].name,
				    hooks[index].by_ftrace ? "ftrace" : "kprobe");
	return cleanslate_parallel_state(buffer, at);
}

int cleanslate_handover_init(void)
{
	int ret;

	machine_kexec_function = (void *)cleanslate_symbol("machine_kexec");
	machine_kexec_prepare_function = (void *)cleanslate_symbol("machine_kexec_prepare");
	loaded_image = (struct kimage *const *)cleanslate_symbol("kexec_image");
	ret = cleanslate_arm(hooks, ARRAY_SIZE(hooks));
	if (!ret)
		cleanslate_parallel_init();
	return ret;
}

void cleanslate_handover_exit(void)
{
	cleanslate_parallel_exit();
	cleanslate_disarm(hooks, ARRAY_SIZE(hooks));
}
