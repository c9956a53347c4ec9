//! Programs without `unsafe` against the safety border of `tdx-host`, on the software machine: what
//! the types do not forbid is a typed error, and the machine is as it was. What the types forbid is
//! in `tdx-host`, `tests/compile_fail/`.
//!
//! The kernel that these programs are part of is the laboratory's, with a `Host` of its own.

#![forbid(unsafe_code)]

#[path = "hostile/handover.rs"]
mod handover;
#[path = "hostile/publication.rs"]
mod publication;
#[path = "hostile/takeover.rs"]
mod takeover;

use std::sync::atomic::{AtomicU32, AtomicU64};

use tdx_abi::{KeyId, Leaf, LeafCall, Page, PageRange, Registers, Status};
use tdx_host::dynamic_pamt::{DynamicPamt, Pair, PamtCause};
use tdx_host::gate::CpuActivity;
use tdx_host::handover::{CameBack, HostMemory, Kexec, KexecKind, Policy, StopCpus, hand_over_crash, stop_this_cpu};
use tdx_host::layout::{self, FrameRequest, FrameSource, Layout, LayoutError, MapFrames};
use tdx_host::ledger::{Ledger, PageState};
use tdx_host::page::{SharedPage, TokenError};
use tdx_host::platform::{Cpu, CpuId, OutOfPages};
use tdx_host::seamcall::{CallError, LeafEffect, call, check_call, leaf_effect};
use tdx_host::td::{Building, GuestPage, TDCS_PAGES, Td, TdCause, TdHost};
use tdx_lab::platform::{Lab, LabKernel};
use tdx_machine::{Machine, ModuleProfile, PartialStore};
use tdx_operator::host::{Host, HostOptions};

const HOST: &str = "schema = \"cleanslate-host\"\nversion = 1\n[cpu]\nmodel = \"spr\"\npackages = 1\ncpus = 2\n\
                    [tdx]\nkey_ids = \"[32, 64)\"\n[[memory]]\nrange = \"[1G, 2G)\"\n";
const CPU: tdx_machine::CpuId = tdx_machine::CpuId(0);
const CANARY: [u8; 8] = *b"in use!\n";

fn host() -> Host {
    Host::from_reader("tiny", HOST.as_bytes(), &HostOptions::default()).unwrap()
}

fn words(count: u64) -> Vec<AtomicU64> {
    (0..count).map(|_| AtomicU64::new(0)).collect()
}

/// A ledger over these TDMRs, which outlives the test.
fn new_ledger(tdmrs: &[PageRange]) -> &'static Ledger<'static> {
    let words = words(Ledger::words_needed(tdmrs.iter().copied())).leak();
    Box::leak(Box::new(Ledger::new(tdmrs.iter().copied(), words).unwrap()))
}

/// What a kernel knows of TDX, which outlives the test.
fn new_tdx<'l>(lab: &'l Lab<'_>) -> &'l tdx_host::Host<'l> {
    let tdx = Box::leak(Box::new(tdx_host::Host::new(lab.slots())));
    tdx.detect(lab).unwrap();
    tdx
}

/// A kernel with TDX up.
struct Victim<'l> {
    lab: &'l Lab<'l>,
    kernel: LabKernel<'l>,
    tdx: &'l tdx_host::Host<'l>,
    tdmrs: Vec<PageRange>,
}

impl<'l> Victim<'l> {
    fn new(lab: &'l Lab<'l>, host: &'l Host) -> Self {
        let tdx = new_tdx(lab);
        let mut kernel = LabKernel::new(lab, tdx, host);
        tdx.bring_up(&mut kernel, host.memory()).unwrap();
        let tdmrs = tdx.layout().unwrap().tdmrs().iter().map(tdx_host::layout::Tdmr::range).collect();
        Self { lab, kernel, tdx, tdmrs }
    }

    fn memory(&self) -> HostMemory<'l> {
        self.tdx.memory()
    }

    /// Publishes a ledger, and lends what TDs share.
    fn tds(&self) -> TdHost<'l> {
        self.tdx.track(words(self.tdx.tracking_words() as u64).leak()).unwrap()
    }

    fn page<'h>(&mut self, ledger: &'h Ledger<'h>) -> SharedPage<'h> {
        let within = self.tdmrs[0];
        let pages = self.kernel.allocate(FrameRequest { within, ..FrameRequest::anywhere(1, None) }).unwrap();
        SharedPage::take(ledger, pages).unwrap()
    }

    /// A TD up to MNG.INIT.
    fn td(&mut self, tds: TdHost<'l>) -> Td<'l, Building> {
        let (cpu, ledger) = (self.kernel.this_cpu(), tds.ledger());
        let root = self.page(ledger);
        let mut td = tds.create(&cpu, root).unwrap().configure_keys(&self.kernel).unwrap();
        for _ in 0..TDCS_PAGES {
            td.add_control_page(&cpu, self.page(ledger)).unwrap();
        }
        let mut own = self.kernel.allocate_any(1).unwrap();
        own.write(&mut self.kernel, 0, &first_kernel::td_params()).unwrap();
        td.init(&cpu, own.base()).unwrap()
    }

    /// Every private line outside PAMT lies in a marked page.
    fn assert_superset(&self) {
        self.lab.ask(|machine| {
            let owned = machine.all_owner_runs().into_iter().map(|run| run.lines);
            let dirty = machine.dirty_private_runs().into_iter().map(|run| run.lines);
            for lines in owned.chain(dirty) {
                for page in (lines.pages().start().index()..lines.pages().end().index()).map(Page::new) {
                    let in_pamt = self.tdx.pamt_ranges().any(|range| range.contains(page));
                    let state = self.tdx.ledger().and_then(|ledger| ledger.state(page));
                    let marked = state.is_some_and(|state| state != PageState::Shared);
                    assert!(in_pamt || marked, "page {page} is private and not marked");
                }
            }
        });
    }

    /// A kexec says that all is clean, and the next kernel lives.
    fn assert_kexec_is_clean(&self) {
        self.assert_reset_is_clean(Policy::Tracked);
        self.assert_next_kernel_lives();
    }

    /// The first half: what the kernel has in use still stands there.
    fn assert_reset_is_clean(&self, policy: Policy) {
        let memory = self.memory();
        let kexec = Kexec::begin(policy, KexecKind::Normal, memory).unwrap();
        let report = kexec.stop_other_cpus(&self.kernel).unwrap().ask_module(|_| ()).write_back_caches().reset();
        assert!(report.is_clean(&memory), "{report:?}");
        self.lab.ask(|machine| assert_eq!((machine.private_lines(), machine.dirty_private_lines()), (0, 0)));
    }

    /// Memory in use by the kernel, such as its image.
    fn image(&mut self) -> PageRange {
        new_image(self.lab, &mut self.kernel)
    }

    fn assert_next_kernel_lives(&self) {
        self.lab.act(|machine| {
            machine.kexec_boundary();
            assert_eq!((machine.private_lines(), machine.dirty_private_lines()), (0, 0));
            for part in host().memory() {
                let used = machine.use_memory(CPU, part.range, PartialStore::NonTemporal).unwrap();
                assert_eq!((used.lines_poisoned, used.lines_fatal), (0, 0), "{:?}", used.first);
            }
        });
        self.lab.check().unwrap();
    }
}

/// Memory in use by the kernel, such as its image, with a word in each page.
fn new_image(lab: &Lab<'_>, kernel: &mut LabKernel<'_>) -> PageRange {
    let image = kernel.allocate_any(64).unwrap().range();
    lab.act(|machine| {
        for page in image.start().index()..image.end().index() {
            machine.write_shared(CPU, Page::new(page).start(), &CANARY).unwrap();
        }
    });
    image
}

fn assert_image_is_whole(lab: &Lab<'_>, image: PageRange) {
    lab.act(|machine: &mut Machine| {
        for page in image.start().index()..image.end().index() {
            let mut bytes = [0; 8];
            machine.read_shared(CPU, Page::new(page).start(), &mut bytes).unwrap();
            assert_eq!(bytes, CANARY, "page {page:#x} of the kernel was overwritten");
        }
    });
}

/// Every leaf number and version, with operands that name the kernel's own image and a free page:
/// no line of memory changes, and what is private stays what it was. SYS.INFO, SYS.RDALL,
/// MNG.CREATE, VP.WR and all others that could are refused before an instruction is executed.
#[test]
fn no_call_of_safe_code_converts_or_writes_memory() {
    let (host, lab) = (host(), Lab::new(&host(), &()).unwrap());
    let mut victim = Victim::new(&lab, &host);
    let image = victim.image();
    let cpu = victim.kernel.this_cpu();
    let private = lab.ask(Machine::private_lines);
    let mut made = 0;
    for number in 0..=u16::MAX {
        for version in [0, 1, 2, 255] {
            let leaf = Leaf(number);
            let address = image.base().get();
            let input = Registers::call(LeafCall::with_version(leaf, version)).rcx(address).rdx(address).r8(address);
            // Two of the leaves that do nothing have a version 1.
            let known = version == 0 || version == 1 && [Leaf::MNG_RD, Leaf::VP_RD].contains(&leaf);
            let nothing = leaf_effect(leaf) == Some(LeafEffect::Nothing) && known;
            assert_eq!(check_call(&input).is_ok(), nothing, "{leaf} version {version}");
            if let Err(CallError::Refused(refused)) = call(&cpu, input) {
                assert_eq!(refused.effect, leaf_effect(leaf));
            } else {
                assert!(nothing, "{leaf} was made");
                made += 1;
            }
        }
    }
    // Eleven leaves; one that the machine does not model changes nothing either.
    assert_eq!(made, 13);
    // The P-SEAMLDR's.
    assert!(matches!(call(&cpu, Registers { rax: 1 << 63, ..Registers::default() }), Err(CallError::Refused(_))));
    assert_eq!(lab.ask(Machine::private_lines), private);
    assert_image_is_whole(&lab, image);
    victim.assert_superset();
    victim.assert_reset_is_clean(Policy::Tracked);
    assert_image_is_whole(&lab, image);
}

/// The four attacks of the program that this border was drawn for. The first three do not compile
/// any more; here is what is left of them, and the kexec that used to lie about it.
#[test]
fn a_kexec_after_every_refused_attack_is_clean() {
    let (host, lab) = (host(), Lab::new(&host(), &()).unwrap());
    let mut victim = Victim::new(&lab, &host);
    let image = victim.image();
    let tds = victim.tds();
    let (cpu, ledger) = (victim.kernel.this_cpu(), tds.ledger());
    // (1) A reset of the image: `Everything` without a promise resets what is private.
    // (2) A leaf that takes a page.
    let page = victim.page(ledger);
    let create = Registers::call(Leaf::MNG_CREATE).rcx_address(page.page().start()).rdx(40);
    assert!(matches!(call(&cpu, create), Err(CallError::Refused(_))));
    // (3) Two tokens: the page has left the allocator, and its number makes none.
    let number = page.page();
    let pages = page.release();
    assert_eq!(ledger.state(number), Some(PageState::Shared));
    let token = SharedPage::take(ledger, pages).unwrap();
    let td = tds.create(&cpu, token).unwrap();
    victim.assert_superset();
    // (4) The kexec, under the policy that could name the image.
    victim.assert_reset_is_clean(Policy::Everything);
    assert_image_is_whole(&lab, image);
    victim.assert_next_kernel_lives();
    drop(td);
}

#[test]
fn a_token_of_another_ledger_is_refused() {
    let (host, lab) = (host(), Lab::new(&host(), &()).unwrap());
    let mut victim = Victim::new(&lab, &host);
    let tds = victim.tds();
    let cpu = victim.kernel.this_cpu();
    let other = new_ledger(&victim.tdmrs);
    let foreign = victim.page(other);
    let number = foreign.page();
    let error = tds.create(&cpu, foreign).unwrap_err();
    assert!(matches!(error.cause, TdCause::Foreign { page, .. } if page == number), "{error}");
    assert_eq!(error.page.unwrap().range().start(), number, "and the page is the caller's");
    assert_eq!((other.marked_pages(), tds.ledger().marked_pages()), (0, 0));
    let td = victim.td(tds);
    let foreign = victim.page(other);
    let error = td.augment(&cpu, GuestPage::containing(0), foreign).unwrap_err();
    assert!(matches!(error.cause, TdCause::Foreign { .. }), "{error}");
    victim.assert_superset();
    victim.assert_kexec_is_clean();
    drop(td);
}

#[test]
fn a_pair_of_another_ledger_is_refused() {
    let (host, lab) = (host(), Lab::with_module(&host(), ModuleProfile::V1_5_25, &()).unwrap());
    let mut victim = Victim::new(&lab, &host);
    let tds = victim.tds();
    let cpu = victim.kernel.this_cpu();
    let counts: Vec<AtomicU32> = (0..DynamicPamt::words_needed(tds.ledger())).map(|_| AtomicU32::new(0)).collect();
    let pamt = DynamicPamt::new(tds, counts.leak()).unwrap();
    let other = new_ledger(&victim.tdmrs);
    let mut spare: Pair<'_> = [victim.page(other), victim.page(tds.ledger())].into();
    let covered = victim.tdmrs[0].start();
    let error = pamt.get(&cpu, covered, &mut spare).unwrap_err();
    assert!(matches!(error.cause, PamtCause::Foreign { .. }), "{error}");
    assert_eq!((spare.len(), pamt.counted(covered), other.marked_pages()), (2, Some(0), 0));
}

/// Its pages would be written back under the wrong key.
#[test]
fn a_vcpu_of_another_td_is_refused() {
    let (host, lab) = (host(), Lab::new(&host(), &()).unwrap());
    let mut victim = Victim::new(&lab, &host);
    let tds = victim.tds();
    let cpu = victim.kernel.this_cpu();
    let (mine, other) = (victim.td(tds), victim.td(tds));
    let page = victim.page(tds.ledger());
    let vcpu = other.create_vcpu(&cpu, page).unwrap();
    let page = victim.page(tds.ledger());
    let error = mine.add_vcpu_page(&cpu, &vcpu, page).unwrap_err();
    assert!(matches!(error.cause, TdCause::Foreign { page, .. } if page == vcpu.tdvpr()), "{error}");
    assert!(matches!(mine.init_vcpu(&cpu, vcpu, 0).unwrap_err().cause, TdCause::Foreign { .. }));
    victim.assert_kexec_is_clean();
    drop((mine, other));
}

/// Its page may be another TD's by now, and the call would write to what is there.
#[test]
fn a_vcpu_of_a_td_that_is_gone_is_refused() {
    let (host, lab) = (host(), Lab::new(&host(), &()).unwrap());
    let mut victim = Victim::new(&lab, &host);
    let tds = victim.tds();
    let cpu = victim.kernel.this_cpu();
    let first = victim.td(tds);
    let (tdr, key) = (first.tdr(), first.key_id());
    let page = victim.page(tds.ledger());
    let stale = first.create_vcpu(&cpu, page).unwrap();
    let dying = first.tear_down();
    dying.flush_vcpus(&victim.kernel, &[stale.tdvpr()]).unwrap();
    let dead = dying.free_key(&victim.kernel).unwrap();
    dead.reclaim_all(&cpu, |page| victim.kernel.free(page.unwrap().release()));
    victim.kernel.free(dead.finish(&cpu).unwrap().release());
    // The same page and the same KeyID again.
    let second = victim.td(tds);
    assert_eq!((second.tdr(), second.key_id()), (tdr, key));
    let page = victim.page(tds.ledger());
    let error = second.add_vcpu_page(&cpu, &stale, page).unwrap_err();
    assert!(matches!(error.cause, TdCause::Foreign { page, .. } if page == stale.tdvpr()), "{error}");
    assert!(matches!(second.init_vcpu(&cpu, stale, 0).unwrap_err().cause, TdCause::Foreign { .. }));
    victim.assert_superset();
    victim.assert_kexec_is_clean();
    drop(second);
}

/// A description of the host's memory that was made before there was a ledger.
#[test]
fn a_stale_description_finds_the_ledger_in_use() {
    let (host, lab) = (host(), Lab::new(&host(), &()).unwrap());
    let mut victim = Victim::new(&lab, &host);
    let stale = victim.memory();
    assert!(stale.ledger().is_none());
    let tds = victim.tds();
    let td = victim.td(tds);
    let marked = tds.ledger().marked_pages();
    assert_eq!(stale.ledger().map(Ledger::marked_pages), Some(marked));
    let kexec = Kexec::begin(Policy::Tracked, KexecKind::Normal, stale).unwrap();
    let report = kexec.stop_other_cpus(&victim.kernel).unwrap().ask_module(|_| ()).write_back_caches().reset();
    assert!(marked > 0 && report.is_clean(&stale), "{report:?}");
    victim.assert_next_kernel_lives();
    drop(td);
}

/// A report opens the gate that its own handover has closed, once, and not after a crash.
#[test]
fn a_report_opens_the_gate_once_and_never_after_a_crash() {
    let (host, lab) = (host(), Lab::new(&host(), &()).unwrap());
    let victim = Victim::new(&lab, &host);
    let (cpu, memory) = (victim.kernel.this_cpu(), victim.memory());
    let jump = || {
        let kexec = Kexec::begin(Policy::Tracked, KexecKind::Jump, memory).unwrap();
        kexec.stop_other_cpus(&victim.kernel).unwrap().ask_module(|_| ()).write_back_caches().reset()
    };
    let first = jump();
    let mut kept = first.clone();
    assert_eq!(first.came_back(&memory), CameBack::TdxGoesOn);
    assert!(!memory.gate().is_closed());
    // A kept copy, with whatever is written into it, in the middle of the next handover.
    let second = jump();
    kept.policy = Policy::Module;
    assert_eq!(kept.came_back(&memory), CameBack::TdxIsGone);
    assert!(memory.gate().is_closed());
    // The crash handover resets; a report from before it opens nothing any more.
    let crash = hand_over_crash(Policy::Tracked, &cpu, &victim.kernel, &memory);
    assert!(crash.is_clean(&memory));
    assert_eq!(second.came_back(&memory), CameBack::TdxIsGone);
    assert_eq!(crash.came_back(&memory), CameBack::TdxIsGone);
    assert!(memory.gate().is_closed());
    let refused = call(&cpu, Registers::call(Leaf::SYS_RD)).unwrap_err();
    assert_eq!(refused.status(), Some(Status::GATE_CLOSED));
    victim.assert_next_kernel_lives();
}

/// A forged report of an orderly kexec makes the record forget nothing.
#[test]
fn a_report_with_changed_fields_withdraws_no_pamt() {
    let (host, lab) = (host(), Lab::new(&host(), &()).unwrap());
    let victim = Victim::new(&lab, &host);
    let memory = victim.memory();
    let kexec = Kexec::begin(Policy::Tracked, KexecKind::Normal, memory).unwrap();
    let mut report = kexec.stop_other_cpus(&victim.kernel).unwrap().ask_module(|_| ()).write_back_caches().reset();
    report.kind = tdx_host::handover::HandoverKind::Jump;
    report.module = Some(tdx_host::handover::ModuleAnswer::Disabled { calls: 1 });
    report.suspects = tdx_host::handover::Suspects::default();
    assert_eq!(report.came_back(&memory), CameBack::TdxIsGone);
    assert!(memory.gate().is_closed() && memory.private_ranges().next().is_some());
}

/// A CPU that calls itself stopped and goes on: its next SEAMCALL says so again, and once the gate
/// is closed there is none.
#[test]
fn a_cpu_that_calls_itself_stopped_is_seen_when_it_goes_on() {
    let (host, lab) = (host(), Lab::new(&host(), &()).unwrap());
    let victim = Victim::new(&lab, &host);
    let cpu = StopCpus::this_cpu(&victim.kernel);
    stop_this_cpu(cpu, None);
    let activity = || -> CpuActivity { victim.tdx.gate().activity().next().unwrap() };
    assert!(activity().stopped && activity().may_hold_private_lines.is_none());
    call(&cpu, Registers::call(Leaf::PHYMEM_PAGE_RDMD).rcx_address(victim.tdmrs[0].base())).unwrap();
    assert!(!activity().stopped && activity().may_hold_private_lines.is_some());
    victim.assert_kexec_is_clean();
}

/// A guard that is forgotten, or one that is dropped while another is held, leaves a slot that says
/// too much.
#[test]
fn guards_in_any_order_leave_the_dirty_cache_known() {
    let (host, lab) = (host(), Lab::new(&host(), &()).unwrap());
    let victim = Victim::new(&lab, &host);
    let cpu = victim.kernel.this_cpu();
    cpu.write_back_caches();
    let first = cpu.cpu_gate().enter(Leaf::VP_ENTER).unwrap();
    let second = cpu.cpu_gate().enter(Leaf::VP_ENTER).unwrap();
    drop(first);
    std::mem::forget(second);
    assert!(victim.tdx.gate().close());
    assert!(cpu.cpu_gate().enter(Leaf::VP_ENTER).is_err());
    assert!(cpu.cpu_gate().may_hold_private_lines().is_some(), "what was entered before is still said");
    assert!(!victim.tdx.gate().close(), "closed once");
}

#[test]
fn a_plan_of_numbers_is_no_memory() {
    let (host, lab) = (host(), Lab::new(&host(), &()).unwrap());
    let kernel = LabKernel::new(&lab, new_tdx(&lab), &host);
    let taken = kernel.taken().to_vec();
    let mut plan = Box::new(Layout::new());
    let (mut places, limits) = (MapFrames::new(host.memory()), layout::Limits::MODULE_1_5);
    layout::build(host.memory(), host.cmrs(), &limits, &mut places, &mut plan).unwrap();
    // The kernel's allocator does not get them: they go back to where they came from.
    plan.release(&mut places).unwrap();
    assert_eq!((kernel.taken(), plan.is_empty()), (&taken[..], true));
}

#[test]
fn pamts_of_a_bring_up_are_not_planned_over() {
    let (host, lab) = (host(), Lab::new(&host(), &()).unwrap());
    let mut victim = Victim::new(&lab, &host);
    let taken = victim.kernel.taken().to_vec();
    // The table is the host's, which lends it out to be read alone; a second bring-up is refused.
    let error = victim.tdx.bring_up(&mut victim.kernel, host.memory()).unwrap_err();
    assert_eq!(error.errno(), -16, "{error}");
    // A table in use is not planned over.
    let mut plan = Box::new(Layout::new());
    let (mut places, limits) = (MapFrames::new(host.memory()), layout::Limits::MODULE_1_5);
    layout::build(host.memory(), host.cmrs(), &limits, &mut places, &mut plan).unwrap();
    let again = layout::build(host.memory(), host.cmrs(), &limits, &mut places, &mut plan);
    assert_eq!(again, Err(LayoutError::InUse));
    assert_eq!(victim.kernel.taken(), taken);
    victim.assert_kexec_is_clean();
}

#[test]
fn a_write_stays_in_its_pages() {
    let (host, lab) = (host(), Lab::new(&host(), &()).unwrap());
    let mut kernel = LabKernel::new(&lab, new_tdx(&lab), &host);
    let below = new_image(&lab, &mut kernel);
    let mut page = kernel.allocate_any(1).unwrap();
    let above = new_image(&lab, &mut kernel);
    assert_eq!((below.end(), page.range().end()), (page.range().start(), above.start()));
    for (offset, bytes) in [(4096, 1), (4095, 2), (0, 4097), (u64::MAX, 1), (u64::MAX - 1, 8)] {
        let error = page.write(&mut kernel, offset, &vec![0; bytes]).unwrap_err();
        assert_eq!(error, OutOfPages { range: page.range(), offset, bytes });
    }
    page.write(&mut kernel, 4090, &[1; 6]).unwrap();
    assert_image_is_whole(&lab, below);
    assert_image_is_whole(&lab, above);
}

#[test]
fn a_token_covers_one_whole_page() {
    let (host, lab) = (host(), Lab::new(&host(), &()).unwrap());
    let mut victim = Victim::new(&lab, &host);
    let ledger = new_ledger(&victim.tdmrs);
    let within = victim.tdmrs[0];
    let pages = victim.kernel.allocate(FrameRequest { within, ..FrameRequest::anywhere(1024, None) }).unwrap();
    let error = SharedPage::take(ledger, pages).unwrap_err();
    assert!(matches!(error.cause, TokenError::NotOnePage { .. }));
    let (first, rest) = error.pages.split_at(1).unwrap();
    let rest = rest.split_at(2000).unwrap_err();
    let (none, rest) = rest.split_at(0).unwrap();
    assert!(SharedPage::take(ledger, none).is_err());
    let (odd, _) = rest.split_at(512).unwrap();
    let misaligned = SharedPage::take(ledger, odd).unwrap_err();
    assert!(matches!(misaligned.cause, TokenError::Misaligned { .. }) || first.range().start().index() % 512 == 511);
    assert_eq!(ledger.marked_pages(), 0);
}

/// A KeyID that was lost with its TD is not given to another.
#[test]
fn a_key_id_has_one_td() {
    let (host, lab) = (host(), Lab::new(&host(), &()).unwrap());
    let mut victim = Victim::new(&lab, &host);
    let tds = victim.tds();
    let first = victim.td(tds);
    let key: KeyId = first.key_id();
    drop(first);
    let lease = victim.tdx.key_ids().unwrap().lease().unwrap();
    let second = victim.td(tds);
    assert!(second.key_id() != key && lease.key() != key && second.key_id() != lease.key());
    victim.assert_superset();
    victim.assert_kexec_is_clean();
    drop(second);
}

/// An error that holds a page is an error like any other.
#[test]
fn errors_with_pages_go_through_the_question_mark() {
    fn fails() -> Result<(), Box<dyn std::error::Error>> {
        let (host, lab) = (host(), Lab::new(&host(), &())?);
        let mut victim = Victim::new(&lab, &host);
        let tds = victim.tds();
        let page = victim.page(new_ledger(&victim.tdmrs));
        let td = tds.create(&victim.kernel.this_cpu(), page)?;
        drop(td);
        Ok(())
    }
    let error = fails().unwrap_err();
    assert!(error.to_string().contains("another ledger"), "{error}");
    assert!(error.source().is_some());
}

/// Of no use to an attacker, and the machine agrees: CPU 1 is free to do what it likes with a page
/// that CPU 0 has given up.
#[test]
fn a_page_that_was_released_is_ordinary_memory() {
    let (host, lab) = (host(), Lab::new(&host(), &()).unwrap());
    let mut victim = Victim::new(&lab, &host);
    let tds = victim.tds();
    let td = victim.td(tds);
    let page = victim.page(tds.ledger());
    let number = page.page();
    let cpu = victim.kernel.this_cpu();
    let error = td.augment(&cpu, GuestPage::containing(0), page).unwrap_err();
    let back = error.page.expect("it was cleaned");
    assert_eq!((back.range().start(), tds.ledger().state(number)), (number, Some(PageState::Shared)));
    lab.act(|machine| machine.write_shared(tdx_machine::CpuId(1), number.start(), &CANARY).unwrap());
    victim.kernel.move_to(CpuId(1));
    victim.kernel.free(back);
    victim.assert_kexec_is_clean();
    drop(td);
}
