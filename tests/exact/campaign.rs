//! A history, the damages to its archive, and the targets on them.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Instant;

use walden_pg::{PgMajor, TimelineId};
use walden_testkit::history::{Archive, Dice, Live, LiveHistory, PathWal, Script, SteppedClock, WalFiles};
use walden_testkit::postgres::{PostgresInstall, ServerAccount};

use crate::damage::{ArchiveCopy, Damage};
use crate::judge::Judge;
use crate::tally::{Tally, Verdict, say};
use crate::targets::{Ground, Target};
use crate::walden::{Walden, text};

/// Where histories are made: memory where there is such a place, since nothing here must survive.
const MEMORY: &str = "/dev/shm";

/// How much is done with one history.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Effort {
    /// Targets on the archive as it was made.
    pub(crate) intact: u64,
    /// Damaged copies of it.
    pub(crate) damaged: u64,
    /// Targets on each of them.
    pub(crate) on_damaged: u64,
}

/// How an archive is to be damaged.
pub(crate) type Choice = fn(&mut Dice, &Ground<'_>) -> Damage;

/// Makes the history of a script and tries targets on it. `None` when the major is not installed.
pub(crate) fn history(major: PgMajor, script: &Script, effort: Effort, damage: Choice) -> Option<Tally> {
    if let Err(error) = PostgresInstall::find(major) {
        say(&format!("SKIPPED PostgreSQL {major}: {error:?}"));
        return None;
    }
    let account = ServerAccount::current().unwrap();
    let parent = if Path::new(MEMORY).is_dir() { PathBuf::from(MEMORY) } else { std::env::temp_dir() };
    let place = tempfile::Builder::new().prefix("walden-exact-").tempdir_in(parent).unwrap();
    account.own(place.path()).unwrap();
    let mut tally = Tally::default();
    tally.histories = 1;
    let dir = place.path().join("history");
    fs::create_dir(&dir).unwrap();
    account.own(&dir).unwrap();
    // The same file as the servers': their clock is the backups' clock.
    let clock = SteppedClock::new(&dir).unwrap();
    let clock = clock.map(|clock| clock.environment()).unwrap_or_default();
    let walden = Walden::new(&place.path().join("repository"), &place.path().join("home"), clock);
    let started = Instant::now();
    let seed = script.seed;
    let made = match Live::carry_out(script, major, &walden, &dir) {
        Ok(made) => made,
        Err(error) => panic!("PostgreSQL {major} seed {seed}: no history could be made: {error:?}"),
    };
    if !made.clock_steps {
        say("without clock steps: libfaketime is not installed");
    }
    tally.making = started.elapsed();
    Trials { seed, place: place.path(), walden: &walden, made: &made }.all(effort, damage, &mut tally);
    tally.trying = started.elapsed().saturating_sub(tally.making);
    if !tally.mismatches.is_empty() {
        keep(place.path(), major, seed, &made, &mut tally);
    }
    Some(tally)
}

struct Trials<'a> {
    seed: u64,
    place: &'a Path,
    walden: &'a Walden,
    made: &'a LiveHistory,
}

impl Trials<'_> {
    fn all(&self, effort: Effort, damage: Choice, tally: &mut Tally) {
        let mut dice = Dice::new(self.seed ^ 0x7A26);
        let wal = self.place.join("wal");
        fs::create_dir(&wal).unwrap();
        self.walden.unpack_wal(&wal).unwrap();
        let intact = WalFiles::list(&wal, self.made.segment_size).unwrap();
        let paths = paths(&intact);
        let ground = Ground { files: &intact, backups: &self.made.backups, paths: &paths };
        for number in 0..=effort.damaged {
            let (damage, targets) = match number {
                0 => (Damage::None, effort.intact),
                _ => (damage(&mut dice, &ground), effort.on_damaged),
            };
            let dir = self.place.join(format!("archive-{number}"));
            let archive =
                ArchiveCopy::new(self.walden, &intact, &dir, damage, &self.made.backups[0].template);
            let scratch = self.place.join(format!("scratch-{number}"));
            fs::create_dir(&scratch).unwrap();
            ServerAccount::current().unwrap().own(&scratch).unwrap();
            let ahead = clock_ahead(self.place);
            let judge = Judge::new(self.made, &archive, &intact, &scratch, &ahead);
            for _ in 0..targets {
                let target = ground.draw(&mut dice);
                self.one(&judge, &target, tally);
            }
            tally.recoveries += judge.recoveries.take();
        }
    }

    fn one(&self, judge: &Judge<'_>, target: &Target, tally: &mut Tally) {
        let verdict = match judge.verdict(target) {
            Verdict::Mismatch(how) => Verdict::Mismatch(format!(
                "PostgreSQL {} seed {}, archive {:?} in {}\n{how}",
                self.made.major,
                self.seed,
                judge.archive.damage,
                text(judge.archive.wal.parent().unwrap())
            )),
            other => other,
        };
        tally.note(target.kind(), verdict);
    }
}

/// The records on the path to each timeline, from the beginning.
fn paths(files: &WalFiles) -> Vec<(TimelineId, PathWal)> {
    let first = files.segments().first().unwrap();
    let start = files.segment_size().start_of(first.number);
    let timelines = std::iter::once(TimelineId::FIRST).chain(files.histories().keys().copied());
    timelines
        .map(|timeline| (timeline, files.read_path(&files.history(timeline).unwrap(), start).unwrap()))
        .collect()
}

/// A clock that is a day ahead: the steps of a history's clock may have put commits into the future, and plans
/// refuse targets there.
fn clock_ahead(place: &Path) -> Vec<(String, String)> {
    let dir = place.join("clock-ahead");
    if !dir.is_dir() {
        fs::create_dir(&dir).unwrap();
    }
    let Some(mut clock) = SteppedClock::new(&dir).unwrap() else { return Vec::new() };
    clock.step(86_400_000).unwrap();
    clock.environment()
}

/// Moves everything to where it survives the test, and says where.
fn keep(place: &Path, major: PgMajor, seed: u64, made: &LiveHistory, tally: &mut Tally) {
    let kept = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("exact-{major}-{seed}"));
    let _ = fs::remove_dir_all(&kept);
    fs::create_dir_all(&kept).unwrap();
    let mut story = format!("PostgreSQL {major} seed {seed}\n\n{}\n", made.log.join("\n"));
    for mismatch in &mut tally.mismatches {
        *mismatch = mismatch.replace(&text(place), &text(&kept));
        story.extend(["\n", mismatch, "\n"]);
    }
    for entry in fs::read_dir(place).unwrap() {
        let path = entry.unwrap().path();
        let named = tally.mismatches.iter().any(|mismatch| {
            let told = format!("{}\n", text(&kept.join(path.file_name().unwrap())));
            mismatch.contains(&told)
        });
        if named {
            copy(&path, &kept);
        }
    }
    copy(&place.join("history/templates"), &kept);
    fs::write(kept.join("story"), &story).unwrap();
    say(&format!("kept in {}: the archives, the backups, and the story", kept.display()));
}

fn copy(from: &Path, into: &Path) {
    let copied = Command::new("cp").arg("-a").arg(from).arg(into).status().unwrap();
    assert!(copied.success(), "{}", from.display());
}
