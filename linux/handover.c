// SPDX-License-Identifier: GPL-2.0
/*
 * The way into the next kernel: an image is loaded, `kexec -e`, CPUs stop, machine_kexec() jumps. A kexec and a crash both come through it.
 * What is to be refused is refused at load and at `kexec -e`: from machine_kexec() nobody comes back, and there everything is reset.
 */
#define pr_fmt(fmt) "cleanslate: " fmt

#include <linux/kexec.h>
#include <linux/ktime.h>
#include <linux/math64.h>
#include <linux/smp.h>
#include <linux/sysfs.h>

#include "cleanslate.h"

/* Is there anything to reset, or to refuse for? */
static bool concerned(void)
{
	return (cleanslate_private_kb() || cleanslate_unknown) && !cleanslate_watch_failed();
}

/* The last decision on an image or a kexec; both are constants. */
static const char *last_verdict = "none yet", *last_reason;

static void decided(const char *verdict, const char *reason)
{
	WRITE_ONCE(last_verdict, verdict);
	WRITE_ONCE(last_reason, reason);
	if (reason)
		pr_err("%s: %s\n", verdict, reason);
}

int cleanslate_verdict(char *buffer)
{
	const char *reason = READ_ONCE(last_reason);

	return sysfs_emit(buffer, "%s%s%s\n", READ_ONCE(last_verdict), reason ? ": " : "", reason ?: "");
}

/* Why there is to be no kexec, or NULL. */
static const char *refusal(void)
{
	cleanslate_watch_check();
	if (!concerned())
		return NULL;
	if (cleanslate_unknown)
		return cleanslate_unknown;
	return cleanslate_check_load(cleanslate_policy) ? "memory may be private, and the policy is to refuse" : NULL;
}

static bool before_load(struct pt_regs *regs)
{
	const struct kimage *image = (const void *)regs->di;
	const char *why;

	/* A crash kernel lives in memory that was never private, and without it there is no dump. */
	if (image->type == KEXEC_TYPE_CRASH)
		return false;
	why = refusal();
	if (!why && image->preserve_context && concerned())
		why = "TDX does not survive a jump into another kernel and back";
	decided(why ? "kexec image refused" : "kexec image let in", why);
	if (!why)
		return false;
	regs->ax = -EPERM;
	return true;
}

/* What was allowed when the image was loaded may be so no longer. */
static bool before_kexec(struct pt_regs *regs)
{
	const char *why = refusal();

	if (!why)
		return false;
	decided("kexec refused", why);
	regs->ax = -EPERM;
	return true;
}

static bool before_jump(struct pt_regs *regs)
{
	const struct kimage *image = (const void *)regs->di;
	bool crash = image->type == KEXEC_TYPE_CRASH;
	struct cleanslate_handover done;
	u64 start;
	u32 cpu;

	cleanslate_watch_check();
	if (!concerned()) {
		cleanslate_host_leave(crash);
		return false;
	}
	/* As machine_kexec() is about to do, and for good: nothing may run between the reset and the jump. */
	local_irq_disable();
	cpu = smp_processor_id();
	start = ktime_get_mono_fast_ns();
	done = cleanslate_hand_over(cleanslate_policy, cpu, num_online_cpus(), nr_cpu_ids, crash);
	if (done.not_alone)
		pr_emerg("%llu lines of private memory reset, but %u CPUs still run\n", done.lines, num_online_cpus());
	else if (done.suspects)
		pr_emerg("%llu lines of private memory reset, but %u CPUs may write some back\n", done.lines, done.suspects);
	else
		pr_emerg("%llu lines of private memory reset in %llu us%s\n", done.lines,
			 div_u64(ktime_get_mono_fast_ns() - start, NSEC_PER_USEC),
			 done.clean && !cleanslate_unknown ? "" : ", and some may be left");
	cleanslate_host_leave(crash);
	return false;
}

/*
 * Linux 6.12 stops CPUs without WBINVD: their dirty private lines would be written back over what was reset, whenever the next
 * kernel's CPUs write their caches back. CPUs in VMX operation would not answer INIT.
 */
static bool before_stop(struct pt_regs *regs)
{
	if (concerned())
		cleanslate_stop_this_cpu(raw_smp_processor_id());
	cleanslate_host_leave(false);
	return false;
}

static bool before_crash_stop(struct pt_regs *regs)
{
	cleanslate_stop_this_cpu_at_crash(raw_smp_processor_id());
	cleanslate_host_leave(true);
	return false;
}

static struct cleanslate_hook hooks[] = {
	{ .name = "machine_kexec", .enter = before_jump },
	{ .name = "machine_kexec_prepare", .enter = before_load, .may_skip = true },
	{ .name = "kernel_kexec", .enter = before_kexec, .may_skip = true },
	{ .name = "stop_this_cpu", .enter = before_stop },
	{ .name = "kdump_nmi_callback", .enter = before_crash_stop },
};

bool cleanslate_handover_missed(void)
{
	return cleanslate_hook_missed(hooks, ARRAY_SIZE(hooks));
}

int cleanslate_handover_init(void)
{
	return cleanslate_arm(hooks, ARRAY_SIZE(hooks));
}

void cleanslate_handover_exit(void)
{
	cleanslate_disarm(hooks, ARRAY_SIZE(hooks));
}
