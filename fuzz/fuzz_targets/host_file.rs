//! Any bytes as a host file: boot log, /proc/iomem or TOML. Never a panic; a host holds together, a
//! refusal says where.

#![no_main]

use libfuzzer_sys::fuzz_target;
use tdx_operator::{host::{Host, HostOptions}, input::Rule};

fuzz_target!(|bytes: &[u8]| {
    match Host::from_reader("fuzz", bytes, &HostOptions::default()) {
        Ok(host) => {
            let width = host.key_id_field().shift();
            let ranges = host.memory().iter().map(|piece| piece.range).chain(host.cmrs().iter().copied());
            assert!(ranges.into_iter().all(|range| !range.is_empty() && range.limit().get() <= 1 << width));
            assert!(host.memory().windows(2).all(|pair| pair[0].range.end() <= pair[1].range.start()));
            assert!(host.cmrs().windows(2).all(|pair| pair[0].end() <= pair[1].start()));
        }
        Err(error) => {
            let whole_file =
                matches!(error.rule, Rule::NotABootLog | Rule::NoMemory | Rule::Encoded(_) | Rule::HostFile(_));
            assert!(error.line.is_some() || whole_file, "{error}");
        }
    }
});
