// SPDX-License-Identifier: GPL-2.0
/*
 * The kernel's memory: ranges with their NUMA nodes, contiguous pages, and mappings of pages that
 * are not in the direct map. Each call of cleanslate_memory_map() reads the ranges again.
 */
#define pr_fmt(fmt) "cleanslate: " fmt

#include <linux/gfp.h>
#include <linux/io.h>
#include <linux/ioport.h>
#include <linux/memory_hotplug.h>
#include <linux/mm.h>
#include <linux/slab.h>
#include <linux/vmalloc.h>
#include <linux/workqueue.h>
#include <asm/pgtable.h>

#include "cleanslate.h"

#define MAX_MEMORY 128

/* The last but one argument of alloc_contig_range() before Linux 6.16. */
#ifndef ACR_FLAGS_NONE
#define ACR_FLAGS_NONE MIGRATE_MOVABLE
#endif

/* One caller at a time: the init function, later the initialization of TDX under its lock. */
static struct cleanslate_memory memory[MAX_MEMORY];
static u32 memory_count;

static void cleanslate_add_memory(u64 base, u64 end, u32 node)
{
	struct cleanslate_memory *last = memory_count ? &memory[memory_count - 1] : NULL;

	if (last && last->base + last->bytes == base && last->node == node) {
		last->bytes += end - base;
		return;
	}
	if (memory_count < MAX_MEMORY)
		memory[memory_count] = (struct cleanslate_memory){
			.base = base,
			.bytes = end - base,
			.node = node,
		};
	memory_count++;
}

static int cleanslate_note_memory(struct resource *resource, void *unused)
{
	/* Not the first MiB, as in the kernel's TDX host support. */
	u64 base = max_t(u64, PAGE_ALIGN(resource->start), SZ_1M);
	u64 end = PAGE_ALIGN_DOWN(resource->end + 1);

	while (base < end) {
		u64 next = min(end, round_up(base + 1, 1ull << SECTION_SIZE_BITS));
		struct page *page = pfn_to_online_page(base >> PAGE_SHIFT);

		/* Memory that was hot-added and is offline has no struct page. */
		if (page)
			cleanslate_add_memory(base, next, page_to_nid(page));
		base = next;
	}
	return 0;
}

/* NULL if there are too many ranges. */
const struct cleanslate_memory *cleanslate_memory_map(u32 *count)
{
	memory_count = 0;
	walk_iomem_res_desc(IORES_DESC_NONE, IORESOURCE_SYSTEM_RAM | IORESOURCE_BUSY, 0, -1, NULL,
			    cleanslate_note_memory);
	*count = memory_count;
	if (memory_count <= MAX_MEMORY)
		return memory;
	pr_err("more than %u memory ranges\n", MAX_MEMORY);
	return NULL;
}

/*
 * Linux takes a page with a memory error out of its direct map (set_mce_nospec()). Such a page may
 * be private, and the reset must write it, too. Each CPU has an address of its own for that, whose
 * page table entry is looked up in advance: no lock and no allocation at a crash.
 */
static void *slots;
static pte_t **slot_entries;

void *cleanslate_map_page(u32 cpu, u64 page)
{
	void *address;

	if (!slot_entries || cpu >= nr_cpu_ids)
		return NULL;
	address = slots + cpu * PAGE_SIZE;
	set_pte(slot_entries[cpu], pfn_pte(page, PAGE_KERNEL));
	/* No other CPU uses this address. */
	asm volatile("invlpg (%0)" : : "r"(address) : "memory");
	return address;
}

void cleanslate_unmap_page(u32 cpu)
{
	set_pte(slot_entries[cpu], __pte(0));
	asm volatile("invlpg (%0)" : : "r"(slots + cpu * PAGE_SIZE) : "memory");
}

static int cleanslate_find_slot_entries(void)
{
	unsigned int cpu, level;

	for (cpu = 0; cpu < nr_cpu_ids; cpu++) {
		slot_entries[cpu] = lookup_address((unsigned long)slots + cpu * PAGE_SIZE, &level);
		if (!slot_entries[cpu] || level != PG_LEVEL_4K)
			return -EFAULT;
	}
	return 0;
}

int cleanslate_memory_init(void)
{
	struct page **pages = kcalloc(nr_cpu_ids, sizeof(*pages), GFP_KERNEL);
	int ret = -ENOMEM;
	u32 cpu;

	slot_entries = kcalloc(nr_cpu_ids, sizeof(*slot_entries), GFP_KERNEL);
	if (!pages || !slot_entries)
		goto exit;
	/* vmap() makes the page tables; what they map at first does not matter. */
	for (cpu = 0; cpu < nr_cpu_ids; cpu++)
		pages[cpu] = ZERO_PAGE(0);
	slots = vmap(pages, nr_cpu_ids, VM_MAP, PAGE_KERNEL_RO);
	if (slots)
		ret = cleanslate_find_slot_entries();
exit:
	kfree(pages);
	if (ret)
		cleanslate_memory_exit();
	return ret;
}

/* When no hook can run any more. */
void cleanslate_memory_exit(void)
{
	if (slots)
		vunmap(slots);
	kfree(slot_entries);
	slots = NULL;
	slot_entries = NULL;
}

/* Contiguous pages in [first, end), freed by migration: the buddy allocator has at most 4 MiB. */
static u64 cleanslate_allocate_range(u64 pages, u32 node, u64 first, u64 end)
{
	u64 step = max_t(u64, roundup_pow_of_two(pages), pageblock_nr_pages);
	u64 start;
	u32 index;

	for (index = 0; index < memory_count; index++) {
		u64 from = max(memory[index].base >> PAGE_SHIFT, first);
		u64 to = min((memory[index].base + memory[index].bytes) >> PAGE_SHIFT, end);

		if (node != CLEANSLATE_ANY_NODE && memory[index].node != node)
			continue;
		for (start = from; start + pages <= to; start = round_down(start + step, step)) {
			/* alloc_contig_range() works within one zone. */
			if (page_zone(pfn_to_page(start)) !=
			    page_zone(pfn_to_page(start + pages - 1)))
				continue;
			cond_resched();
			if (!alloc_contig_range(start, start + pages, ACR_FLAGS_NONE,
						GFP_KERNEL | __GFP_NOWARN))
				return start << PAGE_SHIFT;
		}
	}
	return 0;
}

static u64 cleanslate_allocate_here(u64 pages, u32 node, u64 first, u64 end)
{
	struct page *page;

	if (pages > 512 || !is_power_of_2(pages) || first || end != U64_MAX) {
		u64 address = cleanslate_allocate_range(pages, node, first, end);

		/* Fall back to other nodes. */
		return address ?: cleanslate_allocate_range(pages, CLEANSLATE_ANY_NODE, first, end);
	}
	page = alloc_pages(GFP_KERNEL | __GFP_NOWARN, ilog2(pages));
	if (!page)
		return 0;
	split_page(page, ilog2(pages));
	return page_to_phys(page);
}

struct cleanslate_allocation {
	struct work_struct work;
	u64 pages, first, end, address;
	u32 node;
};

static void cleanslate_do_allocation(struct work_struct *work)
{
	struct cleanslate_allocation *wanted =
		container_of(work, struct cleanslate_allocation, work);

	wanted->address = cleanslate_allocate_here(wanted->pages, wanted->node, wanted->first,
						   wanted->end);
}

/*
 * On the stack of a worker: the callers in the Rust object are 8 KiB deep in theirs, and migration
 * and reclaim through file systems take several KiB more.
 */
u64 cleanslate_allocate(u64 pages, u32 node, u64 first, u64 end)
{
	struct cleanslate_allocation wanted = {
		.pages = pages,
		.node = node,
		.first = first,
		.end = end,
	};

	INIT_WORK_ONSTACK(&wanted.work, cleanslate_do_allocation);
	schedule_work(&wanted.work);
	flush_work(&wanted.work);
	destroy_work_on_stack(&wanted.work);
	return wanted.address;
}

void cleanslate_free(u64 address, u64 pages)
{
	free_contig_range(address >> PAGE_SHIFT, pages);
}
