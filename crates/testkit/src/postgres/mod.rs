//! Real PostgreSQL servers of every supported major, started by tests.
//!
//! ```no_run
//! use walden_pg::PgMajor;
//! use walden_testkit::postgres::PgServer;
//!
//! # fn main() -> Result<(), walden_testkit::postgres::Error> {
//! let mut server = PgServer::builder(PgMajor::V18).archive_command("/bin/true").start()?;
//! server.insert_rows(1_000)?;
//! let segment = server.archive_current_segment()?;
//! server.kill9()?;
//! server.start()?;
//! assert_eq!(server.value::<u64>("SELECT count(*) FROM walden_load")?, 1_000);
//! # Ok(()) }
//! ```
//!
//! What holds: a server listens on a socket in a private directory (and on loopback TCP only when
//! asked), runs as the user `postgres` when the test runs as root, and is gone with everything that it
//! wrote when the [`PgServer`] is dropped, when the test panics, and when the test's process is killed.
//! Every wait has a deadline, and an error or a panic shows the end of the server's log. Calls block
//! and may be made from synchronous and asynchronous tests alike.

mod account;
mod builder;
mod error;
mod install;
mod leftovers;
mod load;
mod server;
mod session;
mod wait;
mod wal;
mod watchdog;

pub use account::ServerAccount;
pub use builder::PgServerBuilder;
pub use error::{Error, Result};
pub use install::{ClientPrograms, PostgresInstall};
pub use load::{AckedCommit, BackgroundLoad, LoadReport};
pub use server::{PgServer, StopMode};
pub use session::{PgSession, Row};
pub use wait::wait_until;
