// SPDX-License-Identifier: GPL-2.0
/*
 * Functions of the kernel that are listened to, or kept from running. By ftrace where there is a place for it: nothing takes such a hook away
 * (the kernel refuses kernel.ftrace_enabled=0 while there is one), and it hears a call from inside somebody else's probe, too. Else by a
 * kprobe, of which neither is true; then what was missed is counted.
 */
#define pr_fmt(fmt) "cleanslate: " fmt

#include <linux/ftrace.h>
#include <linux/kprobes.h>
#include <linux/objtool.h>
#include <asm/ibt.h>
#include <asm/linkage.h>

#include "cleanslate.h"

/* Where a function goes on if it is not to run: it returns at once. */
asm(".pushsection .text\n"
    ".globl cleanslate_return\n"
    ".type cleanslate_return, @function\n"
    "cleanslate_return:\n"
    ASM_ENDBR
    ASM_RET
    ".size cleanslate_return, . - cleanslate_return\n"
    ".popsection\n");
extern const char cleanslate_return[];

#ifdef CONFIG_DYNAMIC_FTRACE_WITH_REGS

static void notrace on_call(unsigned long ip, unsigned long parent, struct ftrace_ops *ops, struct ftrace_regs *fregs)
{
	struct cleanslate_hook *hook = container_of(ops, struct cleanslate_hook, ops);
	struct pt_regs *regs = ftrace_get_regs(fregs);

	if (hook->enter(regs))
		regs->ip = (unsigned long)cleanslate_return;
}

static int arm_by_ftrace(struct cleanslate_hook *hook)
{
	int ret;

	hook->ops.func = on_call;
	/* No handler calls the function that it listens to. */
	hook->ops.flags = FTRACE_OPS_FL_SAVE_REGS | FTRACE_OPS_FL_PERMANENT | FTRACE_OPS_FL_RECURSION;
	if (hook->may_skip)
		hook->ops.flags |= FTRACE_OPS_FL_IPMODIFY;
	ret = ftrace_set_filter(&hook->ops, (unsigned char *)hook->name, strlen(hook->name), 1);
	if (ret)
		return ret;
	ret = register_ftrace_function(&hook->ops);
	if (ret)
		ftrace_free_filter(&hook->ops);
	hook->by_ftrace = !ret;
	return ret;
}

static void disarm_ftrace(struct cleanslate_hook *hook)
{
	unregister_ftrace_function(&hook->ops);
	ftrace_free_filter(&hook->ops);
	hook->by_ftrace = false;
}

#else

static int arm_by_ftrace(struct cleanslate_hook *hook)
{
	return -EINVAL;
}

static void disarm_ftrace(struct cleanslate_hook *hook)
{
}

#endif

static int on_probe(struct kprobe *probe, struct pt_regs *regs)
{
	if (!container_of(probe, struct cleanslate_hook, probe)->enter(regs))
		return 0;
	regs->ip = (unsigned long)cleanslate_return;
	return 1;
}
NOKPROBE_SYMBOL(on_probe);

/* A probe that changes where the function goes on must not be optimised into a jump; having this prevents it. */
static void after_probe(struct kprobe *probe, struct pt_regs *regs, unsigned long flags)
{
}

static int arm_by_kprobe(struct cleanslate_hook *hook)
{
	hook->probe = (struct kprobe){ .symbol_name = hook->name, .pre_handler = on_probe };
	if (hook->may_skip)
		hook->probe.post_handler = after_probe;
	return register_kprobe(&hook->probe);
}

int cleanslate_arm(struct cleanslate_hook *hooks, int count)
{
	int index, ret;

	for (index = 0; index < count; index++) {
		ret = arm_by_ftrace(&hooks[index]);
		/* Busy: ftrace is switched off, and so would be a kprobe that builds on it. */
		if (ret && ret != -EBUSY)
			ret = arm_by_kprobe(&hooks[index]);
		if (ret) {
			pr_err("this kernel's %s cannot be listened to (%d): %s\n", hooks[index].name, ret,
			       ret == -EBUSY ? "kernel.ftrace_enabled is 0" : "is this kernel newer than this module?");
			cleanslate_disarm(hooks, index);
			return ret;
		}
		hooks[index].armed = true;
	}
	return 0;
}

void cleanslate_disarm(struct cleanslate_hook *hooks, int count)
{
	while (count--) {
		if (!hooks[count].armed)
			continue;
		if (hooks[count].by_ftrace)
			disarm_ftrace(&hooks[count]);
		else
			unregister_kprobe(&hooks[count].probe);
		hooks[count].armed = false;
	}
}

bool cleanslate_hook_missed(const struct cleanslate_hook *hooks, int count)
{
	while (count--)
		if (hooks[count].armed && !hooks[count].by_ftrace && hooks[count].probe.nmissed)
			return true;
	return false;
}
