//! The WAL's own records (`src/include/catalog/pg_control.h`, `src/include/access/xlog_internal.h`).

use crate::checkpoint::{CheckPoint, ParameterMaxima, WalLevel};
use crate::ids::Oid;
use crate::le::Reader;
use crate::lsn::Lsn;
use crate::major::PgMajor;
use crate::time::PgTimestamp;
use crate::timeline::TimelineId;
use crate::wal::decode::Payload;
use crate::wal::record::Record;

/// What kind of checkpoint.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum CheckpointKind {
    /// While the server runs.
    Online,
    /// At shutdown, and at the end of a recovery: nothing was written while it was made.
    Shutdown,
}

/// A named restore point.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RestorePoint<'a> {
    /// When it was made.
    pub time: PgTimestamp,
    /// Its name, at most 63 bytes, in the encoding of the database from which it was made.
    pub name: &'a [u8],
}

/// The end of a recovery by promotion.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct EndOfRecovery {
    /// When.
    pub time: PgTimestamp,
    /// The timeline that begins.
    pub timeline: TimelineId,
    /// The timeline that was followed before.
    pub previous_timeline: TimelineId,
    /// `wal_level`; `None` before 17.
    pub wal_level: Option<WalLevel>,
}

/// The settings that recovery depends on, after they were changed and the server was restarted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ParameterChange {
    /// The settings that a recovering server must not have lower.
    pub maxima: ParameterMaxima,
    /// `wal_level`
    pub wal_level: WalLevel,
    /// `wal_log_hints`
    pub wal_log_hints: bool,
    /// `track_commit_timestamp`
    pub track_commit_timestamp: bool,
}

/// A record that a crash had cut off.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct OverwrittenRecord {
    /// Where it began.
    pub lsn: Lsn,
    /// When the server noticed.
    pub time: PgTimestamp,
}

/// The size of a restore point's name with its NUL (`MAXFNAMELEN`).
const NAME_SIZE: usize = 64;

pub(super) fn decode<'a>(record: &Record<'a>) -> Option<Payload<'a>> {
    let data = record.main_data();
    let mut reader = Reader::new(data);
    let has_wal_level = record.major >= PgMajor::V17;
    Some(match record.header.kind() {
        0x00 => Payload::Checkpoint(CheckpointKind::Shutdown, CheckPoint::parse(data, record.major).ok()?),
        0x10 => Payload::Checkpoint(CheckpointKind::Online, CheckPoint::parse(data, record.major).ok()?),
        0x30 => Payload::NextOid(Oid::new(reader.u32()?)),
        0x40 => Payload::Switch,
        0x50 => Payload::BackupEnd(Lsn::new(reader.u64()?)),
        0x60 => Payload::ParameterChange(parameter_change(&mut reader)?),
        0x70 => Payload::RestorePoint(restore_point(&mut reader)?),
        0x80 => Payload::FullPageWrites(reader.u8()? != 0),
        0x90 => Payload::EndOfRecovery(end_of_recovery(&mut reader, has_wal_level)?),
        0xD0 => Payload::OverwrittenRecord(OverwrittenRecord {
            lsn: Lsn::new(reader.u64()?),
            time: PgTimestamp::new(reader.i64()?),
        }),
        0xE0 if has_wal_level => Payload::CheckpointRedo(WalLevel::from_number(reader.i32()?)),
        _ => Payload::Other,
    })
}

fn restore_point<'a>(reader: &mut Reader<'a>) -> Option<RestorePoint<'a>> {
    let time = PgTimestamp::new(reader.i64()?);
    let field = reader.bytes(NAME_SIZE)?;
    // Behind the NUL is whatever was in the server's memory.
    let name = field.split(|&byte| byte == 0).next().unwrap_or_default();
    Some(RestorePoint { time, name })
}

fn end_of_recovery(reader: &mut Reader<'_>, has_wal_level: bool) -> Option<EndOfRecovery> {
    Some(EndOfRecovery {
        time: PgTimestamp::new(reader.i64()?),
        timeline: TimelineId::new(reader.u32()?).ok()?,
        previous_timeline: TimelineId::new(reader.u32()?).ok()?,
        wal_level: if has_wal_level { WalLevel::from_number(reader.i32()?) } else { None },
    })
}

fn parameter_change(reader: &mut Reader<'_>) -> Option<ParameterChange> {
    Some(ParameterChange {
        maxima: ParameterMaxima {
            max_connections: reader.u32()?,
            max_worker_processes: reader.u32()?,
            max_wal_senders: reader.u32()?,
            max_prepared_transactions: reader.u32()?,
            max_locks_per_transaction: reader.u32()?,
        },
        wal_level: WalLevel::from_number(reader.i32()?)?,
        wal_log_hints: reader.u8()? != 0,
        track_commit_timestamp: reader.u8()? != 0,
    })
}
