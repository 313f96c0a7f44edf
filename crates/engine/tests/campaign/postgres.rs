//! A server that is backed up, with no server behind it.

use std::path::{Path, PathBuf};

use jiff::Timestamp;
use walden_core::ServerSettings;
use walden_engine::Result;
use walden_engine::backup::{
    ArchiverState, ExportedSnapshot, PostgresControl, ServerIdentity, ServerNames, StoppedBackup,
};
use walden_pg::{Lsn, PgTimestamp};

use crate::wal::{Slot, control, incarnation};

const SNAPSHOT: &str = "00000003-00000002-1";

pub(crate) struct FakePostgres {
    pub(crate) data: PathBuf,
    pub(crate) slot: Slot,
    pub(crate) stop: (Lsn, PgTimestamp),
    stopped: bool,
}

impl FakePostgres {
    /// A server in this data directory, of which a backup begins at the slot and ends at one of its stops.
    pub(crate) fn new(data: &Path, slot: Slot, stop: (Lsn, PgTimestamp)) -> Self {
        Self { data: data.to_owned(), slot, stop, stopped: false }
    }
}

/// Makes a data directory with a little of what one has.
pub(crate) fn make_data_directory(data: &Path, slot: Option<&Slot>) {
    for directory in ["global", "base/5", "pg_wal/archive_status", "pg_tblspc", "pg_snapshots"] {
        std::fs::create_dir_all(data.join(directory)).unwrap();
    }
    let write = |path: &str, bytes: &[u8]| std::fs::write(data.join(path), bytes).unwrap();
    write("global/pg_control", &control(slot));
    if slot.is_some() {
        write("PG_VERSION", b"17\n");
        write("postgresql.conf", b"max_connections = 200\n");
        write("postgresql.auto.conf", b"");
        write("pg_hba.conf", b"local all all trust\n");
        write("pg_ident.conf", b"");
        write("base/5/16384", &[0; 16384]);
        write("base/5/pg_filenode.map", &[0x5A; 524]);
    }
}

impl PostgresControl for FakePostgres {
    async fn identify(&mut self) -> Result<ServerIdentity> {
        let incarnation = incarnation();
        Ok(ServerIdentity {
            major: incarnation.major,
            system_id: incarnation.system_id,
            in_recovery: false,
            data_directory: Some(self.data.display().to_string()),
            config_file: None,
            archive_mode: "on".into(),
            archive_command: "walden wal push %p".into(),
            archive_library: String::new(),
            full_page_writes: true,
            stats_temp_directory: None,
            settings: ServerSettings {
                server_version: "17.10".into(),
                max_connections: 117,
                max_worker_processes: 25,
                max_wal_senders: 17,
                max_prepared_transactions: 34,
                max_locks_per_transaction: 81,
                wal_level: "replica".into(),
                data_checksums: true,
            },
        })
    }

    async fn export_snapshot(&mut self) -> Result<ExportedSnapshot> {
        let file = self.data.join("pg_snapshots").join(SNAPSHOT);
        std::fs::write(file, "vxid:3/2\npid:4711\ndbid:5\n").unwrap();
        Ok(ExportedSnapshot { name: SNAPSHOT.into(), backend_pid: 4711 })
    }

    async fn drop_snapshot(&mut self) -> Result<()> {
        std::fs::remove_file(self.data.join("pg_snapshots").join(SNAPSHOT)).unwrap();
        Ok(())
    }

    async fn start_backup(&mut self, _: &str, _: bool) -> Result<Lsn> {
        Ok(self.slot.start)
    }

    async fn stop_backup(&mut self) -> Result<StoppedBackup> {
        self.stopped = true;
        let Slot { timeline, segment, start, checkpoint, .. } = &self.slot;
        let label = format!(
            "START WAL LOCATION: {start} (file {segment})\nCHECKPOINT LOCATION: {checkpoint}\n\
             BACKUP METHOD: streamed\nBACKUP FROM: primary\nSTART TIME: 2026-11-20 10:00:00 UTC\n\
             LABEL: walden\nSTART TIMELINE: {timeline}\n"
        );
        Ok(StoppedBackup { lsn: self.stop.0, label: label.into_bytes(), tablespace_map: Vec::new() })
    }

    async fn now(&mut self) -> Result<Timestamp> {
        // The time of the WAL: the transactions around the backup are older than the simulation.
        let now = if self.stopped { self.stop.1 } else { self.slot.begun };
        Ok(Timestamp::from_microsecond(now.unix_micros()).unwrap())
    }

    async fn next_xid(&mut self) -> Result<u64> {
        Ok(100_000)
    }

    async fn oldest_xid(&mut self) -> Result<u64> {
        Ok(100_000)
    }

    async fn archiver(&mut self) -> Result<ArchiverState> {
        Ok(ArchiverState::default())
    }

    fn is_closed(&self) -> bool {
        false
    }

    fn names(&self) -> Option<ServerNames> {
        None
    }

    async fn abort(&mut self) {}
}
