//! What a C kernel implements: a table of functions, checked once and copied.
//!
//! The table is the only way out of this library. Its functions get the kernel's own context
//! pointer and act on the CPU that calls them.

use core::ffi::c_void;
use tdx_abi::{PAGE_SIZE, PageRange, PhysAddr, Registers};
use tdx_host::layout::{FrameRequest, Places};

use crate::range::TdxhRange;
use crate::result::{Outcome, TdxhResult};
use crate::work::TdxhWork;

/// `struct tdxh_frame_request`.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct TdxhFrameRequest {
    /// How many 4 KiB pages, all adjacent.
    pub pages: u64,
    /// Where they must lie.
    pub within: TdxhRange,
    /// The node they should come from, or [`TDXH_ANY_NODE`].
    pub node: u32,
    /// 0.
    pub reserved: u32,
}

/// Any node will do.
pub const TDXH_ANY_NODE: u32 = u32::MAX;

/// Defines a table of functions as C fills it (`$table`) and as it is used once none of them is
/// known to be null (`$checked`).
macro_rules! functions {
    ($(#[$doc:meta])* $table:ident { $($before:ident: $before_type:ty,)* } => $checked:ident { $($(#[$fdoc:meta])* $name:ident: fn($($arg:ident: $type:ty),*) $(-> $return:ty)?;)* }) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug)]
        #[repr(C)]
        pub struct $table {
            $(#[doc = "See the header."] pub $before: $before_type,)*
            $($(#[$fdoc])* pub $name: Option<unsafe extern "C" fn($($arg: $type),*) $(-> $return)?>,)*
        }

        /// The same table, no function of it null.
        #[derive(Clone, Copy, Debug)]
        pub(crate) struct $checked {
            pub(crate) context: *mut c_void,
            $(pub(crate) $name: unsafe extern "C" fn($($arg: $type),*) $(-> $return)?,)*
        }

        impl $checked {
            fn all_there(table: &$table) -> Option<Self> {
                Some(Self { context: table.context, $($name: table.$name?,)* })
            }
        }
    };
}

functions! {
    /// `struct tdxh_frames`: the kernel's allocator of contiguous pages.
    TdxhFrames { context: *mut c_void, } => Frames {
        /// Takes pages.
        allocate: fn(context: *mut c_void, request: *const TdxhFrameRequest, start: *mut u64) -> u32;
        /// Gives pages back.
        free: fn(context: *mut c_void, range: *const TdxhRange);
    }
}

functions! {
    /// `struct tdxh_kernel`: what a kernel lends.
    TdxhKernel { struct_size: u32, reserved: u32, context: *mut c_void, frames: TdxhFrames, } => Functions {
        /// Number of the current CPU, on which the caller stays until `unpin`.
        pin: fn(context: *mut c_void) -> u32;
        /// Undoes one `pin`.
        unpin: fn(context: *mut c_void);
        /// Package of a CPU.
        package_of: fn(context: *mut c_void, cpu: u32) -> u32;
        /// SEAMCALL.
        seamcall: fn(context: *mut c_void, registers: *mut Registers);
        /// MOVDIR64B of zeros to each line. Returns the lines that no mapping has.
        reset_lines: fn(context: *mut c_void, first: u64, lines: u64) -> u64;
        /// MFENCE.
        fence: fn(context: *mut c_void);
        /// WBINVD.
        write_back_caches: fn(context: *mut c_void);
        /// CLFLUSHOPT of each line.
        flush_lines: fn(context: *mut c_void, first: u64, lines: u64);
        /// Copies bytes to shared memory.
        write_shared: fn(context: *mut c_void, address: u64, bytes: *const u8, count: usize);
        /// Runs the work on every online CPU.
        run_on_all: fn(context: *mut c_void, work: *const TdxhWork);
        /// Runs the work on one CPU of each package.
        run_on_each_package: fn(context: *mut c_void, work: *const TdxhWork);
        /// Stops the other CPUs for a kexec.
        stop_other_cpus: fn(context: *mut c_void) -> u32;
        /// Lets the stopped CPUs go on.
        resume_other_cpus: fn(context: *mut c_void);
        /// Runs the work on this CPU and on the stopped ones.
        run_on_stopped: fn(context: *mut c_void, work: *const TdxhWork);
        /// Stops the other CPUs at a crash.
        stop_other_cpus_by_nmi: fn(context: *mut c_void);
        /// Whether a CPU was online at the panic.
        is_online: fn(context: *mut c_void, cpu: u32) -> u32;
    }
}

/// An allocator of C.
#[derive(Clone, Copy, Debug)]
pub(crate) struct FramesOf(Frames);

impl FramesOf {
    /// # Safety
    /// The functions are what the header asks for, and stay so as long as this is used.
    pub(crate) unsafe fn new(frames: &TdxhFrames) -> Outcome<Self> {
        Frames::all_there(frames).map(Self).ok_or(TdxhResult::BadKernel)
    }
}

impl Places for FramesOf {
    fn allocate(&mut self, request: FrameRequest) -> Option<PageRange> {
        let asked = TdxhFrameRequest {
            pages: request.pages,
            within: request.within.into(),
            node: request.node.map_or(TDXH_ANY_NODE, |node| node.0),
            reserved: 0,
        };
        let mut start = 0;
        // SAFETY: the function is the kernel's `allocate`, as the contract of `new` says; both
        // pointers are to locals that live through the call.
        let given = unsafe { (self.0.allocate)(self.0.context, &raw const asked, &raw mut start) };
        if given == 0 {
            return None;
        }
        PageRange::from_base_size(PhysAddr::new(start), request.pages.checked_mul(PAGE_SIZE)?).ok()
    }

    fn free(&mut self, range: PageRange) {
        let range = TdxhRange::from(range);
        // SAFETY: as in `allocate`.
        unsafe { (self.0.free)(self.0.context, &raw const range) };
    }
}

/// The table of a kernel, all functions there.
#[derive(Debug)]
pub(crate) struct Kernel {
    pub(crate) functions: Functions,
    pub(crate) frames: FramesOf,
}

// SAFETY: a table of functions and context pointers, never written after `new`. The library never
// looks behind a context; it hands it to the kernel's functions, which the kernel promises (`new`)
// may be called on any CPU.
unsafe impl Send for Kernel {}
// SAFETY: as for `Send`.
unsafe impl Sync for Kernel {}

impl Kernel {
    /// # Safety
    /// The functions are what the header asks for, on any CPU, as long as this is used.
    pub(crate) unsafe fn new(table: &TdxhKernel) -> Outcome<Self> {
        if table.struct_size as usize != size_of::<TdxhKernel>() {
            return Err(TdxhResult::BadKernel);
        }
        // SAFETY: as the caller has promised, the functions do what the header asks for.
        let frames = unsafe { FramesOf::new(&table.frames) }?;
        Ok(Self { functions: Functions::all_there(table).ok_or(TdxhResult::BadKernel)?, frames })
    }
}

/// Calls a function of the kernel's table.
macro_rules! call {
    ($kernel:expr, $name:ident $(, $argument:expr)*) => {{
        let functions = &$kernel.functions;
        // SAFETY: by the contract of `Kernel::new` this is the kernel's function of that name,
        // which may be called on any CPU with these arguments; pointers among them are to values
        // that live through the call.
        unsafe { (functions.$name)(functions.context $(, $argument)*) }
    }};
}

pub(crate) use call;
