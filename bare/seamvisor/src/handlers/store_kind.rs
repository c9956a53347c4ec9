//! Classifies a store as cached or as a partial write past the caches, by instruction and PAT.

use iced_x86::{Instruction, Mnemonic};
use tdx_machine::PartialStore;

use crate::guest_memory::Mapping;
use crate::tdx::Access;
use crate::vcpu::Vcpu;

/// Kind of a store of `bytes` at `mapping`.
pub fn classify(vcpu: &Vcpu, instruction: &Instruction, mapping: Mapping, bytes: u64) -> Access {
    let full_line = bytes == tdx_abi::LINE_SIZE && mapping.address.is_multiple_of(tdx_abi::LINE_SIZE);
    let non_temporal = matches!(
        instruction.mnemonic(),
        Mnemonic::Movnti
            | Mnemonic::Movntq
            | Mnemonic::Movntdq
            | Mnemonic::Movntps
            | Mnemonic::Movntpd
            | Mnemonic::Vmovntdq
            | Mnemonic::Vmovntps
            | Mnemonic::Vmovntpd
            | Mnemonic::Maskmovdqu
            | Mnemonic::Maskmovq
            | Mnemonic::Vmaskmovdqu
    );
    const UNCACHED: u64 = 0;
    const WRITE_COMBINING: u64 = 1;
    const UNCACHED_MINUS: u64 = 7;
    match vcpu.vmcb.pat >> (8 * mapping.pat_index) & 7 {
        UNCACHED | UNCACHED_MINUS => Access::Partial(PartialStore::Uncached),
        WRITE_COMBINING if !full_line => Access::Partial(PartialStore::WriteCombining),
        _ if non_temporal && !full_line => Access::Partial(PartialStore::NonTemporal),
        _ => Access::Store,
    }
}
