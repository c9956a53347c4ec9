//! Command lines of a next kernel, and whether everything in it stays out of the pool.

#[path = "../../object/src/line.rs"]
mod line;

const POOL: (u64, u64) = (0x1_0000_0000, 256 << 20);

fn verdict(line: &str) -> &'static str {
    line::refusal(line.as_bytes(), POOL.0, POOL.1).map_or("keep", |why| why.to_str().unwrap())
}

const KEPT: &[&str] = &[
    "memmap=256M$0x100000000",
    "memmap=0x10000000$4G",
    "memmap=02000000000$0x100000000",
    "root=/dev/sda  memmap=1G$0xf0000000 quiet",
    "memmap=1M$1M,1M$3M,1M$5M,256M$4G",
    "memmap=1M$1M memmap=1M#3M memmap=1M$5M memmap=256M$4G",
    // Neither takes a place.
    "memmap=8G memmap=1M@1M,1M@3M,1M@5M,1M@7M memmap=16M$0 memmap=256M$4G",
    "mem=8G mem=nopentium memmap=256M$4G",
    // KASLR has read the reservation by then.
    "memmap=256M$4G mem=0",
    "memmap=256M$4G memmap=1M$1M memmap=1M$3M memmap=1M$5M memmap=1M$7M",
    "nokaslr memmap=1M$1M,1M$3M,1M$5M,1M$7M,256M$4G",
    "mem=0 memmap=256M$4G nokaslr",
    "memmap=256M$4G -- memmap=exactmap",
    "memmap=256M$4G xmemmap=exactmap memmap",
];

const NOT_RESERVED: &[&str] = &[
    "",
    "quiet",
    "memmap=255M$4G",
    "memmap=256M$0x100001000",
    "memmap=128M$4G,128M$0x108000000",
    "memmap=256M@8G",
    "xmemmap=256M$4G",
    "-- memmap=256M$4G",
];

const NOT_HEEDED: &[&str] = &[
    "memmap=1M$1M memmap=1M$3M memmap=1M$5M memmap=1M$7M memmap=256M$4G",
    "memmap=1M$1M,1M$3M,1M$5M,1M$7M,256M$4G",
    "memmap=1M$1M,1M#3M memmap=1M$5M,1M#7M memmap=256M$4G",
    "mem=0 memmap=256M$4G",
    "mem=x memmap=256M$4G",
    "mem= memmap=256M$4G",
    "mem=16E memmap=256M$4G",
    // A limit to KASLR, because it begins at 0.
    "memmap=8G$0",
    "memmap=1M$1M memmap=1M$3M memmap=1M$5M memmap=1M$7M memmap=256M$4G xnokaslr nokaslr=1 -- nokaslr",
];

const UNDONE: &[&str] = &[
    "memmap=256M$4G memmap=exactmap",
    "memmap=exactmap memmap=256M$4G",
    "memmap=256M$4G,exactmap",
    "memmap=256M$4G memmap=1G%4G-2+1",
    "memmap=256M$4G memmap=1G!8G",
    "memmap=256M$4G,",
    "memmap=256M$4Gx",
    "memmap=256M$",
    "memmap=256M$0xg",
    "memmap=09$4G memmap=256M$4G",
    "memmap= memmap=256M$4G",
    "memmap=x$4G memmap=256M$4G",
    "memmap=99999999999999999999$4G",
    "memmap=64E$4G",
];

const OTHER: &[(&str, &str)] = &[
    ("memmap=256M$4G \"memmap=exactmap\"", "quotes"),
    ("memmap=256M$4G\tmemmap=exactmap", "tabs"),
    ("memmap=256M$4G\n", "tabs"),
    ("memmap=256M$4G\u{a0}memmap=exactmap", "tabs"),
    ("memmap=256M$4G -- \"", "quotes"),
    ("memmap=256M$4G mem", "without a value"),
    ("memmap=256M$4G memmap=1M#4G", "something else"),
    ("memmap=256M$4G memmap=8G@1M", "something else"),
];

#[test]
fn the_pool_is_reserved_for_all_that_runs_before_the_module() {
    for line in KEPT {
        assert_eq!(verdict(line), "keep", "{line:?}");
    }
    let refused = |lines: &[&str], why: &str| {
        for line in lines {
            assert!(verdict(line).contains(why), "{line:?}: {}", verdict(line));
        }
    };
    refused(NOT_RESERVED, "does not reserve");
    refused(NOT_HEEDED, "would not heed");
    refused(UNDONE, "may undo");
    for (line, why) in OTHER {
        refused(&[line], why);
    }
}
