// SPDX-License-Identifier: GPL-2.0
/*
 * Callbacks before functions of the kernel, which can make them return at once
 *
 * By ftrace where a function has a call to it: such a hook cannot be disabled (the kernel rejects
 * kernel.ftrace_enabled=0 while there is one), and it also runs within the handler of another
 * probe. By a kprobe otherwise, whose missed hits the kernel counts.
 */
#define pr_fmt(fmt) "cleanslate: " fmt

#include <linux/ftrace.h>
#include <linux/kprobes.h>
#include <linux/objtool.h>
#include <asm/ibt.h>
#include <asm/linkage.h>

#include "cleanslate.h"

/* Where a function continues that must not run: returns at once. */
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

static void notrace cleanslate_on_call(unsigned long ip, unsigned long parent,
				       struct ftrace_ops *ops, struct ftrace_regs *fregs)
{
	struct cleanslate_hook *hook = container_of(ops, struct cleanslate_hook, ops);
	struct pt_regs *regs = ftrace_get_regs(fregs);

	if (hook->enter(regs))
		regs->ip = (unsigned long)cleanslate_return;
}

static int cleanslate_arm_ftrace(struct cleanslate_hook *hook)
{
	int ret;

	hook->ops.func = cleanslate_on_call;
	/* No callback calls the function that it hooks. */
	hook->ops.flags = FTRACE_OPS_FL_SAVE_REGS | FTRACE_OPS_FL_PERMANENT |
			  FTRACE_OPS_FL_RECURSION;
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

static void cleanslate_disarm_ftrace(struct cleanslate_hook *hook)
{
	unregister_ftrace_function(&hook->ops);
	ftrace_free_filter(&hook->ops);
	hook->by_ftrace = false;
}

#else

static int cleanslate_arm_ftrace(struct cleanslate_hook *hook)
{
	return -EINVAL;
}

static void cleanslate_disarm_ftrace(struct cleanslate_hook *hook)
{
}

#endif

static int cleanslate_on_probe(struct kprobe *probe, struct pt_regs *regs)
{
	unsigned long ip = regs->ip;

	if (container_of(probe, struct cleanslate_hook, probe)->enter(regs))
		regs->ip = (unsigned long)cleanslate_return;
	return regs->ip != ip;
}
NOKPROBE_SYMBOL(cleanslate_on_probe);

/*
 * Does nothing. A kprobe with a post-handler stays a breakpoint, of which two things are needed:
 * that interrupts are off until it is over, and that its handler can change regs->ip. A jump, which
 * the kernel makes of a kprobe without one, calls the handler with interrupts on: a SEAMCALL made
 * by an IPI in between (KVM's VP.FLUSH, when a VCPU moves) would be a missed hit.
 */
void cleanslate_after_probe(struct kprobe *probe, struct pt_regs *regs, unsigned long flags)
{
}
NOKPROBE_SYMBOL(cleanslate_after_probe);

static int cleanslate_arm_kprobe(struct cleanslate_hook *hook)
{
	hook->probe = (struct kprobe){
		.symbol_name = hook->name,
		.pre_handler = cleanslate_on_probe,
		.post_handler = cleanslate_after_probe,
	};
	return register_kprobe(&hook->probe);
}

int cleanslate_arm(struct cleanslate_hook *hooks, int count)
{
	int index, ret;

	for (index = 0; index < count; index++) {
		ret = cleanslate_arm_ftrace(&hooks[index]);
		/*
		 * Busy: ftrace is disabled, and a kprobe on a call to it would be, too; or a live
		 * patch or a BPF trampoline has the function.
		 */
		if (ret && ret != -EBUSY)
			ret = cleanslate_arm_kprobe(&hooks[index]);
		if (ret) {
			pr_err("failed to hook %s: %d (%s?)\n", hooks[index].name, ret,
			       ret == -EBUSY ? "kernel.ftrace_enabled=0, livepatch or BPF" :
					       "unsupported kernel");
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
			cleanslate_disarm_ftrace(&hooks[count]);
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
