// SPDX-License-Identifier: GPL-2.0
/*
 * cleanslate: resets TDX private memory before the next kernel starts.
 *
 * Listens to the kernel's own SEAMCALLs: SYS.CONFIG names the PAMTs, SYS.KEY.CONFIG is the instant from which they may be private. Right
 * before machine_kexec() jumps, into the next kernel or into the crash kernel, every line that may be private is rewritten with
 * MOVDIR64B. What is private and what is done about it is decided in the Rust object; this file knows the kernel.
 */
#define pr_fmt(fmt) "cleanslate: " fmt

#include <linux/io.h>
#include <linux/kexec.h>
#include <linux/kprobes.h>
#include <linux/mm.h>
#include <linux/module.h>
#include <linux/moduleparam.h>
#include <linux/smp.h>
#include <asm/msr.h>

struct handover {
	u64 lines;
	bool clean;
	bool not_alone;
};

u32 cleanslate_detect(void);
bool cleanslate_pamt(u64 base, u64 bytes);
int cleanslate_publish(void);
u64 cleanslate_private_kb(void);
u32 cleanslate_cpus(void);
void cleanslate_seamcall(u32 cpu, u64 leaf);
void cleanslate_stop_this_cpu(u32 cpu);
struct handover cleanslate_hand_over(u64 direct_map, u32 cpu, u32 online, bool crash);

bool cleanslate_rdmsr(u32 msr, u64 *value);
void cleanslate_panic(void) __noreturn;

bool cleanslate_rdmsr(u32 msr, u64 *value)
{
	return !rdmsrl_safe(msr, value);
}

void cleanslate_panic(void)
{
	panic("cleanslate: bug in the Rust object");
}

/* SEAMCALL leaves, and where TDMR_INFO has its PAMTs: base and size of 1G, 2M and 4K, from the third word on. */
#define TDH_SYS_KEY_CONFIG	31
#define TDH_SYS_CONFIG		45
#define TDMR_MAX		64

/* As in the kernel, whose own definition is private to arch/x86: the registers of a SEAMCALL. */
struct seamcall_args {
	u64 rcx, rdx, r8, r9;
};

/* The probes are armed. */
static bool watching;

/* Something was not understood: nothing may be called clean from then on. */
static bool incomplete;

static void note_pamts(const struct seamcall_args *args)
{
	const u64 *pointers = __va(args->rcx);
	u64 index;
	int level;

	if (args->rdx > TDMR_MAX) {
		incomplete = true;
		return;
	}
	for (index = 0; index < args->rdx; index++) {
		const u64 *tdmr = __va(pointers[index]);

		for (level = 0; level < 3; level++)
			if (!cleanslate_pamt(tdmr[2 + 2 * level], tdmr[3 + 2 * level]))
				incomplete = true;
	}
}

static int before_seamcall(struct kprobe *probe, struct pt_regs *regs)
{
	u64 leaf = regs->di & 0xffff;

	cleanslate_seamcall(raw_smp_processor_id(), leaf);
	if (leaf == TDH_SYS_CONFIG) {
		note_pamts((const void *)regs->si);
	} else if (leaf == TDH_SYS_KEY_CONFIG && !cleanslate_private_kb()) {
		if (incomplete || cleanslate_publish()) {
			incomplete = true;
			pr_err("cannot follow this kernel's TDMRs: private memory will be left to the next kernel\n");
		} else {
			/* Without this module nobody would know what is private. */
			__module_get(THIS_MODULE);
			pr_info("%llu KB of PAMT may be private from now on\n", cleanslate_private_kb());
		}
	}
	return 0;
}

static int before_jump(struct kprobe *probe, struct pt_regs *regs)
{
	const struct kimage *image = (const void *)regs->di;
	bool crash = image->type == KEXEC_TYPE_CRASH;
	struct handover done;

	if (image->preserve_context || (!cleanslate_private_kb() && !incomplete))
		return 0;
	done = cleanslate_hand_over(PAGE_OFFSET, raw_smp_processor_id(), num_online_cpus(), crash);
	if (done.not_alone)
		pr_emerg("%u CPUs still run: nothing was reset\n", num_online_cpus());
	else
		pr_emerg("%llu lines of private memory reset%s\n", done.lines,
			 done.clean && !incomplete ? "" : ", and some may be left");
	return 0;
}

/*
 * Linux 6.12 stops CPUs without WBINVD: their dirty private lines would be written back over what was reset, whenever the next
 * kernel's CPUs write their caches back.
 */
static int before_stop(struct kprobe *probe, struct pt_regs *regs)
{
	if (cleanslate_private_kb())
		cleanslate_stop_this_cpu(raw_smp_processor_id());
	return 0;
}

static struct kprobe probes[] = {
	{ .symbol_name = "machine_kexec", .pre_handler = before_jump },
	{ .symbol_name = "stop_this_cpu", .pre_handler = before_stop },
	{ .symbol_name = "__seamcall", .pre_handler = before_seamcall },
	{ .symbol_name = "__seamcall_ret", .pre_handler = before_seamcall },
	{ .symbol_name = "__seamcall_saved_ret", .pre_handler = before_seamcall },
};

static int get_private_kb(char *buffer, const struct kernel_param *kp)
{
	return sysfs_emit(buffer, "%llu\n", cleanslate_private_kb());
}
static const struct kernel_param_ops private_kb_ops = { .get = get_private_kb };
module_param_cb(private_kb, &private_kb_ops, NULL, 0444);
MODULE_PARM_DESC(private_kb, "KB of PAMT that may be private now");

/* 0: not brought up; anything else: too late, what came before was not seen. Negative: it cannot be told. */
static int tdx_state(void)
{
	struct kprobe lookup = { .symbol_name = "kallsyms_lookup_name" };
	unsigned long (*find)(const char *name);
	const int *status;

	if (register_kprobe(&lookup))
		return -ENOENT;
	find = (void *)lookup.addr;
	unregister_kprobe(&lookup);
	status = (const int *)find("tdx_module_status");
	return status ? READ_ONCE(*status) : -ENOENT;
}

static int __init cleanslate_init(void)
{
	u32 found = cleanslate_detect();
	int ret, index;

	if (!found) {
		pr_info("no TDX on this machine: nothing to do\n");
		return 0;
	}
	if (!(found & 2)) {
		pr_info("this CPU lacks the partial-write erratum: what is left private harms nobody\n");
		return 0;
	}
	ret = tdx_state();
	if (ret > 0) {
		pr_err("TDX is up already, and where its PAMTs are was not seen: load this module before\n");
		return -EBUSY;
	}
	if (ret < 0) {
		pr_info("this kernel has no TDX host code that could be watched: nothing to do\n");
		return 0;
	}
	if (nr_cpu_ids > cleanslate_cpus()) {
		pr_err("%u CPUs, and only %u can be watched\n", nr_cpu_ids, cleanslate_cpus());
		return -E2BIG;
	}
	for (index = 0; index < ARRAY_SIZE(probes); index++) {
		ret = register_kprobe(&probes[index]);
		if (ret) {
			pr_err("cannot watch %s: %d\n", probes[index].symbol_name, ret);
			while (index--)
				unregister_kprobe(&probes[index]);
			return ret;
		}
	}
	watching = true;
	pr_info("watches TDX; private memory is reset before a kexec\n");
	return 0;
}

static void __exit cleanslate_exit(void)
{
	int index;

	for (index = 0; watching && index < ARRAY_SIZE(probes); index++)
		unregister_kprobe(&probes[index]);
}

module_init(cleanslate_init);
module_exit(cleanslate_exit);
MODULE_DESCRIPTION("Resets TDX private memory before the next kernel starts");
MODULE_LICENSE("GPL");
