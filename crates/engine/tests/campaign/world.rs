//! One run: who acts, what goes wrong, and what every actor does.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tempfile::TempDir;
use walden_engine::{Context, DataDirectory, InitRequest, NoProgress, init};
use walden_store::{Store, StoreUrl, TryLimits};
use walden_testkit::fault::SplitMix64;
use walden_testkit::simulation::{
    ActorId, ActorStore, ConditionalPuts, Defect, Faults, SimulatedClock, Stage,
};

use crate::model::Model;
use crate::postgres::make_data_directory;
use crate::wal::{Pool, Server, temporary_directory, wal};

/// Lives of an actor that can end in a crash; the next one can't.
const LIVES_MAX: u32 = 3;
/// No request takes longer, with all its repetitions.
const STORE_DEADLINE: Duration = Duration::from_secs(30);
const LIMITS: TryLimits = TryLimits { request: Duration::from_secs(10), throughput_min: 1 << 20 };

/// Draws from a seed.
#[derive(Debug, Clone)]
pub(crate) struct Dice(SplitMix64);

impl Dice {
    pub(crate) fn new(seed: u64, stream: u64) -> Self {
        Self(SplitMix64(
            seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) ^ stream.wrapping_mul(0xD6E8_FEB8_6659_FD93),
        ))
    }

    /// A number below `most`.
    pub(crate) fn below(&mut self, most: usize) -> usize {
        usize::try_from(self.0.draw() % most.max(1) as u64).unwrap()
    }

    pub(crate) fn percent(&mut self, percent: usize) -> bool {
        self.below(100) < percent
    }

    pub(crate) fn of<'a, T>(&mut self, all: &'a [T]) -> &'a T {
        &all[self.below(all.len())]
    }

    pub(crate) fn millis(&mut self, most: u64) -> Duration {
        Duration::from_millis(self.0.draw() % most.max(1))
    }
}

/// Who acts in a run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Cast {
    pub(crate) faults: Faults,
    pub(crate) conditional: ConditionalPuts,
    pub(crate) inits: usize,
    pub(crate) primary: bool,
    pub(crate) promoted: bool,
    pub(crate) twin: bool,
    pub(crate) clone: bool,
    /// Whether servers archive several files at once, as a resident agent does.
    pub(crate) pipelines: bool,
    pub(crate) getters: usize,
    pub(crate) backups: usize,
    pub(crate) catalog: bool,
    /// How many carry out retention at once, when the servers have archived.
    pub(crate) retentions: usize,
    pub(crate) pinners: usize,
    /// Backups that begin while retention runs.
    pub(crate) late_backups: usize,
    /// How far the clocks of hosts jump, in milliseconds.
    pub(crate) clocks_jump: i64,
    /// What is broken on purpose, so that it must be noticed.
    pub(crate) broken: Option<Broken>,
}

/// What breaks promises.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Broken {
    /// The store.
    Store(Defect),
    /// The store overwrites although it was found to refuse that.
    Overwrites,
    /// A server that takes a failed push for an acknowledgement.
    FalseAck,
    /// Retention that removes the last first.
    ReversedRetention,
    /// Retention that plans by a shorter window than was promised.
    ShorterWindow,
}

impl Cast {
    pub(crate) fn of(seed: u64) -> Self {
        let mut dice = Dice::new(seed, 1);
        let conditional = match dice.below(10) {
            0 => ConditionalPuts::Ignored,
            1 => ConditionalPuts::Unsupported,
            _ => ConditionalPuts::Enforced,
        };
        let enforced = conditional == ConditionalPuts::Enforced;
        let servers = dice.below(3);
        let mut faults = match dice.below(4) {
            0 => Faults::NONE,
            1 => Faults {
                error_before: 30,
                error_after: 30,
                lost_answer: 10,
                slow: 10,
                torn_read: 20,
                ..Faults::NONE
            },
            2 => Faults {
                error_before: 100,
                error_after: 100,
                lost_answer: 30,
                slow: 30,
                torn_read: 80,
                ..Faults::NONE
            },
            _ => Faults { error_before: 10, slow: 100, lost_answer: 60, ..Faults::NONE },
        };
        faults.half_removed = faults.error_before * 3;
        if dice.percent(60) {
            (faults.crash_before, faults.crash_after) = (8, 12);
        }
        if dice.percent(30) {
            faults.wrong_bytes = 20;
        }
        if dice.percent(30) {
            (faults.stale_list, faults.stale_read) = (150, 100);
        }
        Self {
            faults,
            conditional,
            // Of two that write at once one may lose its object, where the store overwrites.
            inits: if enforced { 1 + dice.below(2) } else { 1 },
            primary: servers != 1,
            promoted: servers != 0,
            twin: dice.percent(40),
            clone: enforced && dice.percent(40),
            pipelines: dice.percent(50),
            getters: dice.below(3),
            backups: dice.below(4),
            catalog: dice.percent(40),
            retentions: if dice.percent(60) { 1 + dice.below(2) } else { 0 },
            pinners: dice.below(4),
            late_backups: dice.below(2),
            broken: None,
            clocks_jump: if dice.percent(30) { 3_600_000 } else { 0 },
        }
    }
}

/// A host with a data directory.
#[derive(Debug, Clone)]
pub(crate) struct Host {
    pub(crate) name: String,
    pub(crate) data: PathBuf,
    pub(crate) state: PathBuf,
    pub(crate) clock: SimulatedClock,
}

/// Where a run happens.
pub(crate) struct World {
    pub(crate) seed: u64,
    pub(crate) cast: Cast,
    pub(crate) stage: Stage,
    pub(crate) model: Model,
    directory: TempDir,
    pool: Arc<Pool>,
    actors: AtomicUsize,
    /// Actors that may remove objects.
    pub(crate) removers: Mutex<BTreeSet<ActorId>>,
}

impl World {
    pub(crate) fn new(seed: u64, cast: Cast) -> Arc<Self> {
        let stage = Stage::new(seed, cast.faults, cast.conditional);
        Arc::new(Self {
            seed,
            cast,
            stage,
            model: Model::default(),
            directory: temporary_directory(),
            pool: Pool::obtain(),
            actors: AtomicUsize::new(0),
            removers: Mutex::default(),
        })
    }

    /// Whether an object of an archived file was removed by who may.
    pub(crate) fn was_removed(&self, name: &str) -> bool {
        let end = format!("/{name}.zst");
        let removers = self.removers.lock().unwrap().clone();
        self.stage.removals().iter().any(|(key, by)| key.ends_with(&end) && removers.contains(by))
    }

    pub(crate) fn actor(&self) -> ActorId {
        ActorId(u32::try_from(self.actors.fetch_add(1, Ordering::Relaxed)).unwrap())
    }

    pub(crate) fn dice(&self, actor: ActorId) -> Dice {
        Dice::new(self.seed, 100 + u64::from(actor.0))
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// Makes a host with the files of a server in its `pg_wal`.
    pub(crate) fn host(&self, name: &str, server: Option<&Server>) -> Host {
        let data = self.path(name).join("data");
        make_data_directory(&data, None);
        if let Some(server) = server {
            self.pool.link(server, &data.join("pg_wal"));
        }
        let state = self.path(name).join("state");
        std::fs::create_dir(&state).unwrap();
        Host { name: name.to_owned(), data, state, clock: self.stage.clock() }
    }

    /// What an actor on a host works with.
    pub(crate) fn context(&self, host: &Host, actor: ActorId) -> Context {
        let url: StoreUrl = "s3://bucket/prefix".parse().unwrap();
        let store = Store::over(url, Arc::new(ActorStore::new(&self.stage, actor)), LIMITS);
        Context {
            store,
            server: "main".parse().unwrap(),
            clock: Arc::new(HostClock(host.clock.clone())),
            progress: Arc::new(NoProgress),
            state_directory: Some(host.state.clone()),
            store_deadline: STORE_DEADLINE,
            host: host.name.clone(),
        }
    }

    /// Lets an actor act until it is done, and begin anew after each crash.
    pub(crate) async fn live<F>(self: &Arc<Self>, actor: ActorId, what: &str, act: impl Fn() -> F)
    where
        F: Future<Output = ()> + 'static,
    {
        for life in 0..=LIVES_MAX {
            let task = tokio::task::spawn_local(act());
            if life < LIVES_MAX {
                self.stage.runs(actor, task.abort_handle());
            }
            let ended = task.await;
            self.stage.ended(actor);
            match ended {
                Ok(()) => return,
                Err(error) if error.is_cancelled() => {
                    self.stage.note(actor, &format!("{what} begins anew"));
                    tokio::time::sleep(Duration::from_secs(1)).await;
                }
                Err(error) => return self.model.broken(format!("{what} panicked: {error}")),
            }
        }
    }

    /// Makes the repository, by as many as want to at once.
    pub(crate) async fn initialize(self: &Arc<Self>) {
        let mut all = Vec::new();
        for number in 0..self.cast.inits {
            let (world, actor) = (Arc::clone(self), self.actor());
            let host = self.host(&format!("init{number}"), None);
            all.push(async move {
                let act = || {
                    let (world, host) = (Arc::clone(&world), host.clone());
                    async move { world.init_until_done(&host, actor).await }
                };
                world.live(actor, "init", act).await;
            });
        }
        futures::future::join_all(all).await;
    }

    async fn init_until_done(&self, host: &Host, actor: ActorId) {
        let ctx = self.context(host, actor);
        for tries in 0..30 {
            let data = DataDirectory::open(&host.data).unwrap();
            match init(&ctx, &InitRequest { data }).await {
                Ok(_) => return self.stage.note(actor, "init is done"),
                Err(error) => self.stage.note(actor, &format!("init: {error}")),
            }
            if tries == 20 {
                self.stage.set_faults(Faults::NONE);
            }
            tokio::time::sleep(Duration::from_secs(1)).await;
        }
        self.model.broken("init never succeeds".to_owned());
    }

    /// The servers that archive in this run.
    pub(crate) fn servers(&self) -> Vec<(&'static str, &'static Server)> {
        let mut servers = Vec::new();
        if self.cast.primary {
            servers.push(("primary", &wal().primary));
        }
        if self.cast.promoted {
            servers.push(("promoted", &wal().promoted));
        }
        if self.cast.twin {
            servers.push(("twin", &wal().primary));
        }
        if self.cast.clone {
            servers.push(("clone", &wal().clone));
        }
        servers
    }
}

/// The clock of a host as the engine takes it.
struct HostClock(SimulatedClock);

impl walden_engine::Clock for HostClock {
    fn now(&self) -> jiff::Timestamp {
        self.0.now()
    }
}
