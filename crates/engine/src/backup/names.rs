//! The names of databases, schemas and relations at the time of a backup: `names.zst`.
//!
//! WAL speaks of tablespaces, databases and relations by number, and the catalog that would translate the numbers
//! is in the very tables that it changes. So each backup brings a dictionary: a sealed object of kind `names` whose
//! plain form is JSON Lines ([`NameEntry`]), in this order: one `header`; all `tablespace` lines; for each
//! database one `database` line, then its `schema` lines and its `relation` lines, or one `unread` line with
//! the reason; at the end one `totals` line, without which the object is torn. OIDs are stable; the file numbers
//! (`filenode`) are those of the moment, which is after the backup's start.
//!
//! Relations that all databases share have the database 0 and stand once, after the first database that could be
//! read. Reading is bounded by a minute for each database and ten for all; what could not
//! be read is said, and never spoils the backup.

use std::time::Duration;

use futures::TryStreamExt;
use serde::{Deserialize, Serialize};
use tokio_postgres::Row;
use walden_core::BackupId;

use super::connection::ConnectionOptions;
use super::lines::LineSealer;
use super::postgres::{Session, postgres_error};
use crate::error::Result;

/// How long reading the names of one database may take.
pub(super) const DATABASE_TIMEOUT: Duration = Duration::from_mins(1);
/// How long reading all names may take.
pub(super) const ALL_TIMEOUT: Duration = Duration::from_mins(10);

const ACTION: &str = "read the names of databases and tables";

/// One line of `names.zst`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum NameEntry {
    /// The first line.
    Header {
        /// The schema of the object; this version knows 1.
        schema: u32,
        /// The backup it belongs to.
        backup: BackupId,
    },
    /// A tablespace.
    Tablespace {
        /// `pg_tablespace.oid`
        oid: u32,
        /// Its name.
        name: String,
    },
    /// A database.
    Database {
        /// `pg_database.oid`
        oid: u32,
        /// Its name.
        name: String,
        /// Its default tablespace.
        tablespace: u32,
    },
    /// A schema.
    Schema {
        /// The database's OID.
        database: u32,
        /// `pg_namespace.oid`
        oid: u32,
        /// Its name.
        name: String,
    },
    /// A table, index, sequence, view or whatever else `pg_class` holds.
    Relation {
        /// The database's OID; 0 for the relations that all databases share.
        database: u32,
        /// `pg_class.oid`
        oid: u32,
        /// The number of its files; 0 when it has none.
        filenode: u32,
        /// Its tablespace; 0 for the database's default.
        tablespace: u32,
        /// Its schema's OID.
        schema: u32,
        /// Its name.
        name: String,
        /// `pg_class.relkind`, one character.
        kind: String,
        /// `pg_class.relpersistence`, one character.
        persistence: String,
        /// The OID of its TOAST table; 0 when it has none.
        #[serde(default, skip_serializing_if = "is_zero")]
        toast: u32,
        /// For an index, the OID of its table; 0 otherwise.
        #[serde(default, skip_serializing_if = "is_zero")]
        table: u32,
    },
    /// A database that allows no connections, or could not be read.
    Unread {
        /// The database's OID.
        database: u32,
        /// Why.
        reason: String,
    },
    /// The last line.
    Totals {
        /// How many databases.
        databases: u64,
        /// How many relations.
        relations: u64,
        /// How many databases could not be read.
        unread: u64,
    },
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "the form that serde asks for")]
fn is_zero(value: &u32) -> bool {
    *value == 0
}

/// Where names can be asked for: connections of their own, one database after another.
#[derive(Debug, Clone)]
pub struct ServerNames {
    options: ConnectionOptions,
}

#[derive(Debug, Default)]
struct Counts {
    databases: u64,
    relations: u64,
    unread: u64,
    shared_done: bool,
}

struct Database {
    oid: u32,
    name: String,
    tablespace: u32,
    connectable: bool,
}

impl ServerNames {
    pub(super) fn new(options: ConnectionOptions) -> Self {
        Self { options }
    }

    /// Reads all names into `lines`; returns warnings.
    ///
    /// # Errors
    /// When the list of databases can't be read, and when everything together takes too long.
    pub(super) async fn read(&self, backup: &BackupId, lines: &mut LineSealer) -> Result<Vec<String>> {
        match tokio::time::timeout(ALL_TIMEOUT, self.read_all(backup, lines)).await {
            Ok(result) => result,
            Err(_) => Err(crate::error::EngineError::Postgres {
                action: ACTION,
                message: format!("it took longer than {} s", ALL_TIMEOUT.as_secs()),
                source: None,
            }),
        }
    }

    async fn read_all(&self, backup: &BackupId, lines: &mut LineSealer) -> Result<Vec<String>> {
        lines.push(&NameEntry::Header { schema: 1, backup: backup.clone() })?;
        let session = Session::connect(&self.options).await?;
        let rows = session.client.query("SELECT oid, spcname FROM pg_tablespace ORDER BY oid", &[]).await;
        for row in rows.map_err(failed)? {
            lines.push(&NameEntry::Tablespace { oid: get(&row, 0)?, name: get(&row, 1)? })?;
        }
        let databases = list_databases(&session).await?;
        drop(session);
        let mut counts = Counts::default();
        let mut warnings = Vec::new();
        for database in databases {
            counts.databases += 1;
            let Database { oid, name, tablespace, connectable } = database;
            lines.push(&NameEntry::Database { oid, name: name.clone(), tablespace })?;
            if !connectable {
                counts.unread += 1;
                lines.push(&NameEntry::Unread {
                    database: oid,
                    reason: "it allows no connections".to_owned(),
                })?;
            } else if let Err(error) = self.read_database(oid, &name, lines, &mut counts).await {
                counts.unread += 1;
                warnings.push(format!("the names of database {name} could not be read: {error}"));
                lines.push(&NameEntry::Unread { database: oid, reason: error.to_string() })?;
            }
        }
        let Counts { databases, relations, unread, .. } = counts;
        lines.push(&NameEntry::Totals { databases, relations, unread })?;
        Ok(warnings)
    }

    async fn read_database(
        &self,
        oid: u32,
        name: &str,
        lines: &mut LineSealer,
        counts: &mut Counts,
    ) -> Result<()> {
        let session = Session::connect(&self.options.with_database(name)).await?;
        let timeout = format!("SET statement_timeout = {}", DATABASE_TIMEOUT.as_millis());
        session.client.batch_execute(&timeout).await.map_err(failed)?;
        let rows = session.client.query("SELECT oid, nspname FROM pg_namespace ORDER BY oid", &[]).await;
        for row in rows.map_err(failed)? {
            lines.push(&NameEntry::Schema { database: oid, oid: get(&row, 0)?, name: get(&row, 1)? })?;
        }
        let query = "SELECT c.oid, coalesce(pg_relation_filenode(c.oid), 0::oid), c.reltablespace, c.relnamespace, \
             c.relname, c.relkind::text, c.relpersistence::text, c.reltoastrelid, coalesce(i.indrelid, 0::oid), \
             c.relisshared FROM pg_class c LEFT JOIN pg_index i ON i.indexrelid = c.oid ORDER BY c.oid";
        let rows = session.client.query_raw(query, Vec::<String>::new()).await.map_err(failed)?;
        let mut rows = std::pin::pin!(rows);
        while let Some(row) = rows.try_next().await.map_err(failed)? {
            let shared: bool = get(&row, 9)?;
            if shared && counts.shared_done {
                continue;
            }
            lines.push(&relation(&row, if shared { 0 } else { oid })?)?;
            counts.relations += 1;
        }
        counts.shared_done = true;
        Ok(())
    }
}

fn relation(row: &Row, database: u32) -> Result<NameEntry> {
    Ok(NameEntry::Relation {
        database,
        oid: get(row, 0)?,
        filenode: get(row, 1)?,
        tablespace: get(row, 2)?,
        schema: get(row, 3)?,
        name: get(row, 4)?,
        kind: get(row, 5)?,
        persistence: get(row, 6)?,
        toast: get(row, 7)?,
        table: get(row, 8)?,
    })
}

async fn list_databases(session: &Session) -> Result<Vec<Database>> {
    let query = "SELECT oid, datname, dattablespace, datallowconn FROM pg_database ORDER BY oid";
    let rows = session.client.query(query, &[]).await.map_err(failed)?;
    let database = |row: &Row| {
        Ok(Database {
            oid: get(row, 0)?,
            name: get(row, 1)?,
            tablespace: get(row, 2)?,
            connectable: get(row, 3)?,
        })
    };
    rows.iter().map(database).collect()
}

fn failed(error: tokio_postgres::Error) -> crate::error::EngineError {
    postgres_error(ACTION, error)
}

fn get<'a, T: tokio_postgres::types::FromSql<'a>>(row: &'a Row, index: usize) -> Result<T> {
    row.try_get(index).map_err(failed)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_has_the_documented_form() {
        let entry = NameEntry::Relation {
            database: 5,
            oid: 16384,
            filenode: 16390,
            tablespace: 0,
            schema: 2200,
            name: "accounts".into(),
            kind: "r".into(),
            persistence: "p".into(),
            toast: 16387,
            table: 0,
        };
        let line = serde_json::to_string(&entry).unwrap();
        assert_eq!(
            line,
            r#"{"type":"relation","database":5,"oid":16384,"filenode":16390,"tablespace":0,"schema":2200,"name":"accounts","kind":"r","persistence":"p","toast":16387}"#
        );
        assert_eq!(serde_json::from_str::<NameEntry>(&line).unwrap(), entry);
    }
}
