/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/*
 * The software machine (examples/software_machine.rs says what each function does): hardware for
 * the C tests.
 */
#ifndef SOFTWARE_MACHINE_H
#define SOFTWARE_MACHINE_H

#include <stddef.h>
#include <stdint.h>

struct machine;
struct tdxh_registers;

struct machine *machine_new(uint32_t cpus, uint32_t has_erratum, uint32_t has_disable);
void machine_free(struct machine *machine);
uint32_t machine_refused(const struct machine *machine);
void machine_vmxoff(const struct machine *machine, uint32_t cpu);
uint32_t machine_package_of(const struct machine *machine, uint32_t cpu);
void machine_cpuid(const struct machine *machine, uint32_t leaf, uint32_t subleaf, uint32_t output[4]);
uint32_t machine_rdmsr(const struct machine *machine, uint32_t msr, uint64_t *value);
void machine_seamcall(const struct machine *machine, uint32_t cpu, struct tdxh_registers *registers);
void machine_reset_lines(const struct machine *machine, uint32_t cpu, uint64_t first, uint64_t lines);
void machine_fence(const struct machine *machine, uint32_t cpu);
void machine_wbinvd(const struct machine *machine, uint32_t cpu);
void machine_flush_lines(const struct machine *machine, uint32_t cpu, uint64_t first, uint64_t lines);
void machine_write(const struct machine *machine, uint32_t cpu, uint64_t address, const uint8_t *bytes, size_t count);
uint64_t machine_private_lines(const struct machine *machine);
uint64_t machine_private_lines_in(const struct machine *machine, uint64_t start, uint64_t end);
void machine_evict_all(const struct machine *machine);
void machine_kexec(const struct machine *machine);
uint64_t machine_use_memory(const struct machine *machine, uint64_t start, uint64_t end);

#endif
