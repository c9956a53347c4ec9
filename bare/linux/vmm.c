// SPDX-License-Identifier: GPL-2.0
/*
 * vmm LAST [exit|wait]: a VMM of a TD, by KVM's ioctls alone. Makes its calls in order and stops
 * after the one that is named, or after the first that fails; then it exits, and KVM tears the TD
 * down, or waits for a signal. Private memory is from guest_memfd. No code of the TD runs.
 *
 *   create-vm init-vm memory create-vcpu init-vcpu init-memory finalize punch-hole
 *
 * Prints one event of bare/linux/init for each call.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <linux/falloc.h>
#include <linux/kvm.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <unistd.h>

/* Memory of the TD: guest physical addresses. The first PAGES pages are private. */
#define BASE	0xfff00000ull
#define SIZE	0x100000ull
#define PAGE	0x1000ull
#define PAGES	8

/* TD attribute: an EPT violation of the TD is no #VE. */
#define ATTRIBUTE_SEPT_VE_DISABLE	(1ull << 28)
/* x87 and SSE. */
#define XFAM				3
/* Width of guest physical addresses, in EAX of CPUID 0x80000008. */
#define GUEST_ADDRESS_BITS		48
#define CPUID_ENTRIES			256

static int kvm, vm, vcpu, memory;
static struct kvm_tdx_cmd command;

static int tdx(int fd, uint32_t id, uint32_t flags, void *data)
{
	command = (struct kvm_tdx_cmd){ .id = id, .flags = flags, .data = (uintptr_t)data };
	return ioctl(fd, KVM_MEMORY_ENCRYPT_OP, &command);
}

static int create_vm(void)
{
	struct kvm_enable_cap irqchip = { .cap = KVM_CAP_SPLIT_IRQCHIP, .args = { 24 } };

	kvm = open("/dev/kvm", O_RDWR | O_CLOEXEC);
	if (kvm < 0)
		return -1;
	vm = ioctl(kvm, KVM_CREATE_VM, KVM_X86_TDX_VM);
	return vm < 0 ? -1 : ioctl(vm, KVM_ENABLE_CAP, &irqchip);
}

static int init_vm(void)
{
	struct kvm_tdx_init_vm *init = calloc(1, sizeof(*init) + sizeof(struct kvm_cpuid_entry2));

	if (!init)
		return -1;
	init->attributes = ATTRIBUTE_SEPT_VE_DISABLE;
	init->xfam = XFAM;
	init->cpuid.nent = 1;
	init->cpuid.entries[0] = (struct kvm_cpuid_entry2){
		.function = 0x80000008,
		.eax = GUEST_ADDRESS_BITS << 16,
	};
	return tdx(vm, KVM_TDX_INIT_VM, 0, init);
}

static int add_memory(void)
{
	struct kvm_create_guest_memfd create = { .size = SIZE };
	struct kvm_memory_attributes private = {
		.address = BASE,
		.size = SIZE,
		.attributes = KVM_MEMORY_ATTRIBUTE_PRIVATE,
	};
	struct kvm_userspace_memory_region2 region = {
		.flags = KVM_MEM_GUEST_MEMFD,
		.guest_phys_addr = BASE,
		.memory_size = SIZE,
	};
	void *shared = mmap(NULL, SIZE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	memory = ioctl(vm, KVM_CREATE_GUEST_MEMFD, &create);
	if (shared == MAP_FAILED || memory < 0)
		return -1;
	region.userspace_addr = (uintptr_t)shared;
	region.guest_memfd = memory;
	if (ioctl(vm, KVM_SET_USER_MEMORY_REGION2, &region))
		return -1;
	return ioctl(vm, KVM_SET_MEMORY_ATTRIBUTES, &private);
}

static int create_vcpu(void)
{
	vcpu = ioctl(vm, KVM_CREATE_VCPU, 0);
	return vcpu < 0 ? -1 : 0;
}

static int init_vcpu(void)
{
	struct kvm_cpuid2 *cpuid;

	cpuid = calloc(1, sizeof(*cpuid) + CPUID_ENTRIES * sizeof(struct kvm_cpuid_entry2));
	if (!cpuid)
		return -1;
	cpuid->nent = CPUID_ENTRIES;
	if (ioctl(kvm, KVM_GET_SUPPORTED_CPUID, cpuid))
		return -1;
	for (unsigned int index = 0; index < cpuid->nent; index++)
		if (cpuid->entries[index].function == 0x80000008)
			cpuid->entries[index].eax = 0x3000 | GUEST_ADDRESS_BITS | GUEST_ADDRESS_BITS << 16;
	if (ioctl(vcpu, KVM_SET_CPUID2, cpuid))
		return -1;
	return tdx(vcpu, KVM_TDX_INIT_VCPU, 0, NULL);
}

static int init_memory(void)
{
	char *image = mmap(NULL, PAGES * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	struct kvm_tdx_init_mem_region region = { .gpa = BASE, .nr_pages = PAGES };

	if (image == MAP_FAILED)
		return -1;
	memset(image, 0xa5, PAGES * PAGE);
	region.source_addr = (uintptr_t)image;
	return tdx(vcpu, KVM_TDX_INIT_MEM_REGION, KVM_TDX_MEASURE_MEMORY_REGION, &region);
}

static int finalize(void)
{
	return tdx(vm, KVM_TDX_FINALIZE_VM, 0, NULL);
}

/* Half of the private pages go back while the TD lives. */
static int punch_hole(void)
{
	return fallocate(memory, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 0, PAGES / 2 * PAGE);
}

static const struct {
	const char *name;
	int (*call)(void);
} calls[] = {
	{ "create-vm", create_vm },
	{ "init-vm", init_vm },
	{ "memory", add_memory },
	{ "create-vcpu", create_vcpu },
	{ "init-vcpu", init_vcpu },
	{ "init-memory", init_memory },
	{ "finalize", finalize },
	{ "punch-hole", punch_hole },
};

int main(int argc, char **argv)
{
	const char *last = argc > 1 ? argv[1] : "";
	int wait = argc > 2 && !strcmp(argv[2], "wait");

	setvbuf(stdout, NULL, _IOLBF, 0);
	for (unsigned int index = 0; index < sizeof(calls) / sizeof(*calls); index++) {
		const char *name = calls[index].name;

		if (calls[index].call()) {
			printf("@ {\"event\":\"vmm-failed\",\"call\":\"%s\",\"errno\":%d,\"status\":\"%#llx\"}\n",
			       name, errno, (unsigned long long)command.hw_error);
			break;
		}
		printf("@ {\"event\":\"vmm\",\"call\":\"%s\"}\n", name);
		if (!strcmp(name, last))
			break;
	}
	if (wait)
		pause();
	return 0;
}
