//! Links without the C start-up code; libc is there for memcpy and the like alone.

fn main() {
    for flag in ["-nostartfiles", "-nostdlib", "-static", "-no-pie", "-lc"] {
        println!("cargo::rustc-link-arg-bins={flag}");
    }
}
