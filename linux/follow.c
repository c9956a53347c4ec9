// SPDX-License-Identifier: GPL-2.0
/*
 * Tracking of pages of the kernel's TDs, by the operands of its SEAMCALLs
 *
 * A page is given to the TDX module as an operand of a SEAMCALL, and every SEAMCALL goes through
 * the kernel's wrappers. A probe at their entry (watch.c) marks the page before the call is made, a
 * probe at their return records the result, and a hook on the kernel's reset of a page, which this
 * module does itself, clears the mark. A missed probe, an unknown leaf or a page outside of the
 * ledger means that private memory is not tracked completely: cleanslate_lost().
 *
 * A reference keeps each marked page out of the page allocator, because the kernel may free a page
 * that is still private: the page of a SEAMCALL that failed, or guest memory when the TDX module is
 * dead. The reset before the next kernel starts overwrites marked pages.
 */
#define pr_fmt(fmt) "cleanslate: " fmt

#include <linux/mm.h>
#include <linux/slab.h>
#include <linux/smp.h>
#include <linux/vmalloc.h>

#include "cleanslate.h"

bool cleanslate_hold(u64 page)
{
	return !pfn_valid(page) || folio_try_get(page_folio(pfn_to_page(page)));
}

void cleanslate_release(u64 page)
{
	if (pfn_valid(page))
		folio_put(page_folio(pfn_to_page(page)));
}

bool cleanslate_only_held(u64 page)
{
	struct folio *folio;

	if (!pfn_valid(page))
		return false;
	folio = page_folio(pfn_to_page(page));
	return !folio_test_large(folio) && folio_ref_count(folio) == 1;
}

void cleanslate_read_registers(struct cleanslate_registers *registers, u64 rax,
			       const struct cleanslate_args *args)
{
	*registers = (struct cleanslate_registers){
		.rax = rax,
		.rcx = args->rcx,
		.rdx = args->rdx,
		.r8 = args->r8,
		.r9 = args->r9,
		.r10 = args->r10,
		.r11 = args->r11,
		.r12 = args->r12,
		.r13 = args->r13,
	};
}

struct cleanslate_seamcall {
	struct cleanslate_registers registers;
	const struct cleanslate_args *args;
};

static int cleanslate_on_entry(struct kretprobe_instance *instance, struct pt_regs *regs)
{
	struct cleanslate_seamcall *call = (void *)instance->data;

	call->args = (const void *)regs->si;
	cleanslate_read_registers(&call->registers, regs->di, call->args);
	return 0;
}
NOKPROBE_SYMBOL(cleanslate_on_entry);

static int cleanslate_on_return(struct kretprobe_instance *instance, struct pt_regs *regs)
{
	const struct cleanslate_seamcall *call = (void *)instance->data;
	struct cleanslate_registers answer;

	cleanslate_read_registers(&answer, regs_return_value(regs), call->args);
	cleanslate_observe_return(&call->registers, &answer);
	return 0;
}
NOKPROBE_SYMBOL(cleanslate_on_return);

#ifdef CONFIG_KRETPROBE_ON_RETHOOK
/*
 * Called in place of the kernel's handler, which calls cleanslate_on_return() with interrupts on
 * and this CPU's current kprobe set: a SEAMCALL made by an IPI in between (KVM's VP.FLUSH, when a
 * VCPU moves) would be a missed hit.
 */
static void cleanslate_on_rethook(struct rethook_node *node, void *data, unsigned long address,
				  struct pt_regs *regs)
{
	unsigned long flags;

	local_irq_save(flags);
	cleanslate_on_return(container_of(node, struct kretprobe_instance, node), regs);
	local_irq_restore(flags);
}
NOKPROBE_SYMBOL(cleanslate_on_rethook);

static void cleanslate_take_returns(struct kretprobe *probe)
{
	/* Unregistering sets it to NULL. */
	WRITE_ONCE(probe->rh->handler, (typeof(probe->rh->handler))cleanslate_on_rethook);
}
#else
static void cleanslate_take_returns(struct kretprobe *probe)
{
}
#endif

#define RETURN_OF(name) {						\
	.kp.symbol_name = (name),					\
	.entry_handler = cleanslate_on_entry,				\
	.handler = cleanslate_on_return,				\
	.data_size = sizeof(struct cleanslate_seamcall),		\
}

/* Not the wrapper of VP.ENTER: it gives no page, and newer kernels do not allow probes there. */
static struct kretprobe returns[] = { RETURN_OF("__seamcall"), RETURN_OF("__seamcall_ret") };

/* The kernel's reset of returned pages. Done here, so that reset and mark change together. */
static bool cleanslate_on_reset(struct pt_regs *regs)
{
	/* The CPU that stores is the one that fences. */
	cleanslate_reset_pages(get_cpu(), regs->di, regs->si);
	put_cpu();
	return true;
}

static struct cleanslate_hook reset = {
	.name = "tdx_quirk_reset_paddr",
	.enter = cleanslate_on_reset,
	.may_skip = true,
};

static int returns_armed;
static u64 *words;

/* Did a probe miss a hit? */
bool cleanslate_follow_missed(void)
{
	int index;

	for (index = 0; index < returns_armed; index++)
		if (returns[index].nmissed || returns[index].kp.nmissed)
			return true;
	return cleanslate_hook_missed(&reset, 1);
}

int cleanslate_follow_init(void)
{
	const struct cleanslate_memory *memory;
	u32 count;
	int ret;

	if (!cleanslate_symbol(reset.name))
		return 0;
	memory = cleanslate_memory_map(&count);
	if (!memory)
		return -E2BIG;
	words = vzalloc(cleanslate_follow_words(memory, count) * sizeof(u64));
	if (!words || cleanslate_follow(words, memory, count)) {
		pr_err("failed to allocate the page ledger (64 KB per GiB of memory)\n");
		ret = -ENOMEM;
		goto exit;
	}
	for (; returns_armed < ARRAY_SIZE(returns); returns_armed++) {
		struct kretprobe *probe = &returns[returns_armed];

		probe->maxactive = max_t(int, 64, 4 * num_possible_cpus());
		ret = register_kretprobe(probe);
		if (ret) {
			pr_err("failed to probe the return of %s: %d (unsupported kernel?)\n",
			       probe->kp.symbol_name, ret);
			goto exit;
		}
		cleanslate_take_returns(probe);
	}
	ret = cleanslate_arm(&reset, 1);
	if (!ret)
		return 0;
exit:
	cleanslate_follow_exit();
	return ret;
}

void cleanslate_follow_exit(void)
{
	cleanslate_disarm(&reset, 1);
	while (returns_armed)
		unregister_kretprobe(&returns[--returns_armed]);
}

/*
 * The Rust object reads the ledger in every hook and probe of this module, also after an init
 * function that failed: to be called last, when all are unregistered. Unregistering one waits for
 * its handlers.
 */
void cleanslate_follow_free(void)
{
	vfree(words);
	words = NULL;
}
