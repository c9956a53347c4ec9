// SPDX-License-Identifier: GPL-2.0
/*
 * A CPU that answers no interrupt while Linux begins to stop its CPUs for a kexec, and for longer
 * than cleanslate.ko waits for it. A test module for a guest of seamvisor, loaded after
 * cleanslate.ko: of two kprobes of a function the later one comes first.
 */
#define pr_fmt(fmt) "cleanslate_away: " fmt

#include <linux/delay.h>
#include <linux/kprobes.h>
#include <linux/kthread.h>
#include <linux/ktime.h>
#include <linux/module.h>

#define AWAY_CPU	1
/* It is back before Linux sends an NMI. */
#define AWAY_NS		(5300 * NSEC_PER_MSEC)

static bool begun, away;

static int cleanslate_stay_away(void *unused)
{
	u64 start;

	while (!READ_ONCE(begun))
		usleep_range(100, 200);
	local_irq_disable();
	WRITE_ONCE(away, true);
	/* Not mdelay(), which takes longer in an emulator. */
	start = ktime_get_mono_fast_ns();
	while (ktime_get_mono_fast_ns() - start < AWAY_NS)
		cpu_relax();
	local_irq_enable();
	return 0;
}

/* VMX operation has ended on all CPUs. Interrupts are off. */
static int cleanslate_on_shutdown(struct kprobe *probe, struct pt_regs *regs)
{
	int ms;

	WRITE_ONCE(begun, true);
	for (ms = 0; ms < 1000 && !READ_ONCE(away); ms++)
		mdelay(1);
	return 0;
}

static void cleanslate_after_shutdown(struct kprobe *probe, struct pt_regs *regs, unsigned long flags)
{
}

static struct kprobe probe = {
	.symbol_name = "machine_shutdown",
	.pre_handler = cleanslate_on_shutdown,
	.post_handler = cleanslate_after_shutdown,
};

static int __init cleanslate_away_init(void)
{
	struct task_struct *task;

	task = kthread_create_on_cpu(cleanslate_stay_away, NULL, AWAY_CPU, "away/%u");
	if (IS_ERR(task))
		return PTR_ERR(task);
	wake_up_process(task);
	return register_kprobe(&probe);
}

/* No exit: it is there to the end. */
module_init(cleanslate_away_init);
MODULE_DESCRIPTION("Keeps a CPU from answering at a kexec, for tests under seamvisor");
MODULE_LICENSE("GPL");
