// SPDX-License-Identifier: GPL-2.0
/*
 * What people see: /sys/kernel/cleanslate, and a line beside a machine check that says what its address was. The line asks nobody but
 * this module's own books, so it is right after VMX is off.
 */
#define pr_fmt(fmt) "cleanslate: " fmt

#include <linux/kobject.h>
#include <linux/notifier.h>
#include <linux/sysfs.h>
#include <asm/mce.h>

#include "cleanslate.h"

static const char *mode_name(void)
{
	cleanslate_watch_check();
	if (cleanslate_watch_failed())
		return "failed";
	if (cleanslate_unknown)
		return "unknown";
	if (cleanslate_mode == CLEANSLATE_WATCH)
		return "watching";
	return "host";
}

static ssize_t show_mode(struct kobject *kobj, struct kobj_attribute *attribute, char *buffer)
{
	const char *why = cleanslate_watch_failed() ? NULL : cleanslate_unknown;

	return sysfs_emit(buffer, "%s%s%s\n", mode_name(), why ? ": " : "", why ?: "");
}
static struct kobj_attribute mode_attribute = __ATTR(mode, 0444, show_mode, NULL);

#define SHOW(field, format)										\
static ssize_t show_##field(struct kobject *kobj, struct kobj_attribute *attribute, char *buffer)	\
{													\
	struct cleanslate_status status;								\
													\
	cleanslate_status(&status);									\
	return sysfs_emit(buffer, format "\n", status.field);						\
}													\
static struct kobj_attribute field##_attribute = __ATTR(field, 0444, show_##field, NULL)

SHOW(pamt_kb, "%llu");
SHOW(given_kb, "%llu");
SHOW(giving_kb, "%llu");
SHOW(returned_kb, "%llu");
SHOW(tds, "%u");

static ssize_t show_held(struct kobject *kobj, struct kobj_attribute *attribute, char *buffer)
{
	return sysfs_emit(buffer, "%u\n", cleanslate_held());
}
static struct kobj_attribute held_attribute = __ATTR(held, 0444, show_held, NULL);

static ssize_t show_verdict(struct kobject *kobj, struct kobj_attribute *attribute, char *buffer)
{
	return cleanslate_verdict(buffer);
}
static struct kobj_attribute verdict_attribute = __ATTR(verdict, 0444, show_verdict, NULL);

static ssize_t show_pamt(struct kobject *kobj, struct kobj_attribute *attribute, char *buffer)
{
	u64 base, end;
	int at = 0;
	u32 index;

	for (index = 0; cleanslate_pamt_range(index, &base, &end); index++)
		at += sysfs_emit_at(buffer, at, "%#llx %#llx\n", base, end);
	return at;
}
static struct kobj_attribute pamt_attribute = __ATTR(pamt, 0400, show_pamt, NULL);

static struct attribute *attributes[] = {
	&mode_attribute.attr,	  &pamt_kb_attribute.attr,     &given_kb_attribute.attr,
	&giving_kb_attribute.attr, &returned_kb_attribute.attr, &tds_attribute.attr,
	&held_attribute.attr,	  &pamt_attribute.attr,	       &verdict_attribute.attr,
	NULL,
};
static const struct attribute_group group = { .attrs = attributes };

/* Pages of TDs by what the TDX module has them for, where it can be asked. */
struct kind_attribute {
	struct kobj_attribute attribute;
	int kind;
};

static ssize_t show_kind(struct kobject *kobj, struct kobj_attribute *attribute, char *buffer)
{
	struct cleanslate_pages pages;
	int ret = cleanslate_host_pages(&pages);

	return ret ?: sysfs_emit(buffer, "%llu\n", pages.count[container_of(attribute, struct kind_attribute, attribute)->kind]);
}

#define KIND(name, number)										\
static struct kind_attribute name##_pages = { __ATTR(name, 0400, show_kind, NULL), number }

KIND(tdr, 0);
KIND(tdcx, 1);
KIND(tdvpr, 2);
KIND(sept, 3);
KIND(guest, 4);

static struct attribute *kind_attributes[] = {
	&tdr_pages.attribute.attr,  &tdcx_pages.attribute.attr,	 &tdvpr_pages.attribute.attr,
	&sept_pages.attribute.attr, &guest_pages.attribute.attr, NULL,
};
static const struct attribute_group kinds = { .name = "pages", .attrs = kind_attributes };
static struct kobject *folder;

/* Only what the CPU says is a physical address, without the bits of its KeyID, which the kernel masks in the same way. */
static void explain(const char *level, const struct mce *check)
{
	char text[200];

	if (!mce_usable_address((struct mce *)check))
		return;
	printk("%s" HW_ERR "%.*s\n", level, (int)cleanslate_explain(check->addr & MCI_ADDR_PHYSADDR, text, sizeof(text)), text);
}

/* Machine checks that the kernel survives. */
static int on_machine_check(struct notifier_block *block, unsigned long value, void *data)
{
	const struct mce *check = data;

	explain(check->status & MCI_STATUS_UC ? KERN_EMERG : KERN_INFO, check);
	return NOTIFY_DONE;
}
static struct notifier_block machine_checks = { .notifier_call = on_machine_check, .priority = MCE_PRIO_LOWEST };

/* Those that it does not survive are only printed. What is printed begins with a struct mce in every kernel. */
static bool before_print(struct pt_regs *regs)
{
	explain(KERN_EMERG, (const void *)regs->di);
	return false;
}
static struct cleanslate_hook print = { .name = "__print_mce", .enter = before_print };

int cleanslate_report_init(void)
{
	int ret = -ENOMEM;

	folder = kobject_create_and_add("cleanslate", kernel_kobj);
	if (folder)
		ret = sysfs_create_group(folder, &group);
	if (!ret && (cleanslate_mode == CLEANSLATE_HOST || cleanslate_watch_in_vmx()))
		ret = sysfs_create_group(folder, &kinds);
	if (ret) {
		kobject_put(folder);
		folder = NULL;
	}
	mce_register_decode_chain(&machine_checks);
	if (cleanslate_arm(&print, 1))
		pr_info("fatal machine checks are not explained in this kernel\n");
	return ret;
}

void cleanslate_report_exit(void)
{
	cleanslate_disarm(&print, 1);
	mce_unregister_decode_chain(&machine_checks);
	kobject_put(folder);
}
