//! The runtimes: built only when a verb needs one, because hooks start a hundred times a minute.

use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use tokio::runtime::{Builder, Runtime};
use walden_core::ErrorKind;

use crate::failure::{Failure, FailureKind};
use crate::session::show_duration;

/// How long work that was interrupted may take to end by itself.
const SHUTDOWN_TIMEOUT: Duration = Duration::from_secs(2);

/// Runs `work` to its end, or until a signal asks to stop.
///
/// # Errors
/// Of the work; `interrupted` after SIGINT or SIGTERM.
pub(crate) fn run<T>(work: impl Future<Output = Result<T, Failure>>) -> Result<T, Failure> {
    let runtime = runtime(Builder::new_multi_thread())?;
    let result = runtime.block_on(async {
        tokio::select! {
            result = work => result,
            signal = interruption() => Err(Failure::interrupted(format!("stopped by {}", signal?))),
        }
    });
    runtime.shutdown_timeout(SHUTDOWN_TIMEOUT);
    result
}

/// Runs work that ends by itself, and cleans up, when the future that it is given ends: when a signal asks to stop.
///
/// # Errors
/// Of the work; as `interrupted` when it failed after a signal.
pub(crate) fn run_until_signal<T, W>(start: impl FnOnce(Stop) -> W) -> Result<T, Failure>
where
    W: Future<Output = Result<T, Failure>>,
{
    let runtime = runtime(Builder::new_multi_thread())?;
    let signal = Arc::new(OnceLock::new());
    let told = Arc::clone(&signal);
    let stop: Stop = Box::pin(async move {
        match interruption().await {
            Ok(name) => drop(told.set(name)),
            // Signals then keep their usual effect.
            Err(_) => std::future::pending().await,
        }
    });
    let result = runtime.block_on(start(stop));
    runtime.shutdown_timeout(SHUTDOWN_TIMEOUT);
    result.map_err(|failure| match signal.get() {
        Some(name) => Failure {
            kind: FailureKind::Interrupted,
            message: format!("stopped by {name}: {}", failure.message),
            ..failure
        },
        None => failure,
    })
}

/// Ends when a signal asks to stop.
pub(crate) type Stop = Pin<Box<dyn Future<Output = ()> + Send>>;

/// Runs the work of a hook of PostgreSQL on this thread, for `deadline` at most. Signals keep their usual
/// effect: PostgreSQL knows what to do with a command that they ended.
///
/// # Errors
/// Of the work; kind `unavailable` when it takes longer.
pub(crate) fn run_hook<T>(
    deadline: Duration,
    work: impl Future<Output = Result<T, Failure>>,
) -> Result<T, Failure> {
    let runtime = runtime(Builder::new_current_thread())?;
    let result = runtime.block_on(async {
        match tokio::time::timeout(deadline, work).await {
            Ok(result) => result,
            Err(_) => Err(late(deadline)),
        }
    });
    runtime.shutdown_background();
    result
}

/// What is said when a hook's time is over.
pub(crate) fn late(deadline: Duration) -> Failure {
    let message = format!("not done within the deadline deadline={}", show_duration(deadline));
    Failure::new(ErrorKind::Unavailable, message)
}

fn runtime(mut builder: Builder) -> Result<Runtime, Failure> {
    builder
        .enable_all()
        .build()
        .map_err(|error| Failure::new(ErrorKind::Internal, "cannot start the runtime").caused_by(&error))
}

/// Waits for SIGINT or SIGTERM and names it.
async fn interruption() -> Result<&'static str, Failure> {
    use tokio::signal::unix::{SignalKind, signal};
    let failed = |error: std::io::Error| {
        Failure::new(ErrorKind::Internal, "cannot listen for signals").caused_by(&error)
    };
    let mut interrupt = signal(SignalKind::interrupt()).map_err(failed)?;
    let mut terminate = signal(SignalKind::terminate()).map_err(failed)?;
    Ok(tokio::select! {
        _ = interrupt.recv() => "SIGINT",
        _ = terminate.recv() => "SIGTERM",
    })
}
