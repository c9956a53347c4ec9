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
#include <linux/io.h>
#include <linux/kernel.h>
#include <linux/kexec.h>
#include <linux/mm.h>
#include <linux/module.h>
#include <linux/random.h>
#include <linux/string.h>
#include <linux/sysfs.h>
#include <linux/vmalloc.h>

#include "cleanslate.h"

#define PARAMETER	"cleanslate.takeover="

static u64 pool_base, pool_bytes;
static char named[64];

/* Why nothing was taken over although it was wanted. */
static const char *takeover_failed;
static bool taken_over;
static struct cleanslate_vacuumed vacuumed;
static bool was_vacuumed;

static char *takeover;
module_param(takeover, charp, 0400);
MODULE_PARM_DESC(takeover,
		 "ADDRESS,NUMBER of the takeover table of the kernel before, as in its /sys/kernel/cleanslate/takeover_parameter");

/*
 * The kernel that keeps
 */

/* One of the ranges of memmap=SIZE$BASE,... has the pool. */
static bool cleanslate_word_reserves_pool(const char *word)
{
	const char *const prefix = "memmap=";
	char *at;

	if (strncmp(word, prefix, strlen(prefix)))
		return false;
	at = (char *)word + strlen(prefix);
	for (;;) {
		u64 size = memparse(at, &at), base;

		if (*at != '$')
			return false;
		base = memparse(at + 1, &at);
		if (base <= pool_base && pool_base - base <= size &&
		    pool_bytes <= size - (pool_base - base))
			return true;
		if (*at++ != ',')
			return false;
	}
}

static bool cleanslate_line_reserves_pool(const char *line)
{
	bool reserves = false;
	const char *word;
	size_t length;

	while ((word = cleanslate_next_word(&line, &length)))
		reserves |= cleanslate_word_reserves_pool(word);
	return reserves;
}

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
	if (!cleanslate_host_is_up())
		return "TDX is not up";
	why = cleanslate_keep_refusal();
	if (why)
		return why;
	line = cleanslate_image_line(image);
	if (!line || !cleanslate_line_names(line, PARAMETER, named))
		return "the next kernel's command line does not name this kernel's table";
	if (!cleanslate_line_reserves_pool(line))
		return "the next kernel's command line does not reserve the pool (memmap=)";
	if (cleanslate_image_overlaps_pool(image))
		return "the image is to go into the pool";
	return NULL;
}

static struct kimage *const *loaded_image;
static atomic_t *kexec_lock;

/* What a kexec would do now: as for dump, under kexec's lock. */
int cleanslate_keep_state(char *buffer)
{
	const char *why;
	int unlocked = 0;

	if (cleanslate_policy != CLEANSLATE_POLICY_KEEP)
		return sysfs_emit(buffer, "reset\n");
	if (!loaded_image || !kexec_lock)
		return sysfs_emit(buffer, "reset: the kernel's image was not found\n");
	preempt_disable();
	if (!atomic_try_cmpxchg_acquire(kexec_lock, &unlocked, 1)) {
		preempt_enable();
		return -EBUSY;
	}
	why = *loaded_image ? cleanslate_keep_why_not(*loaded_image) : "no image is loaded";
	atomic_set_release(kexec_lock, 0);
	preempt_enable();
	return sysfs_emit(buffer, "%s%s\n", why ? "reset: " : "keep", why ?: "");
}

int cleanslate_takeover_parameter(char *buffer)
{
	return *named && cleanslate_policy == CLEANSLATE_POLICY_KEEP ?
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
	if (takeover_failed)
		return sysfs_emit(buffer, "refused: %s\n", takeover_failed);
	if (!taken_over)
		return sysfs_emit(buffer, "none\n");
	if (!cleanslate_host_is_up())
		return sysfs_emit(buffer, "table read, TDX is not up yet\n");
	if (!was_vacuumed)
		return sysfs_emit(buffer, "TDX taken over, TDs not adopted are still there\n");
	return sysfs_emit(buffer, "TDX taken over, %llu TDs torn down, %llu pages still private\n",
			  vacuumed.tds, vacuumed.left);
}

/* Why nothing is taken over, or NULL. The copy of the table stays. */
static const char *cleanslate_read_takeover(const void *pool)
{
	u64 address, nonce, words_needed, *words;
	const char *why = NULL;
	void *copy;

	if (!pool)
		return "it needs pool_base and pool_bytes";
	if (sscanf(takeover, "%llx,%llx", &address, &nonce) != 2)
		return "takeover is not ADDRESS,NUMBER";
	if (address != pool_base || pool_bytes <= CLEANSLATE_TAKEOVER_BYTES)
		return "the table is not at the start of the pool";
	copy = vmalloc(CLEANSLATE_TAKEOVER_BYTES);
	if (!copy)
		return "there is no memory for a copy of the table";
	memcpy(copy, pool, CLEANSLATE_TAKEOVER_BYTES);
	words_needed = cleanslate_take_over_words(copy, pool_base, pool_bytes, nonce);
	if (!words_needed) {
		vfree(copy);
		return "the table was refused";
	}
	words = vzalloc(words_needed * sizeof(u64));
	if (!words) {
		why = "there is no memory to track pages of TDs";
	} else if (cleanslate_take_over(copy, pool_base, pool_bytes, words)) {
		/* Both may be in use. */
		return "the table was refused";
	}
	if (why)
		vfree(copy);
	else
		cleanslate_dump_ledger(words, words_needed);
	return why;
}

/*
 * The pool is mapped; nothing of it was used. A table that is refused does not fail the load: the
 * pool may be private, and a kexec into a kernel that does not reserve it must not happen.
 */
void cleanslate_keep_start(const void *pool)
{
	if (!takeover)
		return;
	takeover_failed = cleanslate_read_takeover(pool);
	/* In any case: memory may be private. */
	cleanslate_keep();
	if (takeover_failed) {
		pr_err("TDX is not taken over: %s\n", takeover_failed);
		cleanslate_lost("a takeover table was refused, and what it lists is private");
		return;
	}
	taken_over = true;
	pr_info("takeover table read; write \"up\" to /dev/cleanslate to take TDX over\n");
}

static int cleanslate_vacuum_now(void *unused)
{
	int ret = cleanslate_vacuum(&vacuumed);

	was_vacuumed = was_vacuumed || !ret;
	return ret;
}

int cleanslate_host_vacuum(void)
{
	return cleanslate_host_run(cleanslate_vacuum_now, NULL);
}

/* Is policy=keep, or is a table to be read? Then the start of the pool is for tables. */
bool cleanslate_keep_is_wanted(void)
{
	return takeover || cleanslate_policy == CLEANSLATE_POLICY_KEEP;
}

/* Before the pool is used. */
int cleanslate_keep_init(u64 base, u64 bytes)
{
	u64 nonce = get_random_u64();

	if (!cleanslate_keep_is_wanted())
		return 0;
	if (bytes <= CLEANSLATE_TAKEOVER_BYTES) {
		/* What is private is not known then; see cleanslate_keep_start(). */
		if (takeover)
			return 0;
		pr_err("policy=keep needs memory that is reserved at boot: pool_base, pool_bytes\n");
		return -EINVAL;
	}
	pool_base = base;
	pool_bytes = bytes;
	loaded_image = (struct kimage *const *)cleanslate_symbol("kexec_image");
	kexec_lock = (atomic_t *)cleanslate_symbol("__kexec_lock");
	cleanslate_keep_place(base, bytes, nonce);
	snprintf(named, sizeof(named), PARAMETER "%#llx,%#llx", base, nonce);
	return 0;
}

/* policy=keep can only be chosen when the module is loaded: pages of TDs come from the pool. */
bool cleanslate_keep_is_possible(void)
{
	return *named;
}
