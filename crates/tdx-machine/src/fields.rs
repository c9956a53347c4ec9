//! Global metadata fields of the module versions, as SYS.RD walks them: first id, number of
//! fields, their values.
//!
//! Source: conformance vectors, recorded on the CPU of [`crate::TdCpu::SapphireRapids`] with one
//! package. A value behind the last that is listed is 0. `info.rs` says which fields depend on the
//! machine and are not read from here.

/// One row: the ids `[first, first + count)`.
pub(crate) type Row = (u64, u64, &'static [u64]);

/// Module versions whose tables of metadata differ.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Edition {
    /// 1.5.01.
    V1_5_01,
    /// 1.5.25.
    V1_5_25,
}

/// 1.5.01.
#[rustfmt::skip]
pub(crate) const V1_5_01: &[Row] = &[
    (0x0000_0002_0000_0000, 9, &[1, 0x8_06f8, 0x8_06f8, 0x8_06f8, 0x8_06f8, 0x8_06f8, 0x8_06f8, 0x8_06f8, 0x8_06f8]),
    (0x0800_0002_0000_0000, 1, &[0x8086]),
    (0x8800_0002_0000_0001, 1, &[0x134_b360]),
    (0x8800_0001_0000_0002, 1, &[0x253]),
    (0x0800_0001_0000_0003, 4, &[5, 1, 1]),
    (0x8900_0001_0000_0000, 2, &[]),
    (0x8900_0000_0000_0002, 1, &[]),
    (0x8900_0001_0000_0003, 1, &[0xe]),
    (0x8900_0000_0000_0004, 1, &[]),
    (0x8900_0001_0000_0005, 1, &[]),
    (0x8900_0002_0000_0006, 1, &[]),
    (0x0A00_0002_0000_0000, 1, &[]),
    (0x0A00_0000_0000_0001, 1, &[1]),
    (0x0A00_0003_0000_0008, 1, &[0xf_0fbf]),
    (0x9000_0001_0000_0000, 1, &[0x20]),
    (0x9000_0003_0000_0080, 32, &[]),
    (0x9000_0003_0000_0100, 32, &[]),
    (0x9100_0001_0000_0008, 2, &[0x40, 0x10]),
    (0x9100_0001_0000_0010, 3, &[0x10, 0x10, 0x10]),
    (0x9800_0001_0000_0000, 1, &[0x1000]),
    (0x9800_0001_0000_0100, 2, &[0x6000, 0x1000]),
    (0x9800_0001_0000_0200, 2, &[0x6000, 0x3000]),
    (0x1900_0003_0000_0000, 4, &[0x8000_0000_7000_0001, 0, 0x6_dbe7, 3]),
    (0x9900_0001_0000_0004, 1, &[0xc]),
    (0x9900_0003_0000_0006, 2, &[7]),
    (0x9900_0003_0000_0400, 32, &[0xffff_ffff_0000_0001, 4, 0x1_0000_0004, 0x2_0000_0004, 0x3_0000_0004, 7, 0x1_0000_0007, 0xffff_ffff_0000_000a, 0xffff_ffff_0000_001c, 0xffff_ffff_8000_0008, 0x2_0000_0007, 0x23, 0xffff_ffff_ffff_ffff, 0xffff_ffff_ffff_ffff, 0xffff_ffff_ffff_ffff, 0xffff_ffff_ffff_ffff, 0xffff_ffff_ffff_ffff, 0xffff_ffff_ffff_ffff, 0xffff_ffff_ffff_ffff, 0xffff_ffff_ffff_ffff, 0xffff_ffff_ffff_ffff, 0xffff_ffff_ffff_ffff, 0xffff_ffff_ffff_ffff, 0xffff_ffff_ffff_ffff, 0xffff_ffff_ffff_ffff, 0xffff_ffff_ffff_ffff, 0xffff_ffff_ffff_ffff, 0xffff_ffff_ffff_ffff, 0xffff_ffff_ffff_ffff, 0xffff_ffff_ffff_ffff, 0xffff_ffff_ffff_ffff, 0xffff_ffff_ffff_ffff]),
    (0x9900_0003_0000_0500, 64, &[0xff_0000_0fff_3fff, 0, 0xffff_f000_ffff_c3ff, 0xffff_fffb_ffff_ffff, 0xffff_f000_ffff_c3ff, 0xffff_fffb_ffff_ffff, 0xffff_f000_ffff_c3ff, 0xffff_fffb_ffff_ffff, 0xffff_f000_ffff_c3ff, 0x7_ffff_ffff]),
    (0x9900_0003_0000_0600, 1, &[0x118_0010]),
    (0x9900_0001_0000_0800, 2, &[1]),
    (0x9900_0003_0000_0810, 128, &[0x8_06f8]),
    (0xA000_0003_0000_0000, 1, &[]),
    (0x2000_0001_0000_0001, 4, &[]),
    (0xA000_0001_0000_0010, 1, &[0x200]),
    (0xA000_0000_0000_0020, 3, &[3, 2, 5]),
    (0xA100_0001_0000_0000, 1, &[1]),
    (0xA100_0003_0000_0001, 2, &[0x7ff_0000_0001]),
    (0xA200_0001_0000_0000, 1, &[0x807f]),
    (0xA200_0003_0000_0001, 6, &[1, 0, 3, 0, 7]),
];

/// 1.5.25.
#[rustfmt::skip]
pub(crate) const V1_5_25: &[Row] = &[
    (0x0000_0002_0000_0000, 9, &[1, 0x8_06f8, 0x8_06f8, 0x8_06f8, 0x8_06f8, 0x8_06f8, 0x8_06f8, 0x8_06f8, 0x8_06f8]),
    (0x0800_0002_0000_0000, 1, &[0x8086]),
    (0x8800_0002_0000_0001, 1, &[0x135_0116]),
    (0x8800_0001_0000_0002, 1, &[0x3ba]),
    (0x0800_0001_0000_0003, 4, &[5, 1, 0x19]),
    (0x8900_0001_0000_0000, 2, &[1]),
    (0x8900_0000_0000_0002, 1, &[1]),
    (0x8900_0001_0000_0003, 1, &[0xe]),
    (0x8900_0000_0000_0004, 1, &[]),
    (0x8900_0001_0000_0005, 1, &[]),
    (0x8900_0002_0000_0006, 1, &[]),
    (0x0A00_0002_0000_0000, 1, &[]),
    (0x0A00_0000_0000_0001, 1, &[1]),
    (0x0A00_0003_0000_0008, 1, &[0xd132_6f3f_0fbf]),
    (0x9000_0001_0000_0000, 1, &[0x20]),
    (0x9000_0003_0000_0080, 32, &[]),
    (0x9000_0003_0000_0100, 32, &[]),
    (0x9100_0001_0000_0008, 2, &[0x40, 0x10]),
    (0x9100_0001_0000_0010, 3, &[0x10, 0x10, 0x10]),
    (0x9100_0000_0000_0013, 2, &[1, 4]),
    (0x9800_0001_0000_0000, 1, &[0x1000]),
    (0x9800_0001_0000_0100, 2, &[0x6000, 0x1000]),
    (0x9800_0001_0000_0200, 2, &[0x6000, 0x3000]),
    (0x1900_0003_0000_0000, 4, &[0x8000_0000_7001_0001, 0, 0x6_dbe7, 3]),
    (0x9900_0001_0000_0004, 1, &[0x1c]),
    (0x9900_0003_0000_0006, 2, &[0x1f]),
    (0x9900_0001_0000_0008, 1, &[0x240]),
    (0x9900_0000_0000_0009, 1, &[0x2d]),
    (0x9900_0001_0000_000A, 1, &[0x200]),
    (0x9900_0003_0000_0400, 32, &[0xffff_ffff_0000_0001, 4, 0x1_0000_0004, 0x2_0000_0004, 0x3_0000_0004, 7, 0x1_0000_0007, 0xffff_ffff_0000_000a, 0xffff_ffff_0000_001c, 0xffff_ffff_8000_0008, 0x2_0000_0007, 0x23, 0x1f, 0x1_0000_001f, 0x2_0000_001f, 0x3_0000_001f, 0x4_0000_001f, 0x5_0000_001f, 0xffff_ffff_0000_0019, 0x18, 0x1_0000_0018, 0x2_0000_0018, 0x3_0000_0018, 0x4_0000_0018, 0x5_0000_0018, 0x6_0000_0018, 0x7_0000_0018, 0x8_0000_0018, 0xffff_ffff_ffff_ffff, 0xffff_ffff_ffff_ffff, 0xffff_ffff_ffff_ffff, 0xffff_ffff_ffff_ffff]),
    (0x9900_0003_0000_0500, 64, &[0xff_0000_0fff_3fff, 0xb840_5080_3104_4988, 0xffff_f000_ffff_c3ff, 0x7_ffff_ffff, 0xffff_f000_ffff_c3ff, 0x7_ffff_ffff, 0xffff_f000_ffff_c3ff, 0x7_ffff_ffff, 0xffff_f000_ffff_c3ff, 0x7_ffff_ffff, 0xd02b_9308_0000_0000, 0x4005_4010_0241_7f64, 0x1c30, 0, 0, 0, 0xb, 0, 0x200_0000_00ff, 0, 0, 0, 0, 0, 0xffff_0000_001f, 0xffff, 0xffff_0000_001f, 0xffff, 0xffff_0000_001f, 0xffff, 0xffff_0000_001f, 0xffff, 0xffff_0000_001f, 0xffff, 0xffff_0000_001f, 0xffff, 0, 0, 0, 0x3ff_c000_0000_0000, 0, 0x3ff_c000_0000_0000, 0, 0x3ff_c000_0000_0000, 0, 0x3ff_c000_0000_0000, 0, 0x3ff_c000_0000_0000, 0, 0x3ff_c000_0000_0000, 0, 0x3ff_c000_0000_0000, 0, 0x3ff_c000_0000_0000, 0, 0x3ff_c000_0000_0000]),
    (0x9900_0003_0000_0600, 1, &[0x118_0010]),
    (0x9900_0001_0000_0800, 2, &[1]),
    (0x9900_0003_0000_0810, 128, &[0x8_06f8]),
    (0xA000_0003_0000_0000, 1, &[]),
    (0x2000_0001_0000_0001, 4, &[]),
    (0xA000_0001_0000_0010, 1, &[0x200]),
    (0xA000_0000_0000_0020, 3, &[4, 2, 9]),
    (0xA100_0001_0000_0000, 1, &[1]),
    (0xA100_0003_0000_0001, 2, &[0x7ff_0000_0001]),
    (0xA200_0001_0000_0000, 1, &[0x807f]),
    (0xA200_0003_0000_0001, 6, &[1, 0, 3, 0, 7]),
];

/// CPUID leaf that can be configured: leaf with the sub-leaf in its upper half, and the bits of EAX
/// and EBX, ECX and EDX that TD_PARAMS may set.
pub(crate) type CpuidRow = (u64, u64, u64);

/// 1.5.01, as SYS.INFO has it; its SYS.RD answers other values.
#[rustfmt::skip]
pub(crate) const CPUID_CONFIG_1_5_01: &[CpuidRow] = &[
    (0xffff_ffff_0000_0001, 0xff_0000_0fff_3fff, 0xb840_0000_3104_4988),
    (4, 0xffff_f000_ffff_c3ff, 0xffff_fffb_ffff_ffff),
    (0x1_0000_0004, 0xffff_f000_ffff_c3ff, 0xffff_fffb_ffff_ffff),
    (0x2_0000_0004, 0xffff_f000_ffff_c3ff, 0xffff_fffb_ffff_ffff),
    (0x3_0000_0004, 0xffff_f000_ffff_c3ff, 0x7_ffff_ffff),
    (7, 0xd02b_9308_0000_0000, 0x5_4010_0241_7f64),
    (0x1_0000_0007, 0x1c30, 0),
    (0xffff_ffff_0000_000a, 0, 0),
    (0xffff_ffff_0000_001c, 0xb, 0),
    (0xffff_ffff_8000_0008, 0x200_0000_0000, 0),
    (0x2_0000_0007, 0, 0),
    (0x23, 0, 0),
];

/// 1.5.25, as SYS.INFO has it.
#[rustfmt::skip]
pub(crate) const CPUID_CONFIG_1_5_25: &[CpuidRow] = &[
    (0xffff_ffff_0000_0001, 0xff_0000_0fff_3fff, 0xb840_5080_3104_4988),
    (4, 0xffff_f000_ffff_c3ff, 0x7_ffff_ffff),
    (0x1_0000_0004, 0xffff_f000_ffff_c3ff, 0x7_ffff_ffff),
    (0x2_0000_0004, 0xffff_f000_ffff_c3ff, 0x7_ffff_ffff),
    (0x3_0000_0004, 0xffff_f000_ffff_c3ff, 0x7_ffff_ffff),
    (7, 0xd02b_9308_0000_0000, 0x4005_4010_0241_7f64),
    (0x1_0000_0007, 0x1c30, 0),
    (0xffff_ffff_0000_000a, 0, 0),
    (0xffff_ffff_0000_001c, 0xb, 0),
    (0xffff_ffff_8000_0008, 0x200_0000_00ff, 0),
    (0x2_0000_0007, 0, 0),
    (0x23, 0, 0),
    (0x1f, 0xffff_0000_001f, 0xffff),
    (0x1_0000_001f, 0xffff_0000_001f, 0xffff),
    (0x2_0000_001f, 0xffff_0000_001f, 0xffff),
    (0x3_0000_001f, 0xffff_0000_001f, 0xffff),
    (0x4_0000_001f, 0xffff_0000_001f, 0xffff),
    (0x5_0000_001f, 0xffff_0000_001f, 0xffff),
    (0xffff_ffff_0000_0019, 0, 0),
    (0x18, 0, 0x3ff_c000_0000_0000),
    (0x1_0000_0018, 0, 0x3ff_c000_0000_0000),
    (0x2_0000_0018, 0, 0x3ff_c000_0000_0000),
    (0x3_0000_0018, 0, 0x3ff_c000_0000_0000),
    (0x4_0000_0018, 0, 0x3ff_c000_0000_0000),
    (0x5_0000_0018, 0, 0x3ff_c000_0000_0000),
    (0x6_0000_0018, 0, 0x3ff_c000_0000_0000),
    (0x7_0000_0018, 0, 0x3ff_c000_0000_0000),
    (0x8_0000_0018, 0, 0x3ff_c000_0000_0000),
];

/// What MNG.INIT takes of a CPUID leaf: its place in CPUID_CONFIG, the leaf as in [`CpuidRow`], and
/// bits of EAX and EBX, ECX and EDX. Some are of features that the CPU does not have, and stay 0 in
/// the TD.
pub(crate) type AcceptedCpuid = (usize, u64, u64, u64);

/// 1.5.01, in the order in which MNG.INIT looks. Source: the module's table of configurable leafs.
#[rustfmt::skip]
pub(crate) const ACCEPTED_CPUID_1_5_01: &[AcceptedCpuid] = &[
    (0, 0xffff_ffff_0000_0001, 0xff_0000_0fff_3fff, 0xb844_0000_3104_4d88),
    (1, 4, 0xffff_f000_ffff_c3ff, 0xffff_fffb_ffff_ffff),
    (2, 0x1_0000_0004, 0xffff_f000_ffff_c3ff, 0xffff_fffb_ffff_ffff),
    (3, 0x2_0000_0004, 0xffff_f000_ffff_c3ff, 0xffff_fffb_ffff_ffff),
    (4, 0x3_0000_0004, 0xffff_f000_ffff_c3ff, 0x7_ffff_ffff),
    (5, 7, 0xdc2b_9b18_0000_0000, 0x5_411c_0241_7f65),
    (6, 0x1_0000_0007, 0x1d30, 0),
    (7, 0xffff_ffff_0000_000a, 0, 0),
    (8, 0xffff_ffff_0000_001c, 0xff, 0),
    (9, 0xffff_ffff_8000_0008, 0x200_0000_0000, 0),
    (10, 0x2_0000_0007, 0, 0x28_0000_0000),
    (11, 0x23, 0xf, 0),
];

/// 1.5.25, likewise.
#[rustfmt::skip]
pub(crate) const ACCEPTED_CPUID_1_5_25: &[AcceptedCpuid] = &[
    (0, 0xffff_ffff_0000_0001, 0xff_0000_0fff_3fff, 0xb844_5080_3104_4d88),
    (1, 4, 0xffff_f000_ffff_c3ff, 0x7_ffff_ffff),
    (2, 0x1_0000_0004, 0xffff_f000_ffff_c3ff, 0x7_ffff_ffff),
    (3, 0x2_0000_0004, 0xffff_f000_ffff_c3ff, 0x7_ffff_ffff),
    (4, 0x3_0000_0004, 0xffff_f000_ffff_c3ff, 0x7_ffff_ffff),
    (5, 7, 0xdc2b_9b18_0000_0000, 0x4005_411c_0241_7f65),
    (6, 0x1_0000_0007, 0x488_1db0, 0x2_4430_0000_0000),
    (7, 0xffff_ffff_0000_000a, 0, 0),
    (8, 0xffff_ffff_0000_001c, 0xff, 0),
    (9, 0xffff_ffff_8000_0008, 0x200_0000_00ff, 0),
    (10, 0x2_0000_0007, 0, 0x28_0000_0000),
    (18, 0xffff_ffff_0000_0019, 0, 0),
    (12, 0x1f, 0xffff_0000_001f, 0xffff),
    (13, 0x1_0000_001f, 0xffff_0000_001f, 0xffff),
    (14, 0x2_0000_001f, 0xffff_0000_001f, 0xffff),
    (15, 0x3_0000_001f, 0xffff_0000_001f, 0xffff),
    (16, 0x4_0000_001f, 0xffff_0000_001f, 0xffff),
    (17, 0x5_0000_001f, 0xffff_0000_001f, 0xffff),
    (11, 0x23, 0xf, 0),
    (19, 0x18, 0, 0x3ff_c000_0000_0000),
    (20, 0x1_0000_0018, 0, 0x3ff_c000_0000_0000),
    (21, 0x2_0000_0018, 0, 0x3ff_c000_0000_0000),
    (22, 0x3_0000_0018, 0, 0x3ff_c000_0000_0000),
    (23, 0x4_0000_0018, 0, 0x3ff_c000_0000_0000),
    (24, 0x5_0000_0018, 0, 0x3ff_c000_0000_0000),
    (25, 0x6_0000_0018, 0, 0x3ff_c000_0000_0000),
    (26, 0x7_0000_0018, 0, 0x3ff_c000_0000_0000),
    (27, 0x8_0000_0018, 0, 0x3ff_c000_0000_0000),
];
