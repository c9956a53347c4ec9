//! Generator of SEAMCALL streams: the calls of a kernel and of KVM, in their order, with made-up
//! addresses; answers are those of the emulated module.

use tdx_abi::{KeyId, Leaf, LeafCall, PageSize, PhysAddr, Registers, StatusCode};

use super::player::Player;
use super::text::{Condition, Event};

const CPUS: u32 = 4;
const PACKAGES: u32 = 2;
const TDMR: u64 = 0x1_0000_0000;
const MIB2: u64 = 2 << 20;
const GLOBAL: u16 = 0x20;
const KEY: u16 = 0x21;
const NULL_PA: u64 = u64::MAX;
const VERSION: &str = "1.5.25";

/// What a kernel does, written down while it is done.
pub struct Kvm {
    player: Player,
    pub events: Vec<Event>,
    dynamic: bool,
    version: &'static str,
    next: u64,
    next_pair: u64,
    /// 2 MiB pages with a pair.
    covered: Vec<u64>,
    /// Pages of the TD, to be reclaimed.
    pages: Vec<u64>,
    tdr: u64,
    vcpus: Vec<u64>,
}

impl Kvm {
    /// A kernel that has brought TDX up.
    pub fn boot(version: &'static str, dynamic: bool) -> Self {
        let mut kvm = Self {
            player: Player::new(version, CPUS, PACKAGES),
            events: vec![Event::Machine { version: version.to_owned(), cpus: CPUS, packages: PACKAGES }],
            dynamic,
            version,
            next: TDMR + (16 << 20),
            next_pair: TDMR + (256 << 20),
            covered: Vec::new(),
            pages: Vec::new(),
            tdr: 0,
            vcpus: Vec::new(),
        };
        kvm.configure(0x8_0000_0000);
        kvm
    }

    /// SYS.CONFIG to the last SYS.TDMR.INIT, with PAMTs from `pamt` on.
    pub fn configure(&mut self, pamt: u64) {
        let (bitmap, calls) = if self.dynamic { (0x8000, 64) } else { (0x40_0000, 256) };
        let words = vec![TDMR, 1 << 30, pamt, 0x1000, pamt + 0x1_0000, 0x2000, pamt + 0x10_0000, bitmap];
        self.other(Event::Store(PhysAddr::new(0x111_0000), words));
        self.other(Event::Store(PhysAddr::new(0x110_1000), vec![0x111_0000]));
        let r8 = u64::from(GLOBAL) | if self.dynamic { tdx_abi::SYS_CONFIG_DYNAMIC_PAMT } else { 0 };
        self.ok(0, Registers::call(Leaf::SYS_CONFIG).rcx(0x110_1000).rdx(1).r8(r8));
        for cpu in 0..PACKAGES {
            self.ok(cpu, Registers::call(Leaf::SYS_KEY_CONFIG));
        }
        for _ in 0..calls {
            self.ok(0, Registers::call(Leaf::SYS_TDMR_INIT).rcx(TDMR));
        }
    }

    /// Makes a call, and writes it down.
    pub fn call(&mut self, cpu: u32, call: Registers) -> Option<Registers> {
        let answer = self.player.seamcall(cpu, call);
        let made = Event::Call { cpu, times: 1, call, answer };
        match (self.events.last_mut(), &made) {
            (
                Some(Event::Call { cpu: last, times, call: before, answer: said }),
                Event::Call { cpu, call, answer, .. },
            ) if (&*last, &*before, &*said) == (cpu, call, answer) => *times += 1,
            _ => self.events.push(made),
        }
        answer
    }

    pub fn ok(&mut self, cpu: u32, call: Registers) -> Registers {
        let answer = self.call(cpu, call).expect("not inside");
        assert!(!answer.status().is_error(), "{call:x?}: {}", answer.status());
        answer
    }

    /// A call that fails in this way.
    pub fn fails(&mut self, cpu: u32, call: Registers, code: StatusCode) {
        let answer = self.call(cpu, call).expect("not inside");
        assert_eq!(answer.status().code(), code, "{call:x?}: {}", answer.status());
    }

    pub fn other(&mut self, event: Event) {
        self.player.other(&event);
        self.events.push(event);
    }

    fn during(&mut self, condition: Condition, call: Registers, code: StatusCode) {
        self.other(Event::Condition(condition, true));
        self.fails(0, call, code);
        self.other(Event::Condition(condition, false));
    }

    /// A page of 4 KiB, with its pair of Dynamic PAMT.
    fn page(&mut self) -> u64 {
        let page = self.next;
        self.next += 0x1000;
        self.cover(page);
        page
    }

    fn pair(&mut self) -> (u64, u64) {
        self.next_pair += 0x2000;
        (self.next_pair - 0x2000, self.next_pair - 0x1000)
    }

    fn cover(&mut self, page: u64) {
        let large = page / MIB2 * MIB2;
        if self.dynamic && !self.covered.contains(&large) {
            let (first, second) = self.pair();
            self.ok(0, Registers::call(Leaf::PHYMEM_PAMT_ADD).rcx(large | 1).rdx(first).r8(second));
            self.covered.push(large);
        }
    }

    fn reset(&mut self, page: u64, bytes: u64) {
        self.other(Event::Reset(PhysAddr::new(page), bytes));
    }

    /// PHYMEM.PAGE.WBINVD under a key, then the reset.
    fn clear(&mut self, page: u64, key: u16) {
        let tagged = self.player.machine.config().key_id_field.tag(PhysAddr::new(page), KeyId::new(key));
        self.ok(0, Registers::call(Leaf::PHYMEM_PAGE_WBINVD).rcx(tagged.get()));
        self.reset(page, 0x1000);
    }

    /// Up to MNG.INIT.
    pub fn create(&mut self, l2_vms: u64) {
        self.tdr = self.page();
        self.ok(0, Registers::call(Leaf::MNG_CREATE).rcx(self.tdr).rdx(u64::from(KEY)));
        for cpu in 0..PACKAGES {
            self.ok(cpu, Registers::call(Leaf::MNG_KEY_CONFIG).rcx(self.tdr));
        }
        for _ in 0..6 + l2_vms {
            let page = self.page();
            self.ok(0, Registers::call(Leaf::MNG_ADDCX).rcx(page).rdx(self.tdr));
            self.pages.push(page);
        }
        // TD_PARAMS: XFAM, VCPUs and L2 VMs, EPTP, flags, TSC.
        let words = vec![0, 7, 16 | l2_vms << 16, 0x1e, 0, 40];
        self.other(Event::Store(PhysAddr::new(0x120_0000), words));
        self.ok(0, Registers::call(Leaf::MNG_INIT).rcx(self.tdr).rdx(0x120_0000));
    }

    /// A VCPU of 1 + 5 pages, and three for each L2 VM.
    pub fn add_vcpu(&mut self, l2_vms: u64) {
        let number = self.vcpus.len() as u64;
        let vcpu = self.page();
        self.ok(0, Registers::call(Leaf::VP_CREATE).rcx(vcpu).rdx(self.tdr));
        for _ in 0..5 + 3 * l2_vms {
            let page = self.page();
            self.ok(0, Registers::call(Leaf::VP_ADDCX).rcx(page).rdx(vcpu));
            self.pages.push(page);
        }
        let init = LeafCall::with_version(Leaf::VP_INIT, u8::from(self.version == VERSION));
        let id = if init.version() > 0 { number } else { 0 };
        self.ok(number as u32 % CPUS, Registers::call(init).rcx(vcpu).r8(id));
        self.pages.push(vcpu);
        self.vcpus.push(vcpu);
    }

    fn sept(&mut self, gpa: u64, level: u64) {
        let page = self.page();
        self.ok(0, Registers::call(Leaf::MEM_SEPT_ADD).rcx(gpa | level).rdx(self.tdr).r8(page));
        self.pages.push(page);
    }

    /// Four pages of the image, each measured, and MR.FINALIZE.
    pub fn load_image(&mut self) {
        for level in [3, 2, 1] {
            self.sept(0, level);
        }
        for gpa in (0..4).map(|page| page * 0x1000) {
            let page = self.page();
            self.ok(0, Registers::call(Leaf::MEM_PAGE_ADD).rcx(gpa).rdx(self.tdr).r8(page).r9(0x130_0000 + gpa));
            for part in (0..0x1000).step_by(256) {
                self.ok(0, Registers::call(Leaf::MR_EXTEND).rcx(gpa + part).rdx(self.tdr));
            }
            self.pages.push(page);
        }
        self.ok(0, Registers::call(Leaf::MR_FINALIZE).rcx(self.tdr));
    }

    fn aug(&mut self, gpa: u64) -> u64 {
        let page = self.page();
        self.ok(0, Registers::call(Leaf::MEM_PAGE_AUG).rcx(gpa).rdx(self.tdr).r8(page));
        page
    }

    fn block_and_track(&mut self, rcx: u64) {
        self.ok(0, Registers::call(Leaf::MEM_RANGE_BLOCK).rcx(rcx).rdx(self.tdr));
        self.ok(0, Registers::call(Leaf::MEM_TRACK).rcx(self.tdr));
    }

    fn enter(&mut self) {
        let enter = Registers::call(Leaf::VP_ENTER).rcx(self.vcpus[0]);
        assert!(self.call(0, enter).is_none(), "VP.ENTER: {:x?}", self.events.last());
    }

    /// Pages come, are accepted, move and go.
    pub fn run(&mut self) {
        let large = TDMR + (32 << 20);
        self.ok(0, Registers::call(Leaf::MEM_PAGE_AUG).rcx(MIB2 | 1).rdx(self.tdr).r8(large));
        let [kept, removed, moved] = [0x10_000, 0x11_000, 0x12_000].map(|gpa| self.aug(gpa));
        self.enter();
        for (gpa, level) in [(0x10_000, 0), (0x11_000, 0), (0x12_000, 0), (MIB2, 1)] {
            self.other(Event::Accept { cpu: 0, gpa, level });
        }
        self.other(Event::Leave(0));
        self.block_and_track(0x11_000);
        self.ok(0, Registers::call(Leaf::MEM_PAGE_REMOVE).rcx(0x11_000).rdx(self.tdr));
        self.clear(removed, KEY);
        self.block_and_track(0x12_000);
        let target = self.page();
        self.ok(0, Registers::call(Leaf::MEM_PAGE_RELOCATE).rcx(0x12_000).rdx(self.tdr).r8(target));
        self.clear(moved, KEY);
        self.split_and_merge();
        self.pages.extend([kept, target]);
        // The large page, in the end.
        self.block_and_track(MIB2 | 1);
        self.ok(0, Registers::call(Leaf::MEM_PAGE_REMOVE).rcx(MIB2 | 1).rdx(self.tdr));
        // PAGE.WBINVD takes 4 KiB at a time, and with Dynamic PAMT a free 2 MiB page has no entries
        // of that size.
        self.reset(large, MIB2);
    }

    /// DEMOTE, interrupted once, and PROMOTE.
    fn split_and_merge(&mut self) {
        self.block_and_track(MIB2 | 1);
        let sept = self.page();
        let mut demote = Registers::call(Leaf::MEM_PAGE_DEMOTE).rcx(MIB2 | 1).rdx(self.tdr).r8(sept);
        if self.dynamic {
            let (first, second) = self.pair();
            demote = demote.r12(first).r13(second);
        }
        self.during(Condition::Interrupt, demote, StatusCode::INTERRUPTED_RESTARTABLE);
        self.ok(0, demote);
        self.block_and_track(MIB2 | 1);
        let back = self.ok(0, Registers::call(Leaf::MEM_PAGE_PROMOTE).rcx(MIB2 | 1).rdx(self.tdr));
        self.clear(sept, KEY);
        if self.dynamic {
            assert_eq!((back.r12, back.r13), (demote.r12, demote.r13));
            self.reset(back.r12, 0x1000);
            self.reset(back.r13, 0x1000);
        }
    }

    /// The VMM is gone: KVM takes every page back.
    pub fn tear_down(&mut self) {
        for (number, vcpu) in std::mem::take(&mut self.vcpus).into_iter().enumerate() {
            self.ok(number as u32 % CPUS, Registers::call(Leaf::VP_FLUSH).rcx(vcpu));
        }
        self.ok(0, Registers::call(Leaf::MNG_VPFLUSHDONE).rcx(self.tdr));
        for cpu in 0..PACKAGES {
            self.ok(cpu, Registers::call(Leaf::PHYMEM_CACHE_WB));
        }
        self.ok(0, Registers::call(Leaf::MNG_KEY_FREEID).rcx(self.tdr));
        for page in std::mem::take(&mut self.pages) {
            let size = self.ok(0, Registers::call(Leaf::PHYMEM_PAGE_RECLAIM).rcx(page)).r8;
            self.reset(page, PageSize::from_level(size).unwrap().bytes());
        }
        let tdr = self.tdr;
        self.ok(0, Registers::call(Leaf::PHYMEM_PAGE_RECLAIM).rcx(tdr));
        self.clear(tdr, GLOBAL);
        for large in std::mem::take(&mut self.covered) {
            let back = self.ok(0, Registers::call(Leaf::PHYMEM_PAMT_REMOVE).rcx(large | 1));
            self.reset(back.rdx, 0x1000);
            self.reset(back.r8, 0x1000);
        }
    }

    /// A TD with L2 VMs: version 1 of MEM.SEPT.ADD takes a page for each VM.
    pub fn add_l2_tables(&mut self) {
        let [l1, a] = [(); 2].map(|()| self.page());
        let v1 = LeafCall::with_version(Leaf::MEM_SEPT_ADD, 1);
        let call = Registers { r10: NULL_PA, r11: NULL_PA, ..Registers::call(v1).rcx(3).rdx(self.tdr).r8(l1).r9(a) };
        self.ok(0, call);
        self.pages.extend([l1, a]);
        // Both are there: with the flag in RDX the new ones come back unused.
        let [b, c] = [(); 2].map(|()| self.page());
        let unused = self.ok(0, Registers { rdx: self.tdr | 1, r8: b, r9: c, ..call });
        assert_eq!((unused.r8, unused.r9), (b | 1 << 63, c | 1 << 63));
        self.reset(b, 0x1000);
        self.reset(c, 0x1000);
    }

    /// Calls that fail, each in a way that leaves its page in another state.
    pub fn fail_in_every_way(&mut self) {
        let page = self.page();
        let create = Registers::call(Leaf::MNG_CREATE).rcx(page);
        self.fails(0, create.rdx(u64::from(KEY)), StatusCode::HKID_NOT_FREE);
        self.during(Condition::NoEntropy, create.rdx(0x22), StatusCode::RND_NO_ENTROPY);
        self.reset(page, 0x1000);
        // Busy: a VCPU is inside, and holds TDR.
        self.enter();
        let addcx = Registers::call(Leaf::MNG_ADDCX).rcx(page).rdx(self.tdr);
        self.fails(1, addcx, StatusCode::OPERAND_BUSY);
        let flush = Registers::call(Leaf::VP_FLUSH).rcx(self.vcpus[0]);
        self.fails(1, flush, StatusCode::OPERAND_BUSY);
        self.fails(1, Registers::call(Leaf::SYS_SHUTDOWN).rcx(1), StatusCode::SYS_BUSY);
        self.other(Event::Leave(0));
        // After MNG.INIT it is filled before the state is looked at.
        self.fails(0, addcx, StatusCode::OP_STATE_INCORRECT);
        self.reset(page, 0x1000);
        // A page that the module has.
        let there = self.pages[0];
        let again = Registers::call(Leaf::MEM_SEPT_ADD).rcx(0x4000_0001).rdx(self.tdr).r8(there);
        let answer = self.call(0, again).unwrap();
        assert!(answer.status().is_error());
    }

    /// The module crashes in a call, and every later one fails.
    pub fn die(&mut self) {
        self.other(Event::Dead);
        let page = self.page();
        let aug = Registers::call(Leaf::MEM_PAGE_AUG).rcx(0x20_000).rdx(self.tdr).r8(page);
        for cpu in [0, 1] {
            let answer = self.call(cpu, aug).unwrap();
            assert!(answer.status().is_error());
        }
        let reclaim = Registers::call(Leaf::PHYMEM_PAGE_RECLAIM).rcx(self.pages[0]);
        assert!(self.call(0, reclaim).unwrap().status().is_error());
    }

    /// Another module is loaded: with SYS.SHUTDOWN before it and SYS.UPDATE after it TDs go on.
    pub fn load_another(&mut self, handoff: bool) {
        if handoff {
            self.ok(0, Registers::call(Leaf::SYS_SHUTDOWN).rcx(1));
        }
        self.other(Event::Load(self.version.to_owned()));
        self.ok(0, Registers::call(Leaf::SYS_INIT));
        for cpu in 0..CPUS {
            self.ok(cpu, Registers::call(Leaf::SYS_LP_INIT));
        }
        if handoff {
            self.ok(0, Registers::call(Leaf::SYS_UPDATE));
        } else {
            self.fails(0, Registers::call(Leaf::SYS_UPDATE), StatusCode::SYS_INVALID_HANDOFF);
        }
    }
}

/// Every stream by name.
pub fn streams() -> Vec<(&'static str, Vec<Event>)> {
    let whole = |version, dynamic| {
        let mut kvm = Kvm::boot(version, dynamic);
        kvm.create(0);
        (0..16).for_each(|_| kvm.add_vcpu(0));
        kvm.load_image();
        kvm.run();
        kvm.tear_down();
        kvm.events
    };
    let mut failing = Kvm::boot(VERSION, true);
    failing.create(0);
    (0..2).for_each(|_| failing.add_vcpu(0));
    failing.load_image();
    failing.fail_in_every_way();
    failing.die();
    let mut partitioned = Kvm::boot(VERSION, false);
    partitioned.create(1);
    partitioned.add_vcpu(1);
    partitioned.add_l2_tables();
    partitioned.tear_down();
    let mut updated = Kvm::boot(VERSION, true);
    updated.create(0);
    updated.add_vcpu(0);
    updated.load_image();
    updated.load_another(true);
    updated.run();
    updated.tear_down();
    let mut replaced = Kvm::boot(VERSION, false);
    replaced.create(0);
    replaced.load_another(false);
    replaced.configure(0x9_0000_0000);
    vec![
        ("kvm-td-1.5.01", whole("1.5.01", false)),
        ("kvm-td-dynamic-pamt", whole(VERSION, true)),
        ("calls-fail", failing.events),
        ("l2-tables", partitioned.events),
        ("module-updated", updated.events),
        ("module-replaced", replaced.events),
    ]
}
