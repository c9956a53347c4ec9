//! Several CPUs at once, one operation at a time: each runs on a thread of its own, and only the
//! one whose turn it is goes on. A schedule is the list of points at which the turn changes, so
//! that it can be written down, shortened and run again.

use std::cell::Cell;
use std::panic::resume_unwind;
use std::sync::{Condvar, Mutex, PoisonError};

use tdx_machine::CpuId;

use super::live::lock;
use super::rng::Rng;
use tdx_lab::platform::Operation;

/// Turns given away: at this point, counted from 1, to this CPU. Between them a CPU goes on until
/// it is done or stopped.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Schedule(pub Vec<(u64, u32)>);

impl core::fmt::Display for Schedule {
    /// `12:1,40:0`, or `-` for none.
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        if self.0.is_empty() {
            return f.write_str("-");
        }
        for (index, (point, cpu)) in self.0.iter().enumerate() {
            write!(f, "{}{point}:{cpu}", if index == 0 { "" } else { "," })?;
        }
        Ok(())
    }
}

impl core::str::FromStr for Schedule {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if text == "-" {
            return Ok(Self::default());
        }
        let pair = |pair: &str| {
            let (point, cpu) = pair.split_once(':')?;
            Some((point.parse().ok()?, cpu.parse().ok()?))
        };
        let form = || format!("a schedule is written POINT:CPU,POINT:CPU... or `-`, not `{text}`");
        let switches: Option<Vec<(u64, u32)>> = text.split(',').map(pair).collect();
        let switches = switches.ok_or_else(form)?;
        if switches.is_sorted_by(|one, next| one.0 < next.0) { Ok(Self(switches)) } else { Err(form()) }
    }
}

/// Who decides at each point.
#[derive(Clone, Debug)]
pub(super) enum Choice {
    /// This schedule.
    Given(Schedule),
    /// Chance: one point in eight changes the turn.
    Random(u64),
}

/// One point in so many changes the turn of a random schedule.
const SWITCH_ONE_IN: u64 = 8;

/// What a run was like.
#[derive(Clone, Debug, Default)]
pub(super) struct Trace {
    /// The turns that were given away.
    pub(super) schedule: Schedule,
    /// For each point: who had the turn, and who else could have had it.
    pub(super) points: Vec<(u32, Vec<u32>)>,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Thread {
    Runs,
    /// Its CPU was stopped: it never goes on.
    Frozen,
    Done,
}

struct State {
    turn: usize,
    threads: Vec<(CpuId, Thread)>,
    /// Threads whose CPU is in the module.
    inside: Vec<usize>,
    rng: Option<Rng>,
    next_switch: usize,
    trace: Trace,
    /// Nothing goes on: frozen threads are unwound.
    over: bool,
}

/// Gives turns to the threads of one run.
pub(super) struct Scheduler {
    choice: Choice,
    state: Mutex<State>,
    turned: Condvar,
}

thread_local! {
    /// Which thread of its scheduler this is.
    static ME: Cell<Option<usize>> = const { Cell::new(None) };
}

/// What unwinds a thread whose CPU was stopped.
struct Frozen;

impl Scheduler {
    /// For threads on these CPUs. The first has the first turn.
    pub(super) fn new(cpus: impl IntoIterator<Item = CpuId>, choice: Choice) -> Self {
        let rng = match choice {
            Choice::Given(_) => None,
            Choice::Random(seed) => Some(Rng::new(seed)),
        };
        let threads = cpus.into_iter().map(|cpu| (cpu, Thread::Runs)).collect();
        let state =
            State { turn: 0, threads, inside: Vec::new(), rng, next_switch: 0, trace: Trace::default(), over: false };
        Self { choice, state: Mutex::new(state), turned: Condvar::new() }
    }

    /// A point between two operations: another CPU may have its turn here. Returns at once outside
    /// a scheduled thread.
    pub(super) fn point(&self) {
        let Some(me) = ME.get() else { return };
        let mut state = lock(&self.state);
        let others: Vec<u32> = (0..state.threads.len())
            .filter(|index| *index != me && state.threads[*index].1 == Thread::Runs)
            .map(|index| state.threads[index].0.0)
            .collect();
        let mine = state.threads[me].0.0;
        let point = state.trace.points.len() as u64 + 1;
        let to = self.choose(&mut state, point, &others);
        state.trace.points.push((mine, others));
        if let Some(to) = to
            && let Some(index) = state.threads.iter().position(|(cpu, _)| cpu.0 == to)
        {
            state.trace.schedule.0.push((point, to));
            state.turn = index;
            self.turned.notify_all();
        }
        drop(state);
        self.wait(me);
    }

    /// The CPU of this thread is in the module, where another may have its turn.
    pub(super) fn point_inside(&self) {
        let Some(me) = ME.get() else { return };
        lock(&self.state).inside.push(me);
        self.point();
        lock(&self.state).inside.retain(|inside| *inside != me);
    }

    /// A CPU that was told that the module is busy lets one go on that is inside: its next try
    /// would find the same.
    pub(super) fn give_way(&self) {
        let Some(me) = ME.get() else { return };
        let mut state = lock(&self.state);
        let runs = |index: &&usize| **index != me && state.threads[**index].1 == Thread::Runs;
        if let Some(index) = state.inside.iter().find(runs).copied() {
            state.turn = index;
            self.turned.notify_all();
        }
        drop(state);
        self.wait(me);
    }

    fn choose(&self, state: &mut State, point: u64, others: &[u32]) -> Option<u32> {
        match (&self.choice, &mut state.rng) {
            (Choice::Given(schedule), _) => {
                let (at, to) = *schedule.0.get(state.next_switch)?;
                if at != point {
                    return None;
                }
                state.next_switch += 1;
                others.contains(&to).then_some(to)
            }
            (Choice::Random(_), Some(rng)) => {
                let switches = !others.is_empty() && rng.below(SWITCH_ONE_IN) == 0;
                switches.then(|| others.get(rng.below(others.len() as u64) as usize).copied()).flatten()
            }
            (Choice::Random(_), None) => None,
        }
    }

    fn wait(&self, me: usize) {
        let mut state = lock(&self.state);
        while !(state.over || state.turn == me && state.threads[me].1 == Thread::Runs) {
            state = self.turned.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
        if state.threads[me].1 == Thread::Frozen {
            drop(state);
            resume_unwind(Box::new(Frozen));
        }
    }

    /// An operation of the CPU whose turn it is stops another.
    pub(super) fn stops(&self, operation: Operation) {
        if let Operation::Stop(target) | Operation::Nmi(target) = operation {
            for (cpu, thread) in &mut lock(&self.state).threads {
                if *cpu == target && *thread == Thread::Runs {
                    *thread = Thread::Frozen;
                }
            }
        }
    }

    /// Runs the part of one thread, in turns. `None` if its CPU was stopped.
    pub(super) fn run<R>(&self, me: usize, part: impl FnOnce() -> R) -> Option<R> {
        ME.set(Some(me));
        let result = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            self.wait(me);
            part()
        }));
        ME.set(None);
        let mut state = lock(&self.state);
        if state.threads[me].1 == Thread::Runs {
            state.threads[me].1 = Thread::Done;
            if let Some(next) = state.threads.iter().position(|(_, thread)| *thread == Thread::Runs) {
                state.turn = next;
            }
        }
        self.turned.notify_all();
        drop(state);
        match result {
            Ok(value) => Some(value),
            Err(payload) if payload.is::<Frozen>() => None,
            Err(payload) => resume_unwind(payload),
        }
    }

    /// Waits until every thread is done or frozen.
    pub(super) fn wait_for_all(&self) {
        let mut state = lock(&self.state);
        while state.threads.iter().any(|(_, thread)| *thread == Thread::Runs) {
            state = self.turned.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// Lets the frozen threads end, when what this gives is dropped.
    pub(super) fn end_when_dropped(&self) -> impl Drop + '_ {
        struct End<'s>(&'s Scheduler);
        impl Drop for End<'_> {
            fn drop(&mut self) {
                lock(&self.0.state).over = true;
                self.0.turned.notify_all();
            }
        }
        End(self)
    }

    /// Which thread asks; none outside scheduled threads.
    pub(super) fn me() -> Option<usize> {
        ME.get()
    }

    /// Points so far.
    pub(super) fn points(&self) -> u64 {
        lock(&self.state).trace.points.len() as u64
    }

    /// What the run was like.
    pub(super) fn trace(&self) -> Trace {
        lock(&self.state).trace.clone()
    }
}
