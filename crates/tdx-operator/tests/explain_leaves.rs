//! The table of leaves and statuses against the real module: every answer in the conformance
//! vectors must be in it.

use std::{collections::BTreeSet, fs::File, io::Read, path::Path};

use flate2::read::MultiGzDecoder;
use serde_json::Value;
use tdx_abi::{Leaf, LeafCall, Status, StatusCode};
use tdx_operator::{
    explain::{may_return, subject},
    report::Subject,
};

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
    assert!(!may_return(Leaf::SYS_CONFIG, StatusCode::TD_FATAL), "the table can say no");
    // What the table says of the dispatcher is what the module did: the leaves that it lets through
    // were asked, and never refused so.
    let refused = |code| seen.iter().filter(|(_, found)| *found == code).map(|(leaf, _)| *leaf).collect::<Vec<_>>();
    let not_ready = refused(StatusCode::SYS_NOT_READY);
    assert!(not_ready.len() >= 5, "{not_ready:?}");
    for leaf in BEFORE_READY {
        assert!(!not_ready.contains(&leaf), "{leaf}");
        assert!(!may_return(leaf, StatusCode::SYS_NOT_READY), "{leaf}");
    }
}

/// `tdx_abi.md` section 1, step 4 of the dispatcher.
const BEFORE_READY: [Leaf; 9] = [
    Leaf::SYS_INFO,
    Leaf::SYS_RD,
    Leaf::SYS_RDALL,
    Leaf::SYS_INIT,
    Leaf::SYS_LP_INIT,
    Leaf::SYS_CONFIG,
    Leaf::SYS_KEY_CONFIG,
    Leaf::SYS_UPDATE,
    Leaf::SYS_LP_SHUTDOWN,
];

#[test]
fn the_dispatcher_lets_some_leaves_through() {
    for leaf in Leaf::KNOWN {
        let before_ready = BEFORE_READY.contains(leaf);
        assert_eq!(may_return(*leaf, StatusCode::SYS_NOT_READY), !before_ready, "{leaf}");
        // Step 3: everything but LP.SHUTDOWN, which always succeeds.
        assert_eq!(may_return(*leaf, StatusCode::SYS_SHUTDOWN), *leaf != Leaf::SYS_LP_SHUTDOWN, "{leaf}");
        // Steps 1 and 2: reserved bits and the version come before everything.
        assert!(may_return(*leaf, StatusCode::OPERAND_INVALID), "{leaf}");
    }
    let report = subject("TDX_SYS_NOT_READY", &()).unwrap();
    let Subject::Status(status) = report.subject else { panic!() };
    assert!(status.any_leaf);
    assert_eq!(status.any_leaf_but, BEFORE_READY.map(|leaf| leaf.to_string()));
}
