// SPDX-License-Identifier: GPL-2.0
/*
 * Times that only the kernel can measure: WBINVD, and what the observer adds to a SEAMCALL
 *
 * For root, by sysfs measure, and never by itself. WBINVD as at a kexec, with interrupts off, but
 * on one CPU after the other, 20 ms apart, and with the caches as they are: a CPU finds what was
 * cached since the last one that shares the cache. At a kexec or crash all CPUs do it at once.
 *
 * The observer by the probes and handlers of the SEAMCALL wrappers (watch.c), on a function here
 * that has the operands of a TDH.SYS.RD and makes no SEAMCALL. That leaf gives no page, so that the
 * ledger has nothing to do. This CPU counts as one that may hold private lines afterwards.
 */
#define pr_fmt(fmt) "cleanslate: " fmt

#include <linux/cpumask.h>
#include <linux/delay.h>
#include <linux/irqflags.h>
#include <linux/ktime.h>
#include <linux/math64.h>
#include <linux/minmax.h>
#include <linux/mutex.h>
#include <linux/sched.h>
#include <linux/sched/signal.h>
#include <linux/smp.h>
#include <linux/string.h>
#include <linux/sysfs.h>
#include <asm/special_insns.h>

#include "cleanslate.h"

/* Calls of each kind. */
#define CALLS		1000
/* Between the WBINVD of one CPU and that of the next. */
#define PAUSE_MS	20
/* A leaf that gives and takes no page. */
#define TDH_SYS_RD	34

/* Nanoseconds of some times. */
struct cleanslate_times {
	u64 count, sum, min, max;
};

static DEFINE_MUTEX(measure_lock);
/* What the last measurement has found. Under the lock. */
static struct cleanslate_times write_back, bare, observed;
static const char *measure_state = "none", *observer_state = "none";

static void cleanslate_add_time(struct cleanslate_times *times, u64 ns)
{
	times->min = times->count ? min(times->min, ns) : ns;
	times->max = max(times->max, ns);
	times->sum += ns;
	times->count++;
}

/* In an interrupt of the CPU, so that no task holds it up; interrupts are off. */
static void cleanslate_time_write_back(void *unused)
{
	u64 start = ktime_get_ns();

	wbinvd();
	cleanslate_add_time(&write_back, ktime_get_ns() - start);
}

/* One CPU at a time, with a pause for the others, whose caches it has emptied. */
static int cleanslate_measure_write_backs(void)
{
	int cpu;

	for_each_possible_cpu(cpu) {
		if (signal_pending(current))
			return -EINTR;
		/* Not one that is offline, which is no fault. */
		if (!smp_call_function_single(cpu, cleanslate_time_write_back, NULL, 1))
			msleep_interruptible(PAUSE_MS);
	}
	return 0;
}

/* As a wrapper of SEAMCALL is called and answers: operands in RDI and RSI, RAX and CF are 0. */
static noinline notrace __noclone u64
cleanslate_measured(u64 leaf, const struct cleanslate_args *args)
{
	u64 rax;

	asm volatile("xor %%eax, %%eax\n"
		     "cleanslate_answer_place:\n\t"
		     "nop"
		     : "=&a"(rax)
		     : "D"(leaf), "S"(args)
		     : "cc", "memory");
	return rax;
}

/* Where the probe of an answer is. An address in text is none for IBT, a difference is. */
static void *cleanslate_measured_answer(void)
{
	u32 offset;

	asm("movl $cleanslate_answer_place - cleanslate_measured, %0" : "=r"(offset));
	return (u8 *)cleanslate_measured + offset;
}

/* With interrupts off, so that no time of others is in it. */
static int cleanslate_measure_calls(struct cleanslate_times *times, bool count)
{
	const struct cleanslate_args args = {};
	unsigned long flags;
	u64 start, end;
	int call;

	*times = (struct cleanslate_times){};
	for (call = 0; call < CALLS; call++) {
		if (signal_pending(current))
			return -EINTR;
		local_irq_save(flags);
		start = ktime_get_ns();
		if (count)
			cleanslate_call_begins();
		cleanslate_measured(TDH_SYS_RD, &args);
		end = ktime_get_ns();
		/* The probe has done it, unless it was disabled meanwhile. */
		cleanslate_call_ends();
		local_irq_restore(flags);
		cleanslate_add_time(times, end - start);
		cond_resched();
	}
	return 0;
}

/* Without the probes, and with them. */
static int cleanslate_measure_probed(void)
{
	u32 hits;
	int ret = cleanslate_measure_calls(&bare, false);

	if (ret) {
		bare = (struct cleanslate_times){};
		observer_state = "stopped";
		return ret;
	}
	ret = cleanslate_watch_probe(cleanslate_measured, cleanslate_measured_answer());
	if (ret) {
		observer_state = "failed: no kprobe in the function that is measured";
		return 0;
	}
	ret = cleanslate_measure_calls(&observed, true);
	hits = cleanslate_watch_unprobe();
	observer_state = ret ? "stopped" : "done";
	/* Each call has come to both probes, or the times are not those of the observer. */
	if (!ret && hits != 2 * CALLS)
		observer_state = "failed: kprobes were missed or disabled";
	if (strcmp(observer_state, "done"))
		observed = (struct cleanslate_times){};
	return ret;
}

static int cleanslate_measure_observer(void)
{
	int ret;

	if (cleanslate_mode != CLEANSLATE_WATCH) {
		observer_state = "none: this kernel makes no SEAMCALL";
		return 0;
	}
	if (cleanslate_watch_may_migrate()) {
		/* cleanslate_call_ends() is for a CPU on which no other call is under way. */
		observer_state = "none: this kernel makes SEAMCALLs with preemption on";
		return 0;
	}
	/* It makes SEAMCALLs wait, and these calls would make it wait. */
	if (!cleanslate_sweep_prevent()) {
		observer_state = "none: an audit runs";
		return 0;
	}
	ret = cleanslate_measure_probed();
	cleanslate_sweep_allow();
	return ret;
}

static int cleanslate_measure(void)
{
	int ret;

	write_back = (struct cleanslate_times){};
	bare = (struct cleanslate_times){};
	observed = (struct cleanslate_times){};
	observer_state = "none";
	ret = cleanslate_measure_write_backs();
	if (!ret)
		ret = cleanslate_measure_observer();
	measure_state = ret ? "stopped" : "done";
	return ret;
}

/* "start". Returns when all is measured; a signal ends it. */
ssize_t cleanslate_measure_store(const char *text, size_t size)
{
	int ret;

	if (!sysfs_streq(text, "start"))
		return -EINVAL;
	if (!mutex_trylock(&measure_lock))
		return -EBUSY;
	ret = cleanslate_measure();
	mutex_unlock(&measure_lock);
	return ret ?: size;
}

static int cleanslate_show_times(char *buffer, int at, const char *name,
				 const struct cleanslate_times *times)
{
	if (!times->count)
		return at;
	return at + sysfs_emit_at(buffer, at,
				  "%s_count %llu\n%s_min_ns %llu\n%s_mean_ns %llu\n%s_max_ns %llu\n",
				  name, times->count, name, times->min, name,
				  div64_u64(times->sum, times->count), name, times->max);
}

/* A name and a value per line; none of what was not measured. -EBUSY while it is measured. */
int cleanslate_measure_show(char *buffer)
{
	int at;

	if (!mutex_trylock(&measure_lock))
		return -EBUSY;
	at = sysfs_emit(buffer, "state %s\nobserver %s\n", measure_state, observer_state);
	at = cleanslate_show_times(buffer, at, "wbinvd", &write_back);
	at = cleanslate_show_times(buffer, at, "bare", &bare);
	at = cleanslate_show_times(buffer, at, "observed", &observed);
	mutex_unlock(&measure_lock);
	return at;
}
