//! The table of leaves and statuses against the real module: every answer in the conformance vectors must be in it.

use std::{collections::BTreeSet, fs::File, io::Read, path::Path};

use flate2::read::MultiGzDecoder;
use serde_json::Value;
use tdx_abi::{LeafCall, Status, StatusCode};
use tdx_lab::explain::may_return;

fn number(value: &Value) -> Option<u64> {
    u64::from_str_radix(value.as_str()?.strip_prefix("0x")?, 16).ok()
}

#[test]
fn every_answer_of_the_real_module_is_in_the_table() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fixtures/vectors");
    let mut seen = BTreeSet::new();
    for name in ["sys_config", "td_lifecycle", "random_walk"] {
        let mut text = String::new();
        let file = File::open(folder.join(format!("{name}.jsonl.gz"))).unwrap();
        MultiGzDecoder::new(file).read_to_string(&mut text).unwrap();
        for line in text.lines() {
            let case: Value = serde_json::from_str(line).unwrap();
            for step in case["steps"].as_array().unwrap() {
                let Some(rax) = number(&step["seamcall"]["rax"]) else { continue };
                let call = LeafCall::from_rax(rax);
                // A call that the dispatcher refuses is no leaf's answer.
                if let (Some(answer), 0) = (number(&step["expect"]["rax"]), call.reserved()) {
                    seen.insert((call.leaf(), Status::new(answer).code()));
                }
            }
        }
    }
    assert!(seen.len() > 100, "{}", seen.len());
    let missing: Vec<_> = seen.iter().filter(|(leaf, code)| !may_return(*leaf, *code)).collect();
    assert!(missing.is_empty(), "{missing:#?}");
    assert!(!may_return(tdx_abi::Leaf::SYS_CONFIG, StatusCode::TD_FATAL), "the table can say no");
}
