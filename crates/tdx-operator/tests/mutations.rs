//! Property tests of the parser: fixture text mutated, cut and spliced never panics; what is
//! accepted holds together, and what is refused says where.

use std::path::Path;

use proptest::prelude::*;
use tdx_operator::{
    host::{Host, HostOptions},
    input::{InputError, Rule},
};

fn fixtures() -> Vec<Vec<u8>> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fixtures");
    let mut files = Vec::new();
    for dir in ["hosts", "e820", "mce", "made-up"] {
        let mut paths: Vec<_> = std::fs::read_dir(root.join(dir)).unwrap().map(|entry| entry.unwrap().path()).collect();
        paths.sort();
        files.extend(paths.into_iter().map(|path| std::fs::read(path).unwrap()));
    }
    files
}

/// One change of a text.
#[derive(Clone, Debug)]
enum Change {
    Byte(prop::sample::Index, u8),
    Delete(prop::sample::Index, usize),
    Cut(prop::sample::Index),
    Splice(prop::sample::Index, prop::sample::Index),
    SwapLines(prop::sample::Index, prop::sample::Index),
    Digit(prop::sample::Index, u8),
}

fn change() -> impl Strategy<Value = Change> {
    let index = || any::<prop::sample::Index>();
    prop_oneof![
        (index(), any::<u8>()).prop_map(|(at, byte)| Change::Byte(at, byte)),
        (index(), 1..40usize).prop_map(|(at, count)| Change::Delete(at, count)),
        index().prop_map(Change::Cut),
        (index(), index()).prop_map(|(file, at)| Change::Splice(file, at)),
        (index(), index()).prop_map(|(a, b)| Change::SwapLines(a, b)),
        (index(), b'0'..=b'9').prop_map(|(at, digit)| Change::Digit(at, digit)),
    ]
}

fn apply(text: &mut Vec<u8>, change: &Change, files: &[Vec<u8>]) {
    if text.is_empty() {
        return;
    }
    match change {
        Change::Byte(at, byte) => {
            let at = at.index(text.len());
            text[at] = *byte;
        }
        Change::Delete(at, count) => {
            let at = at.index(text.len());
            text.drain(at..text.len().min(at + count));
        }
        Change::Cut(at) => text.truncate(at.index(text.len())),
        Change::Splice(file, at) => {
            let other = file.get(files);
            let from = at.index(other.len());
            text.extend_from_slice(&other[from..]);
        }
        Change::SwapLines(a, b) => {
            let mut lines: Vec<&[u8]> = text.split_inclusive(|&c| c == b'\n').collect();
            let (a, b) = (a.index(lines.len()), b.index(lines.len()));
            lines.swap(a, b);
            *text = lines.concat();
        }
        Change::Digit(at, digit) => {
            let digits: Vec<usize> = (0..text.len()).filter(|&i| text[i].is_ascii_hexdigit()).collect();
            if !digits.is_empty() {
                text[*at.get(&digits)] = *digit;
            }
        }
    }
}

/// What every host and every refusal keeps.
fn check(bytes: &[u8], result: Result<Host, InputError>) -> Result<(), TestCaseError> {
    match result {
        Ok(host) => {
            prop_assert!(!host.memory().is_empty() && !host.cmrs().is_empty());
            prop_assert!(host.cmrs().len() <= tdx_abi::MAX_CMRS);
            prop_assert!(host.key_ids().private() >= 2);
            prop_assert!(host.packages() >= 1 && host.cpus() >= host.packages());
            let width = host.key_id_field().shift();
            for pair in host.memory().windows(2) {
                prop_assert!(pair[0].range.end() <= pair[1].range.start());
            }
            for pair in host.cmrs().windows(2) {
                prop_assert!(pair[0].end() <= pair[1].start());
            }
            for range in host.memory().iter().map(|piece| piece.range).chain(host.cmrs().iter().copied()) {
                prop_assert!(!range.is_empty() && range.limit().get() <= 1 << width);
            }
            prop_assert!(host.memory()[0].range.base().get() >= 1 << 20);
        }
        Err(error) => {
            let of_file = matches!(
                error.rule,
                Rule::Empty | Rule::NotABootLog | Rule::NoMemory | Rule::Encoded(_) | Rule::HostFile(_)
            );
            prop_assert!(error.line.is_some() || of_file, "{error}");
            let end = if bytes.contains(&b'\n') { b'\n' } else { b'\r' };
            let lines = bytes.split(|&b| b == end).count() as u64;
            prop_assert!(error.line.is_none_or(|line| (1..=lines).contains(&line)), "{error}");
            prop_assert!(error.to_string().len() < 1000, "{error}");
        }
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1500))]

    #[test]
    fn changed_fixtures(file in any::<prop::sample::Index>(), changes in prop::collection::vec(change(), 1..8)) {
        let files = fixtures();
        let mut text = file.get(&files).clone();
        for change in &changes {
            apply(&mut text, change, &files);
        }
        check(&text, Host::from_reader("x", &text[..], &HostOptions::default()))?;
    }

    #[test]
    fn any_bytes(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
        check(&bytes, Host::from_reader("x", &bytes[..], &HostOptions::default()))?;
    }

    #[test]
    fn known_words_with_any_rest(
        words in prop::sample::select(vec![
            "virt/tdx: ", "virt/tdx: CMR: ", "virt/tdx: BIOS enabled: private KeyID range ", "tdx: TDX module: ",
            "tdx: TDX module ", "BIOS-e820: [mem ", "SRAT: Node ", "NUMA: Node ", "smpboot: CPU0: ", "  node   0: [mem ",
            "virt/tdx: SEAMCALL (", "virt/tdx: initialization failed", "user: [mem ", "smp: Brought up ", "schema = ",
        ]),
        rest in "[ -~]{0,60}",
    ) {
        let text = format!("{words}{rest}\n");
        check(text.as_bytes(), Host::from_reader("x", text.as_bytes(), &HostOptions::default()))?;
    }
}
