//! The checkpoint structure, which both `pg_control` and checkpoint records hold.
//!
//! PostgreSQL source: `CheckPoint` in `src/include/catalog/pg_control.h`.

use serde::{Deserialize, Serialize};

use crate::error::Error;
use crate::ids::{FullXid, Oid, Xid};
use crate::le;
use crate::lsn::Lsn;
use crate::major::PgMajor;
use crate::time::UnixSeconds;
use crate::timeline::TimelineId;

/// `wal_level`, the amount of information that the server writes to the WAL.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum WalLevel {
    /// Enough for crash recovery only: a base backup cannot be rolled through such WAL.
    Minimal,
    /// Enough for archiving and standby servers.
    Replica,
    /// Enough for logical decoding.
    Logical,
}

impl WalLevel {
    /// The level with this number, 0 to 2 (`WalLevel` in `src/include/access/xlog.h`).
    pub const fn from_number(number: i32) -> Option<Self> {
        match number {
            0 => Some(Self::Minimal),
            1 => Some(Self::Replica),
            2 => Some(Self::Logical),
            _ => None,
        }
    }

    /// The value of the setting `wal_level`.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Minimal => "minimal",
            Self::Replica => "replica",
            Self::Logical => "logical",
        }
    }
}

/// The settings that a standby or a recovering server must not have lower than the server that wrote
/// the WAL, unless `hot_standby` is off.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct ParameterMaxima {
    /// `max_connections`
    pub max_connections: u32,
    /// `max_worker_processes`
    pub max_worker_processes: u32,
    /// `max_wal_senders`
    pub max_wal_senders: u32,
    /// `max_prepared_transactions`
    pub max_prepared_transactions: u32,
    /// `max_locks_per_transaction`
    pub max_locks_per_transaction: u32,
}

/// A checkpoint: where recovery has to start, and the counters at that moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct CheckPoint {
    /// Where replay starts.
    pub redo: Lsn,
    /// The timeline at the checkpoint.
    pub timeline: TimelineId,
    /// The timeline before, which differs only in the first checkpoint after a recovery.
    pub previous_timeline: TimelineId,
    /// Whether `full_page_writes` was on.
    pub full_page_writes: bool,
    /// `wal_level` at the checkpoint; `None` before PostgreSQL 17.
    pub wal_level: Option<WalLevel>,
    /// The next transaction id, with its epoch.
    pub next_xid: FullXid,
    /// The next OID.
    pub next_oid: Oid,
    /// The next MultiXact id.
    pub next_multi: u32,
    /// The next MultiXact member offset.
    pub next_multi_offset: u32,
    /// The cluster-wide minimum `datfrozenxid`.
    pub oldest_xid: Xid,
    /// The database with that minimum.
    pub oldest_xid_database: Oid,
    /// The cluster-wide minimum `datminmxid`.
    pub oldest_multi: u32,
    /// The database with that minimum.
    pub oldest_multi_database: Oid,
    /// When the checkpoint began.
    pub time: UnixSeconds,
    /// The oldest transaction with a commit timestamp, invalid if there is none.
    pub oldest_commit_ts_xid: Xid,
    /// The newest transaction with a commit timestamp, invalid if there is none.
    pub newest_commit_ts_xid: Xid,
    /// The oldest transaction still running; invalid for a shutdown checkpoint, and for an online one
    /// at `wal_level=minimal`.
    pub oldest_active_xid: Xid,
}

impl CheckPoint {
    /// The structure's size in all supported versions, in bytes.
    pub const SIZE: usize = 88;

    /// Parses the structure at the start of `bytes`.
    ///
    /// # Errors
    /// [`Error::TooShort`] below [`CheckPoint::SIZE`] bytes, [`Error::ImpossibleValue`] for a timeline
    /// 0 or an unknown `wal_level`.
    pub fn parse(bytes: &[u8], major: PgMajor) -> Result<Self, Error> {
        const WHAT: &str = "a checkpoint";
        let bytes = bytes.first_chunk::<{ Self::SIZE }>().ok_or(Error::TooShort {
            what: WHAT,
            need: Self::SIZE,
            have: bytes.len(),
        })?;
        // Every offset below lies within the chunk, so the defaults are never used.
        let u32_at = |offset| le::u32_at(bytes, offset).unwrap_or_default();
        let u64_at = |offset| le::u64_at(bytes, offset).unwrap_or_default();
        let impossible = |field, value| Error::ImpossibleValue { what: WHAT, field, value };
        let timeline = |field, offset| {
            TimelineId::new(u32_at(offset)).map_err(|_| impossible(field, u64::from(u32_at(offset))))
        };
        let wal_level = if major >= PgMajor::V17 {
            let number = le::i32_at(bytes, 20).unwrap_or_default();
            let level = WalLevel::from_number(number);
            Some(level.ok_or_else(|| impossible("wal_level", u64::from(number.cast_unsigned())))?)
        } else {
            None
        };
        Ok(Self {
            redo: Lsn::new(u64_at(0)),
            timeline: timeline("ThisTimeLineID", 8)?,
            previous_timeline: timeline("PrevTimeLineID", 12)?,
            full_page_writes: le::u8_at(bytes, 16).unwrap_or_default() != 0,
            wal_level,
            next_xid: FullXid::new(u64_at(24)),
            next_oid: Oid::new(u32_at(32)),
            next_multi: u32_at(36),
            next_multi_offset: u32_at(40),
            oldest_xid: Xid::new(u32_at(44)),
            oldest_xid_database: Oid::new(u32_at(48)),
            oldest_multi: u32_at(52),
            oldest_multi_database: Oid::new(u32_at(56)),
            time: UnixSeconds::new(le::i64_at(bytes, 64).unwrap_or_default()),
            oldest_commit_ts_xid: Xid::new(u32_at(72)),
            newest_commit_ts_xid: Xid::new(u32_at(76)),
            oldest_active_xid: Xid::new(u32_at(80)),
        })
    }
}
