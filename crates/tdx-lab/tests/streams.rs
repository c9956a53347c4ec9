//! SEAMCALL streams in the shape of logs of real servers (`fixtures/seamcalls`): replayed through
//! `tdx_host::follow` alone, and through the emulated module with the ledger of `follow` compared
//! with the owner of every line after each call.

mod followed;
#[path = "streams/kvm.rs"]
mod kvm;
#[path = "streams/player.rs"]
mod player;
#[path = "../../tdx-host/tests/promise/mod.rs"]
mod promise;
#[path = "streams/text.rs"]
mod text;

use std::path::PathBuf;
use std::sync::atomic::AtomicU64;

use player::{MEMORY, Player};
use promise::Observe as _;
use tdx_abi::{LineRange, PageRange};
use tdx_host::follow::{ModuleEvent, Moves};
use tdx_host::ledger::{Ledger, PageState};
use text::Event;

/// Set to write the fixtures anew.
const WRITE: &str = "WRITE_STREAMS";

fn path(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../fixtures/seamcalls").join(format!("{name}.txt"))
}

fn read(name: &str) -> Vec<Event> {
    text::parse(&std::fs::read_to_string(path(name)).unwrap())
}

#[test]
fn fixtures_are_what_the_generator_writes() {
    let streams = kvm::streams();
    for (name, events) in &streams {
        let text = text::print(events);
        if std::env::var_os(WRITE).is_some() {
            std::fs::create_dir_all(path("").parent().unwrap()).unwrap();
            std::fs::write(path(name), &text).unwrap();
        }
        assert_eq!(text::parse(&text), *events, "{name}");
        assert!(std::fs::read_to_string(path(name)).unwrap() == text, "{name}: run again with {WRITE}=1");
    }
    let files = std::fs::read_dir(path("").parent().unwrap()).unwrap();
    assert_eq!(files.filter(|file| file.as_ref().unwrap().path().extension().unwrap() == "txt").count(), streams.len());
}

/// Plays a stream, and returns who observed it.
fn play(name: &str) -> Player {
    let events = read(name);
    let Event::Machine { version, cpus, packages } = &events[0] else { panic!("{name}: no machine") };
    let mut player = Player::new(version, *cpus, *packages);
    for event in &events[1..] {
        let Event::Call { cpu, times, call, answer } = event else {
            player.other(event);
            continue;
        };
        for _ in 0..*times {
            assert_eq!(player.seamcall(*cpu, *call), *answer, "{name}: {event:x?}");
        }
        assert_eq!(player.followed.problems, Vec::<String>::new(), "{name}: after {event:x?}");
        player.followed.owners(&player.machine.all_owner_runs());
        assert_eq!(player.followed.problems, Vec::<String>::new(), "{name}: after {event:x?}");
    }
    assert_eq!(player.followed.problems, Vec::<String>::new(), "{name}");
    player
}

/// What the operands and answers of a stream alone say: the ledger, and the most pages marked.
fn follow(name: &str) -> (Ledger<'static>, u64) {
    let words: Vec<AtomicU64> = (0..Ledger::words_needed([MEMORY])).map(|_| AtomicU64::new(0)).collect();
    let (ledger, refs) = (Ledger::new([MEMORY], words.leak()).unwrap(), promise::Refs::default());
    let (mut dynamic_pamt, mut configured, mut most) = (false, false, 0);
    for event in read(name) {
        match event {
            Event::Call { call, answer, .. } => {
                let moves = Moves::of(&call, dynamic_pamt).unwrap();
                moves.seen_before(&ledger, &refs).unwrap();
                dynamic_pamt |= call.leaf_call().leaf() == tdx_abi::Leaf::PHYMEM_PAMT_ADD;
                most = most.max(ledger.marked_pages());
                let Some(answer) = answer else { continue };
                moves.seen_after(&ledger, &answer).unwrap();
                if ModuleEvent::of(&call, &answer, configured) == Some(ModuleEvent::Forgot) {
                    promise::seen_forgotten(&ledger);
                }
                configured |= call.leaf_call().leaf() == tdx_abi::Leaf::SYS_CONFIG;
            }
            Event::Reset(at, bytes) => {
                promise::seen_reset(&ledger, LineRange::touching(at, bytes).pages(), &refs).unwrap();
            }
            _ => {}
        }
        refs.assert_those_of(&ledger);
    }
    (ledger, most)
}

fn marked(ledger: &Ledger<'_>) -> Vec<(PageRange, Option<PageState>)> {
    ledger.marked().map(|range| (range, ledger.state(range.start()))).collect()
}

/// Both ways end in the same ledger, and with so many pages marked.
fn both(name: &str, most: u64, left: u64) -> Player {
    let player = play(name);
    let (alone, seen) = follow(name);
    assert_eq!(marked(&alone), marked(player.followed.ledger()), "{name}");
    assert_eq!((seen, alone.marked_pages()), (most, left), "{name}");
    player
}

/// TDR, 6 TDCX, 16 VCPUs of 6 pages, 3 Secure-EPT pages, 4 of the image, 2 MiB, 3 more and the
/// target of a move; one had been removed by then.
const WHOLE_TD: u64 = 1 + 6 + 16 * 6 + 3 + 4 + 512 + 3 - 1 + 1;

#[test]
fn a_whole_td_of_kvm() {
    let player = both("kvm-td-1.5.01", WHOLE_TD, 0);
    // What is private in the end is PAMT.
    assert_eq!(player.machine.assigned_pages(), []);
}

#[test]
fn a_whole_td_of_kvm_with_dynamic_pamt() {
    // A pair for the TD's pages, and one for the split page.
    both("kvm-td-dynamic-pamt", WHOLE_TD + 4, 0);
}

#[test]
fn calls_that_fail_and_a_module_that_dies() {
    // TDR, TDCX, two VCPUs, Secure EPT, image, a pair; and the page of the call that the module
    // died in.
    let left = 1 + 6 + 2 * 6 + 3 + 4 + 2 + 1;
    let player = both("calls-fail", left, left);
    assert!(player.machine.private_lines() > 0);
}

#[test]
fn tables_of_l2_vms() {
    // TDR, TDCX, a VCPU, a table of each VM; and two that were not used.
    let player = both("l2-tables", 1 + 7 + 9 + 2 + 2, 0);
    assert_eq!(player.machine.assigned_pages(), []);
    for register in ["R8", "R9"] {
        assert!(player.followed.seen.contains(&(3, 1, register, None)), "SEPT.ADD version 1, {register}");
    }
}

#[test]
fn a_module_update_keeps_the_ledger() {
    both("module-updated", WHOLE_TD - 15 * 6 + 4, 0);
}

/// SYS.CONFIG of a module that knows nothing of the one before: every page stays private, and
/// marked.
#[test]
fn a_module_that_is_replaced_leaves_its_pages_private() {
    // TDR and TDCX.
    let player = both("module-replaced", 1 + 6, 1 + 6);
    assert_eq!(player.machine.assigned_pages(), []);
    let ledger = player.followed.ledger();
    assert_eq!(ledger.unknown_to_module().collect::<Vec<_>>(), ledger.marked().collect::<Vec<_>>());
}
