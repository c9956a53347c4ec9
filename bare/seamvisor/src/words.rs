//! Words that come late: a machine that goes on from a snapshot of QEMU has the command line of the
//! boot before it, and the file `opt/cleanslate/words` of the QEMU that it goes on in. The file is
//! as a command line: `fail=...` for this program, ` -- `, words for the guest, which asks for them
//! by CPUID. QEMU 7.2 loads no snapshot of a CPU that is in a guest: this program waits for them.

use alloc::borrow::ToOwned;
use alloc::string::String;
use metal::{clock, fw_cfg, println};
use spin::Mutex;

use crate::{options, tdx};

const FILE: &str = "opt/cleanslate/words";
/// Longer than every command line.
const LONGEST: u32 = 4096;

/// The guest's words, once they have come.
static WORDS: Mutex<Option<String>> = Mutex::new(None);

/// How many bytes the guest's words have; 0 if QEMU was given no such file. Waits until the file
/// has words: meanwhile a snapshot can be taken. When they come, the faults of the module that the
/// same file asks for are injected: once, so that calls are counted from there.
pub fn length() -> u32 {
    let mut words = WORDS.lock();
    if words.is_none() && fw_cfg::find(FILE).is_some() {
        println!("seamvisor: waits for words");
        *words = Some(wait());
    }
    words.as_ref().map_or(0, |words| words.len() as u32)
}

fn wait() -> String {
    loop {
        if let Some(words) = read() {
            return words;
        }
        clock::wait_for(1000, || false);
    }
}

/// Four bytes of the guest's words. Zeros behind their end.
pub fn part(number: u32) -> u32 {
    let words = WORDS.lock();
    let rest = words.as_ref().and_then(|words| words.as_bytes().get(number as usize * 4..)).unwrap_or_default();
    u32::from_le_bytes(core::array::from_fn(|index| rest.get(index).copied().unwrap_or(0)))
}

/// The guest's words. None if the file has no ` -- `, or was replaced while it was being read.
fn read() -> Option<String> {
    let file = fw_cfg::find(FILE)?;
    assert!(file.size <= LONGEST, "{FILE} has {} bytes: {LONGEST} at most", file.size);
    let mut text = alloc::vec![0_u8; file.size as usize];
    let buffer = text.as_mut_ptr();
    buffer.expose_provenance();
    // SAFETY: the buffer has the size of the file, and nobody else knows of it. It is on the heap,
    // which is mapped one to one.
    assert!(unsafe { fw_cfg::read(file, buffer) }, "cannot read {FILE} from fw_cfg");
    let text = core::str::from_utf8(&text).unwrap_or_else(|_| panic!("{FILE} is no text"));
    let (own, guest) = text.split_once(" -- ")?;
    for word in own.split_ascii_whitespace() {
        let fail = word.strip_prefix("fail=").unwrap_or_else(|| panic!("{FILE}: unknown word {word:?}: fail=..."));
        for injection in options::injections(fail) {
            injection.inject(&mut tdx::lock().machine);
        }
    }
    Some(guest.to_owned())
}
