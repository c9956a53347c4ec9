/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/* Checks of the C tests. */
#ifndef CHECK_H
#define CHECK_H

#include "kernel.h"

#include <stdio.h>
#include <string.h>

extern int failures;

#define CHECK(condition)                                                                  \
	do {                                                                              \
		if (!(condition)) {                                                       \
			printf("# %s:%d: %s\n", __FILE__, __LINE__, #condition);          \
			failures++;                                                       \
		}                                                                         \
	} while (0)

#define CHECK_IS(expression, expected)                                                                       \
	do {                                                                                                 \
		unsigned long long found_ = (expression), wanted_ = (expected);                              \
		if (found_ != wanted_) {                                                                     \
			printf("# %s:%d: %s is %llu, not %llu\n", __FILE__, __LINE__, #expression, found_, wanted_); \
			failures++;                                                                          \
		}                                                                                            \
	} while (0)

/* Sums of what a walk shows. */
struct seen {
	uint64_t ranges;
	uint64_t bytes;
	uint64_t last_end;
	bool in_order;
	/* The visitor stops after so many; 0: never. */
	uint64_t stop_after;
};

enum tdxh_result kexec(struct kernel *kernel, uint32_t policy, uint32_t kind);

/* handover.c */
void test_kexec(void);
void test_everything(void);
void test_kexec_refused(void);
void test_came_back(void);
void test_crash(void);
void test_crash_in_bring_up(void);
void test_crash_with_a_stuck_cpu(void);
void test_explain(void);
void test_alone(void);
void test_busy_report(void);
void test_crash_image(void);
void test_settled(void);
void test_kexec_in_a_return(void);

#endif
