/* SPDX-License-Identifier: GPL-2.0 */
/*
 * What the files of this module know of each other. Policy is in the Rust object; the C files know the kernel.
 */
#ifndef CLEANSLATE_H
#define CLEANSLATE_H

#include <linux/ftrace.h>
#include <linux/kprobes.h>
#include <linux/types.h>
#include <asm/msr.h>

/* Linux before 6.16 calls them by other names. */
#ifndef rdmsrq
#define rdmsrq rdmsrl
#define rdmsrq_safe rdmsrl_safe
#define wrmsrq wrmsrl
#endif

/* A range of physical memory. As in object/src/host.rs. */
struct cleanslate_memory {
	u64 base;
	u64 bytes;
	u32 node;
};

/* As in object/src/handover.rs. */
struct cleanslate_handover {
	u64 lines;
	u32 suspects;
	bool clean;
	bool not_alone;
};

/* As in object/src/status.rs. */
struct cleanslate_status {
	u64 pamt_kb;
	u64 given_kb;
	u64 giving_kb;
	u64 returned_kb;
	u32 tds;
};

/* As in object/src/status.rs: TDR, TDCX, TDVPR, SEPT, guest. */
struct cleanslate_pages {
	u64 count[5];
};

/* The registers of a SEAMCALL, as in tdx-abi. */
struct cleanslate_registers {
	u64 rax, rcx, rdx, r8, r9, r10, r11, r12, r13;
};

/* The Rust object. */
u32 cleanslate_detect(void);
u32 cleanslate_cpus(void);
bool cleanslate_pamt(u64 base, u64 bytes);
int cleanslate_publish(void);
void cleanslate_seamcall(u32 cpu, u64 leaf);
u64 cleanslate_follow_words(const struct cleanslate_memory *memory, u32 count);
int cleanslate_follow(u64 *words, const struct cleanslate_memory *memory, u32 count);
u32 cleanslate_before(const struct cleanslate_registers *call);
u32 cleanslate_after(const struct cleanslate_registers *call, const struct cleanslate_registers *answer);
u32 cleanslate_reset(u32 cpu, u64 base, u64 bytes);
int cleanslate_bring_up(const struct cleanslate_memory *memory, u32 count, struct cleanslate_memory pool);
u64 cleanslate_words(bool key_ids);
int cleanslate_ledger(u64 *ledger, u64 *key_ids);
int cleanslate_td(u32 fate);
bool cleanslate_covers(u64 base, u64 end);
int cleanslate_check_load(u32 policy);
void cleanslate_stop_this_cpu(u32 cpu);
void cleanslate_stop_this_cpu_at_crash(u32 cpu);
struct cleanslate_handover cleanslate_hand_over(u32 policy, u32 cpu, u32 online, u32 possible, bool crash);
u64 cleanslate_private_kb(void);
void cleanslate_status(struct cleanslate_status *status);
bool cleanslate_pamt_range(u32 index, u64 *base, u64 *end);
int cleanslate_pages(struct cleanslate_pages *pages);
u32 cleanslate_explain(u64 address, char *text, u32 room);

/* What the Rust object asks for. */
bool cleanslate_rdmsr(u32 msr, u64 *value);
void cleanslate_panic(void) __noreturn;
void cleanslate_say(const char *text, size_t length);
void *cleanslate_map(u64 address);
void cleanslate_on_all(void (*work)(void *task), void *task);
void cleanslate_on_each_package(void (*work)(void *task), void *task);
u32 cleanslate_pin(void);
void cleanslate_unpin(void);
u32 cleanslate_this_cpu(void);
u32 cleanslate_package(u32 cpu);
void cleanslate_rest(void);
u64 cleanslate_allocate(u64 pages, u32 node, u64 first, u64 end);
void cleanslate_free(u64 address, u64 pages);
void cleanslate_hold(u64 page);
void cleanslate_release(u64 page);

/* The shim among itself. */
enum cleanslate_mode {
	CLEANSLATE_IDLE,	/* nothing to do on this machine */
	CLEANSLATE_WATCH,	/* the kernel has TDX host code, and is listened to */
	CLEANSLATE_HOST,	/* the kernel has none; this module can bring TDX up */
};

extern enum cleanslate_mode cleanslate_mode;
extern u32 cleanslate_policy;

/* Why what is private is not known, or NULL. Nothing is called clean any more, and no kexec image is let in. */
extern const char *cleanslate_unknown;
void cleanslate_lost(const char *why);

/* As in the kernel, whose own definition is private to arch/x86: the registers of a SEAMCALL. */
struct seamcall_args {
	u64 rcx, rdx, r8, r9, r10, r11, r12, r13;
};

unsigned long cleanslate_symbol(const char *name);

/*
 * Calls a function of the kernel by its address. The kernel seals functions whose address it does not take itself (no ENDBR at their
 * beginning), so branch tracking is off meanwhile, on this CPU, as it is while the kernel calls the firmware.
 */
#define cleanslate_call(function, ...)					\
({									\
	u64 __cet = cleanslate_tracking_off();				\
	typeof((function)(__VA_ARGS__)) __result = (function)(__VA_ARGS__); \
									\
	cleanslate_tracking_on(__cet);					\
	__result;							\
})
u64 cleanslate_tracking_off(void);
void cleanslate_tracking_on(u64 cet);
void cleanslate_keep(void);

/* A function of the kernel, and what is done before it. If that says true, the function does not run, and returns what is in regs->ax. */
struct cleanslate_hook {
	const char *name;
	bool (*enter)(struct pt_regs *regs);
	bool may_skip;
	/* hooks.c's own. */
	bool armed, by_ftrace;
#ifdef CONFIG_DYNAMIC_FTRACE_WITH_REGS
	struct ftrace_ops ops;
#endif
	struct kprobe probe;
};

int cleanslate_arm(struct cleanslate_hook *hooks, int count);
void cleanslate_disarm(struct cleanslate_hook *hooks, int count);
bool cleanslate_hook_missed(const struct cleanslate_hook *hooks, int count);

const struct cleanslate_memory *cleanslate_memory_map(u32 *count);

int cleanslate_watch_init(void);
void cleanslate_watch_exit(void);
bool cleanslate_watch_failed(void);
bool cleanslate_watch_in_vmx(void);
void cleanslate_watch_check(void);
int cleanslate_follow_init(void);
void cleanslate_follow_exit(void);
bool cleanslate_follows(void);
bool cleanslate_follow_missed(void);
void cleanslate_before_seamcall(u64 leaf, const struct seamcall_args *args);
u32 cleanslate_held(void);
bool cleanslate_handover_missed(void);
int cleanslate_verdict(char *buffer);
int cleanslate_handover_init(void);
void cleanslate_handover_exit(void);
int cleanslate_host_init(void);
void cleanslate_host_exit(void);
int cleanslate_host_up(void);
int cleanslate_host_td(u32 fate);
int cleanslate_host_pages(struct cleanslate_pages *pages);
void cleanslate_host_leave(bool crash);
int cleanslate_device_init(void);
void cleanslate_device_exit(void);
int cleanslate_report_init(void);
void cleanslate_report_exit(void);

#endif
