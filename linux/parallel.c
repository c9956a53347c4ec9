// SPDX-License-Identifier: GPL-2.0
/*
 * The reset of an orderly kexec, by all CPUs together
 *
 * kernel_kexec() ends VMX operation on every CPU (syscore_shutdown(), in kernels with TDX host
 * support) and then stops the other CPUs (machine_shutdown()). In between, each of them is brought
 * into an interrupt handler of this module, in which interrupts are off and which it never leaves:
 * nothing but the reset runs on any CPU from then on, as in machine_kexec(), and no page can become
 * private. When all lines are written, the handler waits for the interrupt by which the kernel
 * stops the CPU.
 *
 * If a CPU does not come in time, all go on as if nothing had happened, and the reset is made in
 * machine_kexec() by one CPU. That one also looks whether anything was missed.
 */
#define pr_fmt(fmt) "cleanslate: " fmt

#include <linux/cpu.h>
#include <linux/ktime.h>
#include <linux/nmi.h>
#include <linux/processor.h>
#include <linux/smp.h>
#include <linux/sysfs.h>
#include <asm/irq_vectors.h>
#include <asm/processor-flags.h>
#include <asm/reboot.h>
#include <asm/tlbflush.h>

#include "cleanslate.h"

/* How long a CPU may stay away: the kernel itself waits one second, and then sends an NMI. */
#define GATHER_NS	(5 * NSEC_PER_SEC)

enum { WAITING, TOGETHER, ALONE };

static int decision = WAITING;

/* CPUs in the handler; those of them in VMX operation. */
static atomic_t arrived = ATOMIC_INIT(0), in_vmx = ATOMIC_INIT(0);

/* The reset was made here, complete or not. */
static bool was_made;
static bool shutting_down;

/* The CPU that reports progress, and when it last did. */
static int reporter = -1;
static u64 reported;

static const bool *kexec_is_in_progress;
static void (*machine_shutdown_function)(void);

/* reboot=force: the kernel stops no CPU. NULL in a kernel without the symbol. */
static const int *stops_none;

bool cleanslate_parallel_was_made(void)
{
	return was_made;
}

/* This CPU is the one that reports. */
void cleanslate_report_progress(int cpu)
{
	reported = ktime_get_mono_fast_ns();
	reporter = cpu;
}

void cleanslate_progress(void)
{
	u64 now;

	touch_nmi_watchdog();
	if (reporter != raw_smp_processor_id())
		return;
	now = ktime_get_mono_fast_ns();
	if (now - reported < NSEC_PER_SEC)
		return;
	reported = now;
	pr_info("resetting private memory, %llu lines so far\n", cleanslate_lines_reset());
}

/*
 * From now on only the interrupt by which the kernel stops this CPU, and others of its priority
 * class, come through. No timer tick is among them: after a long reset it would find an RCU stall,
 * and lead to softirqs where this CPU was idle. The next kernel sets the priority anew.
 */
static void cleanslate_mask_interrupts(void)
{
	unsigned long class = (REBOOT_VECTOR >> 4) - 1;

	asm volatile("mov %0, %%cr8" : : "r" (class) : "memory");
}

/* In an interrupt, or where an idle CPU takes interrupts of this kind. Interrupts are off. */
static void cleanslate_gather_here(void *unused)
{
	/* A CPU that comes late: the others have gone on. */
	if (READ_ONCE(decision) != WAITING)
		return;
	if (__read_cr4() & X86_CR4_VMXE)
		atomic_inc(&in_vmx);
	atomic_inc(&arrived);
	while (READ_ONCE(decision) == WAITING) {
		touch_nmi_watchdog();
		cpu_relax();
	}
	if (READ_ONCE(decision) != TOGETHER)
		return;
	cleanslate_captured(raw_smp_processor_id(), cleanslate_watch_caches_are_clean());
	/*
	 * None of those that may come before the one that stops this CPU makes memory private, and
	 * no task runs. raw_: lockdep knows no interrupts within one.
	 */
	cleanslate_mask_interrupts();
	raw_local_irq_enable();
	for (;;)
		cpu_relax();
}

/* True if all other CPUs are in the handler. Interrupts are on. */
static bool cleanslate_gather(void)
{
	unsigned int others = num_online_cpus() - 1, came;
	u64 start = ktime_get_mono_fast_ns();
	bool together, vmx;

	/* A softirq could wait for a lock whose holder is in the handler. */
	local_bh_disable();
	smp_call_function_many(cpu_online_mask, cleanslate_gather_here, NULL, false);
	while (atomic_read(&arrived) < others && ktime_get_mono_fast_ns() - start < GATHER_NS) {
		touch_nmi_watchdog();
		cpu_relax();
	}
	came = atomic_read(&arrived);
	/*
	 * As host, this module leaves it where a CPU stops. The only SEAMCALL before that is
	 * SYS.DISABLE (policy=module), by this CPU.
	 */
	vmx = cleanslate_mode == CLEANSLATE_WATCH &&
	      (atomic_read(&in_vmx) || __read_cr4() & X86_CR4_VMXE);
	together = came == others && !vmx;
	if (together)
		local_irq_disable();
	/* The others go on with it at once: what this CPU does before comes first. */
	smp_store_release(&decision, together ? TOGETHER : ALONE);
	if (together)
		return true;
	local_bh_enable();
	pr_warn("%u of %u other CPUs came for the reset%s, one CPU resets\n", came, others,
		vmx ? ", VMX operation has not ended" : "");
	return false;
}

/*
 * In the place of machine_shutdown(), which it calls. Once the CPUs are together, interrupts stay
 * off on this one until the jump: machine_shutdown() turns them off, too.
 */
static void cleanslate_shutdown(void)
{
	u64 cet;

	WRITE_ONCE(shutting_down, true);
	preempt_disable();
	if (num_online_cpus() > 1) {
		/* A CPU that comes or goes right now: one CPU resets. */
		if (cpus_read_trylock()) {
			if (cleanslate_gather()) {
				was_made = true;
				cleanslate_reset_together();
			}
			/* No other CPU waits for it if they are together. */
			cpus_read_unlock();
		} else {
			pr_warn("CPU hotplug is under way, one CPU resets\n");
		}
	}
	cet = cleanslate_tracking_off();
	machine_shutdown_function();
	cleanslate_tracking_on(cet);
	preempt_enable();
}

/* The kernel also calls it for a reboot, before which nothing is reset. */
static bool cleanslate_before_shutdown(struct pt_regs *regs)
{
	if (!READ_ONCE(shutting_down) && READ_ONCE(*kexec_is_in_progress) &&
	    cleanslate_is_private() && !cleanslate_watch_failed() &&
	    !(stops_none && READ_ONCE(*stops_none)))
		regs->ip = (unsigned long)cleanslate_shutdown;
	return false;
}

static struct cleanslate_hook shutdown_hook = {
	.name = "machine_shutdown",
	.enter = cleanslate_before_shutdown,
	.may_skip = true,
};

int cleanslate_parallel_state(char *buffer, int at)
{
	return at + sysfs_emit_at(buffer, at, "%s %s\n", shutdown_hook.name,
				  !shutdown_hook.armed ? "none" :
				  shutdown_hook.by_ftrace ? "ftrace" : "kprobe");
}

/* Why CPUs would not come together, as far as that is known before, or NULL. */
const char *cleanslate_parallel_why_not(void)
{
	if (!shutdown_hook.armed)
		return "this kernel does not let all CPUs come together (machine_shutdown)";
	return stops_none && READ_ONCE(*stops_none) ? "reboot=force stops no CPU" : NULL;
}

/* Does machine_shutdown() stop CPUs at once? Those of Hyper-V and Xen do more, and may sleep. */
static bool cleanslate_shutdown_is_native(void)
{
	const struct machine_ops *ops = (const void *)cleanslate_symbol("machine_ops");
	unsigned long native = cleanslate_symbol("native_machine_shutdown");

	return ops && native && (unsigned long)ops->shutdown == native;
}

/* A kernel without these functions resets on one CPU. */
void cleanslate_parallel_init(void)
{
	kexec_is_in_progress = (const bool *)cleanslate_symbol("kexec_in_progress");
	stops_none = (const int *)cleanslate_symbol("reboot_force");
	machine_shutdown_function = (void *)cleanslate_symbol(shutdown_hook.name);
	if (!kexec_is_in_progress || !machine_shutdown_function ||
	    !cleanslate_shutdown_is_native() || cleanslate_arm(&shutdown_hook, 1))
		pr_info("one CPU alone will reset private memory\n");
}

void cleanslate_parallel_exit(void)
{
	cleanslate_disarm(&shutdown_hook, 1);
}
