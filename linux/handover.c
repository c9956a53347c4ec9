// SPDX-License-Identifier: GPL-2.0
/*
 * The way into the next kernel: an image is loaded, CPUs stop, machine_kexec() jumps. A kexec and a crash both come through it.
 */
#define pr_fmt(fmt) "cleanslate: " fmt

#include <linux/kexec.h>
#include <linux/ktime.h>
#include <linux/math64.h>
#include <linux/objtool.h>
#include <linux/smp.h>
#include <asm/ibt.h>
#include <asm/linkage.h>

#include "cleanslate.h"

/* Where machine_kexec_prepare() goes on if it is not to run: it returns at once. */
asm(".pushsection .text\n"
    ".globl cleanslate_return\n"
    ".type cleanslate_return, @function\n"
    "cleanslate_return:\n"
    ASM_ENDBR
    ASM_RET
    ".size cleanslate_return, . - cleanslate_return\n"
    ".popsection\n");

/* Is there anything to reset, or to refuse for? */
static bool concerned(void)
{
	return (cleanslate_private_kb() || cleanslate_unknown) && !cleanslate_watch_failed();
}

static int before_load(struct kprobe *probe, struct pt_regs *regs)
{
	const struct kimage *image = (const void *)regs->di;

	/* A crash kernel lives in memory that was never private, and without it there is no dump. */
	if (image->type == KEXEC_TYPE_CRASH || cleanslate_watch_failed())
		return 0;
	cleanslate_watch_check();
	if (cleanslate_unknown)
		pr_err("kexec image refused: %s\n", cleanslate_unknown);
	else if (cleanslate_check_load(cleanslate_policy))
		pr_err("kexec image refused: memory may be private, and the policy is to refuse\n");
	else
		return 0;
	regs->ax = -EPERM;
	regs->ip = (unsigned long)cleanslate_return;
	return 1;
}

/* A probe that changes where the function goes on must not be optimised into a jump; having this prevents it. */
static void after_load(struct kprobe *probe, struct pt_regs *regs, unsigned long flags)
{
}

static int before_jump(struct kprobe *probe, struct pt_regs *regs)
{
	const struct kimage *image = (const void *)regs->di;
	bool crash = image->type == KEXEC_TYPE_CRASH;
	u32 cpu = raw_smp_processor_id();
	struct cleanslate_handover done;
	u64 start;

	if (image->preserve_context || !concerned()) {
		cleanslate_host_leave(crash);
		return 0;
	}
	cleanslate_watch_check();
	start = ktime_get_mono_fast_ns();
	done = cleanslate_hand_over(cleanslate_policy, cpu, num_online_cpus(), nr_cpu_ids, crash);
	if (done.not_alone)
		pr_emerg("%u CPUs still run: nothing was reset\n", num_online_cpus());
	else if (done.suspects)
		pr_emerg("%llu lines of private memory reset, but %u CPUs may write some back\n", done.lines, done.suspects);
	else
		pr_emerg("%llu lines of private memory reset in %llu us%s\n", done.lines,
			 div_u64(ktime_get_mono_fast_ns() - start, NSEC_PER_USEC),
			 done.clean && !cleanslate_unknown ? "" : ", and some may be left");
	cleanslate_host_leave(crash);
	return 0;
}

/*
 * Linux 6.12 stops CPUs without WBINVD: their dirty private lines would be written back over what was reset, whenever the next
 * kernel's CPUs write their caches back. CPUs in VMX operation would not answer INIT.
 */
static int before_stop(struct kprobe *probe, struct pt_regs *regs)
{
	if (concerned())
		cleanslate_stop_this_cpu(raw_smp_processor_id());
	cleanslate_host_leave(false);
	return 0;
}

static int before_crash_stop(struct kprobe *probe, struct pt_regs *regs)
{
	cleanslate_stop_this_cpu_at_crash(raw_smp_processor_id());
	cleanslate_host_leave(true);
	return 0;
}

static struct kprobe probes[] = {
	{ .symbol_name = "machine_kexec", .pre_handler = before_jump },
	{ .symbol_name = "machine_kexec_prepare", .pre_handler = before_load, .post_handler = after_load },
	{ .symbol_name = "stop_this_cpu", .pre_handler = before_stop },
	{ .symbol_name = "kdump_nmi_callback", .pre_handler = before_crash_stop },
};

int cleanslate_handover_init(void)
{
	return cleanslate_arm(probes, ARRAY_SIZE(probes));
}

void cleanslate_handover_exit(void)
{
	cleanslate_disarm(probes, ARRAY_SIZE(probes));
}
