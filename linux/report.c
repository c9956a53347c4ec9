// SPDX-License-Identifier: GPL-2.0
/*
 * /sys/kernel/cleanslate, and a line beside a machine check that describes its address
 *
 * The line needs no SEAMCALL, so it is also right when the CPU has left VMX operation.
 */
#define pr_fmt(fmt) "cleanslate: " fmt

#include <linux/kobject.h>
#include <linux/notifier.h>
#include <linux/sysfs.h>
#include <asm/mce.h>

#include "cleanslate.h"

static const char *cleanslate_mode_name(const char *why)
{
	if (cleanslate_watch_failed())
		return "failed";
	if (why)
		return "unknown";
	if (cleanslate_mode == CLEANSLATE_WATCH)
		return "watching";
	return "host";
}

static ssize_t cleanslate_show_mode(struct kobject *kobj, struct kobj_attribute *attribute,
				    char *buffer)
{
	const char *why;

	cleanslate_watch_check();
	/* Once: a late load ends at any time. */
	why = cleanslate_watch_failed() ? NULL : READ_ONCE(cleanslate_unknown);
	if (why == cleanslate_learning)
		return sysfs_emit(buffer, "learning %u %%\n", cleanslate_learned_percent());
	return sysfs_emit(buffer, "%s%s%s\n", cleanslate_mode_name(why), why ? ": " : "",
			  why ?: "");
}

static struct kobj_attribute mode_attribute = __ATTR(mode, 0444, cleanslate_show_mode, NULL);

/* A value of struct cleanslate_status, by its offset and size. */
struct cleanslate_value {
	struct kobj_attribute attribute;
	size_t offset;
	size_t size;
};

static ssize_t cleanslate_show_value(struct kobject *kobj, struct kobj_attribute *attribute,
				     char *buffer)
{
	const struct cleanslate_value *value =
		container_of(attribute, struct cleanslate_value, attribute);
	struct cleanslate_status status;
	u64 number = 0;

	cleanslate_status(&status);
	memcpy(&number, (const char *)&status + value->offset, value->size);
	return sysfs_emit(buffer, "%llu\n", number);
}

#define VALUE(field)							\
	static struct cleanslate_value field##_value = {		\
		__ATTR(field, 0444, cleanslate_show_value, NULL),	\
		offsetof(struct cleanslate_status, field),		\
		sizeof_field(struct cleanslate_status, field),		\
	}

VALUE(pamt_kb);
VALUE(given_kb);
VALUE(giving_kb);
VALUE(returned_kb);
VALUE(tds);

static ssize_t cleanslate_show_held(struct kobject *kobj, struct kobj_attribute *attribute,
				    char *buffer)
{
	/* As host, this module owns the pages of TDs itself. */
	return sysfs_emit(buffer, "%llu\n",
			  cleanslate_mode == CLEANSLATE_WATCH ? cleanslate_kept_pages() : 0);
}

static struct kobj_attribute held_attribute = __ATTR(held, 0444, cleanslate_show_held, NULL);

static ssize_t cleanslate_show_learned_kb(struct kobject *kobj, struct kobj_attribute *attribute,
					  char *buffer)
{
	return sysfs_emit(buffer, "%llu\n", cleanslate_learned_kb());
}

static struct kobj_attribute learned_kb_attribute =
	__ATTR(learned_kb, 0444, cleanslate_show_learned_kb, NULL);

static ssize_t cleanslate_show_verdict(struct kobject *kobj, struct kobj_attribute *attribute,
				       char *buffer)
{
	return cleanslate_verdict(buffer);
}

static struct kobj_attribute verdict_attribute =
	__ATTR(verdict, 0444, cleanslate_show_verdict, NULL);

static ssize_t cleanslate_show_pamt(struct kobject *kobj, struct kobj_attribute *attribute,
				    char *buffer)
{
	u64 base, end;
	int at = 0;
	u32 index;

	for (index = 0; cleanslate_pamt_range(index, &base, &end); index++)
		at += sysfs_emit_at(buffer, at, "%#llx %#llx\n", base, end);
	return at;
}

static struct kobj_attribute pamt_attribute = __ATTR(pamt, 0400, cleanslate_show_pamt, NULL);

/* What this kernel has, and by what means the module uses it: a name and a value per line. */
static ssize_t cleanslate_show_capabilities(struct kobject *kobj, struct kobj_attribute *attribute,
					    char *buffer)
{
	int at = cleanslate_hooks_state(buffer, 0);

	if (cleanslate_mode == CLEANSLATE_WATCH) {
		at = cleanslate_watch_state(buffer, at);
		at = cleanslate_follow_state(buffer, at);
		at = cleanslate_unseen_state(buffer, at);
	} else {
		at = cleanslate_vmx_state(buffer, at);
	}
	return cleanslate_lift_state(buffer, at);
}

static struct kobj_attribute capabilities_attribute =
	__ATTR(capabilities, 0444, cleanslate_show_capabilities, NULL);

static ssize_t cleanslate_show_audit(struct kobject *kobj, struct kobj_attribute *attribute,
				     char *buffer)
{
	return cleanslate_audit_show(buffer);
}

static ssize_t cleanslate_store_audit(struct kobject *kobj, struct kobj_attribute *attribute,
				      const char *text, size_t size)
{
	return cleanslate_audit_store(text, size);
}

static struct kobj_attribute audit_attribute =
	__ATTR(audit, 0600, cleanslate_show_audit, cleanslate_store_audit);

static ssize_t cleanslate_show_measure(struct kobject *kobj, struct kobj_attribute *attribute,
				       char *buffer)
{
	return cleanslate_measure_show(buffer);
}

static ssize_t cleanslate_store_measure(struct kobject *kobj, struct kobj_attribute *attribute,
					const char *text, size_t size)
{
	return cleanslate_measure_store(text, size);
}

static struct kobj_attribute measure_attribute =
	__ATTR(measure, 0600, cleanslate_show_measure, cleanslate_store_measure);

static ssize_t cleanslate_show_dump(struct kobject *kobj, struct kobj_attribute *attribute,
				    char *buffer)
{
	return cleanslate_dump_state(buffer);
}

/* For root: a crash while somebody reads it, under kexec's lock, starts no crash kernel. */
static struct kobj_attribute dump_attribute = __ATTR(dump, 0400, cleanslate_show_dump, NULL);

static ssize_t cleanslate_show_dump_parameter(struct kobject *kobj,
					      struct kobj_attribute *attribute, char *buffer)
{
	return cleanslate_dump_parameter(buffer);
}

static struct kobj_attribute dump_parameter_attribute =
	__ATTR(dump_parameter, 0400, cleanslate_show_dump_parameter, NULL);

static ssize_t cleanslate_show_keep(struct kobject *kobj, struct kobj_attribute *attribute,
				    char *buffer)
{
	return cleanslate_keep_state(buffer);
}

static struct kobj_attribute keep_attribute = __ATTR(keep, 0400, cleanslate_show_keep, NULL);

static ssize_t cleanslate_show_takeover_parameter(struct kobject *kobj,
						  struct kobj_attribute *attribute, char *buffer)
{
	return cleanslate_takeover_parameter(buffer);
}

static struct kobj_attribute takeover_parameter_attribute =
	__ATTR(takeover_parameter, 0400, cleanslate_show_takeover_parameter, NULL);

static ssize_t cleanslate_show_takeover(struct kobject *kobj, struct kobj_attribute *attribute,
					char *buffer)
{
	return cleanslate_takeover_state(buffer);
}

static struct kobj_attribute takeover_attribute =
	__ATTR(takeover, 0444, cleanslate_show_takeover, NULL);

static struct attribute *attributes[] = {
	&mode_attribute.attr,
	&pamt_kb_value.attribute.attr,
	&given_kb_value.attribute.attr,
	&giving_kb_value.attribute.attr,
	&returned_kb_value.attribute.attr,
	&tds_value.attribute.attr,
	&held_attribute.attr,
	&learned_kb_attribute.attr,
	&pamt_attribute.attr,
	&capabilities_attribute.attr,
	&verdict_attribute.attr,
	&audit_attribute.attr,
	&measure_attribute.attr,
	&dump_attribute.attr,
	&dump_parameter_attribute.attr,
	&keep_attribute.attr,
	&takeover_parameter_attribute.attr,
	&takeover_attribute.attr,
	NULL,
};

static const struct attribute_group group = { .attrs = attributes };

/*
 * Pages of TDs by kind. As host from the TDX module. Beside a kernel that builds TDs it must not be
 * asked: its answer locks the page, and a SEAMCALL of KVM's fails that does not expect it.
 */
struct cleanslate_kind {
	struct kobj_attribute attribute;
	int kind;
};

static int cleanslate_count_pages(void *pages)
{
	int ret;

	cleanslate_pin();
	ret = cleanslate_pages(pages);
	cleanslate_unpin();
	return ret;
}

static ssize_t cleanslate_show_kind(struct kobject *kobj, struct kobj_attribute *attribute,
				    char *buffer)
{
	int kind = container_of(attribute, struct cleanslate_kind, attribute)->kind;
	struct cleanslate_pages pages = {};
	int ret = 0;

	if (cleanslate_mode == CLEANSLATE_WATCH)
		cleanslate_observed_pages(&pages);
	else
		ret = cleanslate_host_run(cleanslate_count_pages, &pages);
	/* TDX is not initialized: no pages. */
	if (ret && ret != -ENODEV)
		return ret;
	return sysfs_emit(buffer, "%llu\n", pages.count[kind]);
}

#define KIND(name, number)						\
	static struct cleanslate_kind name##_pages = {			\
		__ATTR(name, 0400, cleanslate_show_kind, NULL), number,	\
	}

KIND(tdr, CLEANSLATE_PAGES_TDR);
KIND(tdcx, CLEANSLATE_PAGES_TDCX);
KIND(tdvpr, CLEANSLATE_PAGES_TDVPR);
KIND(sept, CLEANSLATE_PAGES_SEPT);
KIND(guest, CLEANSLATE_PAGES_GUEST);
KIND(pamt_pair, CLEANSLATE_PAGES_PAMT_PAIR);

static struct attribute *kind_attributes[] = {
	&tdr_pages.attribute.attr,
	&tdcx_pages.attribute.attr,
	&tdvpr_pages.attribute.attr,
	&sept_pages.attribute.attr,
	&guest_pages.attribute.attr,
	&pamt_pair_pages.attribute.attr,
	NULL,
};

static const struct attribute_group kinds = { .name = "pages", .attrs = kind_attributes };
static struct kobject *folder;

/* The physical address without its KeyID, as the kernel masks it. */
static void cleanslate_explain_check(const char *level, const struct mce *check)
{
	char text[200];
	int length;

	if (!mce_usable_address((struct mce *)check))
		return;
	length = cleanslate_explain(check->addr & MCI_ADDR_PHYSADDR, text, sizeof(text));
	printk("%s" HW_ERR "%.*s\n", level, length, text);
}

/* Machine checks that the kernel survives. */
static int cleanslate_on_check(struct notifier_block *block, unsigned long value, void *data)
{
	const struct mce *check = data;

	cleanslate_explain_check(check->status & MCI_STATUS_UC ? KERN_EMERG : KERN_INFO, check);
	return NOTIFY_DONE;
}

static struct notifier_block machine_checks = {
	.notifier_call = cleanslate_on_check,
	.priority = MCE_PRIO_LOWEST,
};

/* Fatal ones are only printed. The argument begins with a struct mce in every kernel. */
static bool cleanslate_before_print(struct pt_regs *regs)
{
	cleanslate_explain_check(KERN_EMERG, (const void *)regs->di);
	return false;
}

static struct cleanslate_hook print = {
	.name = "__print_mce",
	.enter = cleanslate_before_print,
};

int cleanslate_report_init(void)
{
	int ret = -ENOMEM;

	folder = kobject_create_and_add("cleanslate", kernel_kobj);
	if (folder)
		ret = sysfs_create_group(folder, &group);
	if (!ret && (cleanslate_mode == CLEANSLATE_HOST || cleanslate_follows()))
		ret = sysfs_create_group(folder, &kinds);
	if (ret) {
		kobject_put(folder);
		folder = NULL;
	}
	mce_register_decode_chain(&machine_checks);
	if (cleanslate_arm(&print, 1))
		pr_info("fatal machine checks will not be explained\n");
	return ret;
}

void cleanslate_report_exit(void)
{
	cleanslate_disarm(&print, 1);
	mce_unregister_decode_chain(&machine_checks);
	kobject_put(folder);
}
