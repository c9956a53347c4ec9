// SPDX-License-Identifier: GPL-2.0
/*
 * Makes Linux bring TDX up: enters VMX operation on every CPU, calls the kernel's own
 * tdx_cpu_enable() and tdx_enable(), and leaves it again. A test module for a guest of seamvisor:
 * KVM must not be loaded beside it.
 */
#include <linux/cpu.h>
#include <linux/gfp.h>
#include <linux/io.h>
#include <linux/mm.h>
#include <linux/module.h>
#include <linux/smp.h>
#include <asm/msr.h>
#include <asm/tdx.h>
#include <asm/tlbflush.h>

static struct page *regions[NR_CPUS];
static atomic_t failed = ATOMIC_INIT(0);

static void enter_vmx(void *unused)
{
	struct page *page = regions[smp_processor_id()];
	u64 basic, address = page_to_phys(page);

	rdmsrl(MSR_IA32_VMX_BASIC, basic);
	*(u32 *)page_address(page) = (u32)basic & 0x7fffffff;
	cr4_set_bits(X86_CR4_VMXE);
	asm goto("1: vmxon %[address]\n\t"
		 _ASM_EXTABLE(1b, %l[fault])
		 : : [address] "m"(address) : "cc", "memory" : fault);
	if (!tdx_cpu_enable())
		return;
fault:
	atomic_inc(&failed);
}

/*
 * As KVM does before a reboot: a kernel that kexecs in VMX operation dies of its own change of CR4.
 */
static void leave_vmx(void *unused)
{
	asm goto("1: vmxoff\n\t"
		 _ASM_EXTABLE(1b, %l[fault])
		 : : : "cc", "memory" : fault);
fault:
	cr4_clear_bits(X86_CR4_VMXE);
}

static int __init cleanslate_enable_init(void)
{
	int cpu, ret = -ENOMEM;

	if (!boot_cpu_has(X86_FEATURE_VMX))
		return -ENODEV;
	for_each_possible_cpu(cpu) {
		regions[cpu] = alloc_page(GFP_KERNEL | __GFP_ZERO);
		if (!regions[cpu])
			return ret;
	}
	cpus_read_lock();
	on_each_cpu(enter_vmx, NULL, 1);
	ret = atomic_read(&failed) ? -EIO : tdx_enable();
	on_each_cpu(leave_vmx, NULL, 1);
	cpus_read_unlock();
	pr_info("cleanslate: tdx_enable() gives %d, %d CPUs failed\n", ret, atomic_read(&failed));
	return ret;
}
module_init(cleanslate_enable_init);
MODULE_DESCRIPTION("Makes Linux bring TDX up, for tests under seamvisor");
MODULE_LICENSE("GPL");
