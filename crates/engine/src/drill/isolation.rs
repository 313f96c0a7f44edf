//! The settings that keep a drilled server to itself: it archives nothing, listens to nobody outside of its own
//! directory, asks no other server for anything, and runs no job.
//!
//! They stand on the server's command line, where they win over every file and over `ALTER SYSTEM`; one that a database
//! or a role sets of its own is no one that acts outside.

use std::path::Path;
use std::process::{Command, Stdio};

use std::os::unix::process::CommandExt;

use walden_core::Setting;
use walden_pg::PgMajor;

use crate::restore::{Owner, Programs};

/// The port of every drilled server: it only names the socket in the drill's own directory.
pub(super) const PORT: u16 = 5432;

/// Libraries that act on nothing but the server's own memory, and that queries may need. Others are left out: a library
/// that is preloaded may run jobs (pg_cron), connect to other servers, or refuse to start here.
const HARMLESS_LIBRARIES: [&str; 7] = [
    "auto_explain",
    "pg_hint_plan",
    "pg_qualstats",
    "pg_stat_kcache",
    "pg_stat_statements",
    "pgaudit",
    "plpgsql",
];

/// The settings, and what of the source's is left out.
#[derive(Debug)]
pub(super) struct Isolation {
    pub(super) settings: Vec<Setting>,
    pub(super) notes: Vec<String>,
}

/// What every start of a restored server sets itself, and where its recovery goes: a later word on the command line would
/// win, and lead the server to other files, or others to its socket.
const SET_AT_START: [&str; 16] = [
    "config_file",
    "data_directory",
    "lc_messages",
    "log_destination",
    "logging_collector",
    "port",
    "recovery_target",
    "recovery_target_action",
    "recovery_target_inclusive",
    "recovery_target_lsn",
    "recovery_target_name",
    "recovery_target_time",
    "recovery_target_timeline",
    "recovery_target_xid",
    "restore_command",
    "unix_socket_directories",
];

impl Isolation {
    /// Whether a setting is not up for change. On the command line PostgreSQL takes a hyphen in a name for an underscore
    /// (`ParseLongOption` in `src/backend/utils/misc/guc.c`).
    pub(super) fn fixes(&self, name: &str) -> bool {
        let name = name.replace('-', "_").to_ascii_lowercase();
        SET_AT_START.contains(&name.as_str()) || self.settings.iter().any(|setting| setting.name == name)
    }
}

/// What is known of where the server will run.
pub(super) struct Surroundings<'a> {
    pub(super) major: PgMajor,
    pub(super) programs: &'a Programs,
    pub(super) data: &'a Path,
    pub(super) hba_file: &'a Path,
    pub(super) ident_file: &'a Path,
    /// Where a server that wants to tell its number outside of its data directory does.
    pub(super) pid_file: &'a Path,
    pub(super) owner: Option<Owner>,
    /// Libraries that are to be preloaded although they are not known to be harmless.
    pub(super) preload: &'a [String],
}

/// Composes the settings.
pub(super) fn isolate(around: &Surroundings<'_>) -> Isolation {
    let mut notes = Vec::new();
    let wanted = around.configured("shared_preload_libraries").unwrap_or_default();
    let (libraries, left_out) = around.choose_libraries(&wanted);
    if !left_out.is_empty() {
        notes.push(format!(
            "shared_preload_libraries without {}: not known to act on the server alone, or not installed here",
            left_out.join(", ")
        ));
    }
    let mut settings: Vec<Setting> =
        fixed(around.major).into_iter().map(|(name, value)| setting(name, value)).collect();
    settings.push(setting("shared_preload_libraries", libraries.join(",")));
    settings.push(setting("hba_file", around.hba_file.display().to_string()));
    settings.push(setting("external_pid_file", around.pid_file.display().to_string()));
    settings.push(setting("ident_file", around.ident_file.display().to_string()));
    if let Some((pages, configured)) = around.smaller_buffers() {
        settings.push(setting("shared_buffers", pages.to_string()));
        notes.push(format!(
            "shared_buffers is {} MiB here instead of {} MiB, a quarter of this host's memory",
            pages / 128,
            configured / 128
        ));
    }
    Isolation { settings, notes }
}

fn setting(name: &str, value: impl Into<String>) -> Setting {
    Setting { name: name.to_owned(), value: value.into() }
}

/// What never depends on the source.
fn fixed(major: PgMajor) -> Vec<(&'static str, &'static str)> {
    let mut fixed = vec![
        // Nothing leaves.
        ("archive_mode", "off"),
        ("archive_command", ""),
        ("archive_cleanup_command", ""),
        ("recovery_end_command", ""),
        ("primary_conninfo", ""),
        ("primary_slot_name", ""),
        ("listen_addresses", ""),
        ("unix_socket_permissions", "0700"),
        ("unix_socket_group", ""),
        ("max_logical_replication_workers", "0"),
        ("synchronous_standby_names", ""),
        // Nothing runs by itself.
        ("autovacuum", "off"),
        ("session_preload_libraries", ""),
        ("local_preload_libraries", ""),
        ("restart_after_crash", "off"),
        // Nothing is needed that only the source's host has.
        ("ssl", "off"),
        ("huge_pages", "off"),
        ("temp_tablespaces", ""),
        ("hot_standby", "on"),
        // When each line was said: the phases are told by them.
        ("log_line_prefix", "%n [%p] "),
        ("log_min_messages", "warning"),
        ("log_timezone", "UTC"),
        ("cluster_name", "walden-drill"),
    ];
    if major < PgMajor::V15 {
        fixed.push(("stats_temp_directory", "pg_stat_tmp"));
    }
    if major < PgMajor::V16 {
        fixed.push(("promote_trigger_file", ""));
    }
    if major >= PgMajor::V15 {
        fixed.push(("archive_library", ""));
    }
    if major >= PgMajor::V17 {
        // A trigger on login runs for us, too.
        fixed.extend([
            ("event_triggers", "off"),
            ("sync_replication_slots", "off"),
            ("summarize_wal", "off"),
        ]);
    }
    if major >= PgMajor::V18 {
        // What the source's kernel has, this one may not.
        fixed.push(("io_method", "worker"));
    }
    fixed
}

impl Surroundings<'_> {
    /// The value that the restored files, and the files that they include, give to a setting.
    fn configured(&self, name: &str) -> Option<String> {
        let mut command = Command::new(self.programs.directory.join("postgres"));
        command.arg("-C").arg(name).arg("-D").arg(self.data);
        command.arg("-c").arg(format!("data_directory={}", self.data.display()));
        command.stdin(Stdio::null()).stderr(Stdio::null()).current_dir(self.data);
        if let Some(owner) = self.owner {
            command.uid(owner.uid.as_raw()).gid(owner.gid.as_raw());
        }
        let output = command.output().ok().filter(|output| output.status.success())?;
        Some(String::from_utf8_lossy(&output.stdout).trim().to_owned())
    }

    /// The libraries to preload, and those of the source that are not.
    fn choose_libraries(&self, wanted: &str) -> (Vec<String>, Vec<String>) {
        let directory = self.library_directory();
        let is_installed = |name: &str| {
            directory.as_deref().is_some_and(|directory| {
                [".so", ".dylib"].iter().any(|ending| directory.join(format!("{name}{ending}")).is_file())
            })
        };
        let named = |text: &str| text.trim().trim_matches('"').trim_start_matches("$libdir/").to_owned();
        let wanted: Vec<String> = wanted.split(',').map(named).filter(|name| !name.is_empty()).collect();
        let (mut chosen, left_out): (Vec<String>, Vec<String>) = wanted
            .into_iter()
            .filter(|name| !self.preload.contains(name))
            .partition(|name| HARMLESS_LIBRARIES.contains(&name.as_str()) && is_installed(name));
        chosen.extend(self.preload.iter().cloned());
        (chosen, left_out)
    }

    /// Where the server's libraries are; `None` when that can't be told.
    fn library_directory(&self) -> Option<std::path::PathBuf> {
        let bin = &self.programs.directory;
        let said = Command::new(bin.join("pg_config")).arg("--pkglibdir").stderr(Stdio::null()).output();
        let said = said.ok().filter(|output| output.status.success());
        let said = said.map(|output| String::from_utf8_lossy(&output.stdout).trim().into());
        let beside = ["../lib", "../lib/postgresql"].map(|path| bin.join(path));
        said.into_iter().chain(beside).find(|directory: &std::path::PathBuf| {
            ["plpgsql.so", "plpgsql.dylib"].iter().any(|library| directory.join(library).is_file())
        })
    }

    /// `shared_buffers` in pages of 8 KiB, when the source's would take more than a quarter of the memory here; and the
    /// source's.
    fn smaller_buffers(&self) -> Option<(u64, u64)> {
        const PAGE_BYTES: u64 = 8192;
        let configured: u64 = self.configured("shared_buffers")?.parse().ok()?;
        let most = memory_bytes()? / 4 / PAGE_BYTES;
        // PostgreSQL itself wants 16 pages; an eighth of a gigabyte is its own default.
        (configured > most && most > 16).then_some((most, configured))
    }
}

/// The memory that this process may use: the host's, or the container's limit.
fn memory_bytes() -> Option<u64> {
    let of_host = || {
        let text = std::fs::read_to_string("/proc/meminfo").ok()?;
        let line = text.lines().find_map(|line| line.strip_prefix("MemTotal:"))?;
        let kilobytes: u64 = line.trim().trim_end_matches("kB").trim().parse().ok()?;
        Some(kilobytes * 1024)
    };
    let limit = || {
        let files = ["/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"];
        files.iter().find_map(|file| std::fs::read_to_string(file).ok()?.trim().parse::<u64>().ok())
    };
    match (of_host(), limit()) {
        (Some(host), Some(limit)) => Some(host.min(limit)),
        (host, limit) => host.or(limit),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_harmless_libraries_that_are_installed_are_preloaded() {
        let top = tempfile::tempdir().unwrap();
        let (bin, lib) = (top.path().join("bin"), top.path().join("lib"));
        std::fs::create_dir_all(&bin).unwrap();
        std::fs::create_dir_all(&lib).unwrap();
        for library in ["plpgsql", "pg_stat_statements", "pg_cron", "timescaledb"] {
            std::fs::write(lib.join(format!("{library}.so")), "").unwrap();
        }
        let programs = Programs { directory: bin };
        let preload = ["timescaledb".to_owned()];
        let around = Surroundings {
            major: PgMajor::V17,
            programs: &programs,
            data: top.path(),
            hba_file: top.path(),
            ident_file: top.path(),
            pid_file: top.path(),
            owner: None,
            preload: &preload,
        };
        let (chosen, left_out) =
            around.choose_libraries("pg_cron, \"$libdir/pg_stat_statements\",pgaudit,timescaledb,");
        assert_eq!(chosen, ["pg_stat_statements", "timescaledb"]);
        assert_eq!(left_out, ["pg_cron", "pgaudit"]);
    }

    #[test]
    fn every_major_has_its_own_settings() {
        let has = |major, name: &str| fixed(major).iter().any(|(fixed, _)| *fixed == name);
        for major in PgMajor::ALL {
            assert!(has(major, "archive_mode") && has(major, "listen_addresses"));
            assert_eq!(has(major, "archive_library"), major >= PgMajor::V15);
            assert_eq!(has(major, "promote_trigger_file"), major <= PgMajor::V15);
        }
    }

    #[test]
    fn no_spelling_of_a_name_gets_through_the_fence() {
        let settings = fixed(PgMajor::V17).into_iter().map(|(name, value)| setting(name, value)).collect();
        let isolation = Isolation { settings, notes: Vec::new() };
        for name in ["archive_mode", "Archive-Mode", "listen-addresses", "LISTEN_ADDRESSES"] {
            assert!(isolation.fixes(name), "{name}");
        }
        for name in ["unix_socket_directories", "unix-socket_directories", "data-directory", "port"] {
            assert!(isolation.fixes(name), "{name}");
        }
        assert!(!isolation.fixes("work_mem") && !isolation.fixes("shared-buffers"));
    }

    #[test]
    fn memory_is_known_on_linux() {
        assert!(!cfg!(target_os = "linux") || memory_bytes().is_some_and(|bytes| bytes > 1 << 20));
    }
}
