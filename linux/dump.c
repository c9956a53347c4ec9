// SPDX-License-Identifier: GPL-2.0
/*
 * The dump at once: at a crash private memory stays as it is, and the crash kernel leaves it out
 *
 * With dump=exclude nothing is reset at a crash, if the crash kernel has this module: the command
 * line of the loaded image names a table of this kernel, which says where its ledger and its PAMTs
 * are. The same module in the crash kernel, with that parameter, makes /proc/vmcore read zeros in
 * their place. Otherwise everything is reset, as ever, and the log says why.
 *
 * What a crash kernel may touch apart from /proc/vmcore is looked through at the crash: memory that
 * is reserved for it, and the first MiB. If a part of it may be private, everything is reset.
 */
#define pr_fmt(fmt) "cleanslate: " fmt

#include <linux/atomic.h>
#include <linux/crash_dump.h>
#include <linux/gfp.h>
#include <linux/io.h>
#include <linux/ioport.h>
#include <linux/kexec.h>
#include <linux/ktime.h>
#include <linux/math64.h>
#include <linux/memory.h>
#include <linux/mm.h>
#include <linux/module.h>
#include <linux/mutex.h>
#include <linux/random.h>
#include <linux/range.h>
#include <linux/slab.h>
#include <linux/string.h>
#include <linux/sysfs.h>
#include <linux/vmalloc.h>

#include "cleanslate.h"

#define ROOT_BYTES	(CLEANSLATE_DUMP_WORDS * sizeof(u64))
#define PARAMETER	"cleanslate.dump_table="

static bool exclude;

static int cleanslate_set_dump(const char *value, const struct kernel_param *kp)
{
	static const char *const choices[] = { "reset", "exclude" };
	int choice = sysfs_match_string(choices, value);

	if (choice < 0)
		return choice;
	WRITE_ONCE(exclude, choice);
	return 0;
}

static int cleanslate_get_dump(char *buffer, const struct kernel_param *kp)
{
	return sysfs_emit(buffer, "%s\n", exclude ? "exclude" : "reset");
}

static const struct kernel_param_ops dump_ops = {
	.set = cleanslate_set_dump,
	.get = cleanslate_get_dump,
};
module_param_cb(dump, &dump_ops, NULL, 0644);
MODULE_PARM_DESC(dump,
		 "reset: reset private memory at a crash (default); exclude: leave it to a crash kernel that has this module and leaves it out of the dump");

/*
 * The kernel that may crash
 */

/* Without and with a ledger. Each is complete before the pointer to it is set. */
static struct cleanslate_dump without_ledger, with_ledger;
static const struct cleanslate_dump *prepared;
static u64 *index_addresses;
static char named[64];

/* Memory of crash kernels, and the image of one. NULL in a kernel without the symbol. */
static const struct resource *crash_high, *crash_low;
static const int *crash_cma_count;
static const struct range *crash_cma;
static struct kimage *const *crash_image;
static atomic_t *kexec_lock;

static void cleanslate_find_crash_kernel(void)
{
	crash_high = (const void *)cleanslate_symbol("crashk_res");
	crash_low = (const void *)cleanslate_symbol("crashk_low_res");
	crash_cma_count = (const void *)cleanslate_symbol("crashk_cma_cnt");
	crash_cma = (const void *)cleanslate_symbol("crashk_cma_ranges");
	crash_image = (void *)cleanslate_symbol("kexec_crash_image");
	kexec_lock = (atomic_t *)cleanslate_symbol("__kexec_lock");
}

/* Without memory for it a crash resets. */
void cleanslate_dump_init(void)
{
	void *root = (void *)__get_free_pages(GFP_KERNEL | __GFP_ZERO, get_order(ROOT_BYTES));

	cleanslate_find_crash_kernel();
	if (!root) {
		pr_warn("no memory for dump=exclude\n");
		return;
	}
	without_ledger.root = root;
	without_ledger.address = __pa(root);
	without_ledger.nonce = get_random_u64();
	snprintf(named, sizeof(named), PARAMETER "%#llx,%#llx", without_ledger.address,
		 without_ledger.nonce);
	/* A crash that sees the pointer sees the structure. */
	smp_store_release(&prepared, &without_ledger);
}

static void cleanslate_free_index(void)
{
	u64 number;

	for (number = 0; index_addresses && number < with_ledger.index_pages; number++)
		if (index_addresses[number])
			free_page((unsigned long)__va(index_addresses[number]));
	kvfree(index_addresses);
	index_addresses = NULL;
}

/* The addresses of the pages of vmalloc memory, in pages of the index. */
static int cleanslate_make_index(const void *words, u64 pages)
{
	u64 *entries = kcalloc(CLEANSLATE_DUMP_ENTRIES, sizeof(u64), GFP_KERNEL);
	u64 page = 0, number, count;

	index_addresses = kvcalloc(with_ledger.index_pages, sizeof(u64), GFP_KERNEL);
	if (!entries || !index_addresses)
		goto no_memory;
	for (number = 0; number < with_ledger.index_pages; number++) {
		u64 *place = (u64 *)__get_free_page(GFP_KERNEL);

		if (!place)
			goto no_memory;
		index_addresses[number] = __pa(place);
		for (count = 0; count < CLEANSLATE_DUMP_ENTRIES && page < pages; count++, page++)
			entries[count] = PFN_PHYS(vmalloc_to_pfn(words + page * PAGE_SIZE));
		cleanslate_dump_index(place, number, with_ledger.nonce, entries, count);
		cond_resched();
	}
	kfree(entries);
	return 0;
no_memory:
	kfree(entries);
	cleanslate_free_index();
	return -ENOMEM;
}

/* The memory of a new ledger, of vzalloc(). Once. Without memory for an index a crash resets. */
void cleanslate_dump_ledger(const u64 *words, u64 count)
{
	u64 pages = DIV_ROUND_UP(count * sizeof(u64), PAGE_SIZE);

	if (!prepared)
		return;
	with_ledger = without_ledger;
	with_ledger.ledger = words;
	with_ledger.words = pages * (PAGE_SIZE / sizeof(u64));
	with_ledger.index_pages = DIV_ROUND_UP(pages, CLEANSLATE_DUMP_ENTRIES);
	if (cleanslate_make_index(words, pages)) {
		pr_warn("no memory for dump=exclude\n");
		return;
	}
	with_ledger.index = index_addresses;
	/* As above. */
	smp_store_release(&prepared, &with_ledger);
}

/* No hook and no file uses it any more. */
void cleanslate_dump_exit(void)
{
	prepared = NULL;
	cleanslate_free_index();
	if (without_ledger.root)
		free_pages((unsigned long)without_ledger.root, get_order(ROOT_BYTES));
	without_ledger.root = NULL;
}

static bool cleanslate_resource_overlaps(const struct resource *resource)
{
	return resource->end && cleanslate_dump_overlaps(resource->start, resource_size(resource));
}

/* Why the crash kernel could touch private memory apart from its dump, or NULL. */
static const char *cleanslate_crash_kernel_overlaps(const struct kimage *image)
{
	bool overlaps = cleanslate_dump_overlaps(0, SZ_1M);
	unsigned long number;
	int part;

	if (!crash_high || !crash_high->end || (crash_cma_count && !crash_cma))
		return "the crash kernel's memory was not found";
	overlaps |= cleanslate_resource_overlaps(crash_high) ||
		    (crash_low && cleanslate_resource_overlaps(crash_low));
	/* Memory that this kernel uses, too (crashkernel=SIZE,cma). */
	for (part = 0; crash_cma_count && part < *crash_cma_count; part++)
		overlaps |= cleanslate_dump_overlaps(crash_cma[part].start,
						     range_len(&crash_cma[part]));
	for (number = 0; number < image->nr_segments; number++)
		overlaps |= cleanslate_dump_overlaps(image->segment[number].mem,
						     image->segment[number].memsz);
	return overlaps ? "the crash kernel uses memory that may be private" : NULL;
}

/* A wild store to the addresses of the index must not fault at the crash. */
static bool cleanslate_index_is_memory(const struct cleanslate_dump *dump)
{
	u64 number;

	for (number = 0; number < dump->index_pages; number++)
		if (!pfn_valid(PHYS_PFN(dump->index[number])))
			return false;
	return true;
}

/* Why a crash resets, or NULL. */
static const char *cleanslate_dump_refusal(const struct kimage *image)
{
	/* With the structure behind it, see cleanslate_dump_init(). */
	const struct cleanslate_dump *dump = smp_load_acquire(&prepared);
	const char *line;

	if (!dump)
		return "there was no memory for a table";
	if (!cleanslate_index_is_memory(dump))
		return "the addresses of the table's index were overwritten";
	if (cleanslate_unknown)
		return cleanslate_unknown;
	line = cleanslate_image_line(image);
	if (!line || !cleanslate_line_names(line, PARAMETER, named))
		return "the crash kernel's command line does not name this kernel's table";
	return cleanslate_crash_kernel_overlaps(image);
}

/* At a crash, right before the jump. True: private memory stays as it is. */
bool cleanslate_dump_leave(const struct kimage *image)
{
	u64 start = ktime_get_mono_fast_ns();
	const char *why;

	if (!READ_ONCE(exclude))
		return false;
	why = cleanslate_dump_refusal(image);
	if (!why)
		why = cleanslate_dump_write(prepared);
	/* Again, behind the gate: a CPU that did not stop may have given a page meanwhile. */
	if (!why)
		why = cleanslate_crash_kernel_overlaps(image);
	if (why) {
		pr_emerg("dump=exclude: resetting, because %s\n", why);
		return false;
	}
	pr_emerg("private memory stays private, and the dump is to leave it out; took %llu us\n",
		 div_u64(ktime_get_mono_fast_ns() - start, NSEC_PER_USEC));
	return true;
}

/* Nothing is private, or no longer: a crash kernel that looks for a table is to find out. */
void cleanslate_dump_nothing_left(void)
{
	/* As above. */
	const struct cleanslate_dump *dump = smp_load_acquire(&prepared);

	if (dump)
		cleanslate_dump_write_reset(dump);
}

/* Under kexec's lock, so that nobody unloads the image meanwhile. */
int cleanslate_dump_state(char *buffer)
{
	const char *why;
	int unlocked = 0;

	if (!READ_ONCE(exclude))
		return sysfs_emit(buffer, "reset\n");
	if (!crash_image || !kexec_lock)
		return sysfs_emit(buffer, "exclude, if the crash kernel has this module\n");
	/* Short: a crash on another CPU starts no crash kernel meanwhile. */
	preempt_disable();
	if (!atomic_try_cmpxchg_acquire(kexec_lock, &unlocked, 1)) {
		preempt_enable();
		return -EBUSY;
	}
	why = *crash_image ? cleanslate_dump_refusal(*crash_image) : "no crash kernel is loaded";
	atomic_set_release(kexec_lock, 0);
	preempt_enable();
	return sysfs_emit(buffer, "%s%s\n", why ? "reset: " : "exclude", why ?: "");
}

int cleanslate_dump_parameter(char *buffer)
{
	return READ_ONCE(exclude) && prepared ? sysfs_emit(buffer, "%s\n", named) : 0;
}

/*
 * The crash kernel
 */

static char *dump_table;
module_param(dump_table, charp, 0400);
MODULE_PARM_DESC(dump_table,
		 "in a crash kernel: ADDRESS,NUMBER of the crashed kernel's table, as in /sys/kernel/cleanslate/dump_parameter");

bool cleanslate_dump_is_wanted(void)
{
	if (!dump_table)
		return false;
	if (is_kdump_kernel())
		return true;
	pr_warn("dump_table is for crash kernels, ignored\n");
	return false;
}

#ifdef CONFIG_PROC_VMCORE

static unsigned long excluded;
module_param_named(dump_excluded, excluded, ulong, 0444);
MODULE_PARM_DESC(dump_excluded, "in a crash kernel: pages that were read as zeros so far");

/* Protects what follows. */
static DEFINE_MUTEX(old_lock);
static u64 *root_copy, *ledger_addresses;
static u64 ledger_pages;

/* One page of old memory. */
static void *window;
static u64 window_page;

static void *cleanslate_old_page(u64 page)
{
	if (window && window_page == page)
		return window;
	if (window)
		memunmap(window);
	window_page = page;
	window = memremap(PFN_PHYS(page), PAGE_SIZE, MEMREMAP_WB);
	return window;
}

bool cleanslate_old_word(u64 address, u64 *word)
{
	const void *page = cleanslate_old_page(PHYS_PFN(address));

	if (page)
		*word = READ_ONCE(*(const u64 *)(page + offset_in_page(address)));
	return page;
}

static bool cleanslate_is_ram(struct vmcore_cb *cb, unsigned long page)
{
	bool private;

	mutex_lock(&old_lock);
	private = cleanslate_dump_is_private(root_copy, ledger_addresses, ledger_pages, page);
	excluded += private;
	mutex_unlock(&old_lock);
	return !private;
}

static struct vmcore_cb vmcore_callback = { .pfn_is_ram = cleanslate_is_ram };

/* All memory but the crash kernel's own is the crashed kernel's, and may be private. */
static int cleanslate_before_online(struct notifier_block *block, unsigned long action,
				    void *argument)
{
	if (action != MEM_GOING_ONLINE)
		return NOTIFY_OK;
	pr_err("refusing to online memory of the crashed kernel\n");
	return notifier_from_errno(-EPERM);
}

static struct notifier_block online_notifier = { .notifier_call = cleanslate_before_online };

static bool cleanslate_copy_old(void *to, u64 address, size_t bytes)
{
	size_t done;

	for (done = 0; done < bytes; done += PAGE_SIZE) {
		const void *page = cleanslate_old_page(PHYS_PFN(address + done));

		if (!page)
			return false;
		memcpy(to + done, page, PAGE_SIZE);
	}
	return true;
}

/* Why the table is not taken, or NULL. */
static const char *cleanslate_read_table(u64 address, u64 nonce,
					 struct cleanslate_dump_facts *facts)
{
	static const char no_memory[] = "there is no memory for it";
	const char *why = NULL;
	u64 number, *page;

	root_copy = kvzalloc(ROOT_BYTES, GFP_KERNEL);
	page = (u64 *)__get_free_page(GFP_KERNEL);
	if (!root_copy || !page) {
		why = no_memory;
		goto out;
	}
	if (!PAGE_ALIGNED(address) || !cleanslate_copy_old(root_copy, address, ROOT_BYTES)) {
		why = "there is no memory at its address";
		goto out;
	}
	why = cleanslate_dump_read(root_copy, address, nonce, facts);
	if (why)
		goto out;
	ledger_pages = facts->ledger_pages;
	ledger_addresses = kvcalloc(ledger_pages + 1, sizeof(u64), GFP_KERNEL);
	if (!ledger_addresses)
		why = no_memory;
	for (number = 0; !why && number < facts->index_pages; number++) {
		address = cleanslate_dump_index_address(root_copy, number);
		if (cleanslate_copy_old(page, address, PAGE_SIZE))
			why = cleanslate_dump_take_index(root_copy, number, page,
							 ledger_addresses);
		else
			why = "its index cannot be read";
	}
out:
	free_page((unsigned long)page);
	return why;
}

static void cleanslate_forget_table(void)
{
	if (window)
		memunmap(window);
	window = NULL;
	kvfree(root_copy);
	kvfree(ledger_addresses);
	root_copy = NULL;
	ledger_addresses = NULL;
}

/* From then on the module cannot be unloaded: the dump may be open, or be opened again. */
int cleanslate_dump_read_init(void)
{
	struct cleanslate_dump_facts facts;
	u64 address, nonce;
	const char *why;
	int ret;

	mutex_lock(&old_lock);
	if (sscanf(dump_table, "%llx,%llx", &address, &nonce) == 2)
		why = cleanslate_read_table(address, nonce, &facts);
	else
		why = "dump_table is not ADDRESS,NUMBER";
	if (why)
		cleanslate_forget_table();
	mutex_unlock(&old_lock);
	if (why) {
		pr_emerg("private memory of the crashed kernel is not known: %s; a poisoned line of it would end the dump by a machine check\n",
			 why);
		return -EINVAL;
	}
	ret = register_memory_notifier(&online_notifier);
	if (ret) {
		cleanslate_forget_table();
		return ret;
	}
	__module_get(THIS_MODULE);
	register_vmcore_cb(&vmcore_callback);
	if (facts.was_reset)
		pr_info("the crashed kernel lists no private memory, the dump has all of it\n");
	else
		pr_info("the dump has zeros in place of %llu KB of PAMT and of pages of TDs\n",
			facts.pamt_kb);
	return 0;
}

#else

bool cleanslate_old_word(u64 address, u64 *word)
{
	return false;
}

int cleanslate_dump_read_init(void)
{
	pr_emerg("this kernel has no /proc/vmcore, dump_table is ignored\n");
	return -EOPNOTSUPP;
}

#endif
