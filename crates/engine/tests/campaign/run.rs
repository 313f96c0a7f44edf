//! Runs worlds.

use std::fmt::Write as _;
use std::ops::Range;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use walden_testkit::simulation::{ConditionalPuts, Faults};

use crate::actors::{Archiving, back_up, fetch_some, read_catalog};
use crate::oracle::inquire;
use crate::world::{Broken, Cast, World};

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
    // The ids of probes and leases are drawn from the system.
    let without_ids = |line: &String| {
        let words = line.split(' ').map(|word| if word.contains("/probe/") { "probe" } else { word });
        words.collect::<Vec<_>>().join(" ")
    };
    (outcome.log.iter().map(without_ids).collect(), &outcome.violations)
}

/// Runs one world.
pub(crate) fn run(seed: u64, cast: Cast) -> Outcome {
    walden_store::seed_this_thread(seed);
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_all().start_paused(true).build().unwrap();
    runtime.block_on(async {
        let world = World::new(seed, cast);
        world.stage.run(act(&world)).await;
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

async fn act(world: &Arc<World>) {
    world.initialize().await;
    match world.cast.broken {
        Some(Broken::Store(defect)) => world.stage.has(defect),
        Some(Broken::Overwrites) => world.stage.set_conditional(ConditionalPuts::Ignored),
        Some(Broken::FalseAck) | None => {}
    }
    let servers = world.servers();
    let archiving: Vec<Archiving> =
        servers.iter().map(|(name, server)| Archiving::new(world, name, server)).collect();
    let mut all: Vec<std::pin::Pin<Box<dyn Future<Output = ()>>>> = Vec::new();
    for archiving in &archiving {
        let world = Arc::clone(world);
        all.push(Box::pin(async move {
            let act = || {
                let (world, archiving) = (Arc::clone(&world), archiving.clone());
                async move { archiving.push_all(&world).await }
            };
            world.live(archiving.actor, archiving.name, act).await;
        }));
    }
    macro_rules! others {
        ($count:expr, $what:literal, $act:path) => {
            for number in 0..$count {
                let (world, actor) = (Arc::clone(world), world.actor());
                let host = world.host(&format!("{}{number}", $what), None);
                all.push(Box::pin(async move {
                    let act = || {
                        let (world, host) = (Arc::clone(&world), host.clone());
                        async move { $act(&world, &host, actor).await }
                    };
                    world.live(actor, $what, act).await;
                }));
            }
        };
    }
    others!(world.cast.getters, "getter", fetch_some);
    others!(world.cast.backups, "backup", back_up);
    others!(usize::from(world.cast.catalog), "catalog", read_catalog);
    futures::future::join_all(all).await;

    world.stage.set_faults(Faults::NONE);
    world.stage.deliver_late();
    for archiving in &archiving {
        world.stage.note(archiving.actor, "nothing fails any more");
        archiving.finish(world).await;
    }
    inquire(world).await;
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
    let smaller: [fn(&mut Cast); 15] = [
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
