//! The structures that a write step spells out, as the bytes the module reads.

use serde::Deserialize;
use tdx_abi::{MAX_RESERVED_AREAS, STRUCTURE_ALIGN};

use super::hex::Hex;

/// A TDMR_INFO: ranges as [base, size], reserved areas as [offset, size] in slot order.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct TdmrInfoText {
    base: Hex,
    size: Hex,
    pamt_1g: (Hex, Hex),
    pamt_2m: (Hex, Hex),
    pamt_4k: (Hex, Hex),
    reserved: Vec<(Hex, Hex)>,
}

impl TdmrInfoText {
    /// 512 bytes.
    pub(super) fn bytes(&self) -> Result<Vec<u8>, String> {
        if self.reserved.len() > MAX_RESERVED_AREAS {
            return Err(format!("{} reserved areas; a TDMR_INFO has {MAX_RESERVED_AREAS} slots", self.reserved.len()));
        }
        let head = [(self.base, self.size), self.pamt_1g, self.pamt_2m, self.pamt_4k];
        let words = head.iter().chain(&self.reserved).flat_map(|(first, second)| [first.0, second.0]);
        let mut bytes: Vec<u8> = words.flat_map(u64::to_le_bytes).collect();
        bytes.resize(STRUCTURE_ALIGN as usize, 0);
        Ok(bytes)
    }
}

/// A TD_PARAMS; what is absent is 0, `raw` goes on top.
#[derive(Deserialize)]
#[serde(deny_unknown_fields, default)]
#[derive(Default)]
pub(super) struct TdParamsText {
    attributes: Hex,
    xfam: Hex,
    max_vcpus: u16,
    num_l2_vms: u8,
    msr_config_ctls: u8,
    eptp_controls: Hex,
    config_flags: Hex,
    tsc_frequency: u16,
    raw: Vec<(usize, u8)>,
}

/// Bytes of a TD_PARAMS.
const TD_PARAMS: usize = 1024;

impl TdParamsText {
    /// 1024 bytes.
    pub(super) fn bytes(&self) -> Result<Vec<u8>, String> {
        let mut bytes = vec![0; TD_PARAMS];
        let mut put = |offset: usize, value: &[u8]| match bytes.get_mut(offset..offset + value.len()) {
            Some(slot) => {
                slot.copy_from_slice(value);
                Ok(())
            }
            None => Err(format!("offset {offset}: a TD_PARAMS has {TD_PARAMS} bytes")),
        };
        put(0, &self.attributes.0.to_le_bytes())?;
        put(8, &self.xfam.0.to_le_bytes())?;
        put(16, &self.max_vcpus.to_le_bytes())?;
        put(18, &[self.num_l2_vms, self.msr_config_ctls])?;
        put(24, &self.eptp_controls.0.to_le_bytes())?;
        put(32, &self.config_flags.0.to_le_bytes())?;
        put(40, &self.tsc_frequency.to_le_bytes())?;
        for (offset, value) in &self.raw {
            put(*offset, &[*value])?;
        }
        Ok(bytes)
    }
}
