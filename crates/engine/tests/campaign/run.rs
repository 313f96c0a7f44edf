//! Runs worlds.

use std::fmt::Write as _;
use std::ops::Range;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use futures::future::LocalBoxFuture;
use walden_testkit::simulation::{ActorId, ConditionalPuts, Faults};

use crate::actors::{Archiving, back_up, back_up_late, fetch_some, read_catalog};
use crate::keeping::{let_time_pass, pin_some, restorable, retain};
use crate::oracle::inquire;
use crate::world::{Broken, Cast, Host, World};

/// What came of one world.
#[derive(Debug, Clone)]
pub(crate) struct Outcome {
    pub(crate) seed: u64,
    pub(crate) cast: Cast,
    pub(crate) violations: Vec<String>,
    pub(crate) log: Vec<String>,
    pub(crate) requests: u64,
    pub(crate) crashes: usize,
    pub(crate) conflicts: u64,
    pub(crate) backups: usize,
}

impl Outcome {
    /// Everything that helps to find out.
    pub(crate) fn describe(&self) -> String {
        let mut text = String::new();
        let _ = writeln!(text, "seed {}\n{:?}", self.seed, self.cast);
        for line in &self.log {
            let _ = writeln!(text, "{line}");
        }
        for violation in &self.violations {
            let _ = writeln!(text, "BROKEN: {violation}");
        }
        let _ = writeln!(
            text,
            "{} requests, {} crashes, {} conflicts, {} backups\nagain: WALDEN_FAULT_SEED={} cargo test -p \
             walden-engine --test campaign no_promise -- --nocapture",
            self.requests, self.crashes, self.conflicts, self.backups, self.seed
        );
        text
    }
}

/// What two runs of the same seed have in common.
pub(crate) fn comparable(outcome: &Outcome) -> (Vec<String>, &[String]) {
    // The directories of a world have other names every time, and so what tells of them has another hash.
    let without_paths = |line: &String| {
        let words = line.split(' ').map(|word| if word.contains("/.tmp") { "path" } else { word });
        words.collect::<Vec<_>>().join(" ")
    };
    (outcome.log.iter().map(without_paths).collect(), &outcome.violations)
}

/// Runs one world.
pub(crate) fn run(seed: u64, cast: Cast) -> Outcome {
    walden_store::seed_this_thread(seed);
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_all().start_paused(true).build().unwrap();
    // What an actor does need not be sent to another thread: all of a world happens on this one.
    let local = tokio::task::LocalSet::new();
    local.block_on(&runtime, async {
        let world = World::new(seed, cast);
        world.stage.run(Box::pin(act(&world))).await;
        Outcome {
            seed,
            cast: world.cast.clone(),
            violations: world.model.violations(),
            log: world.stage.log(),
            requests: world.stage.requests(),
            crashes: world.stage.crashes().len(),
            conflicts: world.model.conflicts(),
            backups: world.model.backups().len(),
        }
    })
}

/// What an actor does from the beginning of a life.
type Actor = fn(Arc<World>, Host, ActorId) -> LocalBoxFuture<'static, ()>;

/// An actor by the name of its function.
macro_rules! actor {
    ($act:path) => {
        |world, host, actor| Box::pin(async move { $act(&world, &host, actor).await })
    };
}

async fn act(world: &Arc<World>) {
    world.initialize().await;
    match world.cast.broken {
        Some(Broken::Store(defect)) => world.stage.has(defect),
        Some(Broken::Overwrites) => world.stage.set_conditional(ConditionalPuts::Ignored),
        Some(Broken::FalseAck | Broken::ReversedRetention | Broken::ShorterWindow) | None => {}
    }
    let servers = world.servers();
    let archiving: Vec<Archiving> =
        servers.iter().map(|(name, server)| Archiving::new(world, name, server)).collect();
    let mut all = Together::default();
    for archiving in &archiving {
        all.archive(world, archiving);
    }
    all.add(world, world.cast.getters, "getter", actor!(fetch_some));
    all.add(world, world.cast.backups, "backup", actor!(back_up));
    all.add(world, usize::from(world.cast.catalog), "catalog", actor!(read_catalog));
    all.end().await;

    let mut before = None;
    if world.cast.retentions > 0 {
        let_time_pass(world).await;
        before = Some(restorable(world, &world.model.backups()));
        all.add(world, world.cast.retentions, "retention", actor!(retain));
        all.add(world, world.cast.pinners, "pin", actor!(pin_some));
        all.add(world, world.cast.late_backups, "late backup", actor!(back_up_late));
        all.add(world, world.cast.getters, "late getter", actor!(fetch_some));
        all.add(world, usize::from(world.cast.catalog), "late catalog", actor!(read_catalog));
        all.end().await;
    }

    world.stage.set_faults(Faults::NONE);
    world.stage.deliver_late();
    for archiving in &archiving {
        world.stage.note(archiving.actor, "nothing fails any more");
        archiving.finish(world).await;
    }
    inquire(world, before.as_ref()).await;
}

/// Actors that act at the same time.
#[derive(Default)]
struct Together<'a>(Vec<std::pin::Pin<Box<dyn Future<Output = ()> + 'a>>>);

impl<'a> Together<'a> {
    fn archive(&mut self, world: &'a Arc<World>, archiving: &'a Archiving) {
        self.0.push(Box::pin(async move {
            let act = || {
                let (world, archiving) = (Arc::clone(world), archiving.clone());
                async move { archiving.push_all(&world).await }
            };
            world.live(archiving.actor, archiving.name, act).await;
        }));
    }

    fn add(&mut self, world: &'a Arc<World>, count: usize, what: &'static str, act: Actor) {
        for number in 0..count {
            let actor = world.actor();
            let host = world.host(&format!("{what}{number}"), None);
            self.0.push(Box::pin(async move {
                world.live(actor, what, || act(Arc::clone(world), host.clone(), actor)).await;
            }));
        }
    }

    async fn end(&mut self) {
        futures::future::join_all(std::mem::take(&mut self.0)).await;
    }
}

/// Runs many worlds, some at once; in the order of their seeds.
pub(crate) fn many(seeds: Range<u64>) -> Vec<Outcome> {
    let next = AtomicU64::new(seeds.start);
    let all = Mutex::new(Vec::new());
    let threads = std::thread::available_parallelism().map_or(2, |threads| threads.get().min(8));
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                loop {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    if seed >= seeds.end {
                        return;
                    }
                    let mut outcome = run(seed, Cast::of(seed));
                    if outcome.violations.is_empty() {
                        outcome.log = Vec::new();
                    }
                    all.lock().unwrap().push(outcome);
                }
            });
        }
    });
    let mut all = all.into_inner().unwrap();
    all.sort_by_key(|outcome| outcome.seed);
    all
}

/// The same seed with as few actors and faults as still break a promise.
pub(crate) fn smallest(outcome: &Outcome) -> Outcome {
    let mut smallest = outcome.clone();
    let smaller: [fn(&mut Cast); 19] = [
        |cast| cast.retentions = cast.retentions.min(1),
        |cast| cast.retentions = 0,
        |cast| cast.pinners = 0,
        |cast| cast.late_backups = 0,
        |cast| cast.pipelines = false,
        |cast| cast.inits = 1,
        |cast| cast.getters = 0,
        |cast| cast.backups = cast.backups.min(1),
        |cast| cast.backups = 0,
        |cast| cast.catalog = false,
        |cast| cast.twin = false,
        |cast| cast.clone = false,
        |cast| cast.promoted = false,
        |cast| cast.primary = false,
        |cast| cast.clocks_jump = 0,
        |cast| (cast.faults.wrong_bytes, cast.faults.torn_read) = (0, 0),
        |cast| (cast.faults.crash_before, cast.faults.crash_after) = (0, 0),
        |cast| (cast.faults.stale_list, cast.faults.stale_read) = (0, 0),
        |cast| (cast.faults.slow, cast.faults.lost_answer) = (0, 0),
    ];
    for change in smaller {
        let mut cast = smallest.cast.clone();
        change(&mut cast);
        if cast == smallest.cast || !(cast.primary || cast.promoted || cast.twin || cast.clone) {
            continue;
        }
        let tried = run(outcome.seed, cast);
        if !tried.violations.is_empty() {
            smallest = tried;
        }
    }
    smallest
}
