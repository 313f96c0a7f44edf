//! What a verb runs with: the printer, the configuration, and from them the engine's context and a runtime.

use std::fmt::Write;
use std::num::NonZeroU64;
use std::os::unix::fs::DirBuilderExt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use jiff::{SignedDuration, Timestamp};
use serde::Serialize;
use walden_core::{ErrorKind, Incarnation, IncarnationRecord};
use walden_engine::{
    Clock, Context, DataDirectory, NoProgress, Progress, SystemClock, find_incarnation, read_incarnation,
};
use walden_store::{CounterSnapshot, Environment, Operation, Store, StoreConfig};

use crate::config::{Effective, Origin};
use crate::failure::Failure;
use crate::printer::{Printer, Verbosity};
use crate::progress::Bars;
use crate::text::{count, duration, size};

/// A run of one verb.
pub(crate) struct Session {
    /// Where output goes.
    pub(crate) printer: Printer,
    /// The settings.
    pub(crate) effective: Effective,
    /// The variables of the process.
    pub(crate) environment: Environment,
    /// The configuration file that the command line names.
    pub(crate) config_file: Option<PathBuf>,
    clock: SystemClock,
    started: Instant,
}

/// What a verb cost, as part of its JSON report.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(crate) struct Cost {
    /// From the start of the program, in milliseconds.
    elapsed_ms: u64,
    /// What was asked of the store.
    store: CounterSnapshot,
}

/// A report and what it cost.
#[derive(Debug, Serialize)]
pub(crate) struct WithCost<'a, T> {
    #[serde(flatten)]
    report: &'a T,
    cost: Cost,
}

impl Session {
    /// A session that began at `started`.
    pub(crate) fn new(
        printer: Printer,
        effective: Effective,
        environment: Environment,
        config_file: Option<PathBuf>,
        started: Instant,
    ) -> Self {
        Self { printer, effective, environment, config_file, clock: SystemClock, started }
    }

    /// The moment now.
    pub(crate) fn now(&self) -> Timestamp {
        self.clock.now()
    }

    /// The engine's context, with the deadline of the store for most verbs.
    ///
    /// # Errors
    /// Kind `config` when no repository is named or the settings of the store can't be used.
    pub(crate) fn context(&self) -> Result<Context, Failure> {
        self.context_within(self.effective.config.store.operation_timeout())
    }

    /// The engine's context, with `deadline` for one call to the store and its retries.
    ///
    /// # Errors
    /// As [`Self::context`].
    pub(crate) fn context_within(&self, deadline: Duration) -> Result<Context, Failure> {
        self.context_at_rate(deadline, None)
    }

    /// The same, moving so many bytes in a second at most.
    ///
    /// # Errors
    /// As [`Self::context`].
    pub(crate) fn context_at_rate(
        &self,
        deadline: Duration,
        max_rate: Option<u64>,
    ) -> Result<Context, Failure> {
        let config = &self.effective.config;
        let settings = StoreConfig { max_rate: max_rate.and_then(NonZeroU64::new), ..config.store.clone() };
        let store = Store::open(self.effective.repo()?, &settings, &self.environment)?;
        let progress: Arc<dyn Progress> =
            if self.printer.draws_progress() { Arc::new(Bars::default()) } else { Arc::new(NoProgress) };
        Ok(Context {
            store,
            server: config.server.clone(),
            clock: Arc::new(self.clock),
            progress,
            state_directory: self.state_directory(),
            store_deadline: deadline,
            host: host_name(),
        })
    }

    /// The data directory that was named.
    ///
    /// # Errors
    /// Kind `config` when none is named or it is not one.
    pub(crate) fn data_directory(&self) -> Result<DataDirectory, Failure> {
        Ok(DataDirectory::open(self.effective.pgdata()?)?)
    }

    /// The data directory, when one is named and there. One that is named by an option must be there; a variable
    /// may be left over from elsewhere.
    ///
    /// # Errors
    /// Kind `config`.
    pub(crate) fn data_directory_if_named(&self) -> Result<Option<DataDirectory>, Failure> {
        let Some(path) = self.effective.config.pgdata.as_deref() else { return Ok(None) };
        match DataDirectory::open(path) {
            Ok(data) => Ok(Some(data)),
            Err(_) if !matches!(self.effective.origin("pgdata"), Origin::Flag(_)) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    /// The incarnation to look at: the one named by `--incarnation` or by the data directory of `--pgdata`, else the
    /// server's current one. A data directory that only the environment names decides nothing here: after a
    /// disaster it is often a new one, and what is asked for is the old one's archive.
    ///
    /// # Errors
    /// Of the engine; kind `not_found` when the server has no such incarnation.
    pub(crate) async fn incarnation(
        &self,
        ctx: &Context,
        named: Option<Incarnation>,
    ) -> Result<IncarnationRecord, Failure> {
        if named.is_none() && matches!(self.effective.origin("pgdata"), Origin::Flag(_)) {
            return Ok(find_incarnation(ctx, Some(&self.data_directory()?)).await?);
        }
        self.incarnation_of_server(ctx, named).await
    }

    /// The incarnation to restore from: the named one, else the server's current one.
    ///
    /// # Errors
    /// As [`Self::incarnation`].
    pub(crate) async fn incarnation_of_server(
        &self,
        ctx: &Context,
        named: Option<Incarnation>,
    ) -> Result<IncarnationRecord, Failure> {
        let Some(named) = named else { return Ok(find_incarnation(ctx, None).await?) };
        if let Some(record) = read_incarnation(ctx, named).await? {
            return Ok(record);
        }
        // When it is the repository or the server that is missing, this says so.
        find_incarnation(ctx, None).await?;
        let message = format!("the server has no such incarnation incarnation={named} server={}", ctx.server);
        Err(Failure::new(ErrorKind::NotFound, message).with_hint("walden server show lists them"))
    }

    fn state_directory(&self) -> Option<PathBuf> {
        let directory = self.effective.config.state_directory.clone()?;
        // Without it walden only asks the store more often.
        let made = std::fs::DirBuilder::new().recursive(true).mode(0o700).create(&directory);
        made.is_ok().then_some(directory)
    }

    /// Time since the start.
    pub(crate) fn elapsed(&self) -> Duration {
        self.started.elapsed()
    }

    /// A report with what it cost.
    pub(crate) fn with_cost<'a, T: Serialize>(&self, report: &'a T, ctx: &Context) -> WithCost<'a, T> {
        self.with_counters(report, ctx.store.counters())
    }

    /// A report with what it cost, of which the requests are told.
    pub(crate) fn with_counters<'a, T: Serialize>(
        &self,
        report: &'a T,
        store: CounterSnapshot,
    ) -> WithCost<'a, T> {
        let elapsed_ms = u64::try_from(self.elapsed().as_millis()).unwrap_or(u64::MAX);
        WithCost { report, cost: Cost { elapsed_ms, store } }
    }

    /// Tells what was asked of the store, when asked to say more.
    pub(crate) fn note_cost(&self, ctx: &Context) {
        self.note_counters(&ctx.store.counters());
    }

    /// The same, of requests that are told.
    pub(crate) fn note_counters(&self, counters: &CounterSnapshot) {
        if self.printer.verbosity() >= Verbosity::Verbose {
            self.printer.note(&describe_cost(counters, self.elapsed()));
        }
    }
}

fn host_name() -> String {
    nix::unistd::gethostname()
        .ok()
        .and_then(|name| name.into_string().ok())
        .filter(|name| !name.is_empty())
        .unwrap_or_else(|| "unknown".to_owned())
}

pub(crate) fn show_duration(length: Duration) -> String {
    SignedDuration::try_from(length).map_or_else(|_| format!("{} s", length.as_secs()), duration)
}

/// One line about requests, bytes and time.
fn describe_cost(counters: &CounterSnapshot, elapsed: Duration) -> String {
    let mut parts = Vec::new();
    let (mut retries, mut errors) = (0, 0);
    for operation in Operation::ALL {
        let one = counters.of(operation);
        retries += one.retries;
        errors += one.errors;
        if one.requests == 0 {
            continue;
        }
        let mut part = format!("{} {}", one.requests, operation.as_str());
        let bytes = one.bytes_sent + one.bytes_received;
        if bytes > 0 {
            let _ = write!(part, " ({})", size(bytes));
        }
        parts.push(part);
    }
    if parts.is_empty() {
        parts.push("no request".to_owned());
    }
    if retries > 0 {
        parts.push(format!("{retries} tried again"));
    }
    if errors > 0 {
        parts.push(count(errors, "error"));
    }
    format!("store: {}; time: {}", parts.join(", "), show_duration(elapsed))
}
