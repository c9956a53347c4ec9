//! Links a static image for the bare machine. Takes nothing from the network.

fn main() {
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/../image.ld");
    println!("cargo:rerun-if-changed={script}");
    for argument in [
        "-nostartfiles",
        "-nostdlib",
        "-static",
        "-no-pie",
        "-Wl,--build-id=none",
        "-Wl,-z,max-page-size=4096",
        "-Wl,-z,norelro",
        "-Wl,--no-dynamic-linker",
        "-Wl,--defsym,IMAGE_BASE=0x200000",
    ] {
        println!("cargo:rustc-link-arg-bins={argument}");
    }
    println!("cargo:rustc-link-arg-bins=-Wl,-T,{script}");
}
