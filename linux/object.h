/* SPDX-License-Identifier: GPL-2.0 */
/*
 * Interface between the C files of cleanslate.ko and its Rust object (object/)
 *
 * The object knows TDX and decides; the C files know Linux. The object declares the same functions,
 * structures and constants; a test (linux/kbuild/tests/header.rs) compares both sides.
 *
 * No function of the object sleeps, allocates or takes a lock, unless its comment says so.
 */
#ifndef CLEANSLATE_OBJECT_H
#define CLEANSLATE_OBJECT_H

#include <linux/types.h>

#define CLEANSLATE_NO_TDX		0
#define CLEANSLATE_TDX			1
#define CLEANSLATE_TDX_PW_MCE		2

#define CLEANSLATE_POLICY_TRACKED	0
#define CLEANSLATE_POLICY_MODULE	1
#define CLEANSLATE_POLICY_REFUSE	2
#define CLEANSLATE_POLICY_KEEP		3

#define CLEANSLATE_KEXEC		0
#define CLEANSLATE_CRASH		1
#define CLEANSLATE_TOGETHER		2
#define CLEANSLATE_REST			3

#define CLEANSLATE_PAGES_TDR		0
#define CLEANSLATE_PAGES_TDCX		1
#define CLEANSLATE_PAGES_TDVPR		2
#define CLEANSLATE_PAGES_SEPT		3
#define CLEANSLATE_PAGES_GUEST		4
#define CLEANSLATE_PAGES_PAMT_PAIR	5
#define CLEANSLATE_PAGES_KINDS		6

#define CLEANSLATE_ANY_NODE		0xffffffff

#define CLEANSLATE_SWEEP_ADDRESSES	8

#define CLEANSLATE_DUMP_WORDS		4096
#define CLEANSLATE_DUMP_ENTRIES		511

#define CLEANSLATE_TAKEOVER_BYTES	65536

#define CLEANSLATE_POOL_OTHER		0
#define CLEANSLATE_POOL_EMPTY		1
#define CLEANSLATE_POOL_RESET		2
#define CLEANSLATE_POOL_TABLE		3

/**
 * struct cleanslate_memory - a range of physical memory
 * @base: first byte
 * @bytes: size
 * @node: NUMA node
 */
struct cleanslate_memory {
	u64 base;
	u64 bytes;
	u32 node;
};

/**
 * struct cleanslate_handover - result of cleanslate_hand_over()
 * @lines: 64-byte lines written
 * @suspects: CPUs whose caches may still hold private lines
 * @clean: no private memory is left, as far as it is tracked
 * @kept: TDX was kept for the next kernel with its TDs, and what no TD needs was reset
 * @none_left: no private memory is left and no other CPU runs, with or without the steps of a kexec
 * @running: other CPUs that were still running
 * @forced: why the reset was done without the steps of a kexec, or NULL; if TDX was kept: what the
 *	    next kernel will miss, or NULL
 * @left: 64-byte lines that could not be written
 */
struct cleanslate_handover {
	u64 lines;
	u32 suspects;
	bool clean;
	bool kept;
	bool none_left;
	u32 running;
	const char *forced;
	u64 left;
};

/**
 * struct cleanslate_status - private memory by state
 * @pamt_kb: PAMTs
 * @given_kb: pages owned by the TDX module
 * @giving_kb: pages of SEAMCALLs in flight
 * @returned_kb: pages returned by the TDX module and not reset, which are leaked
 * @tds: TDs
 */
struct cleanslate_status {
	u64 pamt_kb;
	u64 given_kb;
	u64 giving_kb;
	u64 returned_kb;
	u32 tds;
};

/**
 * struct cleanslate_pages - 4 KiB pages owned by the TDX module, by kind
 * @count: indexed by CLEANSLATE_PAGES_*
 */
struct cleanslate_pages {
	u64 count[CLEANSLATE_PAGES_KINDS];
};

/**
 * struct cleanslate_registers - operands of a SEAMCALL, or its results
 * @rax: leaf number, or completion status
 * @rcx: first operand
 * @rdx: second operand
 * @r8: third operand
 * @r9: fourth operand
 * @r10: result of some leaves
 * @r11: result of some leaves
 * @r12: operand and result of some leaves
 * @r13: operand and result of some leaves
 */
struct cleanslate_registers {
	u64 rax;
	u64 rcx;
	u64 rdx;
	u64 r8;
	u64 r9;
	u64 r10;
	u64 r11;
	u64 r12;
	u64 r13;
};

/**
 * struct cleanslate_sweep - state and result of a sweep over all memory that TDX may own
 * @learn: pages that the TDX module has are marked where they are not
 * @next: first page that has not been looked at
 * @total: pages that the ledger covers
 * @pages: pages that were looked at
 * @calls: SEAMCALLs
 * @owned: pages that the TDX module has
 * @reserved: PAMT and holes
 * @outside: pages in no TDMR, and of no memory
 * @missing: the TDX module has them, and the ledger has no mark
 * @returned: marked as returned or refused; the TDX module does not have them
 * @giving: marked as in flight; the TDX module does not have them
 * @stale: marked as given; the TDX module does not have them
 * @leaked: the kernel has freed them, and the TDX module does not have them
 * @leaked_owned: the kernel has freed them, and the TDX module has them
 * @learned: pages that were marked
 * @changed: looks during which the ledger has changed
 * @busy: looks that found the page in use by another SEAMCALL
 * @unmarked: pages that were to be marked and have no reference: the kernel has freed them
 * @status: status of the SEAMCALL that failed
 * @missing_at: addresses of the first that are missing
 * @leaked_at: addresses of the first that are leaked
 */
struct cleanslate_sweep {
	bool learn;
	u64 next;
	u64 total;
	u64 pages;
	u64 calls;
	u64 owned;
	u64 reserved;
	u64 outside;
	u64 missing;
	u64 returned;
	u64 giving;
	u64 stale;
	u64 leaked;
	u64 leaked_owned;
	u64 learned;
	u64 changed;
	u64 busy;
	u64 unmarked;
	u64 status;
	u64 missing_at[CLEANSLATE_SWEEP_ADDRESSES];
	u64 leaked_at[CLEANSLATE_SWEEP_ADDRESSES];
};

/**
 * struct cleanslate_dump - what was prepared for the table of a crash kernel
 * @root: CLEANSLATE_DUMP_WORDS words, contiguous
 * @address: physical address of @root
 * @nonce: a number that no other table has
 * @ledger: memory of the ledger, or NULL
 * @words: its 64-bit words, of whole pages
 * @index: physical addresses of the pages of the index
 * @index_pages: how many
 */
struct cleanslate_dump {
	u64 *root;
	u64 address;
	u64 nonce;
	const u64 *ledger;
	u64 words;
	const u64 *index;
	u64 index_pages;
};

/**
 * struct cleanslate_dump_facts - what a table says of itself
 * @ledger_pages: pages of the ledger's memory
 * @index_pages: pages of the index
 * @pamt_kb: PAMTs
 * @was_reset: private memory was reset, and nothing is listed
 */
struct cleanslate_dump_facts {
	u64 ledger_pages;
	u64 index_pages;
	u64 pamt_kb;
	bool was_reset;
};

/**
 * struct cleanslate_vacuumed - what cleanslate_vacuum() has done
 * @tds: TDs that are gone
 * @pages: 4 KiB pages that were given back, clean
 * @left: 4 KiB pages that are still private
 */
struct cleanslate_vacuumed {
	u64 tds;
	u64 pages;
	u64 left;
};

/* Functions of the object */

/**
 * cleanslate_detect() - detect TDX and the partial-write erratum of this CPU
 *
 * Return: CLEANSLATE_NO_TDX, CLEANSLATE_TDX, or CLEANSLATE_TDX_PW_MCE for TDX with the erratum.
 */
u32 cleanslate_detect(void);

/**
 * cleanslate_max_cpus() - the largest supported nr_cpu_ids
 *
 * Return: number of CPUs.
 */
u32 cleanslate_max_cpus(void);

/**
 * cleanslate_cpu_may_hold() - note that this CPU's caches may hold private lines from now on
 * @cpu: current CPU, on which the caller stays
 */
void cleanslate_cpu_may_hold(u32 cpu);

/**
 * cleanslate_observe_seamcall() - track a SEAMCALL that the kernel is about to make
 * @cpu: current CPU
 * @call: leaf and operands
 *
 * Learns the PAMTs from TDH.SYS.CONFIG. Takes a reference to each page (cleanslate_hold()) and
 * marks it before the TDX module gets it. Calls cleanslate_lost() if the operands cannot be
 * tracked. Reads TDMRs through cleanslate_map().
 */
void cleanslate_observe_seamcall(u32 cpu, const struct cleanslate_registers *call);

/**
 * cleanslate_observe_return() - track the result of a SEAMCALL
 * @cpu: current CPU, which has made it
 * @call: leaf and operands
 * @answer: completion status and results
 *
 * The pages of a failed call stay marked.
 */
void cleanslate_observe_return(u32 cpu, const struct cleanslate_registers *call,
			       const struct cleanslate_registers *answer);

/**
 * cleanslate_reset_pages() - reset pages with MOVDIR64B and clear their marks
 * @cpu: current CPU, on which the caller stays
 * @base: physical address of the first page
 * @bytes: size
 *
 * Drops the references to pages whose mark it clears (cleanslate_release()). Marks are kept if a
 * line could not be written.
 */
void cleanslate_reset_pages(u32 cpu, u64 base, u64 bytes);

/**
 * cleanslate_kept_pages() - pages that the kernel has freed and that may be private
 *
 * They stay out of the page allocator until the reset at kexec.
 *
 * Return: number of pages.
 */
u64 cleanslate_kept_pages(void);

/**
 * cleanslate_learn() - track the PAMTs of a kernel that has initialized TDX already
 * @tdmrs: TDMR_INFO structures
 * @count: how many
 * @stride: bytes from one to the next
 *
 * Return: NULL, or why the structures are not accepted.
 */
const char *cleanslate_learn(const void *tdmrs, u32 count, u32 stride);

/**
 * cleanslate_follow_words() - size of the page ledger
 * @memory: memory of the kernel, ascending
 * @count: ranges
 *
 * Return: 64-bit words.
 */
u64 cleanslate_follow_words(const struct cleanslate_memory *memory, u32 count);

/**
 * cleanslate_follow() - start tracking pages of the kernel's TDs
 * @words: zeroed memory for the ledger, in use as long as any other function here is called
 * @memory: as for cleanslate_follow_words()
 * @count: ranges
 *
 * Return: 0 or a negative errno.
 */
int cleanslate_follow(u64 *words, const struct cleanslate_memory *memory, u32 count);

/**
 * cleanslate_follows() - are pages of TDs tracked?
 *
 * Return: true after a successful cleanslate_follow() or cleanslate_track().
 */
bool cleanslate_follows(void);

/**
 * cleanslate_work_bytes() - size of the memory that cleanslate_bring_up() works in
 *
 * Return: bytes.
 */
u64 cleanslate_work_bytes(void);

/**
 * cleanslate_bring_up() - initialize the TDX module
 * @memory: memory of the kernel, ascending
 * @count: ranges
 * @pool: memory for PAMTs, or an empty range for the page allocator
 * @work: cleanslate_work_bytes() of memory for this call
 *
 * Sleeps. One call at a time, with CPU and memory hotplug excluded and every online CPU in VMX
 * operation. Logs why it failed; everything is undone then.
 *
 * Return: 0 or a negative errno.
 */
int cleanslate_bring_up(const struct cleanslate_memory *memory, u32 count,
			struct cleanslate_memory pool, void *work);

/**
 * cleanslate_track_words() - size of the memory that cleanslate_track() needs
 *
 * Return: 64-bit words.
 */
u64 cleanslate_track_words(void);

/**
 * cleanslate_track() - start tracking pages of TDs after cleanslate_bring_up()
 * @words: memory for the ledger and for KeyIDs, cleanslate_track_words() long, never freed
 *
 * Return: 0 or a negative errno; @words may be in use then, too.
 */
int cleanslate_track(u64 *words);

/**
 * cleanslate_covers() - is memory covered by TDMRs?
 * @base: first byte
 * @end: byte after the last
 *
 * Return: true if all of it is.
 */
bool cleanslate_covers(u64 base, u64 end);

/**
 * cleanslate_check_load() - may a kexec image be loaded?
 * @policy: CLEANSLATE_POLICY_*
 *
 * Return: 0 or a negative errno.
 */
int cleanslate_check_load(u32 policy);

/**
 * cleanslate_stop_this_cpu() - write back the caches of a CPU that stops or goes offline
 * @cpu: current CPU
 *
 * With interrupts off.
 */
void cleanslate_stop_this_cpu(u32 cpu);

/**
 * cleanslate_stop_this_cpu_at_crash() - write back the caches of a CPU that stops at a crash
 * @cpu: current CPU
 *
 * For NMI context. Does nothing if the caches cannot hold private lines.
 */
void cleanslate_stop_this_cpu_at_crash(u32 cpu);

/**
 * cleanslate_writing_back() - CPUs that are in cleanslate_stop_this_cpu_at_crash()
 *
 * From any context.
 *
 * Return: number of CPUs.
 */
u32 cleanslate_writing_back(void);

/**
 * cleanslate_cpu_is_clean() - note that the caches of a CPU hold no private lines
 * @cpu: CPU that stops or is offline; it has made no SEAMCALL since its caches were written back
 */
void cleanslate_cpu_is_clean(u32 cpu);

/**
 * cleanslate_hand_over() - reset private memory before the jump into the next kernel
 * @policy: CLEANSLATE_POLICY_*
 * @cpu: current CPU
 * @online: CPUs that are running, this one included
 * @possible: nr_cpu_ids
 * @when: CLEANSLATE_KEXEC: right before the jump, with the other CPUs stopped. CLEANSLATE_CRASH:
 *	  right before the jump into a crash kernel. CLEANSLATE_TOGETHER: all other CPUs are in
 *	  cleanslate_captured(). CLEANSLATE_REST: right before the jump, everything again if that
 *	  was not complete
 *
 * With interrupts off. At a crash it makes no SEAMCALL. The policy "module" makes one otherwise.
 *
 * Return: what was reset and what may be left.
 */
struct cleanslate_handover cleanslate_hand_over(u32 policy, u32 cpu, u32 online, u32 possible,
						u32 when);

/**
 * cleanslate_captured() - help the CPU that hands over with CLEANSLATE_TOGETHER
 * @cpu: current CPU
 * @is_clean: its caches were written back by other code since its last SEAMCALL
 *
 * With interrupts off, and no SEAMCALL is made on this CPU afterwards. Returns after
 * cleanslate_release_captured().
 */
void cleanslate_captured(u32 cpu, bool is_clean);

/**
 * cleanslate_release_captured() - let the other CPUs return from cleanslate_captured()
 *
 * On the CPU that hands over, after cleanslate_hand_over().
 */
void cleanslate_release_captured(void);

/**
 * cleanslate_lines_reset() - lines that CPUs have written in this handover so far
 *
 * From any context.
 *
 * Return: number of 64-byte lines.
 */
u64 cleanslate_lines_reset(void);

/**
 * cleanslate_shares() - how CPUs have shared the reset of the last handover
 * @least: lines of the CPU that has written the fewest
 * @most: lines of the CPU that has written the most
 *
 * Return: CPUs that have written any.
 */
u32 cleanslate_shares(u64 *least, u64 *most);

/**
 * cleanslate_lines_far() - lines of the last handover that a CPU of another NUMA node has written
 *
 * Return: number of 64-byte lines. Memory or CPUs of no known node are not among them.
 */
u64 cleanslate_lines_far(void);

/**
 * cleanslate_is_private() - may any memory be private?
 *
 * From any context. Ends at the first range that is found.
 *
 * Return: true if some may be.
 */
bool cleanslate_is_private(void);

/**
 * cleanslate_status() - memory that may be private, by state
 * @status: result
 */
void cleanslate_status(struct cleanslate_status *status);

/**
 * cleanslate_pamt_range() - ranges of PAMT, one at a time
 * @index: from 0
 * @base: first byte
 * @end: byte after the last
 *
 * Return: false if there is no such range.
 */
bool cleanslate_pamt_range(u32 index, u64 *base, u64 *end);

/**
 * cleanslate_pages() - ask the TDX module what it uses each marked page for
 * @pages: result
 *
 * Sleeps. As host only, in VMX operation, with migration off, excluded against users of TDX pages:
 * a SEAMCALL about a page locks it in the TDX module, which makes other calls fail.
 *
 * Return: 0 or a negative errno.
 */
int cleanslate_pages(struct cleanslate_pages *pages);

/**
 * cleanslate_observed_pages() - count the pages of the kernel's TDs, as its SEAMCALLs name them
 * @pages: result
 *
 * From any context. Makes no SEAMCALL.
 */
void cleanslate_observed_pages(struct cleanslate_pages *pages);

/**
 * cleanslate_dynamic_pamt() - has the kernel's TDX Dynamic PAMT on?
 *
 * Known once SYS.CONFIG was observed or the kernel's TDMRs were learned. From any context.
 *
 * Return: true if pages of PAMT come and go in pairs.
 */
bool cleanslate_dynamic_pamt(void);

/**
 * cleanslate_set_learning() - mark the pages of every SEAMCALL whose answer is seen
 * @on: on or off
 *
 * Also if its beginning was not seen. On while pages of TDs are learned that were there before this
 * module.
 */
void cleanslate_set_learning(bool on);

/**
 * cleanslate_sweep_step() - ask the TDX module for the next page of a sweep
 * @cpu: current CPU
 * @sweep: zeroed before the first call, @learn apart
 *
 * With interrupts off, and no other SEAMCALL but VP.ENTER made meanwhile.
 *
 * Return: 0 to go on, 1 at the end, -EAGAIN to look at the same page again, -ENODEV outside of VMX
 * operation, or another negative errno.
 */
int cleanslate_sweep_step(u32 cpu, struct cleanslate_sweep *sweep);

/**
 * cleanslate_explain() - describe a physical address, for a machine check
 * @address: physical address
 * @text: result, without a newline or a terminating NUL
 * @room: bytes of @text
 *
 * From any context. Makes no SEAMCALL.
 *
 * Return: length of @text.
 */
u32 cleanslate_explain(u64 address, char *text, u32 room);

/**
 * cleanslate_dump_index() - make a page of the index of the ledger's memory
 * @page: the page
 * @number: its number
 * @nonce: as in struct cleanslate_dump
 * @entries: physical addresses of the next pages of the ledger's memory
 * @count: CLEANSLATE_DUMP_ENTRIES, or fewer for the last page
 */
void cleanslate_dump_index(u64 *page, u64 number, u64 nonce, const u64 *entries, u64 count);

/**
 * cleanslate_dump_write() - write the table of private memory for the crash kernel
 * @dump: what was prepared
 *
 * At a crash, with interrupts off. No SEAMCALL is allowed afterwards. Reads the table and its
 * index, as the crash kernel does.
 *
 * Return: NULL, or why there is no table, a string constant.
 */
const char *cleanslate_dump_write(const struct cleanslate_dump *dump);

/**
 * cleanslate_dump_write_reset() - write a table that says that private memory was reset
 * @dump: what was prepared
 */
void cleanslate_dump_write_reset(const struct cleanslate_dump *dump);

/**
 * cleanslate_dump_overlaps() - may a part of this memory be private?
 * @base: first byte
 * @bytes: size
 *
 * From any context.
 *
 * Return: true if it may be.
 */
bool cleanslate_dump_overlaps(u64 base, u64 bytes);

/**
 * cleanslate_dump_read() - check the table of the crashed kernel
 * @root: copy of the root
 * @address: physical address at which it was
 * @nonce: what the table must have
 * @facts: result
 *
 * Return: NULL, or why it is refused, a string constant.
 */
const char *cleanslate_dump_read(const u64 *root, u64 address, u64 nonce,
				 struct cleanslate_dump_facts *facts);

/**
 * cleanslate_dump_index_address() - where a page of the index is
 * @root: accepted by cleanslate_dump_read()
 * @number: number of the page
 *
 * Return: physical address, or 0.
 */
u64 cleanslate_dump_index_address(const u64 *root, u64 number);

/**
 * cleanslate_dump_take_index() - check a page of the index and take its addresses
 * @root: accepted by cleanslate_dump_read()
 * @number: number of the page
 * @page: copy of it
 * @addresses: as many words as the ledger's memory has pages
 *
 * Return: NULL, or why it is refused, a string constant.
 */
const char *cleanslate_dump_take_index(const u64 *root, u64 number, const u64 *page,
				       u64 *addresses);

/**
 * cleanslate_dump_is_private() - may a page of the crashed kernel be private?
 * @root: accepted by cleanslate_dump_read()
 * @addresses: of the whole index
 * @count: how many
 * @page: page frame number
 *
 * Reads the crashed kernel's ledger through cleanslate_old_word().
 *
 * Return: true if it may be, or if that cannot be looked up.
 */
bool cleanslate_dump_is_private(const u64 *root, const u64 *addresses, u64 count, u64 page);

/**
 * cleanslate_keep_place() - set the place of the takeover table
 * @address: physical address of the pool, whose first CLEANSLATE_TAKEOVER_BYTES are for tables
 * @bytes: size of the pool
 * @nonce: what the next kernel must name
 *
 * Before the pool is used. Pages of TDs come from the pool from then on.
 */
void cleanslate_keep_place(u64 address, u64 bytes, u64 nonce);

/**
 * cleanslate_keep_refusal() - can TDX be kept, as far as private memory is concerned?
 *
 * From any context.
 *
 * Return: NULL, or why it cannot, a string constant.
 */
const char *cleanslate_keep_refusal(void);

/**
 * cleanslate_keep_fits() - has a takeover table room for what it would list now?
 * @scratch: CLEANSLATE_TAKEOVER_BYTES, overwritten
 *
 * Looks through the whole ledger.
 *
 * Return: true if it has.
 */
bool cleanslate_keep_fits(char *scratch);

/**
 * cleanslate_keep_has_vcpus() - may a CPU hold a VCPU of a TD of this kernel, to be kept?
 *
 * Return: true if one may; no CPU leaves VMX operation then.
 */
bool cleanslate_keep_has_vcpus(void);

/**
 * cleanslate_keep_write_reset() - say to the next kernel that no private memory is left
 *
 * Right before the jump, when that is so. At the start of the pool, in place of a table; does
 * nothing without a place for tables.
 */
void cleanslate_keep_write_reset(void);

/**
 * cleanslate_line_refusal() - could a next kernel use the pool before this module is loaded there?
 * @line: its command line
 * @length: bytes of @line
 * @base: physical address of the pool
 * @bytes: size of the pool
 *
 * From any context.
 *
 * Return: NULL if the command line is sure to prevent it, or why not, a string constant.
 */
const char *cleanslate_line_refusal(const char *line, size_t length, u64 base, u64 bytes);

/**
 * cleanslate_pool_start() - what stands at the start of the pool
 * @start: its first 64 bytes
 *
 * Return: CLEANSLATE_POOL_*: a table; the word of the kernel before that it has left nothing
 * private; zeros; or something else.
 */
u32 cleanslate_pool_start(const char *start);

/**
 * cleanslate_take_over_words() - check the takeover table of the kernel before
 * @copy: copy of the first CLEANSLATE_TAKEOVER_BYTES of the pool
 * @address: physical address of the pool
 * @bytes: size of the pool
 * @nonce: what the table must have
 *
 * Logs why a table is refused.
 *
 * Return: 64-bit words that cleanslate_take_over() needs, or 0.
 */
u64 cleanslate_take_over_words(const char *copy, u64 address, u64 bytes, u64 nonce);

/**
 * cleanslate_take_over() - track what the kernel before has left private
 * @copy: accepted by cleanslate_take_over_words()
 * @address: physical address of the pool
 * @bytes: size of the pool
 * @words: memory for the ledger and for KeyIDs
 *
 * Whatever it returns, @copy and @words are the object's from then on, and are never freed. Wipes
 * the table in the pool. Makes no SEAMCALL.
 *
 * Return: 0 or a negative errno.
 */
int cleanslate_take_over(const char *copy, u64 address, u64 bytes, u64 *words);

/**
 * cleanslate_take_over_join() - TDX is up on this kernel's CPUs
 *
 * Sleeps. Every online CPU is in VMX operation, CPU hotplug is excluded. Logs why it refuses: other
 * CPUs than in the kernel before, or another IA32_TSC_ADJUST.
 *
 * Return: 0 or a negative errno.
 */
int cleanslate_take_over_join(void);

/**
 * cleanslate_vacuum() - tear down the TDs of the kernel before that were not adopted
 * @done: result
 *
 * Sleeps. After cleanslate_take_over_join(), excluded against users of TDs.
 *
 * Return: 0 or a negative errno.
 */
int cleanslate_vacuum(struct cleanslate_vacuumed *done);

/* Functions for the object */

/**
 * cleanslate_tsc() - time-stamp counter of this CPU
 *
 * From any context.
 *
 * Return: its value, in order.
 */
u64 cleanslate_tsc(void);

/**
 * cleanslate_rdmsr() - read an MSR
 * @msr: register
 * @value: result
 *
 * Return: false if the register does not exist.
 */
bool cleanslate_rdmsr(u32 msr, u64 *value);

/**
 * cleanslate_panic() - panic after a Rust panic
 */
void cleanslate_panic(void) __noreturn;

/**
 * cleanslate_log() - print a line to the kernel log
 * @text: text without a newline
 * @length: its bytes
 */
void cleanslate_log(const char *text, size_t length);

/**
 * cleanslate_lost() - private memory is not tracked completely from now on
 * @why: reason, a string constant
 *
 * From any context. The first reason is kept.
 */
void cleanslate_lost(const char *why);

/**
 * cleanslate_stay_loaded() - memory may be private from now on: prevent unloading of this module
 *
 * From any context.
 */
void cleanslate_stay_loaded(void);

/**
 * cleanslate_map() - virtual address of physical memory
 * @address: address in the direct map, or in the pool
 *
 * Return: the address in the direct map, or in the mapping of the pool.
 */
void *cleanslate_map(u64 address);

/**
 * cleanslate_map_page() - map a page that the kernel has taken out of its direct map
 * @cpu: current CPU, on which the caller stays
 * @page: page frame number
 *
 * From any context. Each CPU has one such mapping, and one user of it at a time; a crash takes it
 * from whoever has it.
 *
 * Return: the address, or NULL.
 */
void *cleanslate_map_page(u32 cpu, u64 page);

/**
 * cleanslate_unmap_page() - undo cleanslate_map_page()
 * @cpu: current CPU
 */
void cleanslate_unmap_page(u32 cpu);

/**
 * cleanslate_on_all() - run a function on every online CPU, in a kthread bound to it
 * @run: function
 * @task: its argument
 *
 * Sleeps until all are done. CPU hotplug is excluded.
 */
void cleanslate_on_all(void (*run)(void *task), void *task);

/**
 * cleanslate_on_each_package() - run a function on one CPU of each package
 * @run: function
 * @task: its argument
 *
 * Sleeps until all are done. CPU hotplug is excluded.
 */
void cleanslate_on_each_package(void (*run)(void *task), void *task);

/**
 * cleanslate_pin() - disable migration
 *
 * Return: current CPU.
 */
u32 cleanslate_pin(void);

/**
 * cleanslate_unpin() - undo cleanslate_pin()
 */
void cleanslate_unpin(void);

/**
 * cleanslate_this_cpu() - number of the current CPU
 *
 * Return: current CPU.
 */
u32 cleanslate_this_cpu(void);

/**
 * cleanslate_package() - physical package of a CPU
 * @cpu: CPU number
 *
 * Return: package number.
 */
u32 cleanslate_package(u32 cpu);

/**
 * cleanslate_node() - NUMA node of a CPU
 * @cpu: CPU number
 *
 * From any context.
 *
 * Return: node, or CLEANSLATE_ANY_NODE.
 */
u32 cleanslate_node(u32 cpu);

/**
 * cleanslate_cond_resched() - reschedule if necessary
 */
void cleanslate_cond_resched(void);

/**
 * cleanslate_progress() - a CPU is still resetting memory, or waits for others that are
 *
 * From any context. Touches this CPU's watchdogs, and logs the progress once a second.
 */
void cleanslate_progress(void);

/**
 * cleanslate_allocate() - allocate contiguous pages
 * @pages: number of pages
 * @node: preferred node, or CLEANSLATE_ANY_NODE
 * @first: lowest page frame number
 * @end: page frame number after the highest; U64_MAX with @first 0 for anywhere
 *
 * Sleeps. Naturally aligned if @pages is a power of two and @first and @end allow any place.
 *
 * Return: physical address, or 0.
 */
u64 cleanslate_allocate(u64 pages, u32 node, u64 first, u64 end);

/**
 * cleanslate_free() - free pages of cleanslate_allocate()
 * @address: physical address
 * @pages: number of pages
 */
void cleanslate_free(u64 address, u64 pages);

/**
 * cleanslate_hold() - take a reference to a page
 * @page: page frame number
 *
 * From any context. Memory without a struct page needs no reference.
 *
 * Return: false if the page has no reference, so that it may be free or no page of its own.
 */
bool cleanslate_hold(u64 page);

/**
 * cleanslate_release() - drop the reference of cleanslate_hold()
 * @page: page frame number
 *
 * From any context but NMI. Frees the page if there is no other reference.
 */
void cleanslate_release(u64 page);

/**
 * cleanslate_only_held() - is the reference of cleanslate_hold() the only one?
 * @page: page frame number of a page that is held
 *
 * From any context.
 *
 * Return: true if the kernel has freed the page. False for a part of a large folio.
 */
bool cleanslate_only_held(u64 page);

/**
 * cleanslate_has_page() - has the kernel a struct page for this page?
 * @page: page frame number
 *
 * From any context. The same for all 2 MiB around it.
 *
 * Return: false for a hole; the kernel gives no such page to a TD.
 */
bool cleanslate_has_page(u64 page);

/**
 * cleanslate_look_was_disturbed() - does a SEAMCALL run beside the look of a sweep?
 *
 * In cleanslate_sweep_step(), behind its SEAMCALL. Prints nothing.
 *
 * Return: true if one did not wait for the look. Then it marks nothing.
 */
bool cleanslate_look_was_disturbed(void);

/**
 * cleanslate_old_word() - read a word of the memory of the kernel that crashed
 * @address: physical address, a multiple of 8
 * @word: result
 *
 * Sleeps. The caller excludes others.
 *
 * Return: false if the memory cannot be mapped.
 */
bool cleanslate_old_word(u64 address, u64 *word);

#endif
