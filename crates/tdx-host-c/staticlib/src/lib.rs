//! `libtdxhost.a`: everything that `tdx-host-c` exports, and the panic handler that a program
//! without std must have.

//!
//! ```sh
//! cargo build --release --manifest-path crates/tdx-host-c/staticlib/Cargo.toml      # for a program: target/release/libtdxhost.a
//! ```
//!
//! A kernel must not touch vector registers and has its own code model: it takes the target without
//! SSE, which stable Rust has.
//!
//! ```sh
//! rustup target add x86_64-unknown-none
//! RUSTFLAGS="-C relocation-model=static -C code-model=kernel -C no-redzone=y" \
//!     cargo build --release --manifest-path crates/tdx-host-c/staticlib/Cargo.toml --target x86_64-unknown-none
//! ```
//!
//! The library is one object, and `compiler_builtins`, which a kernel with memcpy, memmove and
//! memset of its own leaves out (`ar x`). Mitigations that a kernel is built with (retpolines,
//! return thunks, IBT) are options of nightly Rust.

#![no_std]

extern crate tdx_host_c as _;

/// An invalid instruction: the kernel's #UD handler says where. The product does not come here
/// (`checks/no-panic`); only the formatting of messages might.
#[panic_handler]
fn panic(_: &core::panic::PanicInfo<'_>) -> ! {
    loop {
        // SAFETY: UD2 has no operands and no effect but the exception.
        unsafe { core::arch::asm!("ud2", options(nomem, nostack)) };
    }
}
