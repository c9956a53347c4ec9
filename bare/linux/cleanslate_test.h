/* SPDX-License-Identifier: GPL-2.0 */
/*
 * Interface between the test variant's C file and its Rust object (bare/linux/object)
 */
#ifndef CLEANSLATE_TEST_H
#define CLEANSLATE_TEST_H

#include <linux/types.h>

/* In the object. */
int cleanslate_td(u32 phase);
int cleanslate_fill(u64 pages);
int cleanslate_adopt(void);

/* For it. */
void cleanslate_quietly(void (*run)(void *argument), void *argument);
void cleanslate_interrupt(u8 vector);
void cleanslate_counted(u32 cpu, u64 counter, u64 count, u64 starts);
void cleanslate_entered(u64 cycles);

#endif
