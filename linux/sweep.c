// SPDX-License-Identifier: GPL-2.0
/*
 * Ledger and TDX module, page by page: an audit, and a late load
 *
 * PHYMEM.PAGE.RDMD asks the TDX module what it has a page for, and locks the page meanwhile: a
 * SEAMCALL of KVM's that finds it locked fails, and KVM does not expect that of all of them (it
 * leaks a page whose RECLAIM fails, and kills a TD whose VCPU cannot be flushed). So no page is
 * asked for while the kernel makes a SEAMCALL, and a SEAMCALL waits for one look. VP.ENTER apart:
 * it locks only the TDR and the page of its VCPU, shared, as RDMD does.
 *
 *   probe at the entry of a SEAMCALL     look, with interrupts off
 *     calls++                              looking = this CPU
 *     barrier                              barrier
 *     wait while somebody looks            calls? put the look off
 *     mark its pages                       RDMD, compare, mark (late load)
 *     SEAMCALL                             looking = nobody
 *   probe behind it
 *     enter the answer, calls--
 *
 * Of two barriers one is the first: either the look sees the call, or the call waits for the look.
 * So a look also compares one instant: no SEAMCALL is between its mark and its answer. Only the
 * kernel's reset of a returned page may come in between (Returned to shared), and the ledger is
 * read on both sides of RDMD.
 *
 * A SEAMCALL that stops waiting says so (gave_up): the look marks nothing then, and the sweep ends.
 */
#define pr_fmt(fmt) "cleanslate: " fmt

#include <linux/delay.h>
#include <linux/kthread.h>
#include <linux/ktime.h>
#include <linux/math64.h>
#include <linux/moduleparam.h>
#include <linux/mutex.h>
#include <linux/percpu.h>
#include <linux/rcupdate.h>
#include <linux/sched/signal.h>
#include <linux/smp.h>
#include <linux/string.h>
#include <linux/sysfs.h>

#include "cleanslate.h"

static uint sweep_rate = 250000;

static int cleanslate_set_rate(const char *value, const struct kernel_param *kp)
{
	return param_set_uint_minmax(value, kp, 1, UINT_MAX);
}

static const struct kernel_param_ops rate_ops = {
	.set = cleanslate_set_rate,
	.get = param_get_uint,
};
module_param_cb(sweep_rate, &rate_ops, &sweep_rate, 0644);
MODULE_PARM_DESC(sweep_rate,
		 "SEAMCALLs per second by which an audit or a late load asks the TDX module, at most (default: 250000)");

/* SEAMCALLs under way whose beginning was seen, on this CPU and in all. */
static DEFINE_PER_CPU(u32, cleanslate_depth);
/* Written at both ends of each SEAMCALL: nothing else is on its line but what is read there. */
static struct {
	atomic_t calls;
	/* The CPU that looks, and one more; 0: none. */
	atomic_t looking;
	/* A SEAMCALL did not wait to the end of a look. */
	bool gave_up;
} ____cacheline_aligned_in_smp exclusion;

/* A look takes microseconds. Beyond this, KVM's call may fail; better than a CPU that hangs. */
#define WAIT_SPINS	1000000

/* In the probe at the entry of a SEAMCALL: interrupts are off. */
void cleanslate_call_begins(void)
{
	int other, spins;

	this_cpu_inc(cleanslate_depth);
	atomic_inc(&exclusion.calls);
	/* The call is counted before it looks for a look: pairs with cleanslate_look(). */
	smp_mb__after_atomic();
	for (spins = 0; spins < WAIT_SPINS; spins++) {
		other = atomic_read_acquire(&exclusion.looking);
		/* A machine check within a look makes a SEAMCALL of its own. */
		if (!other || other == raw_smp_processor_id() + 1)
			return;
		cpu_relax();
	}
	/* No printk() here: the sweep says it. */
	WRITE_ONCE(exclusion.gave_up, true);
	/* Said before the SEAMCALL moves a page: the look reads it behind its RDMD. */
	smp_mb();
}
NOKPROBE_SYMBOL(cleanslate_call_begins);

/*
 * In a probe behind SEAMCALL. The call may have begun before the probes were there: calls of one
 * CPU end in the reverse order, so it is the one that ends while none is counted.
 */
void cleanslate_call_ends(void)
{
	if (!this_cpu_read(cleanslate_depth))
		return;
	this_cpu_dec(cleanslate_depth);
	/* The ledger has the answer before the call is over. */
	smp_mb__before_atomic();
	atomic_dec(&exclusion.calls);
}
NOKPROBE_SYMBOL(cleanslate_call_ends);

/* One sweep at a time. */
static DEFINE_MUTEX(sweep_lock);
static bool stopped;

/* What the last sweep has found, or the one that runs. Read without a lock, for its progress. */
static struct cleanslate_sweep sweep;
static const char *sweep_kind = "none", *sweep_state = "none";
static u64 sweep_started, sweep_ended, put_off, not_seen;
static u32 sweep_round;
/* Why it was given up (-ECANCELED). */
static const char *sweep_why;

/* Looks that are tried at a page that is busy or changes, before it counts as not seen. */
#define TRIES		1000
/* Looks between two chances for others. */
#define SLICE		64
/* Seconds in which SEAMCALLs of the kernel put off every look, before the sweep is given up. */
#define PATIENCE	60

static const char *const cleanslate_never_alone =
	"failed: SEAMCALLs of the kernel put off every look for a minute";

/* Does a SEAMCALL run beside this look, although it should not? Asked within it, and after it. */
bool cleanslate_look_was_disturbed(void)
{
	return READ_ONCE(exclusion.gave_up);
}

/* Nothing in here may print: others wait. -EBUSY: the kernel makes a SEAMCALL. */
static int cleanslate_look(void *unused)
{
	unsigned long flags;
	int ret = -EBUSY;

	local_irq_save(flags);
	atomic_set(&exclusion.looking, smp_processor_id() + 1);
	/* The look is said before it looks for calls: pairs with cleanslate_call_begins(). */
	smp_mb();
	if (!atomic_read(&exclusion.calls)) {
		/* So that the kernel writes back the caches of this CPU, too, before it stops. */
		cleanslate_watch_note_seamcall();
		ret = cleanslate_sweep_step(smp_processor_id(), &sweep);
	} else {
		put_off++;
	}
	atomic_set_release(&exclusion.looking, 0);
	local_irq_restore(flags);
	return ret;
}

/* As host, users of the TDX module are excluded by its lock. */
static int cleanslate_look_once(void)
{
	return cleanslate_mode == CLEANSLATE_HOST ? cleanslate_host_run(cleanslate_look, NULL) :
						    cleanslate_look(NULL);
}

/* Time that was lost and is made up for: the granularity of sleep, and not more. */
#define CREDIT		(20 * NSEC_PER_MSEC)

static bool cleanslate_sweep_is_stopped(void)
{
	return READ_ONCE(stopped) || signal_pending(current);
}

/* Not faster than the rate: @due is when the SEAMCALLs of before are paid for, @calls are new. */
static void cleanslate_sweep_wait(u64 *due, u64 calls, u32 rate)
{
	u64 now = ktime_get_ns();

	*due = max(*due, now - CREDIT) + div_u64(calls * NSEC_PER_SEC, max(rate, 1u));
	for (; now + NSEC_PER_MSEC < *due && !cleanslate_sweep_is_stopped(); now = ktime_get_ns()) {
		u64 pause = min_t(u64, *due - now, NSEC_PER_SEC / 10);

		schedule_timeout_interruptible(nsecs_to_jiffies(pause) + 1);
	}
}

/* Why there can be no sweep, or NULL. */
static const char *cleanslate_sweep_impossible(void)
{
	if (!cleanslate_follows() || !cleanslate_is_private() || cleanslate_watch_failed())
		return "failed: TDX is not initialized, or pages are not tracked";
	if (cleanslate_watch_may_migrate())
		return "failed: this kernel makes SEAMCALLs with preemption on";
	/* Pairs would have to be asked for by 2 MiB: of 4 KiB pages not every one is named. */
	if (cleanslate_dynamic_pamt())
		return "failed: with Dynamic PAMT not every page can be asked for";
	if (cleanslate_watch_misses())
		return "failed: SEAMCALLs were missed, so that looks cannot keep out of their way";
	return NULL;
}

/* Why a sweep that runs must end, or NULL. Once in a slice. */
static const char *cleanslate_sweep_check(bool learn)
{
	cleanslate_watch_check();
	if (cleanslate_look_was_disturbed()) {
		/* Said once: the next sweep may do better. */
		WRITE_ONCE(exclusion.gave_up, false);
		return "failed: a SEAMCALL of the kernel did not wait for the end of a look";
	}
	if (learn && READ_ONCE(cleanslate_unknown) != cleanslate_learning)
		return "failed: track of private memory was lost meanwhile";
	return cleanslate_sweep_impossible();
}

/* What a look has found is said at once: images are refused from here on, not from the end on. */
static void cleanslate_sweep_report(u32 *reported)
{
	if (sweep.unmarked)
		cleanslate_lost("page given to the TDX module that is not allocated");
	if (!sweep.missing)
		return;
	for (; *reported < CLEANSLATE_SWEEP_ADDRESSES && sweep.missing_at[*reported]; ++*reported)
		pr_err("audit: the TDX module has page %#llx, which has no mark\n",
		       sweep.missing_at[*reported]);
	cleanslate_lost("an audit found private pages without a mark");
}

/*
 * Over all memory, once. 0, -EINTR if it was stopped, -ECANCELED and sweep_why, or why the TDX
 * module could not be asked.
 */
static int cleanslate_sweep_once(bool learn, u32 rate)
{
	u64 due = ktime_get_ns(), paid = 0, last = due;
	u32 tries = 0, looks = 0, reported = 0;
	int ret;

	sweep = (struct cleanslate_sweep){ .learn = learn };
	do {
		if (cleanslate_sweep_is_stopped())
			return -EINTR;
		if (looks++ % SLICE == 0) {
			cond_resched();
			cleanslate_sweep_wait(&due, sweep.calls - paid, rate);
			paid = sweep.calls;
			sweep_why = cleanslate_sweep_check(learn);
			if (sweep_why)
				return -ECANCELED;
		}
		ret = cleanslate_look_once();
		cleanslate_sweep_report(&reported);
		if (ret == -EBUSY) {
			/* One whose end was missed would put off every look for good. */
			if (ktime_get_ns() - last > PATIENCE * NSEC_PER_SEC) {
				sweep_why = cleanslate_never_alone;
				return -ECANCELED;
			}
			ret = 0;
			usleep_range(50, 200);
			continue;
		}
		last = ktime_get_ns();
		if (ret == -EAGAIN && ++tries == TRIES) {
			/* It begins with the page that was tried. */
			not_seen++;
			sweep.next++;
			sweep.pages++;
			tries = 0;
			ret = 0;
		} else if (ret == -EAGAIN) {
			/* Whoever is in the way gets on. */
			ret = 0;
			if (tries > 10)
				usleep_range(50, 200);
		} else {
			tries = 0;
		}
	} while (!ret);
	if (ret < 0)
		return ret;
	/* Of the last looks. */
	sweep_why = cleanslate_sweep_check(learn);
	return sweep_why ? -ECANCELED : 0;
}

static void cleanslate_sweep_begins(const char *kind, const char *state)
{
	sweep_kind = kind;
	sweep_state = state;
	sweep_round = 1;
	put_off = 0;
	not_seen = 0;
	sweep_ended = 0;
	sweep_started = ktime_get_ns();
}

static void cleanslate_sweep_ends(int ret)
{
	sweep_ended = ktime_get_ns();
	switch (ret) {
	case 0:
		sweep_state = "done";
		break;
	case -EINTR:
		sweep_state = "stopped";
		break;
	case -ENODEV:
		sweep_state = cleanslate_mode == CLEANSLATE_HOST ?
			      "failed: TDX is not up" :
			      "failed: not in VMX operation (load kvm_intel)";
		break;
	case -ECANCELED:
		sweep_state = sweep_why;
		break;
	case -EAGAIN:
		sweep_state = "failed: pages stayed busy, or sweeps went on finding new ones";
		break;
	case -EPERM:
		sweep_state = "failed: no pages of TDs are tracked";
		break;
	default:
		sweep_state = "failed: the TDX module refused";
		break;
	}
	if (ret && ret != -EINTR)
		pr_err("sweep %s, status %#llx\n", sweep_state, sweep.status);
}

/*
 * Compares ledger and TDX module. In the task that asks for it, so that a signal to it ends it. 0,
 * also if pages are missing in the ledger.
 */
static int cleanslate_audit(u32 rate)
{
	const char *why = cleanslate_sweep_impossible();
	int ret;

	if (!mutex_trylock(&sweep_lock))
		return -EBUSY;
	WRITE_ONCE(stopped, false);
	cleanslate_sweep_begins("audit", why ?: "running");
	if (why) {
		sweep = (struct cleanslate_sweep){};
		sweep_ended = ktime_get_ns();
		mutex_unlock(&sweep_lock);
		return -EOPNOTSUPP;
	}
	ret = cleanslate_sweep_once(false, rate);
	cleanslate_sweep_ends(ret);
	pr_info("audit %s: %llu pages, %llu SEAMCALLs, %llu ms, %llu missing, %llu leaked\n",
		sweep_state, sweep.pages, sweep.calls,
		div_u64(sweep_ended - sweep_started, NSEC_PER_MSEC), sweep.missing,
		sweep.leaked + sweep.leaked_owned);
	mutex_unlock(&sweep_lock);
	return ret;
}

/*
 * "start", "start RATE", "stop". Returns when the audit has ended. After a "stop" of a late load
 * images stay refused: its pages are not known.
 */
ssize_t cleanslate_audit_store(const char *text, size_t size)
{
	u32 rate = READ_ONCE(sweep_rate);
	int ret;

	if (sysfs_streq(text, "stop")) {
		/* One that runs, and no other. */
		if (mutex_trylock(&sweep_lock))
			mutex_unlock(&sweep_lock);
		else
			WRITE_ONCE(stopped, true);
		return size;
	}
	if (!sysfs_streq(text, "start") &&
	    (strncmp(text, "start ", 6) || kstrtouint(text + 6, 10, &rate)))
		return -EINVAL;
	if (!rate)
		return -EINVAL;
	ret = cleanslate_audit(rate);
	return ret ?: size;
}

static u32 cleanslate_sweep_percent(void)
{
	u64 total = READ_ONCE(sweep.total);

	return total ? div64_u64(READ_ONCE(sweep.pages) * 100, total) : 0;
}

static int cleanslate_show_addresses(char *buffer, int at, const char *name, const u64 *list)
{
	int index;

	for (index = 0; index < CLEANSLATE_SWEEP_ADDRESSES && list[index]; index++)
		at += sysfs_emit_at(buffer, at, "%s %#llx\n", name, list[index]);
	return at;
}

/* A name and a value per line. */
int cleanslate_audit_show(char *buffer)
{
	const struct {
		const char *name;
		u64 value;
	} values[] = {
		{ "percent", cleanslate_sweep_percent() },
		{ "total", sweep.total },
		{ "pages", sweep.pages },
		{ "calls", sweep.calls },
		{ "milliseconds", sweep_started ?
			div_u64((sweep_ended ?: ktime_get_ns()) - sweep_started,
				NSEC_PER_MSEC) : 0 },
		{ "owned", sweep.owned },
		{ "reserved", sweep.reserved },
		{ "outside", sweep.outside },
		{ "missing", sweep.missing },
		{ "returned", sweep.returned },
		{ "giving", sweep.giving },
		{ "stale", sweep.stale },
		{ "leaked", sweep.leaked },
		{ "leaked_owned", sweep.leaked_owned },
		{ "learned", sweep.learned },
		{ "changed", sweep.changed },
		{ "busy", sweep.busy },
		{ "put_off", put_off },
		{ "not_seen", not_seen },
	};
	int at = sysfs_emit(buffer, "kind %s\nstate %s\n", sweep_kind, sweep_state);
	int index;

	for (index = 0; index < ARRAY_SIZE(values); index++)
		at += sysfs_emit_at(buffer, at, "%s %llu\n", values[index].name,
				    values[index].value);
	at = cleanslate_show_addresses(buffer, at, "missing_at", sweep.missing_at);
	return cleanslate_show_addresses(buffer, at, "leaked_at", sweep.leaked_at);
}

/*
 * TDs may have been there before this module: why images are refused until their pages are known.
 * Compared by its address.
 */
const char *const cleanslate_learning = "learning pages of TDs that were there before this module";

/* Sweeps at most, until one finds nothing new. */
#define ROUNDS		8

static struct task_struct *learner;
/* What it has marked, since this module was loaded. */
static u64 learned_pages;

/*
 * Marks what the TDX module has, again and again until a whole sweep finds nothing new. Nothing is
 * new in the second one, unless looks of the first were given up.
 */
static int cleanslate_learn_pages(void *unused)
{
	u64 learned = 0;
	int ret;

	mutex_lock(&sweep_lock);
	cleanslate_sweep_begins("learn", "running");
	do {
		not_seen = 0;
		ret = cleanslate_sweep_once(true, READ_ONCE(sweep_rate));
		learned += sweep.learned;
		WRITE_ONCE(learned_pages, learned);
	} while (!ret && (sweep.learned || not_seen) && sweep_round++ < ROUNDS);
	if (!ret && (sweep.learned || not_seen))
		ret = -EAGAIN;
	cleanslate_sweep_ends(ret);
	sweep.learned = learned;
	if (ret == -EINTR) {
		cleanslate_lost("learning pages of TDs was stopped");
	} else if (ret) {
		cleanslate_lost("failed to learn pages of TDs that were there before this module");
	} else {
		cleanslate_set_learning(false);
		pr_info("learned %llu pages of TDs in %u sweeps and %llu ms\n", learned,
			sweep_round, div_u64(sweep_ended - sweep_started, NSEC_PER_MSEC));
		/* Not if something else was lost meanwhile. */
		if (cmpxchg(&cleanslate_unknown, cleanslate_learning, NULL) == cleanslate_learning)
			pr_info("tracking SEAMCALLs, private memory will be reset at kexec\n");
	}
	mutex_unlock(&sweep_lock);
	/* For kthread_stop(). */
	while (!kthread_should_stop()) {
		set_current_state(TASK_INTERRUPTIBLE);
		if (!kthread_should_stop())
			schedule();
		__set_current_state(TASK_RUNNING);
	}
	return 0;
}

/*
 * Begins to learn. Every SEAMCALL that begins from now on is observed; one that began before has
 * ended when this returns: the kernel makes them with preemption off. NULL, or why that cannot be.
 */
const char *cleanslate_sweep_learn(void)
{
	if (!cleanslate_follows())
		return "TDs may be older than this module, and no reset of pages to observe";
	if (cleanslate_watch_may_migrate())
		return "TDs may be older than this module; load it before kvm_intel";
	if (cleanslate_dynamic_pamt())
		return "Dynamic PAMT: TDs may be older than this module; load it before kvm_intel";
	cleanslate_lost(cleanslate_learning);
	synchronize_rcu();
	learner = kthread_run(cleanslate_learn_pages, NULL, "cleanslate");
	if (!IS_ERR(learner))
		return NULL;
	learner = NULL;
	return "no memory to learn pages of TDs";
}

/* How far a late load is. Two sweeps, as a rule. */
u32 cleanslate_learned_percent(void)
{
	u32 round = READ_ONCE(sweep_round);

	return round > 2 ? 99 : min((cleanslate_sweep_percent() + (round > 1 ? 100 : 0)) / 2, 99u);
}

/* KB that the ledger has from the TDX module's answers and not from calls that were observed. */
u64 cleanslate_learned_kb(void)
{
	return READ_ONCE(learned_pages) * (PAGE_SIZE / 1024);
}

/* Keeps sweeps away until cleanslate_sweep_allow(). False if one runs. */
bool cleanslate_sweep_prevent(void)
{
	return mutex_trylock(&sweep_lock);
}

void cleanslate_sweep_allow(void)
{
	mutex_unlock(&sweep_lock);
}

/* Before the probes and sysfs go. */
void cleanslate_sweep_exit(void)
{
	WRITE_ONCE(stopped, true);
	if (learner)
		kthread_stop(learner);
}
