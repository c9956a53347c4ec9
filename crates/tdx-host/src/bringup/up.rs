//! What a bring-up publishes for the whole machine: the module, the layout, the module's features.
//! Part of [`crate::Host`].

use core::ops::{Deref, DerefMut};
use tdx_abi::TdxFeatures0;

use super::module_info::ModuleInfo;
use crate::layout::Layout;
use crate::once::{Once, Owned};
use crate::sync::{AtomicBool, AtomicU64, Ordering, fence};

/// The results of a bring-up. Who owns the layout runs the bring-up; a published layout says that
/// TDX is up.
#[derive(Debug)]
pub(crate) struct Up {
    features_known: AtomicBool,
    features: AtomicU64,
    module: Once<Option<ModuleInfo>>,
    layout: Once<Layout>,
}

impl Up {
    /// TDX is not up.
    #[cfg(not(loom))]
    pub(crate) const fn new() -> Self {
        Self {
            features_known: AtomicBool::new(false),
            features: AtomicU64::new(0),
            module: Once::new(None),
            layout: Once::new(Layout::new()),
        }
    }

    /// TDX is not up. (loom's atomics cannot be made in a constant.)
    #[cfg(loom)]
    pub(crate) fn new() -> Self {
        Self {
            features_known: AtomicBool::new(false),
            features: AtomicU64::new(0),
            module: Once::new(None),
            layout: Once::new(Layout::new()),
        }
    }

    /// TDX_FEATURES0, from the step that reads it on: a crash in the middle of a bring-up has it.
    pub(crate) fn features(&self) -> Option<TdxFeatures0> {
        let known = self.features_known.load(Ordering::Acquire);
        known.then(|| TdxFeatures0::new(self.features.load(Ordering::Relaxed)))
    }

    fn set_features(&self, features: TdxFeatures0) {
        self.features.store(features.bits(), Ordering::Relaxed);
        self.features_known.store(true, Ordering::Release);
    }

    fn forget_features(&self) {
        self.features_known.store(false, Ordering::Release);
    }

    /// The module, once TDX is up.
    pub(crate) fn module(&self) -> Option<&ModuleInfo> {
        self.layout()?;
        self.module.get()?.as_ref()
    }

    /// The layout, once TDX is up.
    pub(crate) fn layout(&self) -> Option<&Layout> {
        self.layout.get()
    }

    /// The layout, for one bring-up. `None` while another one runs, and once TDX is up.
    pub(crate) fn own(&self) -> Option<Place<'_>> {
        self.layout.own().map(|layout| Place { layout, up: self })
    }

    /// TDX is up as another host has brought it up. False if a bring-up runs or TDX is up, and
    /// nothing has changed.
    pub(crate) fn take_over(&self, info: &ModuleInfo, layout: &Layout) -> bool {
        let Some(mut place) = self.own() else { return false };
        place.take_over(layout);
        place.set_features(info.features);
        place.publish(info);
        true
    }

    /// TDX is not up any more: `release` gets the layout, whose PAMTs the module does not have.
    /// False if TDX was not up.
    ///
    /// # Safety
    /// As [`Once::take_back`], for the module and the layout.
    pub(crate) unsafe fn take_back(&self, release: impl FnOnce(&mut Layout)) -> bool {
        // SAFETY: by the contract of this function.
        let (layout, module) = unsafe { (self.layout.take_back(), self.module.take_back()) };
        let Some(mut layout) = layout else { return false };
        if let Some(mut module) = module {
            *module = None;
            module.give_back();
        }
        self.forget_features();
        release(&mut layout);
        layout.give_back();
        true
    }
}

/// The layout that a bring-up fills, and publishes at its end.
#[derive(Debug)]
pub(crate) struct Place<'k> {
    layout: Owned<'k, Layout>,
    up: &'k Up,
}

impl Place<'_> {
    pub(super) fn set_features(&self, features: TdxFeatures0) {
        self.up.set_features(features);
    }

    /// TDX is up.
    pub(super) fn publish(self, info: &ModuleInfo) {
        let Self { layout, up } = self;
        // The owner of the layout is the only one that can own the module.
        if let Some(mut module) = up.module.own() {
            *module = Some(info.copy());
            module.publish();
        }
        // The module first: a published layout says that it is there.
        layout.publish();
        // A CPU that sees anything this CPU does from here on sees both.
        fence(Ordering::SeqCst);
    }

    /// The bring-up has failed, and was undone.
    pub(super) fn give_back(self) {
        self.up.forget_features();
        self.layout.give_back();
    }
}

impl Deref for Place<'_> {
    type Target = Layout;

    fn deref(&self) -> &Layout {
        &self.layout
    }
}

impl DerefMut for Place<'_> {
    fn deref_mut(&mut self) -> &mut Layout {
        &mut self.layout
    }
}
