//! Short sequences first: every sequence of host operations of one length on a small host, crashed
//! at each instant of its last operation. (The instants before belong to shorter sequences, which
//! are all run.) A sequence whose last operation did nothing is not made longer: what follows would
//! be a sequence that exists already.

use tdx_abi::{Operand, PageSize, StatusCode};
use tdx_host::platform::CpuId;
use tdx_machine::{Fault, When};

use super::Parts;
use super::bug::Bug;
use super::explorer::{Plan, Tally};
use super::play::Up;
use super::run::{in_parallel, plan, play_scheduled};
use super::scenario::{Scenario, Step, What};
use super::schedule::{Choice, Schedule};
use first_kernel::Move;
use tdx_lab::platform::LabError;

/// Where sequences begin.
pub(super) struct Start {
    /// For reports.
    pub(super) name: &'static str,
    /// What comes before.
    prefix: &'static [What],
    /// What they are made of.
    alphabet: &'static [What],
    /// Operations in the longest of the default set.
    pub(super) length: usize,
}

const REFUSED: What = What::Inject(Fault::Answer(StatusCode::OPERAND_INVALID.operand(Operand::RCX)), When::Call(1));
const INTERRUPT: What = What::Inject(Fault::InterruptPending, When::Call(1));

pub(super) const STARTS: [Start; 2] = [
    Start {
        name: "no TD",
        prefix: &[What::BringUp, What::HostWrites],
        alphabet: &[
            What::Move(0, Move::Build),
            What::Move(1, Move::Build),
            What::Move(0, Move::TearDown),
            What::Move(1, Move::TearDown),
            What::Move(0, Move::ReclaimOne),
            REFUSED,
            What::Inject(Fault::NoEntropy, When::Call(1)),
            What::Evict,
        ],
        length: 6,
    },
    Start {
        name: "a TD that runs",
        prefix: &[What::BringUp, What::HostWrites, What::Build(0)],
        alphabet: &[
            What::Move(0, Move::Augment(0, PageSize::Size4K)),
            What::Move(0, Move::Augment(1, PageSize::Size4K)),
            What::Move(0, Move::Augment(0, PageSize::Size2M)),
            What::Move(0, Move::Enter),
            What::Move(0, Move::Remove(0, PageSize::Size4K)),
            What::Move(0, Move::Remove(0, PageSize::Size2M)),
            What::Move(0, Move::Relocate(0)),
            What::Move(0, Move::Demote(0)),
            What::Move(0, Move::Promote(0)),
            What::Move(0, Move::TearDown),
            What::Move(0, Move::ReclaimOne),
            What::Move(1, Move::Build),
            REFUSED,
            INTERRUPT,
            What::Evict,
            What::ShutDown,
        ],
        length: 3,
    },
];

impl Start {
    /// The scenario of a sequence: its operations alternate between the two CPUs.
    pub(super) fn scenario(&self, host: &Scenario, sequence: &[usize]) -> Scenario {
        let step = |index: usize, what: What| Step { cpu: CpuId((index % 2) as u32), what, line: 0 };
        let prefix = self.prefix.iter().map(|what| Step { cpu: CpuId(0), what: *what, line: 0 });
        let moves = sequence.iter().filter_map(|letter| self.alphabet.get(*letter)).enumerate();
        let steps = prefix.chain(moves.map(|(index, what)| step(index, *what))).collect();
        Scenario { steps, ..host.clone() }
    }

    /// Operations it is made of, in words.
    pub(super) fn letters(&self) -> usize {
        self.alphabet.len()
    }
}

/// All sequences of one length.
#[derive(Default)]
pub(super) struct OfLength {
    pub(super) length: usize,
    pub(super) sequences: u64,
    pub(super) tally: Tally,
    /// The sequence of each finding.
    pub(super) of: Vec<Vec<usize>>,
    /// Those that did something.
    alive: Vec<Vec<usize>>,
}

/// Sequences that are given to the cores at a time.
const BATCH: usize = 512;

/// Runs all sequences up to this length; one entry for each length.
///
/// # Errors
/// [`LabError`]: the machine was asked for what it does not model.
pub(super) fn explore(
    start: &Start,
    host: &Scenario,
    up: &Up,
    length: usize,
    bug: Option<&'static Bug>,
    parts: &mut Parts<'_>,
) -> Result<Vec<OfLength>, LabError> {
    let mut lengths: Vec<OfLength> = Vec::new();
    let mut alive: Vec<Vec<usize>> = vec![Vec::new()];
    let progress = parts.progress;
    for length in 1..=length {
        parts.begin();
        let letters = 0..start.letters();
        let sequences: Vec<Vec<usize>> = alive
            .iter()
            .flat_map(|sequence| letters.clone().map(move |letter| sequence.iter().copied().chain([letter]).collect()))
            .collect();
        let mut all = OfLength { length, ..OfLength::default() };
        for batch in sequences.chunks(BATCH) {
            let results = in_parallel(batch, |_, sequence| {
                let scenario = start.scenario(host, sequence);
                let plan = Plan { from_step: scenario.steps.len() - 1, progress, ..plan(&scenario, bug) };
                play_scheduled(&scenario, up, true, plan, Choice::Given(Schedule::default()))
            });
            for (sequence, result) in batch.iter().zip(results) {
                let (played, _) = result?;
                all.sequences += 1;
                // A fault that is injected does nothing by itself.
                let faults = sequence
                    .last()
                    .is_some_and(|letter| matches!(start.alphabet.get(*letter), Some(What::Inject(..) | What::Evict)));
                let again = sequence.len() > 1 && sequence.ends_with(&[sequence[sequence.len() - 2]; 2]);
                if played.last_step > 0 || (faults && !again) {
                    all.alive.push(sequence.clone());
                }
                all.add(sequence, played.tally);
                if bug.is_some() && all.tally.violations > 0 {
                    lengths.push(all);
                    return Ok(lengths);
                }
            }
            progress.step("short sequences", all.sequences, sequences.len() as u64);
        }
        alive = std::mem::take(&mut all.alive);
        lengths.push(all);
    }
    Ok(lengths)
}

impl OfLength {
    fn add(&mut self, sequence: &[usize], tally: Tally) {
        self.tally.operations += tally.operations;
        self.tally.instants += tally.instants;
        self.tally.branches += tally.branches;
        self.tally.violations += tally.violations;
        self.of.extend(tally.found.iter().map(|_| sequence.to_vec()));
        self.tally.found.extend(tally.found);
        for (key, count) in tally.coverage {
            *self.tally.coverage.entry(key).or_default() += count;
        }
    }
}
