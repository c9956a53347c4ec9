//! Enums that C sees as named numbers. Numbers that come from C are `u32` and are looked up: none
//! is believed to be a variant.

/// Defines an enum with its C names. `tests/header.rs` compares
/// [`VALUES`](crate::TdxhResult::VALUES) with the header.
macro_rules! c_enum {
    ($(#[$meta:meta])* pub enum $name:ident as $tag:literal { $($(#[$vmeta:meta])* $variant:ident = $value:literal, $text:literal;)* }) => {
        $(#[$meta])*
        #[derive(Clone, Copy, PartialEq, Eq, Debug)]
        #[repr(u32)]
        pub enum $name {
            $($(#[$vmeta])* $variant = $value,)*
        }

        impl $name {
            /// Its tag in C.
            pub const TAG: &'static str = $tag;

            /// Every value with its name in C, in the order of the header.
            pub const VALUES: &'static [(&'static str, u32)] = &[$(($text, $value)),*];

            /// Its name in C.
            pub const fn c_name(self) -> &'static core::ffi::CStr {
                match self {
                    $(Self::$variant => crate::c_enum::c_text(concat!($text, "\0")),)*
                }
            }

            /// The variant with this number.
            pub const fn from_number(number: u32) -> Option<Self> {
                match number {
                    $($value => Some(Self::$variant),)*
                    _ => None,
                }
            }
        }
    };
}
pub(crate) use c_enum;

/// A name that ends with a zero byte, as every caller writes it.
pub(crate) const fn c_text(text: &'static str) -> &'static core::ffi::CStr {
    match core::ffi::CStr::from_bytes_with_nul(text.as_bytes()) {
        Ok(text) => text,
        Err(_) => c"",
    }
}
