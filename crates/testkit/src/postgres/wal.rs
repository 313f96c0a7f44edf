//! WAL positions, segments and archiving, as a test asks for them.

use std::path::Path;

use walden_pg::{Lsn, SegmentId, SegmentName, SystemId, TimelineId, WalSegmentSize};

use super::error::{Error, Result};
use super::server::PgServer;

impl PgServer {
    /// The system identifier.
    ///
    /// # Errors
    /// As [`PgServer::value`].
    pub fn system_id(&self) -> Result<SystemId> {
        self.value("SELECT system_identifier FROM pg_control_system()")
    }

    /// The size of its WAL segments.
    ///
    /// # Errors
    /// As [`PgServer::value`].
    pub fn wal_segment_size(&self) -> Result<WalSegmentSize> {
        let bytes: u64 = self.value("SELECT setting FROM pg_settings WHERE name = 'wal_segment_size'")?;
        Ok(WalSegmentSize::new(bytes)?)
    }

    /// Whether it is in recovery.
    ///
    /// # Errors
    /// As [`PgServer::value`].
    pub fn in_recovery(&self) -> Result<bool> {
        Ok(self.value::<String>("SELECT pg_is_in_recovery()")? == "t")
    }

    /// The end of the WAL that was written, or in recovery, replayed.
    ///
    /// # Errors
    /// As [`PgServer::value`].
    pub fn current_lsn(&self) -> Result<Lsn> {
        self.value(
            "SELECT CASE WHEN pg_is_in_recovery() THEN pg_last_wal_replay_lsn() ELSE pg_current_wal_lsn() END",
        )
    }

    /// The timeline that it writes. Not in recovery.
    ///
    /// # Errors
    /// As [`PgServer::value`].
    pub fn timeline(&self) -> Result<TimelineId> {
        let hex: String = self.value("SELECT substr(pg_walfile_name(pg_current_wal_lsn()), 1, 8)")?;
        Ok(TimelineId::from_hex(&hex)?)
    }

    /// Ends the current segment and returns its name. It always does: a record is written first, since
    /// PostgreSQL skips the switch when nothing was written since the last one.
    ///
    /// # Errors
    /// As [`PgServer::value`].
    pub fn switch_wal(&self) -> Result<SegmentName> {
        let size = self.wal_segment_size()?;
        let timeline = self.timeline()?;
        let session = self.session()?;
        let written: Lsn = session.value("SELECT pg_logical_emit_message(false, 'walden', 'switch')")?;
        session.execute("SELECT pg_switch_wal()")?;
        Ok(SegmentId::new(timeline, size.last_segment_before(written)).name(size))
    }

    /// Writes a restore point and returns the end of its record.
    ///
    /// # Errors
    /// As [`PgServer::value`].
    pub fn create_restore_point(&self, name: &str) -> Result<Lsn> {
        let literal = name.replace('\'', "''");
        self.value(&format!("SELECT pg_create_restore_point('{literal}')"))
    }

    /// Waits until the archiver has done with a segment.
    ///
    /// # Errors
    /// [`Error::Deadline`] with the archiver's own counters and the end of the log.
    pub fn wait_for_archived(&self, segment: SegmentName) -> Result<()> {
        self.wait_for_archived_file(&segment.to_string())
    }

    /// Waits until the archiver has done with a file of `pg_wal`: its status file says so, or there is
    /// neither file nor status left because the file was recycled, which happens to archived ones only.
    ///
    /// # Errors
    /// [`Error::Deadline`] with the archiver's own counters and the end of the log.
    pub fn wait_for_archived_file(&self, name: &str) -> Result<()> {
        let wal = self.data_dir().join("pg_wal");
        let status = |suffix: &str| wal.join("archive_status").join(format!("{name}.{suffix}"));
        let (done, ready, file) = (status("done"), status("ready"), wal.join(name));
        let outcome = super::wait::wait_until(self.deadline(), "archiving", || {
            let gone = !present(&ready)? && !present(&file)?;
            Ok((present(&done)? || gone).then_some(()))
        });
        match outcome {
            Err(Error::Deadline { .. }) => {
                let counters = self.query(
                    "SELECT archived_count, last_archived_wal, failed_count, last_failed_wal FROM pg_stat_archiver",
                );
                Err(self.late(&format!("{name} to be archived; the archiver's counters: {counters:?}")))
            }
            other => other,
        }
    }

    /// Ends the current segment and waits until it is archived.
    ///
    /// # Errors
    /// As [`Self::switch_wal`] and [`Self::wait_for_archived`].
    pub fn archive_current_segment(&self) -> Result<SegmentName> {
        let segment = self.switch_wal()?;
        self.wait_for_archived(segment)?;
        Ok(segment)
    }

    /// Waits until recovery has ended and the server takes writes.
    ///
    /// # Errors
    /// [`Error::Deadline`] when it stays in recovery.
    pub fn wait_until_promoted(&self) -> Result<()> {
        super::wait::wait_until(self.deadline(), "promotion", || Ok((!self.in_recovery()?).then_some(())))
            .map_err(
                |error| if matches!(error, Error::Deadline { .. }) { self.late("promotion") } else { error },
            )
    }

    /// Waits until recovery has reached its target and pauses there.
    ///
    /// # Errors
    /// [`Error::Deadline`] when it does not.
    pub fn wait_until_paused(&self) -> Result<()> {
        let paused = || self.value::<String>("SELECT pg_is_wal_replay_paused()").map(|answer| answer == "t");
        super::wait::wait_until(self.deadline(), "a pause", || Ok(paused()?.then_some(()))).map_err(|error| {
            if matches!(error, Error::Deadline { .. }) { self.late("a pause") } else { error }
        })
    }
}

fn present(path: &Path) -> Result<bool> {
    path.try_exists().map_err(|e| Error::io("look for", path, e))
}
