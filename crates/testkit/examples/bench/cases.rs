//! The rounds: every tool in turn, each in a fresh bucket, all in the same directories.

use std::fs;
use std::path::{Path, PathBuf};

use walden_testkit::bench::hooks::{Hook, keeps_up};
use walden_testkit::bench::meter::process_cpu_seconds;
use walden_testkit::bench::statistics::{figure, median};
use walden_testkit::bench::store::stored;
use walden_testkit::bench::worker::{Case, Outcome, Work};
use walden_testkit::bench::workload::Workload;

use crate::options::Options;
use crate::programs::{Helper, worker};
use crate::records::{Failed, Held, Record, Results};
use crate::tools::{Commands, Place, Tool, assemble};
use crate::{Result, publish, tables};

/// A case that takes longer is ended and has failed.
const CASE_MAX_SECONDS: u64 = 600;
/// Requests for absent segments, and starts, of one case.
const CALLS: usize = 20;
/// Searches begin with this part of the rate at which a tool works off a backlog, ...
const SEARCH_FROM: f64 = 0.8;
/// ... try so many times a rate that was held while none was too much, ...
const SEARCH_UP: f64 = 1.2;
/// ... and this part of one that was too much while none was held.
const SEARCH_DOWN: f64 = 0.7;
const SEGMENT_MIB: f64 = 16.0;
/// With less room there, the disk is used.
const MEMORY_MIN: u64 = 6 << 30;
/// What the names of such directories begin with; the number of the process follows.
const ROOM: &str = "walden-bench-";

/// Where and on what it runs.
struct Run<'a> {
    options: &'a Options,
    workload: Workload,
    root: PathBuf,
    store: Helper,
    /// Numbers the buckets.
    buckets: usize,
    results: Results,
}

/// A fresh bucket with a tool set up in it.
#[derive(Default)]
struct Bucket {
    name: String,
    commands: Commands,
    fetching: Commands,
    /// With nothing left of an earlier recovery: an agent that has just been stopped is not started again at once.
    replaying: Commands,
}

/// Measures what the options ask for and writes the report.
pub(crate) fn run(options: &Options) -> Result<()> {
    let (tools, missing) = assemble(options)?;
    let workload = Workload::prepared(options.segments, &|line| println!("{line}"))?;
    let directory = room()?;
    println!("working in {}", directory.path().display());
    let root = directory.path().to_owned();
    workload.data_directory(&root.join("data"), true)?;
    workload.data_directory(&root.join("standby"), false)?;
    fs::write(root.join("standby/standby.signal"), "")?;
    let store = Helper::store()?;
    let begun = publish::now();
    let mut run = Run { options, workload, root, store, buckets: 0, results: Results::default() };
    run.all(&tools)?;
    let about = publish::About::new(options, &run.workload, &tools, &missing, begun)?;
    print!("{}", tables::report(&about, &tools, &run.results, options));
    publish::write(options, &about, &tools, &run.results)
}

/// A directory in memory when there is room, else beside the build.
fn room() -> Result<tempfile::TempDir> {
    let memory = Path::new("/dev/shm");
    let free = nix::sys::statvfs::statvfs(memory).map_or(0, |s| s.blocks_available() * s.fragment_size());
    let parent = if free > MEMORY_MIN { memory.to_owned() } else { std::env::current_dir()?.join("target") };
    fs::create_dir_all(&parent)?;
    clear(&parent)?;
    let prefix = format!("{ROOM}{}-", std::process::id());
    Ok(tempfile::Builder::new().prefix(&prefix).tempdir_in(parent)?)
}

/// Removes what runs that were killed have left.
fn clear(parent: &Path) -> Result<()> {
    for entry in fs::read_dir(parent)?.flatten() {
        let name = entry.file_name();
        let owner = name.to_str().and_then(|name| name.strip_prefix(ROOM)?.split('-').next());
        if let Some(owner) = owner
            && fs::metadata(format!("/proc/{owner}")).is_err()
        {
            // Another user's can't be removed, and need not be.
            let _ = fs::remove_dir_all(entry.path());
        }
    }
    Ok(())
}

impl Run<'_> {
    fn all(&mut self, tools: &[Tool]) -> Result<()> {
        for round in 1..=self.options.rounds {
            // Every tool has every place in the order once.
            let mut order: Vec<&Tool> = tools.iter().collect();
            order.rotate_left((round - 1) % tools.len().max(1));
            for tool in order {
                self.near(tool, round);
                self.far(tool, round);
            }
        }
        if self.options.measures("paced") {
            for tool in tools {
                if let Err(error) = self.paced(tool) {
                    self.fail(tool, "paced", &error);
                }
            }
        }
        if self.results.records.is_empty() && self.results.held.is_empty() {
            return Err("nothing was measured".into());
        }
        Ok(())
    }

    /// Everything on the store as it is.
    fn near(&mut self, tool: &Tool, round: usize) {
        let wants = |what| self.options.measures(what);
        let (push, fetch, replay, absent) = (wants("push"), wants("fetch"), wants("replay"), wants("absent"));
        let acked = wants("acked") && tool.works_ahead;
        if wants("start") {
            let begun = self.start(tool, round);
            self.note(tool, "start", begun);
        }
        if push || fetch || replay || absent {
            let done = self.push_and_fetch(tool, round, (fetch, replay, absent));
            self.note(tool, "push", done);
        }
        if acked {
            let done = self.acked(tool, round);
            self.note(tool, "acked", done);
        }
    }

    /// Pushes through a proxy, without and with delay.
    fn far(&mut self, tool: &Tool, round: usize) {
        if !self.options.measures("latency") {
            return;
        }
        for (what, delay) in [("push_near", 0), ("push_far", self.options.delay_ms)] {
            let done = Helper::proxy(&self.store.endpoint, delay).and_then(|proxy| {
                let bucket = self.bucket(tool, &proxy.endpoint)?;
                self.case(tool, what, round, &bucket, Work::Push, &self.segments(tool))?;
                self.discard(&bucket)
            });
            self.note(tool, what, done);
        }
    }

    fn note(&mut self, tool: &Tool, what: &str, done: Result<()>) {
        if let Err(error) = done {
            self.fail(tool, what, &error);
        }
    }

    fn fail(&mut self, tool: &Tool, what: &str, error: &crate::Error) {
        println!("{:<24} {what:<10} FAILED: {error}", tool.name);
        let (tool, what, why) = (tool.name.clone(), what.to_owned(), error.to_string());
        self.results.failed.push(Failed { tool, what, why });
    }

    fn segments(&self, tool: &Tool) -> Vec<String> {
        let count = if tool.slow { self.options.slow_segments } else { self.options.segments };
        self.workload.segments.iter().take(count).cloned().collect()
    }

    fn start(&mut self, tool: &Tool, round: usize) -> Result<()> {
        let bucket = self.bucket(tool, &self.store.endpoint.clone())?;
        if let Some(version) = bucket.commands.version.clone() {
            let calls: Vec<String> = (0..CALLS).map(|call| call.to_string()).collect();
            let commands = Commands { push: version, stop: None, ..bucket.commands.clone() };
            let bucket = Bucket { commands, name: bucket.name.clone(), ..Bucket::default() };
            self.case(tool, "start", round, &bucket, Work::Start, &calls)?;
        }
        self.discard(&bucket)
    }

    fn push_and_fetch(
        &mut self,
        tool: &Tool,
        round: usize,
        (fetch, replay, absent): (bool, bool, bool),
    ) -> Result<()> {
        let bucket = self.bucket(tool, &self.store.endpoint.clone())?;
        let segments = self.segments(tool);
        self.case(tool, "push", round, &bucket, Work::Push, &segments)?;
        let originals = self.root.join("data/pg_wal");
        if fetch {
            let work = Work::Fetch { originals: originals.clone() };
            self.case(tool, "fetch", round, &bucket, work, &segments)?;
        }
        if replay {
            let work = Work::Replay { originals, each_us: self.options.replay_ms * 1000 };
            self.case(tool, "replay", round, &bucket, work, &segments)?;
        }
        if absent {
            let calls = if tool.slow { CALLS / 4 } else { CALLS };
            let names = self.workload.names_after(calls)?;
            self.case(tool, "absent", round, &bucket, Work::Absent, &names)?;
        }
        self.discard(&bucket)
    }

    fn acked(&mut self, tool: &Tool, round: usize) -> Result<()> {
        let bucket = self.bucket(tool, &self.store.endpoint.clone())?;
        let (endpoint, name) = (self.store.endpoint.clone(), bucket.name.clone());
        let work = Work::Acked { endpoint, bucket: name };
        self.case(tool, "acked", round, &bucket, work, &self.segments(tool))?;
        self.discard(&bucket)
    }

    /// Searches the largest rate, from a little below the rate with a backlog.
    fn paced(&mut self, tool: &Tool) -> Result<()> {
        let known = self.results.median(&tool.name, "push", |record| record.mib_per_second);
        let backlog = known.ok_or("the paced run needs the rate with a backlog: measure push too")?;
        let mut held = Held { tool: tool.name.clone(), mib_per_second: None, too_much: None, lag_ms: None };
        for _ in 0..self.options.steps {
            let rate = match (held.mib_per_second, held.too_much) {
                (None, None) => backlog * SEARCH_FROM,
                (Some(low), None) => low * SEARCH_UP,
                (None, Some(high)) => high * SEARCH_DOWN,
                (Some(low), Some(high)) => f64::midpoint(low, high),
            };
            let bucket = self.bucket(tool, &self.store.endpoint.clone())?;
            let interval = SEGMENT_MIB / rate;
            #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "microseconds")]
            let work = Work::Paced { interval_us: (interval * 1e6) as u64 };
            let segments = self.segments(tool);
            let outcome = self.case(tool, "paced", 1, &bucket, work, &segments)?;
            self.discard(&bucket)?;
            if keeps_up(&outcome.lags_ms, interval * 1e3) {
                held.mib_per_second = Some(rate);
                held.lag_ms = median(&outcome.lags_ms);
            } else {
                held.too_much = Some(rate);
            }
        }
        self.results.held.push(held);
        Ok(())
    }

    /// Makes a bucket and sets the tool up in it.
    fn bucket(&mut self, tool: &Tool, endpoint: &str) -> Result<Bucket> {
        self.buckets += 1;
        let name = format!("bench-{}", self.buckets);
        self.store.tell("make", &name)?;
        let place = Place {
            endpoint: endpoint.to_owned(),
            bucket: name.clone(),
            home: self.root.join(format!("home-{}", self.buckets)),
            data: self.root.join("data"),
        };
        let commands = tool.commands(&place)?;
        let hook = self.hook(&name, &commands);
        for line in &commands.prepare {
            if !hook.shell(line)?.succeeded {
                return Err(format!("`{line}` failed:\n{}", hook.log_end()).into());
            }
        }
        let standby = Place { data: self.root.join("standby"), ..place };
        let again = Place { home: standby.home.join("again"), ..standby.clone() };
        Ok(Bucket { name, commands, fetching: tool.commands(&standby)?, replaying: tool.commands(&again)? })
    }

    fn log(&self, bucket: &str) -> PathBuf {
        self.root.join(format!("{bucket}.log"))
    }

    fn hook(&self, bucket: &str, commands: &Commands) -> Hook {
        Hook {
            command: commands.push.clone(),
            directory: self.root.join("data"),
            environment: commands.environment.clone(),
            log: self.log(bucket),
        }
    }

    fn discard(&mut self, bucket: &Bucket) -> Result<()> {
        self.store.tell("drop", &bucket.name)?;
        fs::remove_dir_all(self.root.join(bucket.name.replace("bench", "home")))?;
        Ok(())
    }

    /// Runs one case and keeps its record.
    fn case(
        &mut self,
        tool: &Tool,
        what: &str,
        round: usize,
        bucket: &Bucket,
        work: Work,
        segments: &[String],
    ) -> Result<Outcome> {
        let fetches = matches!(work, Work::Fetch { .. } | Work::Replay { .. } | Work::Absent);
        let (commands, directory) = match work {
            Work::Replay { .. } => (&bucket.replaying, "standby"),
            _ if fetches => (&bucket.fetching, "standby"),
            _ => (&bucket.commands, "data"),
        };
        let directory = self.root.join(directory);
        empty(&directory.join("pg_wal/archive_status"))?;
        let case = Case {
            work,
            command: if fetches { commands.fetch.clone() } else { commands.push.clone() },
            stop: commands.stop.clone(),
            directory,
            environment: commands.environment.clone(),
            log: self.log(&bucket.name),
            segments: segments.to_vec(),
            deadline_seconds: CASE_MAX_SECONDS,
        };
        self.store.tell("requests", &bucket.name)?;
        let busy = process_cpu_seconds(self.store.pid())?;
        let outcome = worker(&case)?;
        let busy = process_cpu_seconds(self.store.pid())? - busy;
        let methods = serde_json::from_str(&self.store.tell("requests", &bucket.name)?)?;
        let objects = stored(&self.store.endpoint, &bucket.name)?;
        let stored = objects.iter().map(|(_, bytes)| bytes).sum();
        let record = Record::new(&tool.name, what, round, segments.len(), &outcome);
        let record = record.with_store(methods, busy, stored);
        println!("{}", line(&record));
        self.results.records.push(record);
        Ok(outcome)
    }
}

/// What is shown while it runs.
fn line(record: &Record) -> String {
    let rate = record.mib_per_second.map_or_else(String::new, |rate| format!("{} MiB/s", figure(rate)));
    format!(
        "{:<24} {:<10} {rate:>12}  cpu {:>6} ms  p50 {:>6} ms  p99 {:>6} ms  rss {:>5} MiB  requests {}",
        record.tool,
        record.what,
        figure(record.cpu_ms),
        figure(record.p50_ms),
        figure(record.p99_ms),
        figure(record.largest_rss_mib),
        figure(record.requests),
    )
}

fn empty(directory: &Path) -> Result<()> {
    for entry in fs::read_dir(directory)? {
        fs::remove_file(entry?.path())?;
    }
    Ok(())
}
