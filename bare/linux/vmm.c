// SPDX-License-Identifier: GPL-2.0
/*
 * vmm [WORD...]: a VMM of TDs, by KVM's ioctls alone. It builds one TD in memory of guest_memfd and
 * runs guest.S in it, which takes a page (KVM's AUG) and accepts it, makes it shared and private
 * again; the VMM punches a hole into the TD's memory, and the TD then counts. The VMM may end
 * before, at each stop and at each ioctl that fails.
 *
 *   number=N       of this TD, for the events; 0
 *   vcpus=N        1 to 8; 1
 *   stop=STOP      stop there (stops[] below); without: all of them, and the TD then runs on
 *   end=END        at the stop, or once the TD runs on, or when an ioctl has failed: `stay` (the
 *                  process and its TD stay), `exit`, `kill` (SIGKILL); stay
 *   idle           the TD is never entered: the VMM gives and takes its pages
 *   pages          at each stop, pages by kind: of cleanslate.ko and of seamvisor
 *   seed=N         random traffic: each VCPU has pages of its own to accept, convert and punch
 *   steps=N        of each VCPU in one life; 0: for ever
 *   lives=N        TDs in turn, of seeds N, N + 1, ..; 1
 *   fill=N         KVM gives the TD N more pages, at most 140, before it runs
 *   interrupts     the TD first takes interrupts: of itself, a timer, another VCPU, MSIs, an irqfd,
 *                  NMIs. From then on the VMM sends MSIs until the end
 *   cpuid          ask what CPUID answers in the TD, which has AVX then
 *   exits=N        measure N exits to this program and N exits that KVM handles
 *
 * `vmm pages WHEN` only tells pages by kind, `vmm words` waits for words that seamvisor gets late
 * and prints them; it fails if none can come. Results are events in the kernel log, which
 * bare/README.md lists.
 */
#define _GNU_SOURCE
#include <cpuid.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/falloc.h>
#include <linux/kvm.h>
#include <linux/kvm_para.h>
#include <poll.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

/* As in guest.S. */
#define PAGE		4096ull
#define LOW		0xfff00000ull
#define SIZE		0x100000ull
#define ADDED		0xffff8000ull
#define ADDED_PAGES	8
#define SHARED		(1ull << 47)
#define CONSOLE		0x3f8
#define COMMAND		0x503
#define RESULT		0x504
#define NEW		(MAP_PRIVATE | MAP_ANONYMOUS)
#define WORD		0x6465726168732061ull
enum operation {
	HELLO, ACCEPT, TOUCH, SHARE, STORE_SHARED, UNSHARE, COUNT, COUNT_FOR_EVER, INFO, LOAD, CPUID, ENABLE, WAIT,
	CPUID_VE, TIMER, SEND_IPI, PRIORITY, COUNTED, DISABLE
};
/* Offsets of counts. */
enum { DEVICES = 0, TIMERS = 8, IPIS = 16, NMIS = 24 };
#define DEVICE_VECTOR	0x41

extern const unsigned char guest[4096];

/* ATTRIBUTES: no #VE for a page that is not there. */
#define SEPT_VE_DISABLE	(1ull << 28)
#define MAX_VCPUS	8
/* Pages that traffic uses: those of one VCPU, and those before them for the first commands. */
#define FIRST_PAGES	16
#define OWN_PAGES	8
/* Pages that nobody touches. */
#define FILL_PAGES	100
#define MAX_FILL	140

enum stop {
	NOWHERE, CREATE_VM, INIT_VM, INIT_VCPU, INIT_MEM_REGION, FINALIZE, RUN, AUG, IS_SHARED, IS_PRIVATE, PUNCH_HOLE,
	GONE, STOPS
};

static const char *const stops[STOPS] = {
	[NOWHERE] = "", [CREATE_VM] = "create-vm", [INIT_VM] = "init-vm", [INIT_VCPU] = "init-vcpu",
	[INIT_MEM_REGION] = "init-mem-region", [FINALIZE] = "finalize", [RUN] = "run", [AUG] = "aug",
	[IS_SHARED] = "shared", [IS_PRIVATE] = "private", [PUNCH_HOLE] = "punch-hole", [GONE] = "gone",
};

static const char *const ends[] = { "stay", "exit", "kill" };

static struct {
	unsigned int number, vcpus, stop, end, steps, lives, exits, fill;
	int idle, pages, interrupts, cpuid;
	uint64_t seed;
	int traffic;
} options = { .vcpus = 1, .lives = 1 };

enum page_state { ABSENT, ACCEPTED, CONVERTED };

struct vcpu {
	int index, fd;
	struct kvm_run *run;
	/* What it was asked last, and its answer. */
	uint32_t command, answer;
	int answered;
	unsigned long step, exits;
	uint64_t random;
	enum page_state state[OWN_PAGES];
	double since;
	char line[128];
	unsigned int length;
	/* Interrupts: the next command, and how many of this kind have come. */
	unsigned int interrupt_step, interrupts;
};

static int kvm, vm, memfd = -1, ready[2];
static char *memory;
static struct vcpu vcpus[MAX_VCPUS];
/* The device: what it is to send, and whether it sends for ever. */
static int device[2], irqfd;
static volatile int sends_for_ever;
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;

/* One line of the kernel log, which keeps it whole. */
__attribute__((format(printf, 2, 3)))
static void event(const char *name, const char *format, ...)
{
	static int log = -1;
	char line[1024];
	va_list arguments;
	int length = snprintf(line, sizeof(line), "@ {\"event\":\"%s\"", name);

	va_start(arguments, format);
	length += vsnprintf(line + length, sizeof(line) - length, format, arguments);
	va_end(arguments);
	length += snprintf(line + length, sizeof(line) - length, "}\n");
	if (log < 0)
		log = open("/dev/kmsg", O_WRONLY | O_CLOEXEC);
	if (log < 0 || write(log, line, length) != length)
		fputs(line, stderr);
}

static double seconds(void)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return now.tv_sec + now.tv_nsec / 1e9;
}

/* Of a VCPU, or of the TD. xorshift64*. */
static uint32_t random_below(uint64_t *state, uint32_t limit)
{
	*state ^= *state >> 12;
	*state ^= *state << 25;
	*state ^= *state >> 27;
	return (*state * 0x2545f4914f6cdd1dull >> 32) % limit;
}

/* A CPUID leaf of seamvisor; -1 without seamvisor. */
static long seamvisor(unsigned int leaf, unsigned int subleaf)
{
	unsigned int eax, ebx, ecx, edx;

	__cpuid_count(leaf, subleaf, eax, ebx, ecx, edx);
	return ecx == 0x61656c63 && edx == 0x616c736e ? (long)eax : -1;
}

/* Pages of a kind as seamvisor counts them. */
static long seamvisor_count(unsigned int kind)
{
	return seamvisor(0x40000010, kind);
}

/* Words that came once this machine went on from a snapshot. */
static int print_words(void)
{
	long length = seamvisor(0x40000011, 0), at;

	for (at = 0; at < length; at += 4) {
		uint32_t part = seamvisor(0x40000011, 1 + at / 4);

		fwrite(&part, 1, length - at < 4 ? length - at : 4, stdout);
	}
	putchar('\n');
	return length <= 0;
}

static long cleanslate_count(const char *kind)
{
	char path[64];
	long count = -1;
	FILE *file;

	snprintf(path, sizeof(path), "/sys/kernel/cleanslate/pages/%s", kind);
	file = fopen(path, "r");
	if (!file)
		return -1;
	if (fscanf(file, "%ld", &count) != 1)
		count = -1;
	fclose(file);
	return count;
}

static void tell_pages(const char *when)
{
	static const char *const kinds[] = { "tdr", "tdcx", "tdvpr", "sept", "guest" };
	char text[512] = "";
	unsigned int kind;
	int length = 0;

	for (kind = 0; kind < sizeof(kinds) / sizeof(*kinds); kind++)
		length += snprintf(text + length, sizeof(text) - length, ",\"%s\":[%ld,%ld]", kinds[kind],
				   cleanslate_count(kinds[kind]), seamvisor_count(kind));
	event("pages", ",\"number\":%u,\"when\":\"%s\"%s", options.number, when, text);
}

/* Tells the parent, and goes as was asked. Never returns. */
__attribute__((noreturn))
static void end(void)
{
	char how = options.end;

	if (write(ready[1], &how, 1) != 1)
		exit(70);
	switch (options.end) {
	case 0:
		for (;;)
			pause();
	case 2:
		kill(getpid(), SIGKILL);
	}
	exit(0);
}

__attribute__((noreturn))
static void fail(const char *what, uint64_t hw_error)
{
	int error = errno;

	pthread_mutex_lock(&lock);
	event("vmm-failed", ",\"number\":%u,\"what\":\"%s\",\"why\":\"%s\",\"hw_error\":\"%#llx\"", options.number, what,
	      strerror(error), (unsigned long long)hw_error);
	end();
}

#define CHECK(call)					\
({							\
	long __result = (call);				\
							\
	if (__result < 0)				\
		fail(#call, 0);				\
	__result;					\
})

static void tdx(int fd, const char *name, uint32_t id, uint32_t flags, uint64_t data)
{
	struct kvm_tdx_cmd command = { .id = id, .flags = flags, .data = data };
	int tries = 0;

	/* KVM leaves off when a signal or a busy module comes in between; the VMM tries again. */
	while (ioctl(fd, KVM_MEMORY_ENCRYPT_OP, &command)) {
		if ((errno != EINTR && errno != EAGAIN && errno != EBUSY) || ++tries == 10)
			fail(name, command.hw_error);
		command.hw_error = 0;
	}
	if (tries)
		event("vmm-again", ",\"number\":%u,\"what\":\"%s\",\"tries\":%d", options.number, name, tries);
}
#define TDX(fd, id, flags, data) tdx(fd, #id, id, flags, (uint64_t)(data))

/* A stop of the TD's life. */
static void at(enum stop stop)
{
	if (options.traffic)
		return;
	event("vmm-stop", ",\"number\":%u,\"stop\":\"%s\"", options.number, stops[stop]);
	if (options.pages)
		tell_pages(stops[stop]);
	if (options.stop == stop)
		end();
}

static void set_private(unsigned int page, unsigned int pages, int private)
{
	struct kvm_memory_attributes attributes = {
		.address = LOW + page * PAGE,
		.size = pages * PAGE,
		.attributes = private ? KVM_MEMORY_ATTRIBUTE_PRIVATE : 0,
	};

	CHECK(ioctl(vm, KVM_SET_MEMORY_ATTRIBUTES, &attributes));
}

static void punch_hole(unsigned int page, unsigned int pages)
{
	CHECK(fallocate(memfd, FALLOC_FL_KEEP_SIZE | FALLOC_FL_PUNCH_HOLE, page * PAGE, pages * PAGE));
}

/* As VMMs do: what is shared needs no private memory, and the other way round. */
static void convert(unsigned int page, unsigned int pages, int private)
{
	void *shared = memory + page * PAGE;

	set_private(page, pages, private);
	if (!private)
		punch_hole(page, pages);
	else if (mmap(shared, pages * PAGE, PROT_READ | PROT_WRITE, NEW | MAP_FIXED, -1, 0) != shared)
		fail("mmap", 0);
}

/* Did the TD store into each line of the shared page? */
static int is_stored(unsigned int page)
{
	const uint64_t *word = (const void *)(memory + page * PAGE);
	int index;

	for (index = 0; index < 512; index += 8)
		if (word[index] != WORD)
			return 0;
	return 1;
}

static void expect(const struct vcpu *vcpu, int good)
{
	if (good)
		return;
	errno = EILSEQ;
	event("vmm-wrong", ",\"number\":%u,\"vcpu\":%d,\"operation\":%u,\"page\":%u,\"answer\":%u", options.number,
	      vcpu->index, vcpu->command & 0xff, vcpu->command >> 8, vcpu->answer);
	fail("answer of the TD", 0);
}

#define DO(operation, argument) ((operation) | (uint32_t)(argument) << 8)

/* Commands of the first VCPU: a life with all stops. Before each, the answer to the one before. */
static uint32_t next_of_life(struct vcpu *vcpu)
{
	/* Touched, converted, punched; the counter. */
	enum { A, B };

	switch (vcpu->step++) {
	case 0:
		return DO(HELLO, 0);
	case 1:
		return DO(INFO, 0);
	case 2:
		expect(vcpu, vcpu->answer == 48);
		at(RUN);
		return DO(ACCEPT, A);
	case 3:
		expect(vcpu, vcpu->answer == 0);
		return DO(TOUCH, A);
	case 4:
		expect(vcpu, vcpu->answer == 0);
		at(AUG);
		return DO(SHARE, A);
	case 5:
		expect(vcpu, vcpu->answer == 0);
		return DO(STORE_SHARED, A);
	case 6:
		expect(vcpu, is_stored(A));
		event("guest-shared", ",\"number\":%u,\"text\":\"%.8s\"", options.number, memory);
		at(IS_SHARED);
		return DO(UNSHARE, A);
	case 7:
		expect(vcpu, vcpu->answer == 0);
		return DO(ACCEPT, A);
	case 8:
		expect(vcpu, vcpu->answer == 0);
		return DO(TOUCH, A);
	case 9:
		expect(vcpu, vcpu->answer == 0);
		at(IS_PRIVATE);
		return DO(ACCEPT, B);
	case 10:
		expect(vcpu, vcpu->answer == 0);
		punch_hole(A, 1);
		at(PUNCH_HOLE);
		vcpu->since = seconds();
		return options.exits ? DO(COUNT, 1) : DO(COUNT_FOR_EVER, B);
	}
	/* Exits to here, then exits that KVM handles, then it counts. */
	if (vcpu->step < options.exits + 11)
		return DO(COUNT, 1);
	if (vcpu->step == options.exits + 11) {
		event("exits", ",\"to\":\"user space\",\"count\":%u,\"nanoseconds\":%.0f", 2 * options.exits,
		      (seconds() - vcpu->since) * 1e9);
		vcpu->since = seconds();
		return DO(CPUID, options.exits);
	}
	if (vcpu->step == options.exits + 12)
		event("exits", ",\"to\":\"kvm\",\"count\":%u,\"nanoseconds\":%.0f", options.exits,
		      (seconds() - vcpu->since) * 1e9);
	return DO(COUNT_FOR_EVER, B);
}

/* A random command, and what its answer says of the page. */
static uint32_t next_of_traffic(struct vcpu *vcpu)
{
	unsigned int mine = random_below(&vcpu->random, OWN_PAGES);
	unsigned int page = FIRST_PAGES + vcpu->index * OWN_PAGES + mine;
	enum page_state *state = &vcpu->state[mine];
	cpu_set_t cpu;

	if (vcpu->answered) {
		unsigned int last = (vcpu->command >> 8) - FIRST_PAGES - vcpu->index * OWN_PAGES;

		switch (vcpu->command & 0xff) {
		case ACCEPT:
			expect(vcpu, vcpu->answer == 0);
			vcpu->state[last] = ACCEPTED;
			break;
		case TOUCH:
			expect(vcpu, vcpu->answer == 0);
			break;
		case SHARE:
			expect(vcpu, vcpu->answer == 0);
			vcpu->state[last] = CONVERTED;
			break;
		case STORE_SHARED:
			expect(vcpu, is_stored(vcpu->command >> 8));
			break;
		case UNSHARE:
			expect(vcpu, vcpu->answer == 0);
			vcpu->state[last] = ABSENT;
			break;
		}
	}
	vcpu->step++;
	if (options.steps && vcpu->step > options.steps) {
		pthread_mutex_lock(&lock);
		event("traffic", ",\"number\":%u,\"seed\":%llu,\"steps\":%lu", options.number,
		      (unsigned long long)options.seed, vcpu->step);
		/* The last one has the seed's choice of how it ends. */
		options.end = 1 + options.seed % 2;
		end();
	}
	/* Anywhere else from here on. */
	if (random_below(&vcpu->random, 8) == 0) {
		CPU_ZERO(&cpu);
		CPU_SET(random_below(&vcpu->random, sysconf(_SC_NPROCESSORS_CONF)), &cpu);
		/* It may be offline. */
		sched_setaffinity(0, sizeof(cpu), &cpu);
	}
	switch (*state) {
	case ABSENT:
		return DO(random_below(&vcpu->random, 3) ? ACCEPT : SHARE, page);
	case ACCEPTED:
		switch (random_below(&vcpu->random, 4)) {
		case 0:
			return DO(SHARE, page);
		case 1:
			punch_hole(page, 1);
			*state = ABSENT;
			return DO(COUNT, 1 + random_below(&vcpu->random, 500));
		default:
			return DO(TOUCH, page);
		}
	case CONVERTED:
		return DO(random_below(&vcpu->random, 2) ? STORE_SHARED : UNSHARE, page);
	}
	return DO(COUNT, 1);
}

/* MSI to a VCPU. False if KVM has given the VM up. */
static int signal_msi(unsigned int vcpu)
{
	struct kvm_msi msi = { .address_lo = 0xfee00000 | vcpu << 12, .data = DEVICE_VECTOR };

	/* 0 if it waits already. */
	if (ioctl(vm, KVM_SIGNAL_MSI, &msi) >= 0)
		return 1;
	if (errno != EIO)
		fail("KVM_SIGNAL_MSI", 0);
	return 0;
}

/* Sends one MSI for each byte, by turns by ioctl and by eventfd, at any time of the next 3 ms. */
static void *run_device(void *argument)
{
	uint64_t random = options.seed + 1, one = 1;
	unsigned int sent = 0, vcpu;
	char byte;

	(void)argument;
	while (!sends_for_ever && read(device[0], &byte, 1) == 1) {
		if (sends_for_ever)
			break;
		usleep(random_below(&random, 3000));
		if (sent++ % 2)
			CHECK(write(irqfd, &one, sizeof(one)));
		else
			signal_msi(0);
	}
	for (;;) {
		/* Its VCPUs say why. */
		for (vcpu = 0; vcpu < options.vcpus; vcpu++)
			if (!signal_msi(vcpu))
				return NULL;
		usleep(2000);
	}
	return NULL;
}

static void new_device(void)
{
	struct kvm_irq_routing *routing = calloc(1, sizeof(*routing) + sizeof(struct kvm_irq_routing_entry));
	struct kvm_irqfd fd = {};
	pthread_t thread;

	irqfd = CHECK(eventfd(0, EFD_CLOEXEC));
	routing->nr = 1;
	routing->entries[0] = (struct kvm_irq_routing_entry){
		.type = KVM_IRQ_ROUTING_MSI,
		.u.msi = { .address_lo = 0xfee00000, .data = DEVICE_VECTOR },
	};
	CHECK(ioctl(vm, KVM_SET_GSI_ROUTING, routing));
	free(routing);
	fd.fd = irqfd;
	CHECK(ioctl(vm, KVM_IRQFD, &fd));
	CHECK(pipe(device));
	errno = pthread_create(&thread, NULL, run_device, NULL);
	CHECK(errno ? -1 : 0);
}

static void poke_device(void)
{
	char byte = 0;

	CHECK(write(device[1], &byte, 1) == 1 ? 0 : -1);
}

#define NOTHING UINT32_MAX
/* Interrupts of each kind; a count of one byte is waited for. */
#define ROUNDS 100

/*
 * Commands that make VCPU 0 take interrupts. Each of them comes exactly once: the next one is sent
 * when the TD has said that it has counted the one before.
 */
static uint32_t next_of_interrupts(struct vcpu *vcpu)
{
	enum { BEGIN, HAS_CPUID, HAS_PRIORITY, IS_ENABLED, HAS_TIMER, HAS_NMI, DEVICE, IPI, BLOCKED, PENDING, OPEN, END };
	unsigned int *count = &vcpu->interrupts;

	switch (vcpu->interrupt_step) {
	case BEGIN:
		vcpu->interrupt_step = IS_ENABLED;
		return DO(ENABLE, 0);
	case IS_ENABLED:
		vcpu->interrupt_step = HAS_CPUID;
		return DO(CPUID_VE, 0);
	case HAS_CPUID:
		/* KVMK */
		expect(vcpu, vcpu->answer == 0x4b4d564b);
		vcpu->interrupt_step = HAS_PRIORITY;
		return DO(PRIORITY, 0);
	case HAS_PRIORITY:
		expect(vcpu, vcpu->answer == 0);
		vcpu->interrupt_step = HAS_TIMER;
		return DO(TIMER, 1000);
	case HAS_TIMER:
		vcpu->interrupt_step = HAS_NMI;
		return DO(WAIT, TIMERS | 1 << 8);
	case HAS_NMI:
		expect(vcpu, vcpu->answer == 1);
		CHECK(ioctl(vcpu->fd, KVM_NMI));
		vcpu->interrupt_step = DEVICE;
		return DO(COUNTED, NMIS);
	case DEVICE:
		/* The first answer counts NMIs. By turns while it idles and while it counts. */
		expect(vcpu, (vcpu->command & 0xff) == COUNT || vcpu->answer == (*count ? *count : 1));
		if (*count == ROUNDS && (vcpu->command & 0xff) != COUNT) {
			*count = 0;
			vcpu->interrupt_step = options.vcpus > 1 ? IPI : BLOCKED;
			return DO(COUNT, 1);
		}
		if ((vcpu->command & 0xff) != COUNT) {
			poke_device();
			if (++*count % 2)
				return DO(COUNT, 300);
		}
		return DO(WAIT, DEVICES | *count << 8);
	case IPI:
		while (__atomic_load_n(&vcpus[1].interrupts, __ATOMIC_SEQ_CST) != *count)
			usleep(100);
		if (++*count <= ROUNDS)
			return DO(SEND_IPI, 1);
		__attribute__((fallthrough));
	case BLOCKED:
		vcpu->interrupt_step = PENDING;
		return DO(DISABLE, 0);
	case PENDING:
		signal_msi(0);
		vcpu->interrupt_step = OPEN;
		return DO(COUNTED, DEVICES);
	case OPEN:
		expect(vcpu, vcpu->answer == ROUNDS);
		vcpu->interrupt_step = END;
		return DO(ENABLE, 0);
	case END:
		vcpu->interrupt_step++;
		return DO(COUNTED, DEVICES);
	default:
		if ((vcpu->command & 0xff) == COUNTED) {
			expect(vcpu, vcpu->answer == ROUNDS + 1);
			event("interrupts", ",\"number\":%u,\"device\":%u,\"ipi\":%u,\"nmi\":1,\"timer\":1",
			      options.number, vcpu->answer, options.vcpus > 1 ? ROUNDS : 0);
			sends_for_ever = 1;
			poke_device();
		}
		return NOTHING;
	}
}

/* Of VCPU 1: takes interrupts of VCPU 0, then disables them, so that those of the device wait. */
static uint32_t next_of_receiver(struct vcpu *vcpu)
{
	unsigned int count = vcpu->interrupts;

	if ((vcpu->command & 0xff) == WAIT) {
		expect(vcpu, vcpu->answer == count + 1);
		__atomic_store_n(&vcpu->interrupts, ++count, __ATOMIC_SEQ_CST);
	}
	if (!vcpu->interrupt_step++)
		return DO(ENABLE, 0);
	if (count < ROUNDS)
		return DO(WAIT, IPIS | (count + 1) << 8);
	return (vcpu->command & 0xff) == WAIT ? DO(DISABLE, 0) : DO(COUNT, 1000);
}

static uint32_t next_command(struct vcpu *vcpu)
{
	if (options.interrupts && vcpu->index == 0) {
		uint32_t command = next_of_interrupts(vcpu);

		if (command != NOTHING)
			return command;
	}
	if (options.interrupts && vcpu->index == 1)
		return next_of_receiver(vcpu);
	if (options.traffic)
		return next_of_traffic(vcpu);
	if (vcpu->index)
		return DO(COUNT, 1000);
	return next_of_life(vcpu);
}

static void told(struct vcpu *vcpu, char byte)
{
	if (byte != '\n' && vcpu->length < sizeof(vcpu->line) - 1) {
		vcpu->line[vcpu->length++] = byte;
		return;
	}
	event("guest", ",\"number\":%u,\"vcpu\":%d,\"text\":\"%.*s\"", options.number, vcpu->index, (int)vcpu->length,
	      vcpu->line);
	vcpu->length = 0;
}

static void port(struct vcpu *vcpu)
{
	uint32_t *data = (void *)((char *)vcpu->run + vcpu->run->io.data_offset);
	int is_write = vcpu->run->io.direction == KVM_EXIT_IO_OUT;

	switch (vcpu->run->io.port) {
	case CONSOLE:
		told(vcpu, *data);
		return;
	case COMMAND:
		if (is_write)
			break;
		vcpu->command = next_command(vcpu);
		vcpu->answered = 0;
		*data = vcpu->command;
		/* The guest never ends this command. */
		if ((vcpu->command & 0xff) == COUNT_FOR_EVER) {
			char how = 0;

			if (options.end == 0 && write(ready[1], &how, 1) != 1)
				exit(70);
			if (options.end)
				alarm(1);
		}
		return;
	case RESULT:
		vcpu->answer = *data;
		vcpu->answered = 1;
		return;
	}
	errno = EBADMSG;
	fail("port of the TD", vcpu->run->io.port);
}

static void *run(void *argument)
{
	struct vcpu *vcpu = argument;

	for (;;) {
		if (ioctl(vcpu->fd, KVM_RUN, 0)) {
			if (errno == EINTR || errno == EAGAIN)
				continue;
			fail("KVM_RUN", vcpu->run->exit_reason);
		}
		vcpu->exits++;
		switch (vcpu->run->exit_reason) {
		case KVM_EXIT_IO:
			port(vcpu);
			break;
		case KVM_EXIT_HYPERCALL:
			if (vcpu->run->hypercall.nr != KVM_HC_MAP_GPA_RANGE) {
				errno = EBADMSG;
				fail("hypercall of the TD", vcpu->run->hypercall.nr);
			}
			convert((vcpu->run->hypercall.args[0] - LOW) / PAGE, vcpu->run->hypercall.args[1],
				vcpu->run->hypercall.args[2] & KVM_MAP_GPA_RANGE_ENCRYPTED);
			vcpu->run->hypercall.ret = 0;
			break;
		default:
			errno = EBADMSG;
			fail("exit of the TD", vcpu->run->exit_reason);
		}
	}
	return NULL;
}

static void new_vm(void)
{
	struct kvm_enable_cap irqchip = { .cap = KVM_CAP_SPLIT_IRQCHIP, .args = { 24 } };
	struct kvm_enable_cap hypercalls = { .cap = KVM_CAP_EXIT_HYPERCALL, .args = { 1 << KVM_HC_MAP_GPA_RANGE } };
	struct kvm_create_guest_memfd create = { .size = SIZE };

	kvm = CHECK(open("/dev/kvm", O_RDWR | O_CLOEXEC));
	vm = CHECK(ioctl(kvm, KVM_CREATE_VM, KVM_X86_TDX_VM));
	CHECK(ioctl(vm, KVM_ENABLE_CAP, &irqchip));
	CHECK(ioctl(vm, KVM_ENABLE_CAP, &hypercalls));
	memfd = CHECK(ioctl(vm, KVM_CREATE_GUEST_MEMFD, &create));
	/* The guest's memory is allocated before KVM allocates pages of its own. */
	if (options.fill)
		CHECK(fallocate(memfd, FALLOC_FL_KEEP_SIZE, 0, SIZE));
	at(CREATE_VM);
}

static void init_vm(void)
{
	struct kvm_tdx_init_vm *init = calloc(1, sizeof(*init) + 64 * sizeof(struct kvm_cpuid_entry2));

	init->attributes = SEPT_VE_DISABLE;
	init->xfam = options.cpuid ? 7 : 3;
	/* GPAs of 48 bits: four levels. */
	init->cpuid.nent = 1;
	init->cpuid.entries[0] = (struct kvm_cpuid_entry2){ .function = 0x80000008, .eax = 48 << 16 };
	TDX(vm, KVM_TDX_INIT_VM, 0, init);
	free(init);
	at(INIT_VM);
}

/* What CPUID answers in the TD, by KVM's MNG.RD of each leaf. */
static void tell_cpuid(void)
{
	struct kvm_cpuid2 *cpuid = calloc(1, sizeof(*cpuid) + 256 * sizeof(struct kvm_cpuid_entry2));
	char vendor[13] = "", leaf_21[13] = "";
	unsigned int index, width = 0;

	cpuid->nent = 256;
	TDX(vcpus[0].fd, KVM_TDX_GET_CPUID, 0, cpuid);
	for (index = 0; index < cpuid->nent; index++) {
		const struct kvm_cpuid_entry2 *entry = &cpuid->entries[index];
		uint32_t text[] = { entry->ebx, entry->edx, entry->ecx };

		if (entry->function == 0)
			memcpy(vendor, text, 12);
		else if (entry->function == 0x21)
			memcpy(leaf_21, text, 12);
		else if (entry->function == 0x80000008)
			width = entry->eax >> 16 & 0xff;
	}
	event("td-cpuid", ",\"number\":%u,\"entries\":%u,\"vendor\":\"%s\",\"leaf_21\":\"%s\",\"guest_width\":%u",
	      options.number, cpuid->nent, vendor, leaf_21, width);
	free(cpuid);
}

/*
 * On one CPU. KVM of 7.3 makes VP.INIT, which binds the VCPU to a CPU, and then writes to its VMCS;
 * if the task moves in between, no VP.FLUSH comes, the write fails, and the VM is dead.
 */
static void init_vcpu(int fd, unsigned int index)
{
	cpu_set_t before, here;

	CHECK(sched_getaffinity(0, sizeof(before), &before));
	CPU_ZERO(&here);
	CPU_SET(CHECK(sched_getcpu()), &here);
	CHECK(sched_setaffinity(0, sizeof(here), &here));
	/* Its RCX at the start. */
	TDX(fd, KVM_TDX_INIT_VCPU, 0, index);
	CHECK(sched_setaffinity(0, sizeof(before), &before));
}

static void new_vcpus(void)
{
	struct kvm_cpuid2 *cpuid = calloc(1, sizeof(*cpuid) + 256 * sizeof(struct kvm_cpuid_entry2));
	int size = CHECK(ioctl(kvm, KVM_GET_VCPU_MMAP_SIZE, 0));
	unsigned int index;

	cpuid->nent = 256;
	CHECK(ioctl(kvm, KVM_GET_SUPPORTED_CPUID, cpuid));
	for (index = 0; index < cpuid->nent; index++)
		if (cpuid->entries[index].function == 0x80000008)
			cpuid->entries[index].eax = 0x3030 | 48 << 16;
	for (index = 0; index < options.vcpus; index++) {
		struct vcpu *vcpu = &vcpus[index];

		vcpu->index = index;
		vcpu->random = (options.seed + 1) * 0x9e3779b97f4a7c15ull + index;
		vcpu->fd = CHECK(ioctl(vm, KVM_CREATE_VCPU, index));
		CHECK(ioctl(vcpu->fd, KVM_SET_CPUID2, cpuid));
		init_vcpu(vcpu->fd, index);
		vcpu->run = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED, vcpu->fd, 0);
		CHECK(vcpu->run == MAP_FAILED ? -1 : 0);
	}
	free(cpuid);
	if (options.cpuid)
		tell_cpuid();
	at(INIT_VCPU);
}

static void new_memory(void)
{
	struct kvm_userspace_memory_region2 region = {
		.flags = KVM_MEM_GUEST_MEMFD, .guest_phys_addr = LOW, .memory_size = SIZE,
	};
	struct kvm_tdx_init_mem_region added = { .gpa = ADDED, .nr_pages = ADDED_PAGES };
	char *image = mmap(NULL, ADDED_PAGES * PAGE, PROT_READ | PROT_WRITE, NEW, -1, 0);
	uint64_t (*tables)[512] = (void *)image;
	unsigned int page;

	CHECK(image == MAP_FAILED ? -1 : 0);
	memory = mmap(NULL, SIZE, PROT_READ | PROT_WRITE, NEW, -1, 0);
	CHECK(memory == MAP_FAILED ? -1 : 0);
	region.userspace_addr = (uint64_t)memory;
	region.guest_memfd = memfd;
	CHECK(ioctl(vm, KVM_SET_USER_MEMORY_REGION2, &region));
	set_private(0, SIZE / PAGE, 1);

	/* PML4, PDPT; a 2 MiB page one to one; a page table of the shared window at 1 GiB. */
	tables[0][0] = (ADDED + 1 * PAGE) | 3;
	tables[1][3] = (ADDED + 2 * PAGE) | 3;
	tables[2][511] = 0xffe00000 | 0x83;
	tables[1][1] = (ADDED + 3 * PAGE) | 3;
	tables[3][0] = (ADDED + 4 * PAGE) | 3;
	for (page = 0; page < SIZE / PAGE; page++)
		tables[4][page] = SHARED | (LOW + page * PAGE) | 3;
	memcpy(image + 7 * PAGE, guest, PAGE);
	added.source_addr = (uint64_t)image;
	TDX(vcpus[0].fd, KVM_TDX_INIT_MEM_REGION, KVM_TDX_MEASURE_MEMORY_REGION, &added);
	munmap(image, ADDED_PAGES * PAGE);
	at(INIT_MEM_REGION);
}

/* KVM gives pages (AUG) that the TD has not asked for. */
static void fill(unsigned int page, unsigned int pages)
{
	struct kvm_pre_fault_memory fault = { .gpa = LOW + page * PAGE, .size = pages * PAGE };

	/* It may leave off in between, with or without an error. */
	while (fault.size)
		if (ioctl(vcpus[0].fd, KVM_PRE_FAULT_MEMORY, &fault) && errno != EINTR && errno != EAGAIN)
			fail("KVM_PRE_FAULT_MEMORY", 0);
}

/* The life of a TD that is never entered: KVM still gives and takes its pages. */
static void stay_idle(void)
{
	fill(0, 2);
	at(AUG);
	convert(0, 1, 0);
	at(IS_SHARED);
	convert(0, 1, 1);
	fill(0, 1);
	at(IS_PRIVATE);
	punch_hole(0, 1);
	at(PUNCH_HOLE);
}

/* By hand, so that the process can look at what is left. */
static void destroy(void)
{
	unsigned int index;

	for (index = 0; index < options.vcpus; index++) {
		munmap(vcpus[index].run, CHECK(ioctl(kvm, KVM_GET_VCPU_MMAP_SIZE, 0)));
		close(vcpus[index].fd);
	}
	close(memfd);
	close(vm);
	at(GONE);
}

static void live(void)
{
	unsigned int index;

	new_vm();
	init_vm();
	new_vcpus();
	new_memory();
	TDX(vm, KVM_TDX_FINALIZE_VM, 0, 0);
	at(FINALIZE);
	if (options.interrupts)
		new_device();
	fill(FILL_PAGES, options.fill);
	if (options.idle) {
		stay_idle();
		if (options.stop == GONE)
			destroy();
		end();
	}
	for (index = 1; index < options.vcpus; index++) {
		pthread_t thread;

		errno = pthread_create(&thread, NULL, run, &vcpus[index]);
		CHECK(errno ? -1 : 0);
	}
	run(&vcpus[0]);
}

/* The parent: waits until the child's TD runs on, or until it is gone. */
static int supervise(void)
{
	struct pollfd poll_ready;
	int status, result;
	char how;
	pid_t child;

	CHECK(pipe(ready));
	child = CHECK(fork());
	if (!child) {
		close(ready[0]);
		live();
	}
	close(ready[1]);
	poll_ready = (struct pollfd){ .fd = ready[0], .events = POLLIN };
	/* Two minutes without a word: it hangs. Traffic takes as long as it does. */
	do
		result = poll(&poll_ready, 1, options.traffic ? -1 : 120 * 1000);
	while (result < 0 && errno == EINTR);
	if (result == 1 && read(ready[0], &how, 1) == 1 && how == 0) {
		event("vmm-end", ",\"number\":%u,\"how\":\"stays\"", options.number);
		return 0;
	}
	close(ready[0]);
	if (result != 1) {
		event("vmm-end", ",\"number\":%u,\"how\":\"hangs\"", options.number);
		return 1;
	}
	if (waitpid(child, &status, 0) != child) {
		event("vmm-end", ",\"number\":%u,\"how\":\"lost\"", options.number);
		return 1;
	}
	if (WIFSIGNALED(status))
		event("vmm-end", ",\"number\":%u,\"how\":\"signal %d\"", options.number, WTERMSIG(status));
	else
		event("vmm-end", ",\"number\":%u,\"how\":\"exit %d\"", options.number, WEXITSTATUS(status));
	return 0;
}

static int choose(const char *word, const char *const *names, unsigned int count, const char *what)
{
	unsigned int index;

	for (index = 0; index < count; index++)
		if (!strcmp(word, names[index]))
			return index;
	fprintf(stderr, "vmm: there is no %s `%s`\n", what, word);
	exit(2);
}

static uint64_t number(const char *word)
{
	char *rest;
	uint64_t value = strtoull(word, &rest, 0);

	if (!*word || *rest) {
		fprintf(stderr, "vmm: `%s` is no number\n", word);
		exit(2);
	}
	return value;
}

static void on_alarm(int signal)
{
	char how = options.end;

	(void)signal;
	if (write(ready[1], &how, 1) == 1 && options.end == 2)
		kill(getpid(), SIGKILL);
	_exit(0);
}

int main(int argc, char **argv)
{
	static const char *const names[] = {
		"number", "vcpus", "stop", "end", "idle", "pages", "seed", "steps", "lives", "exits", "fill",
		"interrupts", "cpuid",
	};
	int index, failed = 0;

	if (argc == 3 && !strcmp(argv[1], "pages")) {
		tell_pages(argv[2]);
		return 0;
	}
	if (argc == 2 && !strcmp(argv[1], "words"))
		return print_words();
	for (index = 1; index < argc; index++) {
		char *value = strchr(argv[index], '=');

		if (value)
			*value++ = 0;
		else
			value = "1";
		switch (choose(argv[index], names, sizeof(names) / sizeof(*names), "word")) {
		case 0:
			options.number = number(value);
			break;
		case 1:
			options.vcpus = number(value);
			break;
		case 2:
			options.stop = choose(value, stops, STOPS, "stop");
			break;
		case 3:
			options.end = choose(value, ends, 3, "end");
			break;
		case 4:
			options.idle = 1;
			break;
		case 5:
			options.pages = 1;
			break;
		case 6:
			options.seed = number(value);
			options.traffic = 1;
			break;
		case 7:
			options.steps = number(value);
			break;
		case 8:
			options.lives = number(value);
			break;
		case 9:
			options.exits = number(value);
			break;
		case 10:
			options.fill = number(value);
			break;
		case 11:
			options.interrupts = 1;
			break;
		case 12:
			options.cpuid = 1;
			break;
		}
	}
	if (!options.vcpus || options.vcpus > MAX_VCPUS) {
		fprintf(stderr, "vmm: 1 to %d VCPUs\n", MAX_VCPUS);
		return 2;
	}
	if (options.fill > MAX_FILL) {
		fprintf(stderr, "vmm: fill is %d at most\n", MAX_FILL);
		return 2;
	}
	signal(SIGALRM, on_alarm);
	while (options.lives--) {
		failed |= supervise();
		options.seed++;
	}
	return failed;
}
