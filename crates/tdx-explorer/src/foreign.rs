//! A TD with an L2 VM, built and torn down by code that is not the product's, as a hypervisor with
//! TD partitioning does it. Its SEAMCALLs are observed by `tdx_host::follow`, which marks their
//! pages in the host's ledger.

use first_kernel::td_params;
use tdx_abi::{KeyId, KeyIdPartition, Leaf, LeafCall, PageRange, PageSize, Registers};
use tdx_host::ledger::PageState;
use tdx_host::page::SharedPage;
use tdx_host::platform::Cpu;
use tdx_lab::platform::promise::Refs;
use tdx_lab::platform::{Lab, LabCpu, promise};
use tdx_lab::tds::World;

/// No page.
const NONE: u64 = u64::MAX;
/// Byte of TD_PARAMS: L2 VMs.
const L2_VMS: usize = 18;
/// The guest page of 2 MiB, with its level.
const LARGE: u64 = (2 << 20) | 1;

/// The TD, while it is built.
struct Foreign<'a, 'w, 'h> {
    lab: &'a Lab<'w>,
    world: &'a World<'w, 'h>,
    cpu: LabCpu<'w>,
    tdr: u64,
    /// All pages that it has, with their size.
    pages: Vec<PageRange>,
    /// Of them, the guest's memory.
    guest: Option<PageRange>,
    refs: &'a Refs<'a>,
}

/// Builds the TD, splits and joins a page of it, and tears it down. Where a call fails it ends: it
/// frees the guest's memory, as guest_memfd of Linux 7.3 does, and leaks the rest. What the module
/// had stays marked, and the observer's references keep it, if it takes any.
pub(super) fn live<'w>(lab: &Lab<'w>, world: &World<'w, '_>, cpu: LabCpu<'w>, key: KeyId, takes_references: bool) {
    let free = |pages| world.free_as_it_is(pages);
    let refs = Refs::new(takes_references, &free);
    let mut td = Foreign { lab, world, cpu, tdr: 0, pages: Vec::new(), guest: None, refs: &refs };
    if td.live(key).is_none()
        && let Some(guest) = td.guest
    {
        refs.put(guest);
    }
}

impl Foreign<'_, '_, '_> {
    /// A page of the pool: nothing but this TD uses it.
    fn page(&mut self, size: PageSize) -> Option<u64> {
        let range = self.world.page(size)?.release().into_range();
        self.pages.push(range);
        self.refs.allocate(range);
        promise::flush(&self.cpu, range.lines());
        Some(range.base().get())
    }

    fn small(&mut self) -> Option<u64> {
        self.page(PageSize::Size4K)
    }

    fn call(&self, call: Registers) -> Option<Registers> {
        promise::observed(&self.cpu, self.world.tds().ledger(), self.refs, call).ok()
    }

    fn live(&mut self, key: KeyId) -> Option<()> {
        self.build(key)?;
        self.split_and_join()?;
        self.tear_down()
    }

    fn build(&mut self, key: KeyId) -> Option<()> {
        self.tdr = self.small()?;
        let of_td = |leaf: Leaf, tdr: u64| Registers::call(leaf).rcx(tdr);
        self.call(of_td(Leaf::MNG_CREATE, self.tdr).rdx(u64::from(key.get())))?;
        self.call(of_td(Leaf::MNG_KEY_CONFIG, self.tdr))?;
        // TDCS, and a page more for the VM.
        for _ in 0..7 {
            let page = self.small()?;
            self.call(Registers::call(Leaf::MNG_ADDCX).rcx(page).rdx(self.tdr))?;
        }
        let params = self.world.page(PageSize::Size4K)?;
        let mut bytes = td_params();
        *bytes.get_mut(L2_VMS)? = 1;
        self.lab.write_shared(params.page().start(), &bytes);
        let made = self.call(of_td(Leaf::MNG_INIT, self.tdr).rdx(params.page().start().get()));
        self.world.free(params);
        made?;
        // The tables of the TD and of the VM.
        for level in [3, 2] {
            let (own, l2) = (self.small()?, self.small()?);
            let add = Registers::call(LeafCall::with_version(Leaf::MEM_SEPT_ADD, 1)).rcx(level).rdx(self.tdr);
            self.call(Registers { r10: NONE, r11: NONE, ..add.r8(own).r9(l2) })?;
        }
        Some(())
    }

    fn split_and_join(&mut self) -> Option<()> {
        let large = self.page(PageSize::Size2M)?;
        self.guest = self.pages.last().copied();
        let of_page = |leaf: LeafCall, tdr: u64| Registers::call(leaf).rcx(LARGE).rdx(tdr);
        self.call(of_page(Leaf::MEM_PAGE_AUG.into(), self.tdr).r8(large))?;
        let (own, l2) = (self.small()?, self.small()?);
        let demote = of_page(Leaf::MEM_PAGE_DEMOTE.into(), self.tdr).r8(own).r9(l2);
        self.call(Registers { r10: NONE, r11: NONE, ..demote })?;
        self.call(of_page(LeafCall::with_version(Leaf::MEM_PAGE_PROMOTE, 1), self.tdr))?;
        self.call(of_page(Leaf::MEM_PAGE_REMOVE.into(), self.tdr)).map(drop)
    }

    fn tear_down(&mut self) -> Option<()> {
        for leaf in [Leaf::MNG_VPFLUSHDONE, Leaf::PHYMEM_CACHE_WB, Leaf::MNG_KEY_FREEID] {
            let of_td = leaf != Leaf::PHYMEM_CACHE_WB;
            self.call(Registers::call(leaf).rcx(if of_td { self.tdr } else { 0 }))?;
        }
        let ledger = self.world.tds().ledger();
        let mut pages = std::mem::take(&mut self.pages);
        // TDR, which is the first, comes last.
        pages.rotate_left(1);
        for range in &pages {
            // Some came back while the TD lived.
            let there = ledger.state(range.start()) == Some(PageState::Private);
            if there {
                self.call(Registers::call(Leaf::PHYMEM_PAGE_RECLAIM).rcx(range.base().get()))?;
            }
        }
        // TDR is dirty under the global KeyID; all calls were made here.
        self.cpu.write_back_caches();
        for range in pages {
            promise::observed_reset(&self.cpu, ledger, self.refs, range).ok()?;
            self.refs.forget(range);
            self.world.free(SharedPage::take(ledger, promise::owned(range)).ok()?);
        }
        Some(())
    }
}

/// The last private KeyID: the host's own TDs take the first ones.
pub(super) const fn last_key(keys: KeyIdPartition) -> KeyId {
    KeyId::new(keys.private_end().saturating_sub(1) as u16)
}
