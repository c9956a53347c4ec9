/* SPDX-License-Identifier: GPL-2.0 */
/*
 * Internal interfaces between the C files of cleanslate.ko
 */
#ifndef CLEANSLATE_H
#define CLEANSLATE_H

#include <linux/ftrace.h>
#include <linux/kprobes.h>
#include <linux/types.h>
#include <asm/msr.h>

#include "object.h"

struct kimage;

/* Linux before 6.16 has other names for them. */
#ifndef rdmsrq
#define rdmsrq rdmsrl
#define rdmsrq_safe rdmsrl_safe
#define wrmsrq wrmsrl
#endif

/**
 * enum cleanslate_mode - what this module does on this machine
 * @CLEANSLATE_IDLE: nothing: no TDX, or a CPU without the erratum
 * @CLEANSLATE_WATCH: the kernel has TDX host support; its SEAMCALLs are tracked
 * @CLEANSLATE_HOST: the kernel has none, and this module can initialize TDX; or its own TDX is off,
 *		     and this module can take TDX over from the kernel before, for the vacuum alone
 */
enum cleanslate_mode {
	CLEANSLATE_IDLE,
	CLEANSLATE_WATCH,
	CLEANSLATE_HOST,
};

extern enum cleanslate_mode cleanslate_mode;

/* CLEANSLATE_POLICY_*: the module parameter. */
extern u32 cleanslate_policy;

/* Why private memory is not tracked completely, or NULL. */
extern const char *cleanslate_unknown;

/* The kernel's struct tdx_module_args, which is private to arch/x86: operands of a SEAMCALL. */
struct cleanslate_args {
	u64 rcx, rdx, r8, r9, r10, r11, r12, r13;
};

unsigned long cleanslate_symbol(const char *name);
unsigned long cleanslate_function(const char *name, unsigned long *size);

/**
 * cleanslate_call() - call a function of the kernel by its address
 * @function: pointer to the function
 *
 * The kernel seals functions whose address it does not take (no ENDBR at their entry). Indirect
 * branch tracking is therefore off on this CPU during the call, as it is for firmware calls.
 */
#define cleanslate_call(function, ...)						\
({										\
	u64 __cet = cleanslate_tracking_off();					\
	typeof((function)(__VA_ARGS__)) __result = (function)(__VA_ARGS__);	\
										\
	cleanslate_tracking_on(__cet);						\
	__result;								\
})
u64 cleanslate_tracking_off(void);
void cleanslate_tracking_on(u64 cet);

/**
 * struct cleanslate_hook - a callback before a function of the kernel
 * @name: the function
 * @enter: callback; if it returns true, the function returns regs->ax at once; another function
 *	   takes its place if it sets regs->ip
 * @may_skip: can @enter do either?
 * @armed: the hook is in place (hooks.c)
 * @by_ftrace: by ftrace, not by a kprobe (hooks.c)
 * @ops: ftrace (hooks.c)
 * @probe: kprobe (hooks.c)
 */
struct cleanslate_hook {
	const char *name;
	bool (*enter)(struct pt_regs *regs);
	bool may_skip;
	bool armed, by_ftrace;
#ifdef CONFIG_DYNAMIC_FTRACE_WITH_REGS
	struct ftrace_ops ops;
#endif
	struct kprobe probe;
};

int cleanslate_arm(struct cleanslate_hook *hooks, int count);
void cleanslate_after_probe(struct kprobe *probe, struct pt_regs *regs, unsigned long flags);
void cleanslate_disarm(struct cleanslate_hook *hooks, int count);
bool cleanslate_hook_missed(const struct cleanslate_hook *hooks, int count);

const struct cleanslate_memory *cleanslate_memory_map(u32 *count);
int cleanslate_memory_init(void);
void cleanslate_memory_exit(void);

int cleanslate_watch_init(void);
void cleanslate_watch_exit(void);
bool cleanslate_watch_failed(void);
const char *cleanslate_watch_why_not_off(void);
bool cleanslate_watch_misses(void);
void cleanslate_watch_check(void);
bool cleanslate_watch_caches_are_clean(void);
bool cleanslate_watch_may_migrate(void);
void cleanslate_watch_note_seamcall(void);
void cleanslate_call_begins(void);
void cleanslate_call_ends(void);
extern const char *const cleanslate_learning;
const char *cleanslate_sweep_learn(void);
u32 cleanslate_learned_percent(void);
u64 cleanslate_learned_kb(void);
bool cleanslate_sweep_prevent(void);
void cleanslate_sweep_allow(void);
ssize_t cleanslate_audit_store(const char *text, size_t size);
int cleanslate_audit_show(char *buffer);
void cleanslate_sweep_exit(void);
int cleanslate_watch_probe(void *entry, void *answer);
u32 cleanslate_watch_unprobe(void);
ssize_t cleanslate_measure_store(const char *text, size_t size);
int cleanslate_measure_show(char *buffer);
int cleanslate_follow_init(void);
void cleanslate_follow_exit(void);
void cleanslate_follow_free(void);
bool cleanslate_follow_missed(void);
int cleanslate_unseen_init(void);
void cleanslate_unseen_exit(void);
bool cleanslate_unseen_missed(void);
int cleanslate_unseen_state(char *buffer, int at);
bool cleanslate_handover_missed(void);
int cleanslate_verdict(char *buffer);
int cleanslate_lift_state(char *buffer, int at);
int cleanslate_hooks_state(char *buffer, int at);
int cleanslate_watch_state(char *buffer, int at);
int cleanslate_follow_state(char *buffer, int at);
int cleanslate_vmx_state(char *buffer, int at);
int cleanslate_handover_init(void);
void cleanslate_handover_exit(void);
void cleanslate_parallel_init(void);
void cleanslate_parallel_exit(void);
int cleanslate_parallel_state(char *buffer, int at);
bool cleanslate_parallel_was_made(void);
const char *cleanslate_parallel_why_not(void);
const char *cleanslate_kexec_refusal(void);
void cleanslate_report_progress(int cpu);
void cleanslate_reset_together(void);
void cleanslate_dump_init(void);
void cleanslate_dump_exit(void);
void cleanslate_dump_ledger(const u64 *words, u64 count);
bool cleanslate_dump_leave(const struct kimage *image);
void cleanslate_dump_nothing_left(void);
int cleanslate_dump_state(char *buffer);
int cleanslate_dump_parameter(char *buffer);
bool cleanslate_dump_is_wanted(void);
int cleanslate_dump_read_init(void);
const char *cleanslate_image_line(const struct kimage *image);
const char *cleanslate_next_word(const char **rest, size_t *length);
bool cleanslate_line_names(const char *line, const char *parameter, const char *word);
int cleanslate_keep_init(u64 base, u64 bytes, const void *pool);
void cleanslate_keep_start(void *pool);
bool cleanslate_keep_is_wanted(void);
bool cleanslate_keep_is_possible(void);
const char *cleanslate_keep_why_not(const struct kimage *image);
int cleanslate_keep_state(char *buffer);
int cleanslate_takeover_parameter(char *buffer);
int cleanslate_takeover_state(char *buffer);
bool cleanslate_taken_over(void);
bool cleanslate_takeover_refused(void);
bool cleanslate_takeover_is_wanted(void);
int cleanslate_takeover_retry(void);
int cleanslate_host_vacuum(void);
bool cleanslate_host_is_up(void);
bool cleanslate_host_is_one_cpu(void);
const char *cleanslate_vacuum_refusal(void);
bool cleanslate_pool_is_given(void);
bool cleanslate_host_is_for_vacuum(void);
int cleanslate_host_check(void);
int cleanslate_host_init(bool vacuum_alone);
void cleanslate_host_exit(void);
int cleanslate_host_up(void);
int cleanslate_host_run(int (*function)(void *argument), void *argument);
void cleanslate_host_leave(bool crash);
int cleanslate_device_init(void);
void cleanslate_device_exit(void);
int cleanslate_report_init(void);
void cleanslate_report_exit(void);

#endif
