// SPDX-License-Identifier: GPL-2.0
/*
 * A CPU that does not stop at a crash: it stays in an NMI handler, so that the NMI by which a
 * panicking CPU stops the others is not delivered; then this CPU panics. The init function panics
 * itself, because with a CPU that answers no IPI it cannot return. A test module for a guest of
 * seamvisor.
 */
#include <linux/cpumask.h>
#include <linux/delay.h>
#include <linux/module.h>
#include <linux/smp.h>
#include <asm/apic.h>
#include <asm/nmi.h>

static uint cpu = 1;
module_param(cpu, uint, 0444);

static bool stuck;

static int stay(unsigned int type, struct pt_regs *regs)
{
	if (raw_smp_processor_id() != cpu)
		return NMI_DONE;
	WRITE_ONCE(stuck, true);
	for (;;)
		cpu_relax();
}

static int __init cleanslate_stuck_init(void)
{
	int ret, tries;

	if (!cpu_online(cpu))
		return -ENODEV;
	ret = register_nmi_handler(NMI_LOCAL, stay, NMI_FLAG_FIRST, "cleanslate_stuck");
	if (ret)
		return ret;
	/* Not on the CPU that is to stay. */
	migrate_disable();
	if (raw_smp_processor_id() == cpu) {
		migrate_enable();
		unregister_nmi_handler(NMI_LOCAL, "cleanslate_stuck");
		return -EAGAIN;
	}
	__apic_send_IPI_mask(cpumask_of(cpu), NMI_VECTOR);
	for (tries = 0; !READ_ONCE(stuck); tries++) {
		if (tries == 5000)
			panic("cleanslate: CPU %u does not get stuck", cpu);
		mdelay(1);
	}
	panic("cleanslate: CPU %u is stuck in an NMI", cpu);
}
static void __exit cleanslate_stuck_exit(void)
{
}

module_init(cleanslate_stuck_init);
module_exit(cleanslate_stuck_exit);
MODULE_DESCRIPTION("Keeps a CPU in an NMI, for tests under seamvisor");
MODULE_LICENSE("GPL");
