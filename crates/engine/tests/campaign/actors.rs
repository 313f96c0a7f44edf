//! What each actor does.

use std::num::NonZeroU32;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use walden_core::ErrorKind;
use walden_engine::backup::{BackupRequest, BackupRunner};
use walden_engine::{
    Archiver, DataDirectory, EngineError, FetchOutcome, Fetcher, Pipeline, PipelineLimits, PushReport,
    RebuildRequest, find_incarnation, index_rebuild, load_overview, load_snapshot, window,
};
use walden_pg::SegmentName;
use walden_store::CompressionLevel;
use walden_testkit::simulation::ActorId;

use crate::postgres::{FakePostgres, make_data_directory};
use crate::wal::{SIZE, Server, WalFile};
use crate::world::{Broken, Dice, Host, World};

/// A file that fails this often is left to the end, when nothing fails any more.
const PUSHES_MAX: u32 = 6;

/// What is left of an archiver's work when it crashes: the files that are marked as done.
#[derive(Debug, Clone)]
pub(crate) struct Archiving {
    pub(crate) name: &'static str,
    pub(crate) actor: ActorId,
    pub(crate) host: Host,
    pub(crate) server: &'static Server,
    done: Arc<AtomicUsize>,
}

/// How a file's pushes ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Pushed {
    Acked,
    Conflict,
    NotYet,
}

impl Archiving {
    pub(crate) fn new(world: &World, name: &'static str, server: &'static Server) -> Self {
        let host = world.host(name, Some(server));
        Self { name, actor: world.actor(), host, server, done: Arc::default() }
    }

    /// Pushes what is left, one file after the other, as PostgreSQL does: nothing before what failed.
    pub(crate) async fn push_all(&self, world: &World) {
        let mut dice = world.dice(self.actor);
        if world.cast.pipelines {
            return self.push_ahead(world, &mut dice).await;
        }
        while let Some(file) = self.server.files.get(self.done.load(Ordering::Relaxed)) {
            match self.push(world, file, &mut dice).await {
                Pushed::Acked => drop(self.done.fetch_add(1, Ordering::Relaxed)),
                Pushed::Conflict | Pushed::NotYet => return,
            }
            if dice.percent(20) {
                tokio::time::sleep(dice.millis(5000)).await;
            }
            if world.cast.clocks_jump != 0 && dice.percent(10) {
                let most = usize::try_from(world.cast.clocks_jump).unwrap();
                self.host
                    .clock
                    .set_off_by(i64::try_from(dice.below(2 * most)).unwrap() - world.cast.clocks_jump);
            }
        }
    }

    /// Pushes several files at once, as a resident agent does.
    async fn push_ahead(&self, world: &World, dice: &mut Dice) {
        let limits = PipelineLimits {
            memory_bytes: 16 << 20,
            sealers: NonZeroU32::MIN,
            in_flight: NonZeroU32::new(3).unwrap(),
        };
        let pipeline = Pipeline::new(Archiver::new(world.context(&self.host, self.actor)), limits);
        let data = DataDirectory::open(&self.host.data).unwrap();
        for _ in 0..3 * PUSHES_MAX {
            let done = self.done.load(Ordering::Relaxed);
            let ahead: Vec<&WalFile> = self.server.files.iter().skip(done).take(1 + dice.below(4)).collect();
            let pushes = ahead.iter().map(|file| {
                let (pipeline, data) = (&pipeline, &data);
                async move {
                    world.model.offer(&file.name, &file.bytes);
                    let path = self.host.data.join("pg_wal").join(&file.name);
                    let pushed = pipeline.push(&path, data, CompressionLevel::DEFAULT).await;
                    self.judge(world, file, pushed.map(|pushed| pushed.report))
                }
            });
            let ended = futures::future::join_all(pushes).await;
            let acked = ended.iter().take_while(|ended| **ended == Pushed::Acked).count();
            self.done.store(done + acked, Ordering::Relaxed);
            if ended.get(acked) == Some(&Pushed::Conflict) || ahead.is_empty() {
                break;
            }
            tokio::time::sleep(dice.millis(2000)).await;
        }
        pipeline.settle().await;
    }

    fn judge(
        &self,
        world: &World,
        file: &'static WalFile,
        pushed: Result<PushReport, EngineError>,
    ) -> Pushed {
        match pushed {
            Ok(report) => {
                world.stage.note(self.actor, &format!("acked {} {:?}", file.name, report.outcome));
                world.model.ack(&file.name, &file.bytes, world.was_removed(&file.name));
                Pushed::Acked
            }
            Err(error) if error.kind() == ErrorKind::Conflict => {
                world.stage.note(self.actor, &format!("{error}"));
                world.model.conflict(&file.name, &file.bytes, world.was_removed(&file.name));
                Pushed::Conflict
            }
            Err(error) => {
                world.stage.note(self.actor, &format!("push {}: {error}", file.name));
                if world.cast.broken == Some(Broken::FalseAck) && error.kind() == ErrorKind::Unavailable {
                    world.model.ack(&file.name, &file.bytes, world.was_removed(&file.name));
                    return Pushed::Acked;
                }
                Pushed::NotYet
            }
        }
    }

    async fn push(&self, world: &World, file: &'static WalFile, dice: &mut Dice) -> Pushed {
        let archiver = Archiver::new(world.context(&self.host, self.actor));
        world.model.offer(&file.name, &file.bytes);
        let path = Path::new("pg_wal").join(&file.name);
        for _ in 0..PUSHES_MAX {
            match self.judge(world, file, archiver.push(&path, &self.host.data).await) {
                Pushed::NotYet => {}
                ended => return ended,
            }
            tokio::time::sleep(Duration::from_secs(1) + dice.millis(1000)).await;
        }
        Pushed::NotYet
    }

    /// With nothing going wrong any more every file must get in, or meet another one of its name.
    pub(crate) async fn finish(&self, world: &World) {
        let mut dice = world.dice(self.actor);
        while let Some(file) = self.server.files.get(self.done.load(Ordering::Relaxed)) {
            match self.push(world, file, &mut dice).await {
                Pushed::Acked => drop(self.done.fetch_add(1, Ordering::Relaxed)),
                Pushed::Conflict => return,
                Pushed::NotYet => {
                    return world.model.broken(format!(
                        "{} can't archive although nothing fails name={}",
                        self.name, file.name
                    ));
                }
            }
        }
    }
}

/// Fetches files, and compares with what was promised before it asked.
pub(crate) async fn fetch_some(world: &World, host: &Host, actor: ActorId) {
    let mut dice = world.dice(actor);
    let names: Vec<&'static str> = (world.servers().iter())
        .flat_map(|(_, server)| server.files.iter().map(|file| file.name.as_str()))
        .chain(["0000000100000000000000EE", "00000007.history"])
        .collect();
    for _ in 0..8 {
        let name = *dice.of(&names);
        fetch_one(world, host, actor, name).await;
        tokio::time::sleep(dice.millis(3000)).await;
    }
}

/// Fetches one file; returns whether it is there, and nothing when that is not known.
pub(crate) async fn fetch_one(world: &World, host: &Host, actor: ActorId, name: &str) -> Option<bool> {
    let before = world.model.acked(name);
    let destination = Path::new("pg_wal/RECOVERYXLOG");
    let whole = host.data.join(destination);
    let _ = std::fs::remove_file(&whole);
    let fetched = Fetcher::new(world.context(host, actor)).fetch(name, destination, &host.data).await;
    // Another push may have acknowledged it meanwhile, and retention may have removed it.
    let acked = before.or_else(|| world.model.acked(name));
    match fetched {
        Err(error) => {
            world.stage.note(actor, &format!("get {name}: {error}"));
            if whole.try_exists().unwrap() {
                world.model.broken(format!("a failed get left a file name={name}"));
            }
            None
        }
        Ok(report) if report.outcome == FetchOutcome::Absent => {
            world.stage.note(actor, &format!("get {name}: absent"));
            if before.is_some() && !world.was_removed(name) {
                world.model.broken(format!("an acknowledged file was called absent name={name}"));
            }
            Some(false)
        }
        Ok(_) => {
            world.stage.note(actor, &format!("got {name}"));
            let bytes = std::fs::read(&whole).unwrap();
            if acked.is_some_and(|acked| acked != bytes) {
                world.model.broken(format!("other bytes than acknowledged came back name={name}"));
            }
            if !world.model.was_offered(name, &bytes) {
                world.model.broken(format!("bytes that nobody pushed came back name={name}"));
            }
            Some(true)
        }
    }
}

/// Takes a backup, once, of what a server is writing.
pub(crate) async fn back_up(world: &World, host: &Host, actor: ActorId) {
    back_up_slot(world, host, actor, false).await;
}

/// Takes a backup when the servers have written everything.
pub(crate) async fn back_up_late(world: &World, host: &Host, actor: ActorId) {
    back_up_slot(world, host, actor, true).await;
}

async fn back_up_slot(world: &World, host: &Host, actor: ActorId, late: bool) {
    let mut dice = world.dice(actor);
    let servers = world.servers();
    // A clone's own WAL may never get in.
    let newest = servers.iter().find(|(name, _)| *name == "promoted").or(servers.first());
    // Of a timeline that was left nobody takes a backup hours later: see what is not covered in docs/reliability.md.
    let (_, server) = newest.filter(|_| late).unwrap_or_else(|| dice.of(&servers));
    let slot = if late { server.slots.last().unwrap() } else { dice.of(&server.slots) }.clone();
    let stop = *dice.of(&slot.stops);
    make_data_directory(&host.data, Some(&slot));
    tokio::time::sleep(dice.millis(20_000)).await;
    let ctx = world.context(host, actor);
    let request = BackupRequest {
        jobs: 1,
        level: CompressionLevel::DEFAULT,
        wal_timeout: Duration::from_mins(1),
        ..BackupRequest::default()
    };
    let postgres = FakePostgres::new(&host.data, slot, stop);
    let runner = BackupRunner::new(&ctx, request).unwrap();
    match runner.run(postgres, std::future::pending()).await {
        Ok(report) => {
            world.stage.note(actor, &format!("backup {} is committed", report.backup.id));
            world.model.committed(report.backup);
        }
        Err(error) => world.stage.note(actor, &format!("backup: {error}")),
    }
}

/// Reads the catalog, and makes rollups.
pub(crate) async fn read_catalog(world: &World, host: &Host, actor: ActorId) {
    let mut dice = world.dice(actor);
    let ctx = world.context(host, actor);
    for _ in 0..4 {
        tokio::time::sleep(dice.millis(5000)).await;
        let data = DataDirectory::open(&host.data).unwrap();
        let record = match find_incarnation(&ctx, Some(&data)).await {
            Ok(record) => record,
            Err(error) => {
                world.stage.note(actor, &format!("catalog: {error}"));
                continue;
            }
        };
        let acked = world.model.all_acked();
        let read = match dice.below(4) {
            0 => load_snapshot(&ctx, &record).await.map(|snapshot| {
                // Where bits flip, one may flip in both of the two reads after which an object counts as damaged.
                let strays = snapshot.strays.iter().filter(|_| world.cast.faults.wrong_bytes == 0);
                for stray in strays {
                    world.model.broken(format!("the catalog finds a stray {stray:?}"));
                }
                for name in acked.keys().filter(|_| world.cast.faults.stale_list == 0) {
                    let segment = name.parse::<SegmentName>().ok().and_then(|name| name.id(SIZE).ok());
                    if segment.is_some_and(|segment| !snapshot.has_segment(segment))
                        && !world.was_removed(name)
                    {
                        world.model.broken(format!("the catalog lacks an acknowledged segment name={name}"));
                    }
                }
            }),
            1 => load_overview(&ctx, &record).await.map(drop),
            2 => window(&ctx, &record).await.map(drop),
            _ => {
                let request = RebuildRequest { timeline: None, all: dice.percent(50) };
                index_rebuild(&ctx, &record, request).await.map(drop)
            }
        };
        if let Err(error) = read {
            world.stage.note(actor, &format!("catalog: {error}"));
        }
    }
}
