//! What has happened so far, as far as a faulty kernel could go by it, and as far as a story needs
//! it: who was given which page by which call, which call is under way, what was reset and not
//! fenced.

use std::collections::{BTreeMap, BTreeSet};

use tdx_abi::{KeyId, Leaf, LineRange, Page, PageRange, PageSize, PhysAddr, Registers, Status, StatusCode};
use tdx_machine::CpuId;

use tdx_lab::platform::{Act, Operation};

/// Pages in a word of the ledger.
const PAGES_PER_WORD: u64 = 32;

/// What a kernel is doing.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(super) enum Phase {
    /// Its life: bring-up, TDs.
    #[default]
    Life,
    /// A kexec, from this CPU.
    Kexec(CpuId),
    /// A crash handover, on this CPU.
    Crash(CpuId),
}

/// What a page is among those that its call gave.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Part {
    /// What the call is for.
    Own,
    /// A Secure-EPT page of an L2 VM.
    L2,
    /// One of a pair of Dynamic PAMT, beside it.
    Pair,
}

/// A page between the module and the host.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Given {
    /// The call that gave it.
    pub(super) by: Leaf,
    pub(super) part: Part,
    /// It was the module's when a SYS.UPDATE succeeded.
    pub(super) before_update: bool,
    /// That call has come back without success, or another has taken the page back.
    pub(super) returned: Option<Leaf>,
}

/// Pages by their first 4 KiB page, with their size.
type Pages = Vec<(Page, PageSize)>;

/// The past.
#[derive(Clone, Debug, Default)]
#[expect(clippy::struct_excessive_bools, reason = "each says one thing of the past, and none excludes another")]
pub(super) struct History {
    pub(super) phase: Phase,
    /// Calls of SYS.KEY.CONFIG and SYS.TDMR.INIT that have begun.
    pub(super) key_configs: u64,
    pub(super) tdmr_inits: u64,
    /// The last call of bring-up failed for good: it is unwound.
    pub(super) unwinding: bool,
    /// First pages of what calls were given, and their size.
    pub(super) given: BTreeMap<u64, (PageSize, Given)>,
    /// What they were, of those that came back and were reset.
    former: BTreeMap<u64, (PageSize, Given)>,
    /// Blocks of 2 MiB in which no page was marked when the call that is under way was prepared.
    pub(super) fresh_blocks: Vec<u64>,
    /// The pages that the call under way on this CPU gives.
    in_call: BTreeMap<CpuId, Pages>,
    /// CPUs whose call is under way and has been so while another CPU was told that the module is
    /// busy.
    beside_busy: BTreeSet<CpuId>,
    /// Pages that were being given when another CPU was told that the module is busy.
    pub(super) given_beside_busy: BTreeSet<u64>,
    /// Those of them whose call has succeeded.
    pub(super) taken_beside_busy: BTreeSet<u64>,
    /// Lines reset and not fenced, by CPU.
    pub(super) unfenced: Vec<(CpuId, LineRange)>,
    /// Pages of a failed bring-up, reset and free again.
    pub(super) given_up: Vec<PageRange>,
    /// Pages that came back from the module and were reset, since the beginning.
    pub(super) came_back: Vec<PageRange>,
    /// TDRs and the KeyIDs of their TDs.
    pub(super) tdrs: Vec<(Page, KeyId)>,
    /// Pages on their way to the module: flushed, not given yet; and what others have given
    /// meanwhile in the same word of the ledger.
    prepared: Vec<(CpuId, u64, Vec<u64>)>,
    /// Pages whose mark another CPU would have overwritten if it marked by load and store.
    pub(super) lost: BTreeSet<u64>,
    /// A kexec was under way when a CPU panicked.
    pub(super) kexec_was_under_way: bool,
    /// CPUs that were to write back their caches and have not.
    pub(super) postponed: Vec<CpuId>,
    /// The last call and its status.
    pub(super) last: Option<(Leaf, StatusCode)>,
    /// SYS.DISABLE has been called so often.
    pub(super) disables: u64,
    /// SYS.SHUTDOWN has failed: the module goes on.
    pub(super) shutdown_refused: bool,
    /// It was SYS_BUSY: another CPU was inside.
    pub(super) shutdown_busy: bool,
}

/// Pages that a call gives to the module.
fn pages_given(registers: &Registers) -> Pages {
    let page = |address: u64| (PhysAddr::new(address).page(), PageSize::Size4K);
    match registers.leaf_call().leaf() {
        Leaf::MNG_CREATE | Leaf::MNG_ADDCX | Leaf::VP_CREATE | Leaf::VP_ADDCX => vec![page(registers.rcx)],
        Leaf::MEM_SEPT_ADD if registers.leaf_call().version() == 1 => std::iter::once(registers.r8)
            .filter(|address| is_page(*address))
            .chain(l2_pages(registers))
            .map(page)
            .collect(),
        Leaf::MEM_SEPT_ADD | Leaf::MEM_PAGE_ADD | Leaf::MEM_PAGE_RELOCATE => vec![page(registers.r8)],
        Leaf::MEM_PAGE_DEMOTE => {
            let pair = [registers.r12, registers.r13].into_iter().filter(|address| is_page(*address));
            std::iter::once(registers.r8).chain(l2_pages(registers)).chain(pair).map(page).collect()
        }
        Leaf::MEM_PAGE_AUG => {
            let size = if registers.rcx.trailing_zeros() >= 3 { PageSize::Size4K } else { PageSize::Size2M };
            vec![(PhysAddr::new(registers.r8).page(), size)]
        }
        Leaf::PHYMEM_PAMT_ADD => vec![page(registers.rdx), page(registers.r8)],
        _ => Vec::new(),
    }
}

/// A register of no use is 0 or all ones.
fn is_page(address: u64) -> bool {
    address != 0 && address != u64::MAX
}

/// What R9 to R11 name: pages of L2 VMs.
fn l2_pages(registers: &Registers) -> impl Iterator<Item = u64> {
    [registers.r9, registers.r10, registers.r11].into_iter().filter(|address| is_page(*address))
}

/// What a page is among those that this call gives.
fn part(registers: &Registers, page: Page) -> Part {
    let (call, address) = (registers.leaf_call(), page.start().get());
    let demote = call.leaf() == Leaf::MEM_PAGE_DEMOTE;
    let of_vms = demote || (call.leaf() == Leaf::MEM_SEPT_ADD && call.version() == 1);
    if of_vms && l2_pages(registers).any(|page| page == address) {
        Part::L2
    } else if demote && [registers.r12, registers.r13].contains(&address) {
        Part::Pair
    } else {
        Part::Own
    }
}

fn covers(pages: &[(Page, PageSize)], page: Page) -> bool {
    pages.iter().any(|(first, size)| (first.index()..first.index() + size.pages()).contains(&page.index()))
}

/// First pages of what a successful call has taken back.
fn pages_returned(input: &Registers, answer: &Registers) -> Vec<Page> {
    match input.leaf_call().leaf() {
        Leaf::PHYMEM_PAGE_RECLAIM => vec![PhysAddr::new(input.rcx).page()],
        Leaf::MEM_PAGE_REMOVE | Leaf::MEM_PAGE_RELOCATE => vec![tdx_abi::removed_page(answer.rcx).0.page()],
        Leaf::MEM_PAGE_PROMOTE => {
            let pair = [answer.r12, answer.r13].into_iter().filter(|address| is_page(*address));
            let of_vms = l2_pages(answer).filter(|_| input.leaf_call().version() == 1);
            std::iter::once(answer.rcx)
                .chain(of_vms)
                .chain(pair)
                .map(|address| tdx_abi::removed_page(address).0.page())
                .collect()
        }
        Leaf::PHYMEM_PAMT_REMOVE => [answer.rdx, answer.r8].map(|address| PhysAddr::new(address).page()).to_vec(),
        _ => Vec::new(),
    }
}

impl History {
    /// An operation begins.
    pub(super) fn begins(&mut self, act: &Act, is_marked: impl Fn(Page) -> bool) {
        if let (Operation::Flush(lines), Phase::Life) = (act.operation, self.phase) {
            self.prepared.push((act.cpu, lines.pages().start().index() / PAGES_PER_WORD, Vec::new()));
        }
        let Operation::Seamcall(registers) = &act.operation else { return };
        let leaf = registers.leaf_call().leaf();
        match leaf {
            Leaf::SYS_KEY_CONFIG => {
                self.key_configs += 1;
                // Another bring-up gives PAMT again.
                self.given_up.clear();
                self.unwinding = false;
            }
            Leaf::SYS_TDMR_INIT => self.tdmr_inits += 1,
            Leaf::SYS_DISABLE => self.disables += 1,
            _ => {}
        }
        let pages = pages_given(registers);
        self.fresh_blocks = pages
            .iter()
            .map(|(page, _)| page.index() / PageSize::Size2M.pages())
            .filter(|block| {
                let pages = PageSize::Size2M.pages();
                let own = |page: Page| covers(&pages_given(registers), page);
                (block * pages..(block + 1) * pages).map(Page::new).all(|page| own(page) || !is_marked(page))
            })
            .collect();
        for (page, size) in &pages {
            self.given.insert(
                page.index(),
                (*size, Given { by: leaf, part: part(registers, *page), before_update: false, returned: None }),
            );
        }
        if leaf == Leaf::MNG_CREATE {
            self.tdrs.push((PhysAddr::new(registers.rcx).page(), KeyId::new(registers.rdx as u16)));
        }
        self.lose_marks(act.cpu, &pages);
        self.in_call.insert(act.cpu, pages);
    }

    /// What becomes of marks in a ledger that is changed by load and store.
    fn lose_marks(&mut self, cpu: CpuId, pages: &[(Page, PageSize)]) {
        for (page, _) in pages {
            let word = page.index() / PAGES_PER_WORD;
            for (other, theirs, given) in &mut self.prepared {
                if *other != cpu && *theirs == word {
                    given.push(page.index());
                }
            }
            self.prepared.retain(|(own, theirs, given)| {
                let ends = *own == cpu && *theirs == word;
                if ends {
                    self.lost.extend(given);
                }
                !ends
            });
        }
    }

    /// It has ended.
    pub(super) fn ended(&mut self, act: &Act, answer: Option<&Registers>) {
        match act.operation {
            Operation::Seamcall(input) => {
                let (Some(answer), leaf) = (answer, input.leaf_call().leaf()) else { return };
                let code = answer.status().code();
                self.last = Some((leaf, code));
                self.shutdown_refused |= leaf == Leaf::SYS_SHUTDOWN && answer.status().is_error();
                self.shutdown_busy |= leaf == Leaf::SYS_SHUTDOWN && code == StatusCode::SYS_BUSY;
                let in_call = self.in_call.remove(&act.cpu).unwrap_or_default();
                self.note_busy(act.cpu, &in_call, answer.status());
                if leaf == Leaf::SYS_UPDATE && !answer.status().is_error() {
                    self.given.values_mut().for_each(|(_, given)| given.before_update = true);
                }
                let sys = matches!(leaf, Leaf::SYS_KEY_CONFIG | Leaf::SYS_TDMR_INIT);
                let again =
                    matches!(code, StatusCode::KEY_GENERATION_FAILED | StatusCode::OPERAND_BUSY | StatusCode::SYS_BUSY);
                self.unwinding |= sys && answer.status().is_error() && !again;
                if answer.status().is_error() {
                    for (page, _) in &in_call {
                        if let Some((_, given)) = self.given.get_mut(&page.index()) {
                            given.returned = Some(leaf);
                        }
                    }
                }
                if !answer.status().is_error() {
                    for page in pages_returned(&input, answer) {
                        if let Some((_, given)) = self.given.get_mut(&page.index()) {
                            given.returned = Some(leaf);
                        }
                    }
                }
                self.fresh_blocks.clear();
            }
            Operation::Reset(lines) => self.unfenced.push((act.cpu, lines)),
            Operation::Fence | Operation::WriteBack => {
                let (done, rest) = self.unfenced.iter().partition(|(cpu, _)| *cpu == act.cpu);
                let done: Vec<(CpuId, LineRange)> = done;
                self.unfenced = rest;
                for (_, lines) in done {
                    let pages = lines.pages();
                    self.given.retain(|first, page| {
                        let back = pages.contains(Page::new(*first));
                        if back {
                            self.former.insert(*first, *page);
                        }
                        !back
                    });
                    for unseen in [&mut self.lost, &mut self.given_beside_busy, &mut self.taken_beside_busy] {
                        unseen.retain(|page| !pages.contains(Page::new(*page)));
                    }
                    if self.unwinding { self.given_up.push(pages) } else { self.came_back.push(pages) }
                }
            }
            _ => {}
        }
    }

    /// What a call's answer says of those that are under way on other CPUs.
    fn note_busy(&mut self, cpu: CpuId, pages: &Pages, status: Status) {
        let first = |pages: &Pages| pages.iter().map(|(page, _)| page.index()).collect::<Vec<_>>();
        if matches!(status.code(), StatusCode::OPERAND_BUSY | StatusCode::SYS_BUSY) {
            for (other, pages) in &self.in_call {
                self.beside_busy.insert(*other);
                self.given_beside_busy.extend(first(pages));
            }
        }
        if self.beside_busy.remove(&cpu) && !status.is_error() {
            self.taken_beside_busy.extend(first(pages));
        }
    }

    /// What is known of the page that this one lies in.
    pub(super) fn of(&self, page: Page) -> Option<Given> {
        Self::find(&self.given, page)
    }

    fn find(given: &BTreeMap<u64, (PageSize, Given)>, page: Page) -> Option<Given> {
        let (first, (size, given)) = given.range(..=page.index()).next_back()?;
        (page.index() < first + size.pages()).then_some(*given)
    }

    /// The page lies in what the call under way gives.
    pub(super) fn is_being_given(&self, page: Page) -> bool {
        self.in_call.values().any(|pages| covers(pages, page))
    }

    /// The page was reset and the reset is not fenced.
    pub(super) fn is_unfenced(&self, page: Page) -> bool {
        self.unfenced.iter().any(|(_, lines)| lines.pages().contains(page))
    }

    /// What a page is, in words.
    pub(super) fn describe(&self, page: Page, pamt: Option<&'static str>) -> String {
        match (pamt, self.of(page)) {
            (Some(pamt), _) => pamt.to_owned(),
            (None, Some(Given { by, returned: None, .. })) => format!("a page given by {by}"),
            (None, Some(Given { by, returned: Some(leaf), .. })) if by == leaf => {
                format!("a page that a failed {by} was given")
            }
            (None, Some(Given { by, returned: Some(leaf), .. })) => {
                format!("a page given by {by} and returned by {leaf}")
            }
            (None, None) => match Self::find(&self.former, page) {
                Some(Given { by, .. }) => format!("a page once given by {by}, which the host has back"),
                None => "a page that was never given".to_owned(),
            },
        }
    }
}
