// SPDX-License-Identifier: GPL-2.0
/*
 * policy=keep: TDX and its TDs are handed over to this module in the next kernel
 *
 * All that may be private lies in the pool, memory that is reserved at boot (memmap=SIZE$BASE): the
 * takeover table at its start, PAMTs and pages of TDs behind it. The next kernel reserves the same
 * memory, so that nothing touches it before the module is loaded there. At an orderly kexec this
 * kernel looks for both in the command line of the image: the reservation, and a parameter that
 * names this kernel's table. Without them, and at a crash, everything is reset, as ever.
 */
#define pr_fmt(fmt) "cleanslate: " fmt

#include <linux/atomic.h>
#include <linux/cpumask.h>
#include <linux/io.h>
#include <linux/kernel.h>
#include <linux/kexec.h>
#include <linux/mm.h>
#include <linux/module.h>
#include <linux/random.h>
#include <linux/string.h>
#include <linux/sysfs.h>
#include <linux/vmalloc.h>
#include <linux/workqueue.h>

#include "cleanslate.h"

#define PARAMETER	"cleanslate.takeover="

static u64 pool_base, pool_bytes;
static char named[64];

/* Why nothing was taken over although it was wanted; and with takeover=, that there was nothing. */
static const char *takeover_failed, *nothing_left;
static bool taken_over;

/* The pool's mapping, where its start is for tables. */
static const void *tables;

/* A reason to be tried again. */
static const char no_memory[] = "there is no memory for it until \"up\" is tried again";
static const char not_read[] = "the takeover table was not read yet, and what it lists is private";
static struct cleanslate_vacuumed vacuumed;
static bool was_vacuumed;

static char *takeover;
module_param(takeover, charp, 0400);
MODULE_PARM_DESC(takeover,
		 "ADDRESS,NUMBER of the takeover table of the kernel before, as in its /sys/kernel/cleanslate/takeover_parameter; none: the machine was reset since, a table that still stands is void");

/*
 * The kernel that keeps
 */

static bool cleanslate_image_overlaps_pool(const struct kimage *image)
{
	unsigned long number;

	for (number = 0; number < image->nr_segments; number++) {
		const struct kexec_segment *segment = &image->segment[number];

		if (segment->mem < pool_base + pool_bytes &&
		    pool_base < segment->mem + segment->memsz)
			return true;
	}
	return false;
}

/*
 * Why TDX is not kept at a kexec into an image, or NULL. Callers hold kexec's lock, or run alone.
 */
const char *cleanslate_keep_why_not(const struct kimage *image)
{
	const char *why, *line;

	if (!image)
		return "no image is known";
	if (cleanslate_unknown)
		return cleanslate_unknown;
	if (cleanslate_host_is_for_vacuum())
		return "this kernel has TDX host support, and takes TDX over for the vacuum alone";
	if (!cleanslate_host_is_up())
		return "TDX is not up";
	why = cleanslate_keep_refusal();
	if (why)
		return why;
	line = cleanslate_image_line(image);
	if (!line || !cleanslate_line_names(line, PARAMETER, named))
		return "the next kernel's command line does not name this kernel's table";
	why = cleanslate_line_refusal(line, strlen(line), pool_base, pool_bytes);
	if (why)
		return why;
	if (cleanslate_image_overlaps_pool(image))
		return "the image is to go into the pool";
	return NULL;
}

static struct kimage *const *loaded_image;
static atomic_t *kexec_lock;

/* Has the table room for all? By writing one elsewhere. NULL if so. */
static const char *cleanslate_table_refusal(void)
{
	char *scratch;
	bool fits;

	if (!cleanslate_host_is_up())
		return NULL;
	scratch = vmalloc(CLEANSLATE_TAKEOVER_BYTES);
	if (!scratch)
		return NULL;
	fits = cleanslate_keep_fits(scratch);
	vfree(scratch);
	return fits ? NULL : "the takeover table has no room for so much";
}

/* Why not all CPUs would be together at the kexec, or NULL. */
static const char *cleanslate_cpus_refusal(void)
{
	if (cleanslate_host_is_one_cpu())
		return NULL;
	if (num_online_cpus() == 1)
		return "CPUs that run TDX are offline, and the one that is left would come alone";
	return cleanslate_parallel_why_not();
}

/* What a kexec would do now: as for dump, under kexec's lock. */
int cleanslate_keep_state(char *buffer)
{
	const char *refused = cleanslate_kexec_refusal(), *why, *full;
	int unlocked = 0;

	if (refused)
		return sysfs_emit(buffer, "refused: %s\n", refused);
	if (cleanslate_policy != CLEANSLATE_POLICY_KEEP)
		return sysfs_emit(buffer, "reset\n");
	if (!loaded_image || !kexec_lock)
		return sysfs_emit(buffer, "reset: the kernel's image was not found\n");
	full = cleanslate_table_refusal();
	preempt_disable();
	if (!atomic_try_cmpxchg_acquire(kexec_lock, &unlocked, 1)) {
		preempt_enable();
		return -EBUSY;
	}
	why = *loaded_image ? cleanslate_keep_why_not(*loaded_image) : "no image is loaded";
	atomic_set_release(kexec_lock, 0);
	preempt_enable();
	why = why ?: cleanslate_cpus_refusal() ?: full;
	return sysfs_emit(buffer, "%s%s\n", why ? "reset: " : "keep", why ?: "");
}

int cleanslate_takeover_parameter(char *buffer)
{
	return cleanslate_keep_is_possible() && cleanslate_policy == CLEANSLATE_POLICY_KEEP ?
		sysfs_emit(buffer, "%s\n", named) : 0;
}

u64 cleanslate_tsc(void)
{
	return rdtsc_ordered();
}

/*
 * The next kernel
 */

bool cleanslate_taken_over(void)
{
	return taken_over;
}

bool cleanslate_takeover_refused(void)
{
	return takeover_failed;
}

int cleanslate_takeover_state(char *buffer)
{
	const char *how = cleanslate_host_is_for_vacuum() ? "taken over for the vacuum alone" :
							    "taken over";

	if (takeover_failed)
		return sysfs_emit(buffer, "refused: %s\n", takeover_failed);
	if (!taken_over)
		return sysfs_emit(buffer, "none%s%s\n", nothing_left ? ": " : "",
				  nothing_left ?: "");
	if (!cleanslate_host_is_up())
		return sysfs_emit(buffer, "table read, TDX is not up yet\n");
	if (!was_vacuumed)
		return sysfs_emit(buffer, "TDX %s, TDs not adopted are still there\n", how);
	return sysfs_emit(buffer, "TDX %s, %llu TDs torn down, %llu pages still private\n",
			  how, vacuumed.tds, vacuumed.left);
}

/* Does the table stand in the pool that this kernel has? Sets the number. */
static const char *cleanslate_find_takeover(u64 *nonce)
{
	u64 address;

	if (!tables)
		return "it needs pool_base and pool_bytes as in the kernel before";
	if (sscanf(takeover, "%llx,%llx", &address, nonce) != 2)
		return "takeover is neither ADDRESS,NUMBER nor none";
	if (address != pool_base)
		return "the table is not at the start of the pool";
	return NULL;
}

/*
 * Takes a table over. Why it does not, or NULL. The copy and the words are the Rust object's once
 * it has both, whatever it says.
 */
static const char *cleanslate_read_takeover_here(u64 nonce)
{
	u64 words_needed, *words;
	void *copy;

	copy = vmalloc(CLEANSLATE_TAKEOVER_BYTES);
	if (!copy)
		return no_memory;
	memcpy(copy, tables, CLEANSLATE_TAKEOVER_BYTES);
	words_needed = cleanslate_take_over_words(copy, pool_base, pool_bytes, nonce);
	if (!words_needed) {
		vfree(copy);
		return "the table was refused";
	}
	words = vzalloc(words_needed * sizeof(u64));
	if (!words) {
		vfree(copy);
		return no_memory;
	}
	if (cleanslate_take_over(copy, pool_base, pool_bytes, words))
		return "the table was refused";
	cleanslate_dump_ledger(words, words_needed);
	taken_over = true;
	pr_info("takeover table read; write \"up\" to /dev/cleanslate to take TDX over\n");
	return NULL;
}

struct cleanslate_reading {
	struct work_struct work;
	u64 nonce;
	const char *why;
};

static void cleanslate_do_reading(struct work_struct *work)
{
	struct cleanslate_reading *reading = container_of(work, struct cleanslate_reading, work);

	reading->why = cleanslate_read_takeover_here(reading->nonce);
}

/* On the stack of a worker: the Rust object needs 12 KiB, and modules are loaded deep in theirs. */
static const char *cleanslate_read_takeover(u64 nonce)
{
	struct cleanslate_reading reading = { .nonce = nonce };

	INIT_WORK_ONSTACK(&reading.work, cleanslate_do_reading);
	schedule_work(&reading.work);
	flush_work(&reading.work);
	destroy_work_on_stack(&reading.work);
	return reading.why;
}

/*
 * Is there nothing to take over although takeover= names a table? So it is if the kernel before has
 * reset everything after all, and if the start of the pool was wiped, which every handover but one
 * that keeps TDX does, and every takeover: a number of an earlier boot. A table of any number, or
 * one that was overwritten, is a reason to refuse.
 */
static bool cleanslate_nothing_was_left(void)
{
	switch (cleanslate_pool_start(tables)) {
	case CLEANSLATE_POOL_RESET:
		nothing_left = "the kernel before has left nothing private";
		return true;
	case CLEANSLATE_POOL_EMPTY:
		nothing_left = "no table was left in the pool";
		return true;
	}
	return false;
}

static void cleanslate_try_takeover(void)
{
	u64 nonce;

	takeover_failed = cleanslate_find_takeover(&nonce);
	if (!takeover_failed && cleanslate_nothing_was_left()) {
		pr_info("nothing to take over: %s\n", nothing_left);
		return;
	}
	/* In any case: memory may be private. */
	cleanslate_stay_loaded();
	if (!takeover_failed)
		takeover_failed = cleanslate_read_takeover(nonce);
	if (!takeover_failed)
		return;
	pr_emerg("TDX is not taken over: %s\n", takeover_failed);
	cleanslate_lost(takeover_failed == no_memory ? not_read :
			"a takeover table was refused, and what it lists is private");
}

/* "up" again, if there was no memory. 0, or a negative errno. */
int cleanslate_takeover_retry(void)
{
	u64 nonce;

	if (takeover_failed != no_memory)
		return -EINVAL;
	takeover_failed = cleanslate_find_takeover(&nonce) ?: cleanslate_read_takeover(nonce);
	if (takeover_failed) {
		pr_err("TDX is not taken over: %s\n", takeover_failed);
		return takeover_failed == no_memory ? -ENOMEM : -EINVAL;
	}
	/* Another reason that was noted meanwhile stays. */
	cmpxchg(&cleanslate_unknown, not_read, NULL);
	return 0;
}

/*
 * The pool is mapped; nothing of it was used. A table that is refused does not fail the load: the
 * pool may be private, and a kexec into a kernel that does not reserve it must not happen.
 */
void cleanslate_keep_start(void *pool)
{
	if (cleanslate_takeover_is_wanted()) {
		cleanslate_try_takeover();
		return;
	}
	if (!pool || cleanslate_pool_start(pool) != CLEANSLATE_POOL_TABLE)
		return;
	if (takeover) {
		/* The operator says so. */
		pr_warn("takeover=none: a table in the pool is wiped\n");
		memset(pool, 0, PAGE_SIZE);
		return;
	}
	takeover_failed = "a table stands in the pool, and takeover= was not given";
	pr_emerg("%s: unload the module, and load it with takeover= of /proc/cmdline; or takeover=none, if the machine was reset through the firmware since\n",
		 takeover_failed);
	cleanslate_lost("a takeover table was not read, and what it lists is private");
}

static int cleanslate_vacuum_now(void *unused)
{
	int ret = cleanslate_vacuum(&vacuumed);

	was_vacuumed = was_vacuumed || !ret;
	return ret;
}

int cleanslate_host_vacuum(void)
{
	int ret = cleanslate_host_check();

	return ret ?: cleanslate_host_run(cleanslate_vacuum_now, NULL);
}

/* Is a table to be read? Then the pool may be private, and a load that fails leaves it alone. */
bool cleanslate_takeover_is_wanted(void)
{
	return takeover && strcmp(takeover, "none");
}

/* Is policy=keep, or is a table to be read? Then the start of the pool is for tables. */
bool cleanslate_keep_is_wanted(void)
{
	return cleanslate_takeover_is_wanted() || cleanslate_policy == CLEANSLATE_POLICY_KEEP;
}

/* Before the pool is used. Nothing is mapped if there is none. */
int cleanslate_keep_init(u64 base, u64 bytes, const void *pool)
{
	u64 nonce = get_random_u64();

	if (!cleanslate_keep_is_wanted())
		return 0;
	if (!pool || bytes <= CLEANSLATE_TAKEOVER_BYTES) {
		/* What is private is not known then; see cleanslate_keep_start(). */
		if (cleanslate_takeover_is_wanted())
			return 0;
		pr_err("policy=keep needs memory that is reserved at boot: pool_base, pool_bytes\n");
		return -EINVAL;
	}
	pool_base = base;
	pool_bytes = bytes;
	tables = pool;
	loaded_image = (struct kimage *const *)cleanslate_symbol("kexec_image");
	kexec_lock = (atomic_t *)cleanslate_symbol("__kexec_lock");
	cleanslate_keep_place(base, bytes, nonce);
	snprintf(named, sizeof(named), PARAMETER "%#llx,%#llx", base, nonce);
	return 0;
}

/* policy=keep can only be chosen when the module is loaded: pages of TDs come from the pool. */
bool cleanslate_keep_is_possible(void)
{
	return *named && !cleanslate_host_is_for_vacuum();
}
