//! Whose turn it is.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use object_store::{Error, Result};
use tokio::sync::{Notify, oneshot};
use tokio::task::AbortHandle;
use tokio::time::Instant;

use super::clock::SimulatedClock;
use super::faults::{ConditionalPuts, Faults};
use super::state::{Effect, Objects, Reply, Request, Stored};
use crate::fault::SplitMix64;

/// Time that passes before a request is chosen: the clock is paused, so that it passes when nobody can go on.
const TURN: Duration = Duration::from_millis(1);

/// One actor: a process with memory of its own, which a crash takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ActorId(pub u32);

impl fmt::Display for ActorId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "a{}", self.0)
    }
}

/// What happens to an answer on its way.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Damage {
    /// The body ends at this part of its length, in 65536ths.
    pub(super) torn_at: Option<u16>,
    /// Whether the end is an error.
    pub(super) torn_is_error: bool,
    /// The bit that is flipped, at this part of its length, in 65536ths.
    pub(super) flipped_at: Option<u16>,
}

pub(super) type Answer = Result<(Reply, Damage)>;

/// What no store may do: for tests that the promises which depend on it are seen to be broken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Defect {
    /// An object that was acknowledged is gone.
    LosesObjects,
    /// A bit of an object that was acknowledged is another one.
    DamagesObjects,
    /// A failure to look is answered with "not there".
    CallsFailuresAbsent,
}

struct Waiting {
    number: u64,
    actor: ActorId,
    request: Request,
    not_before: Duration,
    answer: oneshot::Sender<Answer>,
}

/// What was sent and given up by its sender, and may arrive all the same.
struct Late {
    actor: ActorId,
    request: Request,
    at: Duration,
}

struct State {
    dice: SplitMix64,
    faults: Faults,
    objects: Objects,
    requests: u64,
    waiting: Vec<Waiting>,
    late: Vec<Late>,
    /// Answers that never come: kept so that who waits for them does not see an end.
    lost: Vec<oneshot::Sender<Answer>>,
    running: BTreeMap<ActorId, AbortHandle>,
    crashes: Vec<ActorId>,
    defect: Option<Defect>,
    /// So many bodies are still to be damaged on their way.
    spoils: u32,
    log: Vec<String>,
}

/// The stage. Cheap to clone; clones are the same one.
#[derive(Clone)]
pub struct Stage {
    state: Arc<Mutex<State>>,
    changed: Arc<Notify>,
    begun: Instant,
}

impl fmt::Debug for Stage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Stage").finish_non_exhaustive()
    }
}

/// Takes a request back that was not answered: the client gave up, or is gone.
struct Given<'a>(&'a Stage, u64);

impl Drop for Given<'_> {
    fn drop(&mut self) {
        self.0.give_up(self.1);
    }
}

impl Stage {
    /// A stage with an empty store.
    #[must_use]
    pub fn new(seed: u64, faults: Faults, conditional: ConditionalPuts) -> Self {
        let state = State {
            dice: SplitMix64(seed),
            faults,
            objects: Objects::new(conditional),
            requests: 0,
            waiting: Vec::new(),
            late: Vec::new(),
            lost: Vec::new(),
            running: BTreeMap::new(),
            crashes: Vec::new(),
            defect: None,
            spoils: 0,
            log: Vec::new(),
        };
        Self { state: Arc::new(Mutex::new(state)), changed: Arc::default(), begun: Instant::now() }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A clock that shows this stage's time.
    #[must_use]
    pub fn clock(&self) -> SimulatedClock {
        SimulatedClock::new(self.begun)
    }

    /// Time since the stage began.
    #[must_use]
    pub fn now(&self) -> Duration {
        self.begun.elapsed()
    }

    /// From now on these faults happen.
    pub fn set_faults(&self, faults: Faults) {
        self.lock().faults = faults;
    }

    /// From now on the store treats conditional puts so.
    pub fn set_conditional(&self, conditional: ConditionalPuts) {
        self.lock().objects.conditional = conditional;
    }

    /// From now on the actor runs as this task, which a crash aborts.
    pub fn runs(&self, actor: ActorId, task: AbortHandle) {
        self.lock().running.insert(actor, task);
    }

    /// The actor does not run any more, and can't crash.
    pub fn ended(&self, actor: ActorId) {
        self.lock().running.remove(&actor);
    }

    /// How often the actor has crashed.
    pub(super) fn life(&self, actor: ActorId) -> usize {
        self.lock().crashes.iter().filter(|crashed| **crashed == actor).count()
    }

    /// From now on the store has a defect, which no store may have.
    pub fn has(&self, defect: Defect) {
        self.lock().defect = Some(defect);
    }

    /// In the next so many bodies that are read one bit is flipped on the way.
    pub fn spoil_reads(&self, bodies: u32) {
        self.lock().spoils = bodies;
    }

    /// Who crashed, in order.
    #[must_use]
    pub fn crashes(&self) -> Vec<ActorId> {
        self.lock().crashes.clone()
    }

    /// The objects that are there.
    #[must_use]
    pub fn objects(&self) -> BTreeMap<String, Stored> {
        self.lock().objects.present.clone()
    }

    /// What happened to the objects so far.
    #[must_use]
    pub fn effects(&self) -> Vec<Effect> {
        self.lock().objects.effects.clone()
    }

    /// Which keys were removed, and by whom.
    #[must_use]
    pub fn removals(&self) -> Vec<(String, ActorId)> {
        let removed = |effect: &Effect| match effect {
            Effect::Removed { key, by, .. } => Some((key.clone(), *by)),
            Effect::Created { .. } | Effect::Overwritten { .. } => None,
        };
        self.lock().objects.effects.iter().filter_map(removed).collect()
    }

    /// How many requests were carried out, or failed.
    #[must_use]
    pub fn requests(&self) -> u64 {
        self.lock().requests
    }

    /// Everything that happened, in order.
    #[must_use]
    pub fn log(&self) -> Vec<String> {
        self.lock().log.clone()
    }

    /// Adds a line to what happened.
    pub fn note(&self, actor: ActorId, text: &str) {
        let now = self.now();
        self.lock().say(now, actor, text);
    }

    /// Carries out what was given up by its senders and is still on its way.
    pub fn deliver_late(&self) {
        let now = self.now();
        let mut state = self.lock();
        for late in std::mem::take(&mut state.late) {
            state.deliver(now, &late);
        }
    }

    /// Gives everybody their turns until `done` is done.
    pub async fn run<T>(&self, done: impl Future<Output = T>) -> T {
        let mut done = std::pin::pin!(done);
        loop {
            let next = self.lock().next_at();
            let turn = async {
                match next {
                    Some(at) => tokio::time::sleep_until((self.begun + at).max(Instant::now() + TURN)).await,
                    None => self.changed.notified().await,
                }
            };
            tokio::select! {
                biased;
                result = &mut done => return result,
                () = self.changed.notified(), if next.is_some() => {}
                () = turn => if next.is_some() {
                    self.lock().take_turn(self.now());
                },
            }
        }
    }

    /// Makes a request and waits for its answer.
    ///
    /// What is left of an actor that has crashed gets no answer any more.
    pub(super) async fn ask(&self, actor: ActorId, life: usize, request: Request) -> Answer {
        let (answer, answered) = oneshot::channel();
        if life != self.life(actor) {
            return std::future::pending().await;
        }
        let number = {
            let mut state = self.lock();
            state.requests += 1;
            let number = state.requests;
            state.waiting.push(Waiting { number, actor, request, not_before: Duration::ZERO, answer });
            number
        };
        self.changed.notify_one();
        let _given = Given(self, number);
        let got = answered.await;
        got.unwrap_or_else(|_| Err(failed("the stage is gone")))
    }

    fn give_up(&self, number: u64) {
        let now = self.now();
        let mut state = self.lock();
        let Some(at) = state.waiting.iter().position(|waiting| waiting.number == number) else { return };
        let waiting = state.waiting.remove(at);
        state.give_up(now, waiting);
    }
}

impl State {
    fn say(&mut self, now: Duration, actor: ActorId, text: &str) {
        self.log.push(format!("{:>10.3} {actor} {text}", now.as_secs_f64()));
    }

    fn draws(&mut self, thousandths: u16) -> bool {
        thousandths > 0 && self.dice.draw() % 1000 < u64::from(thousandths)
    }

    fn some(&mut self, most: Duration) -> Duration {
        let millis = u64::try_from(most.as_millis()).unwrap_or(u64::MAX).max(1);
        Duration::from_millis(self.dice.draw() % millis)
    }

    fn part(&mut self) -> u16 {
        u16::try_from(self.dice.draw() & 0xFFFF).unwrap_or_default()
    }

    /// When something is to be done at the soonest.
    fn next_at(&self) -> Option<Duration> {
        let waiting = self.waiting.iter().map(|waiting| waiting.not_before);
        waiting.chain(self.late.iter().map(|late| late.at)).min()
    }

    /// Carries out one of the requests that can be carried out now.
    fn take_turn(&mut self, now: Duration) {
        if let Some(at) = self.late.iter().position(|late| late.at <= now) {
            let late = self.late.remove(at);
            self.deliver(now, &late);
            return;
        }
        let mut ready: Vec<_> = (self.waiting.iter())
            .filter(|waiting| waiting.not_before <= now)
            .map(|waiting| (waiting.actor, waiting.request.name(), waiting.request.key(), waiting.number))
            .collect();
        // The numbers are in the order in which the requests came, which is not the seed's: it may depend on threads.
        ready.sort();
        if ready.is_empty() {
            return;
        }
        let choice = usize::try_from(self.dice.draw() % ready.len() as u64).unwrap_or_default();
        let Some((_, _, _, number)) = ready.get(choice) else { return };
        let Some(at) = self.waiting.iter().position(|waiting| waiting.number == *number) else { return };
        let waiting = self.waiting.remove(at);
        self.decide(now, waiting);
    }

    fn decide(&mut self, now: Duration, mut waiting: Waiting) {
        let (actor, faults) = (waiting.actor, self.faults);
        let what = format!("{} {}", waiting.request.name(), waiting.request.key());
        if waiting.not_before == Duration::ZERO && self.draws(faults.slow) {
            waiting.not_before = now + self.some(Faults::SLOW_MAX);
            self.say(now, actor, &format!("{what}: slow"));
            self.waiting.push(waiting);
            return;
        }
        if self.draws(faults.crash_before) && self.crash(now, actor, &format!("{what}: crash before")) {
            return;
        }
        if self.draws(faults.error_before) {
            if let (Some(Defect::CallsFailuresAbsent), Request::Get { key, .. }) =
                (self.defect, &waiting.request)
            {
                self.say(now, actor, &format!("{what}: called absent"));
                let error = Error::NotFound { path: key.clone(), source: "no such key".into() };
                let _ = waiting.answer.send(Err(error));
                return;
            }
            self.say(now, actor, &format!("{what}: error before"));
            let _ = waiting.answer.send(Err(failed("injected error before the effect")));
            return;
        }
        self.carry_out(now, waiting, &what);
    }

    fn carry_out(&mut self, now: Duration, waiting: Waiting, what: &str) {
        let (actor, faults) = (waiting.actor, self.faults);
        if let Request::Delete { keys } = &waiting.request
            && keys.len() > 1
            && self.draws(faults.half_removed)
        {
            let some: Vec<String> =
                keys.iter().filter(|_| self.dice.draw().is_multiple_of(2)).cloned().collect();
            for key in &some {
                self.objects.remove(actor, key, now);
            }
            self.say(now, actor, &format!("{what}: only {} removed", some.join(" ")));
            let _ = waiting.answer.send(Err(failed("injected error in the middle of a removal")));
            return;
        }
        let stale = match &waiting.request {
            Request::List { .. } => self.draws(faults.stale_list),
            Request::Get { .. } => self.draws(faults.stale_read),
            _ => false,
        };
        let result = self.objects.apply(actor, &waiting.request, now, stale);
        if let (Request::Put { key, .. }, Ok(_)) = (&waiting.request, &result) {
            self.be_defective(now, actor, key);
        }
        let how = match (&result, stale) {
            (Err(error), _) => format!("{what}: {}", kind(error)),
            (Ok(_), true) => format!("{what}: stale"),
            (Ok(_), false) => what.to_owned(),
        };
        if self.draws(faults.crash_after) && self.crash(now, actor, &format!("{how}: crash after")) {
            return;
        }
        if self.draws(faults.lost_answer) {
            self.say(now, actor, &format!("{how}: no answer"));
            self.lost.push(waiting.answer);
            return;
        }
        if self.draws(faults.error_after) {
            self.say(now, actor, &format!("{how}: error after"));
            let _ = waiting.answer.send(Err(failed("injected error after the effect")));
            return;
        }
        let damage = match &waiting.request {
            Request::Get { head: false, .. } if self.spoils > 0 => {
                self.spoils -= 1;
                Damage { flipped_at: Some(1 << 15), ..Damage::default() }
            }
            Request::Get { head: false, .. } => Damage {
                torn_at: self.draws(faults.torn_read).then(|| self.part()),
                torn_is_error: self.draws(500),
                flipped_at: self.draws(faults.wrong_bytes).then(|| self.part()),
            },
            _ => Damage::default(),
        };
        let spoiled = match (damage.torn_at, damage.flipped_at) {
            (Some(_), _) => ": torn",
            (None, Some(_)) => ": a bit flips",
            (None, None) => "",
        };
        self.say(now, actor, &format!("{how}{spoiled}"));
        let _ = waiting.answer.send(result.map(|reply| (reply, damage)));
    }

    /// Does to an object that was just written what a broken store does.
    fn be_defective(&mut self, now: Duration, actor: ActorId, key: &str) {
        let defect = self.defect;
        match defect {
            Some(Defect::LosesObjects) if self.draws(100) => {
                self.say(now, actor, &format!("{key} is lost"));
                self.objects.present.remove(key);
            }
            Some(Defect::DamagesObjects) if self.draws(100) => {
                self.say(now, actor, &format!("{key} is damaged"));
                let part = self.part();
                if let Some(stored) = self.objects.present.get_mut(key) {
                    stored.bytes = flipped(&stored.bytes, part);
                }
            }
            _ => {}
        }
    }

    fn crash(&mut self, now: Duration, actor: ActorId, what: &str) -> bool {
        let Some(task) = self.running.remove(&actor) else { return false };
        self.say(now, actor, what);
        self.crashes.push(actor);
        task.abort();
        // What others do for it beside its task ends with it.
        let (gone, stay) = std::mem::take(&mut self.waiting).into_iter().partition(|it| it.actor == actor);
        self.waiting = stay;
        let mut gone: Vec<Waiting> = gone;
        gone.sort_by_key(|waiting| (waiting.request.name(), waiting.request.key()));
        for waiting in gone {
            self.give_up(now, waiting);
        }
        true
    }

    /// What nobody waits for any more may be carried out all the same, later.
    fn give_up(&mut self, now: Duration, Waiting { actor, request, answer, .. }: Waiting) {
        self.lost.push(answer);
        if request.changes() && self.draws(500) {
            let at = now + self.some(Faults::SLOW_MAX);
            self.say(now, actor, &format!("gives up {} {}, which is late", request.name(), request.key()));
            self.late.push(Late { actor, request, at });
        }
    }

    fn deliver(&mut self, now: Duration, late: &Late) {
        let done = self.objects.apply(late.actor, &late.request, now, false);
        let how = done.map_or_else(|error| kind(&error), |_| "done");
        self.say(now, late.actor, &format!("late {} {}: {how}", late.request.name(), late.request.key()));
    }
}

fn kind(error: &Error) -> &'static str {
    match error {
        Error::NotFound { .. } => "not there",
        Error::AlreadyExists { .. } => "taken",
        Error::NotSupported { .. } => "not supported",
        _ => "error",
    }
}

/// The bytes with one bit flipped, at this part of their length in 65536ths.
pub(super) fn flipped(bytes: &Bytes, part: u16) -> Bytes {
    let at = (usize::from(part) * bytes.len()) >> 16;
    let mut bytes = bytes.to_vec();
    if let Some(byte) = bytes.get_mut(at) {
        *byte ^= 1 << (part % 8);
    }
    bytes.into()
}

pub(super) fn failed(text: &'static str) -> Error {
    Error::Generic { store: "simulation", source: text.into() }
}
