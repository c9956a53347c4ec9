//! One entry of the table, and its 32 bytes.

use tdx_abi::{KeyId, MAX_PHYS_BITS, PAGE_SIZE, Page, PageRange, PageSize, PhysAddr};

use super::ENTRY;

/// How far a TD had come. What was under way at that instant may have been done or not.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u16)]
pub enum TdState {
    /// The old kernel did not know.
    Unknown = 0,
    /// MNG.CREATE was made.
    Created = 1,
    /// Its KeyID was configured: MNG.KEY.CONFIG.
    Keyed = 2,
    /// MNG.INIT was made.
    Building = 3,
    /// MR.FINALIZE was made.
    Runnable = 4,
    /// It is being torn down: its VCPUs are flushed, its KeyID may be free.
    Dying = 5,
}

impl TdState {
    const ALL: [Self; 6] = [Self::Unknown, Self::Created, Self::Keyed, Self::Building, Self::Runnable, Self::Dying];
}

/// What one entry says. TDs are numbered from 1 on, in the order of their [`Entry::Td`].
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Entry {
    /// A TDMR.
    Tdmr(PageRange),
    /// PAMT of a TDMR.
    Pamt(PageRange),
    /// Pages that may be private, by the ledger.
    Marked(PageRange),
    /// Of these, pages that the module may not know: returned, refused, or in flight.
    UnknownToModule(PageRange),
    /// A CPU that had SYS.LP.INIT, by its x2APIC id. Another one cannot join.
    Cpu(u32),
    /// A KeyID that is in use, and that no TD has.
    LostKeyId(KeyId),
    /// A TD.
    Td {
        /// Its number in the table.
        td: u32,
        /// How far it had come.
        state: TdState,
        /// Page of its TDR.
        tdr: Page,
        /// Its KeyID. `None`: freed.
        key_id: Option<KeyId>,
    },
    /// A TDCX page of a TD.
    ControlPage {
        /// The TD.
        td: u32,
        /// The page.
        page: Page,
    },
    /// A VCPU.
    Vcpu {
        /// The TD.
        td: u32,
        /// The VCPU's number in its TD.
        vcpu: u16,
        /// Page of its TDVPR.
        page: Page,
    },
    /// A further page of a VCPU.
    VcpuPage {
        /// The TD.
        td: u32,
        /// The VCPU's number in its TD.
        vcpu: u16,
        /// The page.
        page: Page,
    },
    /// A page of a TD's Secure EPT. The module does not tell its address again.
    SeptPage {
        /// The TD.
        td: u32,
        /// Level of the entry that points to it, 1 to 4.
        level: u8,
        /// The page.
        page: Page,
        /// The first guest physical address below it.
        gpa: u64,
    },
    /// Guest pages, one after another in both spaces. A kernel may leave them out: the module tells
    /// them.
    GuestPages {
        /// The TD.
        td: u32,
        /// Size of each.
        size: PageSize,
        /// The first 4 KiB of the first.
        page: Page,
        /// Guest physical address of the first.
        gpa: u64,
        /// Their number.
        count: u64,
    },
    /// A pair of pages of Dynamic PAMT.
    Pair {
        /// The pages.
        pages: [Page; 2],
        /// First page of the 2 MiB that they are for.
        of: Page,
    },
}

/// The words of an entry.
struct Raw {
    kind: u16,
    detail: u16,
    td: u32,
    words: [u64; 3],
}

impl Entry {
    /// Its kind in the table.
    pub(super) fn kind(&self) -> u16 {
        self.raw().kind
    }

    /// What it is of: `None` for entries that are not a TD's.
    pub(super) fn td(&self) -> Option<u32> {
        Some(self.raw().td).filter(|td| *td > 0)
    }

    /// Kinds 1 to 6 ascend by this.
    pub(super) fn first_word(&self) -> u64 {
        self.raw().words[0]
    }

    /// The range, of an entry that is one.
    pub(super) fn range(&self) -> Option<PageRange> {
        match self {
            Self::Tdmr(range) | Self::Pamt(range) | Self::Marked(range) | Self::UnknownToModule(range) => Some(*range),
            _ => None,
        }
    }

    /// Pages that the module has by this entry.
    pub(super) fn pages(&self) -> [PageRange; 2] {
        let single = |page: Page| PageRange::new(page, Page::new(page.index() + 1));
        let none = PageRange::new(Page::new(0), Page::new(0));
        match *self {
            Self::Tdmr(_)
            | Self::Pamt(_)
            | Self::Marked(_)
            | Self::UnknownToModule(_)
            | Self::Cpu(_)
            | Self::LostKeyId(_) => [none; 2],
            Self::Td { tdr: page, .. }
            | Self::ControlPage { page, .. }
            | Self::Vcpu { page, .. }
            | Self::VcpuPage { page, .. }
            | Self::SeptPage { page, .. } => [single(page), none],
            Self::GuestPages { size, page, count, .. } => {
                let pages = count.saturating_mul(size.pages());
                [PageRange::new(page, Page::new(page.index().saturating_add(pages))), none]
            }
            Self::Pair { pages, .. } => pages.map(single),
        }
    }

    fn raw(&self) -> Raw {
        let range = |kind, range: PageRange| (kind, 0, 0, [range.base().get(), range.limit().get(), 0]);
        let (kind, detail, td, words) = match *self {
            Self::Tdmr(pages) => range(1, pages),
            Self::Pamt(pages) => range(2, pages),
            Self::Marked(pages) => range(3, pages),
            Self::UnknownToModule(pages) => range(4, pages),
            Self::Cpu(id) => (5, 0, 0, [u64::from(id), 0, 0]),
            Self::LostKeyId(key) => (6, 0, 0, [u64::from(key.get()), 0, 0]),
            Self::Td { td, state, tdr, key_id } => {
                (7, state as u16, td, [tdr.start().get(), key_id.map_or(0, |key| u64::from(key.get())), 0])
            }
            Self::ControlPage { td, page } => (8, 0, td, [page.start().get(), 0, 0]),
            Self::Vcpu { td, vcpu, page } => (9, vcpu, td, [page.start().get(), 0, 0]),
            Self::VcpuPage { td, vcpu, page } => (10, vcpu, td, [page.start().get(), 0, 0]),
            Self::SeptPage { td, level, page, gpa } => (11, u16::from(level), td, [page.start().get(), gpa, 0]),
            Self::GuestPages { td, size, page, gpa, count } => (12, size as u16, td, [page.start().get(), gpa, count]),
            Self::Pair { pages, of } => (13, 0, 0, [pages[0].start().get(), pages[1].start().get(), of.start().get()]),
        };
        Raw { kind, detail, td, words }
    }

    pub(super) fn to_bytes(self) -> [u8; ENTRY] {
        let raw = self.raw();
        let mut bytes = [0; ENTRY];
        let words = raw.words.map(u64::to_le_bytes);
        let parts: [&[u8]; 6] = [
            &raw.kind.to_le_bytes(),
            &raw.detail.to_le_bytes(),
            &raw.td.to_le_bytes(),
            &words[0],
            &words[1],
            &words[2],
        ];
        for (place, byte) in bytes.iter_mut().zip(parts.into_iter().flatten()) {
            *place = *byte;
        }
        bytes
    }

    /// `None`: an entry that no writer writes.
    pub(super) fn from_bytes(bytes: &[u8; ENTRY]) -> Option<Self> {
        let word = |at: usize| bytes.get(at..).and_then(<[u8]>::first_chunk).copied().map(u64::from_le_bytes);
        let head = word(0)?;
        let (kind, detail, td) = (head as u16, (head >> 16) as u16, (head >> 32) as u32);
        let words = [word(8)?, word(16)?, word(24)?];
        let entry = Self::from_words(kind, detail, td, words)?;
        // What is not named is 0: no two forms of one entry.
        (entry.to_bytes() == *bytes).then_some(entry)
    }

    fn from_words(kind: u16, detail: u16, td: u32, [first, second, third]: [u64; 3]) -> Option<Self> {
        let limit = 1 << MAX_PHYS_BITS;
        let page = |address: u64| {
            (address < limit && address.is_multiple_of(PAGE_SIZE)).then(|| PhysAddr::new(address).page())
        };
        let range = || {
            let range = PageRange::from_addresses(PhysAddr::new(first), PhysAddr::new(second)).ok()?;
            (!range.is_empty() && second <= limit).then_some(range)
        };
        let entry = match kind {
            1 => Self::Tdmr(range()?),
            2 => Self::Pamt(range()?),
            3 => Self::Marked(range()?),
            4 => Self::UnknownToModule(range()?),
            5 => Self::Cpu(u32::try_from(first).ok()?),
            6 => Self::LostKeyId(KeyId::new(u16::try_from(first).ok()?)),
            7 => {
                let key = KeyId::new(u16::try_from(second).ok()?);
                let state = TdState::ALL.into_iter().find(|state| *state as u16 == detail)?;
                Self::Td { td, state, tdr: page(first)?, key_id: Some(key).filter(|key| *key != KeyId::HOST) }
            }
            8 => Self::ControlPage { td, page: page(first)? },
            9 => Self::Vcpu { td, vcpu: detail, page: page(first)? },
            10 => Self::VcpuPage { td, vcpu: detail, page: page(first)? },
            11 => {
                let level = u8::try_from(detail).ok().filter(|level| (1..=4).contains(level))?;
                (second < limit && second.is_multiple_of(PAGE_SIZE)).then_some(())?;
                Self::SeptPage { td, level, page: page(first)?, gpa: second }
            }
            12 => {
                let size = PageSize::from_level(u64::from(detail))?;
                let bytes = third.checked_mul(size.bytes()).filter(|bytes| *bytes > 0)?;
                let fits = |start: u64| {
                    start.is_multiple_of(size.bytes()) && start.checked_add(bytes).is_some_and(|end| end <= limit)
                };
                (fits(first) && fits(second)).then_some(())?;
                Self::GuestPages { td, size, page: page(first)?, gpa: second, count: third }
            }
            13 => {
                (third.is_multiple_of(PageSize::Size2M.bytes()) && first != second).then_some(())?;
                Self::Pair { pages: [page(first)?, page(second)?], of: page(third)? }
            }
            _ => return None,
        };
        // Entries of a TD name one, no others do.
        ((7..=12).contains(&kind) == (td > 0)).then_some(entry)
    }
}
