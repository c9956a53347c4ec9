// SPDX-License-Identifier: GPL-2.0
/*
 * Functions of the kernel whose effect on pages this module would not see
 *
 * The answers of __seamcall_saved_ret() are not observed: it can have no probe since Linux 6.17. In
 * kernels up to 7.3 it is VP.ENTER's alone, which gives no page. The leaves whose operands beyond
 * R11 are pages need it, too: those that split and join guest pages, with the pair of Dynamic PAMT
 * in R12 and R13. Where the kernel's function for one calls no wrapper that is observed, tracking
 * ends with its first call.
 *
 * A copy that the compiler has made of a function that is hooked (the part that it did not inline,
 * one with fewer arguments) has no hook. Pages that it resets stay marked, and this module keeps
 * its references to them: memory that is lost, and nothing that is overwritten. Looked for are
 * the two functions that resets go through, because their callers are in the same source file; the
 * others that are hooked are called from other files or by their address. A name with two suffixes,
 * or a number above 9, is not found.
 */
#define pr_fmt(fmt) "cleanslate: " fmt

#include <linux/kernel.h>
#include <linux/string.h>
#include <linux/sysfs.h>

#include "cleanslate.h"

static bool cleanslate_before_split(struct pt_regs *regs)
{
	cleanslate_lost("the kernel splits or joins guest pages by unobserved SEAMCALLs");
	return false;
}

static struct cleanslate_hook splits[] = {
	{ .name = "tdh_mem_page_demote", .enter = cleanslate_before_split },
	{ .name = "tdh_mem_page_promote", .enter = cleanslate_before_split },
};

/* Opcodes of CALL and JMP with a 32-bit displacement. */
#define CALL_REL32	0xe8
#define JMP_REL32	0xe9

/* Does the code of a function call another one, or jump to it at its end? */
static bool cleanslate_calls(const char *name, const char *callee)
{
	unsigned long to = cleanslate_symbol(callee), size = 0, at, target;
	const u8 *code = (const u8 *)cleanslate_function(name, &size);
	s32 displacement;

	for (at = 0; code && to && at + 5 <= size; at++) {
		if (code[at] != CALL_REL32 && code[at] != JMP_REL32)
			continue;
		memcpy(&displacement, code + at + 1, sizeof(displacement));
		target = (unsigned long)code + at + 5 + displacement;
		/* A direct call may pass over the ENDBR at the beginning. */
		if (target == to || target == to + 4)
			return true;
	}
	return false;
}

/* Reaches SEAMCALL in wrappers that are observed, and in no other? */
static bool cleanslate_is_observed(const char *name)
{
	return (cleanslate_calls(name, "__seamcall") || cleanslate_calls(name, "__seamcall_ret")) &&
	       !cleanslate_calls(name, "__seamcall_saved_ret");
}

static const char *const hooked[] = {
	"tdx_quirk_reset_page", "tdx_quirk_reset_paddr",
};

static const char *const suffixes[] = { "part", "constprop", "isra" };

/* Of each name and suffix. */
#define MAX_COPIES	10

/* The name of a copy, of which the kernel may have none. */
static void cleanslate_copy_name(char *name, size_t size, int function, int suffix, int number)
{
	snprintf(name, size, "%s.%s.%d", hooked[function], suffixes[suffix], number);
}

static void cleanslate_find_copies(void (*found)(const char *name, void *context), void *context)
{
	int function, suffix, number;
	char name[64];

	for (function = 0; function < ARRAY_SIZE(hooked); function++)
		for (suffix = 0; suffix < ARRAY_SIZE(suffixes); suffix++)
			for (number = 0; number < MAX_COPIES; number++) {
				cleanslate_copy_name(name, sizeof(name), function, suffix, number);
				if (cleanslate_symbol(name))
					found(name, context);
			}
}

static void cleanslate_warn_of_copy(const char *name, void *unused)
{
	pr_warn("this kernel has a copy of a hooked function, %s: pages that it resets stay marked and are not freed\n",
		name);
}

int cleanslate_unseen_init(void)
{
	int index, ret;

	cleanslate_find_copies(cleanslate_warn_of_copy, NULL);
	for (index = 0; index < ARRAY_SIZE(splits); index++) {
		if (!cleanslate_symbol(splits[index].name) ||
		    cleanslate_is_observed(splits[index].name))
			continue;
		ret = cleanslate_arm(&splits[index], 1);
		if (ret) {
			cleanslate_unseen_exit();
			return ret;
		}
	}
	return 0;
}

void cleanslate_unseen_exit(void)
{
	cleanslate_disarm(splits, ARRAY_SIZE(splits));
}

/* Did a hook here miss a call? */
bool cleanslate_unseen_missed(void)
{
	return cleanslate_hook_missed(splits, ARRAY_SIZE(splits));
}

struct cleanslate_text {
	char *buffer;
	int at;
};

static void cleanslate_show_copy(const char *name, void *context)
{
	struct cleanslate_text *text = context;

	text->at += sysfs_emit_at(text->buffer, text->at, "%s not-hooked\n", name);
}

int cleanslate_unseen_state(char *buffer, int at)
{
	struct cleanslate_text text = { .buffer = buffer, .at = at };
	int index;

	for (index = 0; index < ARRAY_SIZE(splits); index++) {
		if (!cleanslate_symbol(splits[index].name))
			continue;
		text.at += sysfs_emit_at(buffer, text.at, "%s %s\n", splits[index].name,
					 splits[index].armed ? "not-observed" : "observed");
	}
	cleanslate_find_copies(cleanslate_show_copy, &text);
	return text.at;
}
