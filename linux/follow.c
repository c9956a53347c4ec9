// SPDX-License-Identifier: GPL-2.0
/*
 * Pages of TDs that the kernel builds itself. Every page goes to the TDX module as an operand of a SEAMCALL, and every SEAMCALL goes through
 * the kernel's wrappers: a probe at their entry marks the page before the call is made, one at their return says what became of it, and one on
 * the kernel's reset of a page, which it makes itself, takes the mark away. Refuses to guess: a probe that was missed, a leaf that is not
 * known, a page that lies nowhere make what is private unknown, and then no kexec image is let in.
 *
 * A page whose SEAMCALL has failed may be private, and the kernel frees some of those as they are. A reference keeps such a page out of
 * the allocator until a later call takes it or the kernel resets it.
 */
#define pr_fmt(fmt) "cleanslate: " fmt

#include <linux/mm.h>
#include <linux/slab.h>
#include <linux/smp.h>
#include <linux/vmalloc.h>

#include "cleanslate.h"

/* As in object/src/watch.rs. */
static const char *const problems[] = {
	NULL,
	"this kernel makes a SEAMCALL whose pages this module does not know",
	"this kernel has given the TDX module a page that lies in no memory of the time this module was loaded",
	"this kernel has reset a page that the TDX module still has",
};

static void note(u32 problem)
{
	if (problem)
		cleanslate_lost(problems[min_t(u32, problem, ARRAY_SIZE(problems) - 1)]);
}

/* Pages that a reference keeps. One that finds no room here is kept for good. */
static atomic_long_t held[256];
static atomic_t held_count = ATOMIC_INIT(0);

static atomic_long_t *find_held(unsigned long page)
{
	int index;

	for (index = 0; index < ARRAY_SIZE(held); index++)
		if (atomic_long_read(&held[index]) == page)
			return &held[index];
	return NULL;
}

void cleanslate_hold(u64 page)
{
	int index;

	/* Page 0 is nobody's. */
	if (!pfn_valid(page) || (atomic_read(&held_count) && find_held(page)))
		return;
	get_page(pfn_to_page(page));
	for (index = 0; index < ARRAY_SIZE(held); index++) {
		if (!atomic_long_cmpxchg(&held[index], 0, page)) {
			atomic_inc(&held_count);
			return;
		}
	}
}

void cleanslate_release(u64 page)
{
	atomic_long_t *place = atomic_read(&held_count) ? find_held(page) : NULL;

	if (!place || atomic_long_cmpxchg(place, page, 0) != page)
		return;
	atomic_dec(&held_count);
	put_page(pfn_to_page(page));
}

u32 cleanslate_held(void)
{
	return atomic_read(&held_count);
}

static void registers_of(struct cleanslate_registers *registers, u64 rax, const struct seamcall_args *args)
{
	*registers = (struct cleanslate_registers){
		.rax = rax, .rcx = args->rcx, .rdx = args->rdx, .r8 = args->r8, .r9 = args->r9,
		.r10 = args->r10, .r11 = args->r11, .r12 = args->r12, .r13 = args->r13,
	};
}

/* The wrappers. VP.ENTER's cannot be probed in a kernel that lets nothing into its entry code; it gives no page. */

struct call {
	struct cleanslate_registers registers;
	const struct seamcall_args *args;
};

void cleanslate_before_seamcall(u64 leaf, const struct seamcall_args *args)
{
	struct cleanslate_registers registers;

	registers_of(&registers, leaf, args);
	note(cleanslate_before(&registers));
}

static int on_entry(struct kretprobe_instance *instance, struct pt_regs *regs)
{
	struct call *call = (void *)instance->data;

	call->args = (const void *)regs->si;
	registers_of(&call->registers, regs->di, call->args);
	return 0;
}
NOKPROBE_SYMBOL(on_entry);

static int on_return(struct kretprobe_instance *instance, struct pt_regs *regs)
{
	const struct call *call = (void *)instance->data;
	struct cleanslate_registers answer;

	registers_of(&answer, regs_return_value(regs), call->args);
	note(cleanslate_after(&call->registers, &answer));
	return 0;
}
NOKPROBE_SYMBOL(on_return);

#define RETURN_OF(name) { .kp.symbol_name = name, .entry_handler = on_entry, .handler = on_return, .data_size = sizeof(struct call) }
static struct kretprobe returns[] = { RETURN_OF("__seamcall"), RETURN_OF("__seamcall_ret") };

/* The kernel's reset of pages that came back: done here, so that mark and reset go together. */

static bool on_reset(struct pt_regs *regs)
{
	/* The CPU that stores is the one that fences. */
	note(cleanslate_reset(get_cpu(), regs->di, regs->si));
	put_cpu();
	return true;
}

static struct cleanslate_hook reset = { .name = "tdx_quirk_reset_paddr", .enter = on_reset, .may_skip = true };
static int returns_armed;
static u64 *words;

/* Can pages of TDs be followed in this kernel? */
bool cleanslate_follows(void)
{
	return reset.armed;
}

/* Was something not seen? */
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
		pr_err("no memory for the ledger of private pages: 64 KB for each GiB of memory\n");
		ret = -ENOMEM;
		goto returns;
	}
	for (; returns_armed < ARRAY_SIZE(returns); returns_armed++) {
		struct kretprobe *probe = &returns[returns_armed];

		probe->maxactive = max_t(int, 64, 4 * num_possible_cpus());
		ret = register_kretprobe(probe);
		if (ret) {
			pr_err("this kernel's %s cannot be watched (%d)\n", probe->kp.symbol_name, ret);
			goto returns;
		}
	}
	ret = cleanslate_arm(&reset, 1);
	if (!ret)
		return 0;
returns:
	cleanslate_follow_exit();
	return ret;
}

/* The ledger goes with its memory: the module is unloaded, or was never there. */
void cleanslate_follow_exit(void)
{
	cleanslate_disarm(&reset, 1);
	while (returns_armed)
		unregister_kretprobe(&returns[--returns_armed]);
	vfree(words);
	words = NULL;
}
