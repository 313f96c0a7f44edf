//! `global/pg_control`.
//!
//! PostgreSQL source: `ControlFileData` in `src/include/catalog/pg_control.h`.

use serde::{Deserialize, Serialize};

use crate::checkpoint::{CheckPoint, ParameterMaxima, WalLevel};
use crate::error::Error;
use crate::le;
use crate::lsn::Lsn;
use crate::major::PgMajor;
use crate::segment::WalSegmentSize;
use crate::system_id::SystemId;
use crate::time::UnixSeconds;
use crate::timeline::TimelineId;

const WHAT: &str = "pg_control";

/// What the server was last doing, by `pg_control`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ClusterState {
    /// Starting up for the first time.
    Startup,
    /// Shut down cleanly.
    ShutDown,
    /// Shut down cleanly while in recovery.
    ShutDownInRecovery,
    /// Shutting down.
    ShuttingDown,
    /// In crash recovery.
    InCrashRecovery,
    /// In archive recovery, or a standby.
    InArchiveRecovery,
    /// In production, or crashed while it was.
    InProduction,
}

impl ClusterState {
    const fn from_number(number: u32) -> Option<Self> {
        match number {
            0 => Some(Self::Startup),
            1 => Some(Self::ShutDown),
            2 => Some(Self::ShutDownInRecovery),
            3 => Some(Self::ShuttingDown),
            4 => Some(Self::InCrashRecovery),
            5 => Some(Self::InArchiveRecovery),
            6 => Some(Self::InProduction),
            _ => None,
        }
    }

    /// The state in `pg_controldata`'s words.
    pub const fn description(self) -> &'static str {
        match self {
            Self::Startup => "starting up",
            Self::ShutDown => "shut down",
            Self::ShutDownInRecovery => "shut down in recovery",
            Self::ShuttingDown => "shutting down",
            Self::InCrashRecovery => "in crash recovery",
            Self::InArchiveRecovery => "in archive recovery",
            Self::InProduction => "in production",
        }
    }
}

/// The contents of `pg_control`, checked against its CRC.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ControlFile {
    /// The number that `initdb` gave to this data directory; physical copies share it.
    pub system_id: SystemId,
    /// The major version, by the catalog version.
    pub major: PgMajor,
    /// `catalog_version_no`; a part of the name of the directories in tablespaces.
    pub catalog_version: u32,
    /// What the server was last doing.
    pub state: ClusterState,
    /// When the file was last written.
    pub written_at: UnixSeconds,
    /// The position of the last checkpoint's record.
    pub checkpoint_lsn: Lsn,
    /// That checkpoint.
    pub checkpoint: CheckPoint,
    /// Recovery must reach this position before the data are consistent; invalid if it need not.
    pub min_recovery_point: Lsn,
    /// The timeline of that position, if it is one.
    pub min_recovery_timeline: Option<TimelineId>,
    /// The redo position of the backup that is being recovered; invalid if none is.
    pub backup_start_point: Lsn,
    /// Where a backup taken from a standby becomes consistent; invalid if that is not known.
    pub backup_end_point: Lsn,
    /// Whether recovery must see the end-of-backup record before the data are consistent.
    pub backup_end_required: bool,
    /// `wal_level` of the running server.
    pub wal_level: WalLevel,
    /// `wal_log_hints`
    pub wal_log_hints: bool,
    /// The settings that a recovering server must not have lower.
    pub maxima: ParameterMaxima,
    /// `track_commit_timestamp`
    pub track_commit_timestamp: bool,
    /// The size of a data page in bytes, 8192 unless PostgreSQL was built otherwise.
    pub block_size: u32,
    /// How many data pages a segment of a relation's file has, 131072 (1 GiB) usually.
    pub relation_segment_blocks: u32,
    /// The size of a WAL page in bytes, 8192 unless PostgreSQL was built otherwise.
    pub wal_block_size: u32,
    /// The size of WAL segments.
    pub wal_segment_size: WalSegmentSize,
    /// The version of the page checksums, 0 if the data pages have none.
    pub data_checksum_version: u32,
}

impl ControlFile {
    /// The size of the file, in bytes. Only the first few hundred mean anything.
    pub const FILE_SIZE: usize = 8192;
    /// The bytes that [`ControlFile::parse`] needs for any supported version.
    pub const MIN_SIZE: usize = 296;

    /// Parses the file, of which the first [`ControlFile::MIN_SIZE`] bytes are enough.
    ///
    /// # Errors
    /// [`Error::UnsupportedControlFile`] for other versions, [`Error::ControlFileChecksum`] if the file
    /// is damaged or was read while it was being written, [`Error::TooShort`], and
    /// [`Error::ImpossibleValue`] or [`Error::InvalidSegmentSize`] for contents that no server writes.
    pub fn parse(bytes: &[u8]) -> Result<Self, Error> {
        let bytes = bytes.first_chunk::<{ Self::MIN_SIZE }>().ok_or(Error::TooShort {
            what: WHAT,
            need: Self::MIN_SIZE,
            have: bytes.len(),
        })?;
        // Every offset below lies within the chunk, so the defaults are never used.
        let flag = |offset| le::u8_at(bytes, offset).unwrap_or_default() != 0;
        let u32_at = |offset| le::u32_at(bytes, offset).unwrap_or_default();
        let u64_at = |offset| le::u64_at(bytes, offset).unwrap_or_default();
        let lsn = |offset| Lsn::new(u64_at(offset));
        let impossible =
            |field, offset| Error::ImpossibleValue { what: WHAT, field, value: u64::from(u32_at(offset)) };

        let major = major_of(u32_at(8), u32_at(12))?;
        check_crc(bytes, major)?;
        let checkpoint = bytes.get(40..).unwrap_or_default();
        Ok(Self {
            system_id: SystemId::new(u64_at(0)),
            major,
            catalog_version: u32_at(12),
            state: ClusterState::from_number(u32_at(16)).ok_or_else(|| impossible("state", 16))?,
            written_at: UnixSeconds::new(le::i64_at(bytes, 24).unwrap_or_default()),
            checkpoint_lsn: lsn(32),
            checkpoint: CheckPoint::parse(checkpoint, major)?,
            min_recovery_point: lsn(136),
            min_recovery_timeline: TimelineId::new(u32_at(144)).ok(),
            backup_start_point: lsn(152),
            backup_end_point: lsn(160),
            backup_end_required: flag(168),
            wal_level: le::i32_at(bytes, 172)
                .and_then(WalLevel::from_number)
                .ok_or_else(|| impossible("wal_level", 172))?,
            wal_log_hints: flag(176),
            maxima: ParameterMaxima {
                max_connections: u32_at(180),
                max_worker_processes: u32_at(184),
                max_wal_senders: u32_at(188),
                max_prepared_transactions: u32_at(192),
                max_locks_per_transaction: u32_at(196),
            },
            track_commit_timestamp: flag(200),
            block_size: block_size(u32_at(216)).ok_or_else(|| impossible("blcksz", 216))?,
            relation_segment_blocks: u32_at(220),
            wal_block_size: wal_block_size(u32_at(224)).ok_or_else(|| impossible("xlog_blcksz", 224))?,
            wal_segment_size: WalSegmentSize::new(u64::from(u32_at(228)))?,
            data_checksum_version: u32_at(252),
        })
    }

    /// Whether data pages carry checksums.
    pub const fn has_data_checksums(&self) -> bool {
        self.data_checksum_version != 0
    }

    /// The name of this version's directory in a tablespace, `PG_<major>_<catalog version>`
    /// (`TABLESPACE_VERSION_DIRECTORY`).
    pub fn tablespace_directory(&self) -> String {
        format!("PG_{}_{}", self.major, self.catalog_version)
    }
}

/// The major version by `pg_control_version` and `catalog_version_no`. The first alone does not tell:
/// it is 1300 for 13 to 16.
fn major_of(control: u32, catalog: u32) -> Result<PgMajor, Error> {
    match (control, catalog) {
        (1300, 202_007_201) => Ok(PgMajor::V13),
        (1300, 202_107_181) => Ok(PgMajor::V14),
        (1300, 202_209_061) => Ok(PgMajor::V15),
        (1300, 202_307_071) => Ok(PgMajor::V16),
        (1700, 202_406_281) => Ok(PgMajor::V17),
        (1800, 202_506_291) => Ok(PgMajor::V18),
        _ => Err(Error::UnsupportedControlFile { control, catalog }),
    }
}

fn check_crc(bytes: &[u8; ControlFile::MIN_SIZE], major: PgMajor) -> Result<(), Error> {
    let offset = if major >= PgMajor::V18 { 292 } else { 288 };
    let computed = crate::crc::crc32c(bytes.get(..offset).unwrap_or_default());
    match le::u32_at(bytes, offset) {
        Some(stored) if stored != computed => Err(Error::ControlFileChecksum { stored, computed }),
        _ => Ok(()),
    }
}

/// `BLCKSZ` can be 1 to 32 KiB.
fn block_size(bytes: u32) -> Option<u32> {
    (bytes.is_power_of_two() && (1024..=32 * 1024).contains(&bytes)).then_some(bytes)
}

/// `XLOG_BLCKSZ` can be 1 to 64 KiB.
fn wal_block_size(bytes: u32) -> Option<u32> {
    (bytes.is_power_of_two() && (1024..=64 * 1024).contains(&bytes)).then_some(bytes)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::fixtures;
    use crate::ids::{FullXid, Oid, Xid};

    #[test]
    fn real_files_of_all_majors() {
        for (major, bytes) in fixtures::CONTROL_IN_PRODUCTION {
            let control = ControlFile::parse(bytes).unwrap();
            let number = u32::try_from(major.number()).unwrap();
            assert_eq!(control.major, major);
            assert_eq!(control.state, ClusterState::InProduction, "{major}");
            // The settings that the servers were given when the fixtures were made.
            let even = number % 2 == 0;
            assert_eq!(control.wal_level, if even { WalLevel::Logical } else { WalLevel::Replica });
            assert_eq!(control.wal_log_hints, even);
            assert_eq!(control.track_commit_timestamp, even);
            assert_eq!(
                control.maxima,
                ParameterMaxima {
                    max_connections: 100 + number,
                    max_worker_processes: 8 + number,
                    max_wal_senders: number,
                    max_prepared_transactions: 2 * number,
                    max_locks_per_transaction: 64 + number,
                }
            );
            assert_eq!(control.has_data_checksums(), major != PgMajor::V14);
            assert_eq!((control.block_size, control.wal_block_size), (8192, 8192));
            assert_eq!(control.relation_segment_blocks, 131_072);
            assert!(!control.backup_end_required && !control.backup_start_point.is_valid());
            assert!(!control.min_recovery_point.is_valid());
            assert_eq!(control.min_recovery_timeline, None);
            assert_eq!(control.checkpoint.timeline, TimelineId::FIRST);
            assert_eq!(control.checkpoint.previous_timeline, TimelineId::FIRST);
            assert!(control.checkpoint.full_page_writes);
            assert_eq!(control.checkpoint.next_oid, Oid::new(24576));
            assert_eq!(control.checkpoint.oldest_xid_database, Oid::new(1));
            assert_eq!(control.checkpoint.wal_level.is_some(), major >= PgMajor::V17);
        }
    }

    #[test]
    fn values_are_those_that_the_server_told() {
        // By pg_control_system(), pg_control_checkpoint() and pg_control_init().
        let control = ControlFile::parse(fixtures::CONTROL_IN_PRODUCTION[5].1).unwrap();
        assert_eq!(control.system_id.to_string(), fixtures::SYSTEM_ID_18);
        assert_eq!(control.catalog_version, 202_506_291);
        assert_eq!(control.tablespace_directory(), "PG_18_202506291");
        assert_eq!(control.checkpoint_lsn.to_string(), "0/B00080");
        assert_eq!(control.checkpoint.redo.to_string(), "0/B00028");
        assert_eq!(control.checkpoint.next_xid, FullXid::new(757));
        assert_eq!(control.checkpoint.oldest_xid, Xid::new(744));
        assert_eq!(control.checkpoint.oldest_active_xid, Xid::new(757));
        assert_eq!(control.checkpoint.oldest_multi, 1);
        assert_eq!(control.checkpoint.oldest_commit_ts_xid, Xid::new(752));
        assert_eq!(control.checkpoint.newest_commit_ts_xid, Xid::new(756));
        assert_eq!(control.checkpoint.time, UnixSeconds::new(fixtures::CHECKPOINT_TIME_18));
        assert_eq!(control.wal_segment_size, WalSegmentSize::MIN);
    }

    #[test]
    fn a_clean_shutdown_is_told() {
        for (major, bytes) in fixtures::CONTROL_SHUT_DOWN {
            let control = ControlFile::parse(bytes).unwrap();
            assert_eq!(control.state, ClusterState::ShutDown, "{major}");
            assert_eq!(control.checkpoint.oldest_active_xid, Xid::INVALID);
            assert_eq!(control.checkpoint.redo, control.checkpoint_lsn);
        }
    }

    #[test]
    fn other_versions_and_short_files_are_refused() {
        let mut bytes = fixtures::CONTROL_IN_PRODUCTION[0].1.to_vec();
        bytes[12] ^= 1;
        assert_eq!(
            ControlFile::parse(&bytes),
            Err(Error::UnsupportedControlFile { control: 1300, catalog: 202_007_200 })
        );
        assert!(matches!(ControlFile::parse(&bytes[..100]), Err(Error::TooShort { .. })));
        assert!(matches!(ControlFile::parse(&[]), Err(Error::TooShort { .. })));
    }

    proptest! {
        #[test]
        fn a_changed_bit_is_seen(which in 0usize..6, at in 16usize..288, bit in 0u8..8) {
            let mut bytes = fixtures::CONTROL_IN_PRODUCTION[which].1.to_vec();
            bytes[at] ^= 1 << bit;
            let parsed = ControlFile::parse(&bytes);
            prop_assert!(matches!(parsed, Err(Error::ControlFileChecksum { .. })), "{:?}", parsed);
        }

        #[test]
        fn any_contents_with_a_right_crc_are_taken_or_refused(
            which in 0usize..6,
            noise in prop::collection::vec(any::<(u16, u8)>(), 0..40),
        ) {
            let mut bytes = fixtures::CONTROL_IN_PRODUCTION[which].1.to_vec();
            for (at, byte) in noise {
                bytes[16 + usize::from(at) % 272] = byte;
            }
            let offset = if which == 5 { 292 } else { 288 };
            let crc = crc32c::crc32c(&bytes[..offset]);
            bytes[offset..offset + 4].copy_from_slice(&crc.to_le_bytes());
            let parsed = ControlFile::parse(&bytes);
            prop_assert!(!matches!(parsed, Err(Error::ControlFileChecksum { .. })), "{:?}", parsed);
        }

        #[test]
        fn any_bytes_are_taken_or_refused(bytes in prop::collection::vec(any::<u8>(), 0..600)) {
            let _ = ControlFile::parse(&bytes);
        }
    }
}
