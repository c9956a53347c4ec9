//! A hypervisor: builds a TD, gives it pages and takes them back while it lives, tears it down, and
//! every page is ordinary memory again.
//!
//! Every page goes the same way: out of the allocator as a [`SharedPage`], to the module inside a
//! call, and back clean inside another. If a call fails, its error holds the page, clean, or says
//! that it stays marked. There is no other way for a page to move, so there is no place to forget
//! one.
//!
//! ```sh
//! cargo run -p tdx-host --example hypervisor
//! ```
//!
//! [`SharedPage`]: tdx_host::page::SharedPage

// UNSAFETY: the example is the kernel that answers for its memory.
#![allow(unsafe_code)]

#[allow(dead_code)] // shared by several examples; each uses its part
mod kernel;

use std::error::Error;

use kernel::{Hardware, Kernel, words};
use tdx_host::key_ids::KeyIds;
use tdx_host::ledger::PageState;
use tdx_host::td::{GuestPage, Runnable, SeptLevel, TDCS_PAGES, TDVPS_PAGES, Td, Vcpu};
use tdx_host::{FrameSource, Host, Ledger, OwnedPages, PAGE_SIZE, Page, PageSize, TdHost};

const fn guest(page: u64) -> GuestPage {
    GuestPage::containing(page * PAGE_SIZE)
}

/// TD_PARAMS: x87, SSE and AVX, write-back EPT of four levels, one VCPU, TSC of 1 GHz.
fn td_params() -> [u8; 1024] {
    let mut bytes = [0; 1024];
    for (offset, value) in [(8, 7), (16, 1), (24, 0x1e), (40, 40)] {
        bytes[offset] = value;
    }
    bytes
}

/// From TDR to MR.FINALIZE: one VCPU, two measured pages at guest addresses 0 and 4096.
///
/// Pages of a TD that is never finished are taken back like those of any other: `tear_down` is
/// there from the first step.
fn build<'h>(
    kernel: &mut Kernel<'_>,
    host: TdHost<'h>,
    own: &mut OwnedPages,
) -> Result<(Td<'h, Runnable>, Vcpu), Box<dyn Error + 'h>> {
    let ledger = host.ledger();
    own.write(kernel, 0, &td_params())?;
    let own = own.base();
    let cpu = kernel.cpu();

    let root = kernel.take_page(ledger);
    let mut td = host.create(&cpu, root)?.configure_keys(kernel)?;
    for _ in 0..TDCS_PAGES {
        td.add_control_page(&cpu, kernel.take_page(ledger))?;
    }
    let td = td.init(&cpu, own)?;

    let vcpu = td.create_vcpu(&cpu, kernel.take_page(ledger))?;
    for _ in 1..TDVPS_PAGES {
        td.add_vcpu_page(&cpu, &vcpu, kernel.take_page(ledger))?;
    }
    let vcpu = td.init_vcpu(&cpu, vcpu, 0)?;

    for level in [SeptLevel::Maps512G, SeptLevel::Maps1G, SeptLevel::Maps2M] {
        td.add_sept_page(&cpu, guest(0), level, kernel.take_page(ledger))?;
    }
    for gpa in [guest(0), guest(1)] {
        td.add_page(&cpu, gpa, kernel.take_page(ledger), own)?;
        td.measure_page(&cpu, gpa)?;
    }
    Ok((td.finalize(&cpu)?, vcpu))
}

/// Gives a page, takes it back, moves another: while the TD lives.
fn give_and_take<'h>(
    kernel: &mut Kernel<'_>,
    ledger: &'h Ledger<'h>,
    td: &Td<'h, Runnable>,
) -> Result<(), Box<dyn Error + 'h>> {
    let cpu = kernel.cpu();

    // Give: the page counts as private from the mark on, not from ACCEPT on.
    let page = kernel.take_page(ledger);
    let given = page.page();
    td.augment(&cpu, guest(2), page)?;
    assert_eq!(ledger.state(given), Some(PageState::Private));

    // The module refuses a GPA that is mapped. What was handed in comes back in the error,
    // clean: the call may have written to it before it failed.
    let page = kernel.take_page(ledger);
    let refused = page.page();
    let error = td.augment(&cpu, guest(2), page).expect_err("the guest has a page there");
    println!("refused: {error}");
    kernel.free(error.page.expect("it could be cleaned"));
    assert_eq!(ledger.state(refused), Some(PageState::Shared));

    // Take: block, track, kick the VCPUs (none is inside here), remove. Write-back and reset are
    // part of the last call.
    for gpa in [guest(2), guest(1)] {
        td.block(&cpu, gpa, PageSize::Size4K)?;
    }
    td.track(&cpu)?;
    kernel.put_page(td.remove_page(&cpu, guest(2), PageSize::Size4K)?);
    assert_eq!(ledger.state(given), Some(PageState::Shared));

    // Move: a new page goes, the old one comes.
    let new = kernel.take_page(ledger);
    kernel.put_page(td.relocate_page(&cpu, guest(1), new)?);
    Ok(())
}

/// Teardown. The kernel needs no list of the TD's pages: the ledger and the module know them.
fn tear_down<'h>(kernel: &mut Kernel<'_>, td: Td<'h, Runnable>, vcpus: &[Page]) -> Result<u64, Box<dyn Error + 'h>> {
    let dying = td.tear_down();
    dying.flush_vcpus(kernel, vcpus)?;
    let dead = dying.free_key(kernel)?;
    let (cpu, mut count, mut failed) = (kernel.cpu(), 0, None);
    dead.reclaim_all(&cpu, |page| match page {
        Ok(page) => {
            count += 1;
            kernel.put_page(page);
        }
        // It stays marked until the next handover, and the TDR stays with it.
        Err(error) => failed = Some(error),
    });
    if let Some(error) = failed {
        return Err(error.into());
    }
    // The TDR last: its lines are dirty under the global KeyID, which is still in use.
    kernel.put_page(dead.finish(&cpu)?);
    Ok(count + 1)
}

/// The whole life. Ends with every page of the TD usable by anyone.
pub fn run() {
    let hardware = Hardware::new();
    let tdx = Host::new(hardware.slots());
    let mut kernel = Kernel::with_tdx(&hardware, &tdx);
    let tds = tdx.track(words(tdx.tracking_words())).expect("as many words as it needs");
    let ledger = tds.ledger();

    let mut own = kernel.own_page();
    let (td, vcpu) = build(&mut kernel, tds, &mut own).unwrap_or_else(|error| panic!("{error}"));
    println!("TD with {} pages under KeyID {}", td.pages(), td.key_id());
    give_and_take(&mut kernel, ledger, &td).unwrap_or_else(|error| panic!("{error}"));
    println!("{} pages marked, {} leaked", ledger.marked_pages(), ledger.leaked_pages());
    let back = tear_down(&mut kernel, td, &[vcpu.tdvpr()]).unwrap_or_else(|error| panic!("{error}"));
    println!(
        "{back} pages came back; {} marked, {} KeyIDs lost",
        ledger.marked_pages(),
        tdx.key_ids().map_or(0, KeyIds::lost)
    );

    // The machine is the judge: nothing outside PAMT is private in memory or dirty in a cache under
    // the TD's KeyID.
    let machine = hardware.machine();
    let pamt: u64 = tdx.pamt_ranges().map(|range| machine.private_lines_in(range.lines())).sum();
    assert_eq!(machine.private_lines(), pamt, "only PAMT is private");
    assert_eq!((ledger.marked_pages(), ledger.leaked_pages(), tdx.key_ids().map_or(0, KeyIds::lost)), (0, 0, 0));
}

fn main() {
    run();
}
