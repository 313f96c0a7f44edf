//! A blocking connection.

use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use tokio::runtime;
use tokio_postgres::{Client, Config, NoTls, SimpleQueryMessage};

use super::error::{Error, Result};

/// Time for the last message of a session.
const GOODBYE: Duration = Duration::from_secs(1);

/// One row as text; NULL is `None`.
pub type Row = Vec<Option<String>>;

/// One connection to a server, with everything that belongs to a session: transactions, locks,
/// a running backup. Closed when dropped.
///
/// It lives on a thread of its own, so that its calls can be made where a runtime already runs.
#[derive(Debug)]
pub struct PgSession {
    jobs: mpsc::Sender<Job>,
    deadline: Duration,
}

#[derive(Debug)]
struct Job {
    sql: String,
    answer: mpsc::Sender<Result<Vec<Row>>>,
}

impl PgSession {
    /// Connects. Every call on the session, and the connecting itself, must end within `deadline`.
    ///
    /// # Errors
    /// [`Error::Sql`] when the server refuses; [`Error::Deadline`] when it does not answer in time.
    pub fn connect(config: &Config, deadline: Duration) -> Result<Self> {
        let (jobs, inbox) = mpsc::channel();
        let (ready, connected) = mpsc::channel();
        let config = config.clone();
        thread::spawn(move || {
            let runtime = match runtime::Builder::new_current_thread().enable_all().build() {
                Ok(runtime) => runtime,
                Err(error) => return drop(ready.send(Err(Error::Testbench(error)))),
            };
            runtime.block_on(serve(&config, deadline, &ready, &inbox));
        });
        receive(&connected, "CONNECT", deadline)?;
        Ok(Self { jobs, deadline })
    }

    /// Runs one or more statements and returns the rows of all of them in order.
    ///
    /// # Errors
    /// [`Error::Sql`] when the server refuses; [`Error::Deadline`] when it does not answer in time.
    pub fn query(&self, sql: &str) -> Result<Vec<Row>> {
        let (answer, answered) = mpsc::channel();
        let job = Job { sql: sql.to_owned(), answer };
        self.jobs.send(job).map_err(|_| ended(sql))?;
        receive(&answered, sql, self.deadline)
    }

    /// Runs one or more statements and ignores their rows.
    ///
    /// # Errors
    /// As [`Self::query`].
    pub fn execute(&self, sql: &str) -> Result<()> {
        self.query(sql).map(drop)
    }

    /// The only value of the only row.
    ///
    /// # Errors
    /// As [`Self::query`]; [`Error::Answer`] when there is not exactly one value, or it does not parse.
    pub fn value<T: std::str::FromStr>(&self, sql: &str) -> Result<T> {
        let rows = self.query(sql)?;
        let only = match rows.as_slice() {
            [row] => match row.as_slice() {
                [Some(text)] => text.parse().ok(),
                _ => None,
            },
            _ => None,
        };
        only.ok_or_else(|| Error::Answer { sql: sql.to_owned(), answer: format!("{rows:?}") })
    }
}

/// The thread's work: connect, then answer until the session is dropped.
async fn serve(
    config: &Config,
    deadline: Duration,
    ready: &mpsc::Sender<Result<()>>,
    inbox: &mpsc::Receiver<Job>,
) {
    let (client, connection) = match in_time("CONNECT", deadline, config.connect(NoTls)).await {
        Ok((client, connection)) => (client, tokio::spawn(connection)),
        Err(error) => return drop(ready.send(Err(error))),
    };
    let _ = ready.send(Ok(()));
    // The receive blocks the only thread: between two calls nothing has to be driven.
    while let Ok(job) = inbox.recv() {
        let answer = run(&client, &job.sql, deadline).await;
        let lost = matches!(answer, Err(Error::Deadline { .. }));
        let _ = job.answer.send(answer);
        if lost {
            return;
        }
    }
    // Lets the connection say goodbye, so that the server does not log a lost client.
    drop(client);
    let _ = tokio::time::timeout(GOODBYE, connection).await;
}

async fn run(client: &Client, sql: &str, deadline: Duration) -> Result<Vec<Row>> {
    let messages = in_time(sql, deadline, client.simple_query(sql)).await?;
    let rows = messages.into_iter().filter_map(|message| match message {
        SimpleQueryMessage::Row(row) => {
            Some((0..row.len()).map(|column| row.get(column).map(str::to_owned)).collect())
        }
        _ => None,
    });
    Ok(rows.collect())
}

async fn in_time<T>(
    sql: &str,
    deadline: Duration,
    work: impl Future<Output = Result<T, tokio_postgres::Error>>,
) -> Result<T> {
    match tokio::time::timeout(deadline, work).await {
        Ok(outcome) => outcome.map_err(|source| Error::Sql { sql: sql.to_owned(), source }),
        Err(_) => Err(late(sql, deadline)),
    }
}

/// Waits a little longer than the thread does, so that the thread's own account of the delay arrives.
fn receive<T>(from: &mpsc::Receiver<Result<T>>, sql: &str, deadline: Duration) -> Result<T> {
    match from.recv_timeout(deadline + Duration::from_secs(5)) {
        Ok(answer) => answer,
        Err(mpsc::RecvTimeoutError::Timeout) => Err(late(sql, deadline)),
        Err(mpsc::RecvTimeoutError::Disconnected) => Err(ended(sql)),
    }
}

fn late(sql: &str, deadline: Duration) -> Error {
    Error::Deadline { what: format!("the answer to {sql}"), waited: deadline, log: String::new() }
}

fn ended(sql: &str) -> Error {
    Error::Answer { sql: sql.to_owned(), answer: "the session has ended".to_owned() }
}
