//! A small SMP kernel for tests: detects TDX, initializes it, builds TDs, and kexecs, with the real
//! instructions. On a machine without TDX it reports that and kexecs.
//!
//! No user space, no scheduler; memory is mapped one to one.

#![no_std]
#![no_main]

mod bench;
mod counting_td;
mod cpu;
mod cpus;
mod hostile;
mod image;
mod jump;
mod memory;
mod relay;
mod second;
mod traps;
mod vmx;

use metal::boot::Boot;
use metal::image::BadImage;
use metal::{exit, interrupts, println, smp};
use tdx_abi::{PageRange, subtract};
use tdx_host::{
    handover::{Outcome, Policy},
    platform::{CpuTask, Cpus, OwnedPages, Step},
};

use cpu::{HardwareCpu, TDX, ThisProcessor};
use cpus::AllCpus;
use first_kernel::{AnyPolicy, GuestMap, Handed, HandedOutcome, NotHandedOver, RangePages, TdPhase};
use memory::{KERNEL_PLACE, Kernel};
use relay::Chain;

#[unsafe(no_mangle)]
fn kernel_ap_main(cpu: usize) -> ! {
    traps::enable_machine_checks();
    cpus::run_jobs(cpu)
}

#[unsafe(no_mangle)]
fn kernel_main(boot: &Boot) -> ! {
    interrupts::handle_with(traps::handle);
    traps::enable_machine_checks();
    // SAFETY: the trampoline page is below 1 MiB, where this kernel puts nothing else.
    let count = unsafe { smp::start_all() };
    AllCpus::set_online(count);
    if boot.option("role") == Some("second") {
        traps::EXPLAIN.call_once(|| {
            |address, out| {
                // Writing to the console does not fail.
                let _ = out.write_str(second::explain(address));
            }
        });
        println!("second kernel: {count} CPUs, {:?}", boot.command_line());
        let lines = second::use_all_memory(boot);
        println!("second kernel: {lines} lines partially written and read back");
        println!("@ {{\"event\":\"second-kernel\",\"lines\":{lines},\"cpus\":{count}}}");
        exit::exit(exit::SUCCESS)
    }
    if boot.option("role") == Some("hostile") {
        interrupts::handle_with(hostile::handle);
        hostile::run();
        exit::exit(exit::SUCCESS)
    }
    if boot.option("role") == Some("bench") {
        bench::run();
        exit::exit(exit::SUCCESS)
    }
    println!("first kernel: {count} CPUs, {:?}", boot.command_line());
    traps::EXPLAIN.call_once(|| {
        |address, out| {
            let _ = write!(out, "{}", TDX.explain(address));
        }
    });
    match live(boot) {
        Ok(never) => match never {},
        Err(Failure(step, why)) => {
            println!("first kernel: {step}: {why}");
            println!("@ {{\"event\":\"failed\",\"step\":\"{step}\"}}");
            exit::exit(exit::FAILURE)
        }
    }
}

/// The step that failed, and why.
pub(crate) struct Failure(&'static str, arrayvec::ArrayString<256>);

pub(crate) fn failure(step: &'static str) -> impl Fn(&dyn core::fmt::Display) -> Failure {
    move |why| {
        let mut text = arrayvec::ArrayString::new();
        // Text that does not fit is truncated.
        let _ = core::fmt::write(&mut text, format_args!("{why}"));
        Failure(step, text)
    }
}

fn policy(boot: &Boot) -> Result<AnyPolicy, Failure> {
    let name = boot.option("policy").unwrap_or("tracked");
    AnyPolicy::named(name)
        .ok_or_else(|| failure("options")(&format_args!("no policy of this kernel is called {name:?}")))
}

/// VMXON, on each CPU.
struct EnterVmx;

impl CpuTask<HardwareCpu> for EnterVmx {
    type Local = ();

    fn step(&self, cpu: &HardwareCpu, (): &mut ()) -> Step {
        if !vmx::enter() {
            println!("first kernel: {} failed to enter VMX operation", tdx_host::platform::Cpu::id(cpu));
        }
        Step::Done
    }
}

fn live(boot: &Boot) -> Result<core::convert::Infallible, Failure> {
    let policy = policy(boot)?;
    let tdx = TDX.detect(&ThisProcessor);
    // Without TDX there is nothing to keep.
    let keeps = policy == AnyPolicy::Product(Policy::Keep) && tdx.is_ok();
    let mut chain = Chain::new(boot)?;
    let before = if boot.option("role") == Some("relay") { Some(relay::read_table(boot)?) } else { None };
    let ranges = memory::usable(boot);
    let mut kernel = Kernel::new(&ranges);
    if let Some(table) = &before {
        relay::reserve_private(&mut kernel, table)?;
    }
    // First, while low memory is free: Linux needs its parameters below 4 GiB.
    let line = chain.next_command_line();
    let next = image::next(&mut kernel, boot, if keeps { &line } else { "role=second" })
        .map_err(|BadImage(why)| failure("next image")(&why))?;
    let control = jump::ControlPages::new(&mut kernel).ok_or_else(|| failure("kexec")(&"no memory"))?;

    match tdx {
        Err(no_tdx) => println!("first kernel: {no_tdx}"),
        Ok(platform) => {
            println!(
                "virt/tdx: BIOS enabled: private KeyID range [{}, {})",
                platform.key_ids().shared() + 1,
                platform.key_ids().private_end()
            );
            AllCpus.run_on_all(&EnterVmx);
            match &before {
                Some(table) => chain.take_over(&mut kernel, &ranges, table)?,
                None => use_tdx(&mut kernel, &ranges, boot, keeps.then_some(&mut chain))?,
            }
        }
    }

    if boot.option("role") == Some("hostile-private") {
        interrupts::handle_with(hostile::handle);
        hostile::on_private_memory(TDX.ledger());
        exit::exit(exit::SUCCESS)
    }
    if boot.option("role") == Some("hostile-td") {
        hostile::in_td(&mut kernel);
        exit::exit(exit::SUCCESS)
    }
    let own = kernel.own().iter().copied().chain([KERNEL_PLACE]);
    let mut own: arrayvec::ArrayVec<PageRange, 64> = own.collect();
    own.sort_unstable_by_key(|range| range.start());
    let all_memory = subtract(ranges.iter().map(|part| part.range), own.iter().copied()).filter(|_| !keeps);
    let began = metal::registers::tsc();
    // SAFETY: all memory but this kernel and the next image, and nothing if TDs are kept; the jump
    // follows.
    let handed =
        unsafe { first_kernel::kexec(policy, &AllCpus, TDX.memory(), &chain.vcpus(), &[KERNEL_PLACE], all_memory) };
    let handed = handed.map_err(|error| match error {
        NotHandedOver::Refused(refused) => failure("kexec refused")(&refused),
        NotHandedOver::Stop(cause) => failure("kexec put off")(&cause),
    })?;
    if keeps {
        // SAFETY: pages that `image::next` has taken for the table alone.
        unsafe { chain.write_table(next.table, &handed, began) }?;
    } else {
        told(&handed);
        write_leftovers(next.table, &handed);
    }
    AllCpus::park_others();
    println!("first kernel: jumps");
    // SAFETY: the other CPUs wait for SIPI, interrupts are off in this kernel, and the image was
    // checked to lie in the place kept for kernels; what it is told lies outside.
    unsafe { control.jump(&next.image, next.argument) }
}

/// Initializes TDX and builds TDs, for the next kernel if there is a `chain` of them.
fn use_tdx(
    kernel: &mut Kernel<'_>,
    ranges: &memory::Ranges,
    boot: &Boot,
    chain: Option<&mut Chain>,
) -> Result<(), Failure> {
    let tds: u32 = boot.option("tds").map_or(Ok(1), str::parse).map_err(|error| failure("option tds")(&error))?;
    let module = match TDX.bring_up(kernel, ranges) {
        Ok(ready) => ready.module,
        // The failed initialization was undone. Continue without TDX.
        Err(error) => {
            println!("virt/tdx: module initialization failed ({}): {error}", error.errno());
            println!("@ {{\"event\":\"no-tdx\",\"errno\":{}}}", error.errno());
            return Ok(());
        }
    };
    let layout = TDX.layout().ok_or_else(|| failure("TDX")(&"there is no layout"))?;
    println!("virt/tdx: TDX module {}, {} KB allocated for PAMT", module.version, layout.pamt_kb());
    println!("virt/tdx: module initialized");
    let no_memory = || failure("TDs")(&"no memory");
    let words = kernel.words(TDX.tracking_words() as u64).ok_or_else(no_memory)?;
    let host = TDX.track(words).map_err(|error| failure("ledger")(&error))?;
    if let Some(chain) = chain {
        return chain.build(kernel, host, layout, tds);
    }
    if tds == 0 {
        return Ok(());
    }
    let shared = kernel.pages(4096).ok_or_else(no_memory)?;
    // SAFETY: a page that this kernel has taken for this alone.
    let mut shared = unsafe { OwnedPages::new(shared) };
    for number in 0..tds {
        let pages = first_kernel::allocate(kernel, layout, 1).ok_or_else(no_memory)?;
        let range = pages.range();
        let (pages, phase) = (RangePages::new(pages), TdPhase::of(number));
        first_kernel::live(kernel, host, &pages, &mut shared, &GuestMap::SMALL, phase)
            .map_err(|error| failure("TD")(&error))?;
        println!("first kernel: TD {number} in {range}: {}", phase.name());
    }
    println!(
        "@ {{\"event\":\"tdx\",\"pamt_kb\":{},\"marked_pages\":{}}}",
        layout.pamt_kb(),
        host.ledger().marked_pages()
    );
    Ok(())
}

fn told(handed: &Handed<'_>) {
    let outcome = handed.outcome();
    let lines = match outcome {
        HandedOutcome::Product(Outcome::Reset(count)) => count.lines,
        _ => 0,
    };
    println!("first kernel: handover by policy {}: {outcome:?}", handed.policy().name());
    println!("@ {{\"event\":\"handover\",\"reset_lines\":{lines},\"clean\":{}}}", handed.is_clean());
}

fn write_leftovers(place: PageRange, handed: &Handed<'_>) {
    let first = core::ptr::with_exposed_provenance_mut::<u8>(place.base().get() as usize);
    // SAFETY: pages that `next_image` took for the table alone.
    let table = unsafe { core::slice::from_raw_parts_mut(first, place.bytes() as usize) };
    if handed.write_table(table).is_err() {
        println!("first kernel: no room for the table of leftovers");
    }
}
