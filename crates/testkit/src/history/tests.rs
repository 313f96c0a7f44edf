//! A history with an archive that only copies, and recoveries from it.

use std::path::Path;

use walden_pg::{Lsn, PgMajor, WalSegmentSize};

use super::*;
use crate::postgres::{PgServer, PgServerBuilder, Result, ServerAccount};

/// Archives by `cp`; a backup is a copy of the running server's files.
struct Copies {
    dir: tempfile::TempDir,
}

impl Copies {
    fn new() -> Self {
        Self { dir: ServerAccount::current().unwrap().temp_dir().unwrap() }
    }
}

impl Archive for Copies {
    fn archiving(&self, builder: PgServerBuilder) -> PgServerBuilder {
        builder.archive_command(format!("cp %p {}/%f", self.dir.path().display()))
    }

    fn environment(&self, builder: PgServerBuilder) -> PgServerBuilder {
        builder
    }

    fn created(&self, _: &PgServer) -> Result<()> {
        Ok(())
    }

    fn adopt(&self, _: &Path) -> Result<()> {
        Ok(())
    }

    fn backup(&self, server: &PgServer, templates: &Path) -> Result<BackupTaken> {
        let session = server.session()?;
        let (start, stop) = if server.major() >= PgMajor::V15 {
            ("pg_backup_start('copy', true)", "pg_backup_stop(true)")
        } else {
            ("pg_start_backup('copy', true, false)", "pg_stop_backup(false, true)")
        };
        let start_lsn: Lsn = session.value(&format!("SELECT {start}"))?;
        let template = templates.join(start_lsn.to_string().replace('/', "-"));
        recovery::copy_tree(server.data_dir(), &template)?;
        for leftover in ["postmaster.pid", "postmaster.opts"] {
            std::fs::remove_file(template.join(leftover)).unwrap();
        }
        let rows = session.query(&format!("SELECT lsn, labelfile FROM {stop}"))?;
        let text = |column: usize| rows[0][column].clone().unwrap();
        recovery::write(&template.join("backup_label"), &text(1))?;
        for kept in std::fs::read_dir(template.join("pg_wal")).unwrap() {
            let path = kept.unwrap().path();
            if path.is_file() {
                std::fs::remove_file(path).unwrap();
            }
        }
        let stop_lsn = text(0).parse().unwrap();
        let id = template.file_name().unwrap().to_str().unwrap().to_owned();
        let transactions = Vec::new();
        Ok(BackupTaken { id, timeline: server.timeline()?, start_lsn, stop_lsn, transactions, template })
    }

    fn unpack_wal(&self, into: &Path) -> Result<()> {
        for entry in std::fs::read_dir(self.dir.path()).unwrap() {
            let path = entry.unwrap().path();
            std::fs::copy(&path, into.join(path.file_name().unwrap())).unwrap();
        }
        ServerAccount::current()?.own(into)
    }
}

fn recover(history: &LiveHistory, files: &WalFiles, settings: &[(&str, &str)]) -> Ending {
    let backup = history.backups.first().unwrap();
    let owned = |(name, value): &(&str, &str)| ((*name).to_owned(), (*value).to_owned());
    let recovery = Recovery {
        major: history.major,
        template: &backup.template,
        wal: files.dir(),
        scratch: backup.template.parent().unwrap(),
        settings: settings.iter().map(owned).chain([("max_connections".into(), "100".into())]).collect(),
    };
    recovery.run().unwrap()
}

/// The whole tool once: what PostgreSQL says of a stop, what it keeps, and what the records of the path say, agree.
#[test]
fn recoveries_from_a_history_stop_where_the_records_say() {
    let archive = Copies::new();
    let home = ServerAccount::current().unwrap().temp_dir().unwrap();
    let step = Step::Work { clients: 3, transactions: 5 };
    let script = Script {
        seed: 7,
        segment_mib: 1,
        steps: vec![
            step.clone(),
            Step::Backup { busy: true },
            step.clone(),
            Step::Prepare,
            Step::Large(1_300_000),
            step.clone(),
            Step::RestorePoint("nightly"),
            Step::Crash,
            Step::CrashInRecord,
            step.clone(),
            Step::Recover(Turn::Recent),
            step.clone(),
            Step::Recover(Turn::Standby),
            step,
        ],
        archives_last: true,
    };
    let history = Live::carry_out(&script, PgMajor::V17, &archive, home.path()).unwrap();
    let told = history.log.join("\n");
    assert!(told.contains("now timeline 3"), "{told}");

    let files = WalFiles::list(archive.dir.path(), WalSegmentSize::new(1 << 20).unwrap()).unwrap();
    let newest = files.latest_from(history.backups[0].timeline);
    assert_eq!(newest.get(), 3);
    let path = files.read_path(&files.history(newest).unwrap(), history.backups[0].start_lsn).unwrap();
    assert!(matches!(path.end, WalEnd::Missing(_)), "{:?}", path.end);

    let Ending::Stopped(all) = recover(&history, &files, &[]) else { panic!("{told}") };
    assert!(all.promoted && all.said.is_none());
    assert_eq!(all.replayed_to, path.end_lsn());
    let (_, xid, time) = path.commits().last().unwrap();
    assert_eq!(all.last_commit, Some(LastCommit { xid, time }));

    let consistent = history.backups[0].stop_lsn;
    let commits: Vec<_> = path.commits().filter(|(record, ..)| record.start >= consistent).collect();
    let (_, xid, time) = commits[commits.len() / 2];
    let target = xid.to_string();
    let Ending::Stopped(one) = recover(&history, &files, &[("recovery_target_xid", &target)]) else {
        panic!("{told}")
    };
    assert_eq!(one.said, Some(StopLine::Transaction { before: false, commit: true, xid, time }));
    assert_eq!(one.last_commit, Some(LastCommit { xid, time }));
    assert!(!one.promoted && one.transactions.len() < all.transactions.len());
    assert_eq!(path.ending_at(one.replayed_to).unwrap().commit(), Some((xid, time)));

    let Ending::Failed { message } = recover(&history, &files, &[("recovery_target_name", "no such")]) else {
        panic!("{told}")
    };
    assert_eq!(message, "recovery ended before configured recovery target was reached");
}
