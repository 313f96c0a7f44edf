//! What PostgreSQL must be told when `wal get` fails.
//!
//! In archive recovery an ordinary failure code means "not in the archive", and the server would promote with
//! WAL missing. So there every failure ends above 125, and that holds for the failures before any work too: a
//! typing error in `restore_command`, a broken configuration file, a panic.

use std::ffi::{OsStr, OsString};
use std::path::{Path, PathBuf};

use crate::args::{Verb, WalVerb};
use crate::exit::Exit;
use crate::failure::{Failure, one_line};

/// The names that PostgreSQL's recovery gives to `%p` (`RestoreArchivedFile` in
/// `src/backend/access/transam/xlogarchive.c`); pg_rewind asks for files under their own names.
const RECOVERY_DESTINATIONS: [&str; 2] = ["RECOVERYXLOG", "RECOVERYHISTORY"];

/// True when a failure must stop the server that asks: it is in archive recovery and not a standby.
///
/// `destination` is `%p`; `directories` may be its data directory, the first that looks like one counts. A
/// directory that can't be looked at counts as one without `standby.signal`: to stop is the safe answer.
fn failure_stops_recovery(destination: Option<&Path>, directories: &[PathBuf]) -> bool {
    let exists = |path: PathBuf| path.try_exists().unwrap_or(false);
    let data_directory = directories.iter().find(|directory| exists(directory.join("PG_VERSION")));
    let has = |name: &str| data_directory.is_some_and(|directory| exists(directory.join(name)));
    if has("standby.signal") {
        return false;
    }
    has("recovery.signal") || destination.is_some_and(is_recovery_destination)
}

/// The directories that may be the data directory of the asking server: the one that an absolute `%p` lies in, and
/// the current directory, where PostgreSQL runs its commands.
fn data_directories(destination: Option<&Path>) -> Vec<PathBuf> {
    let absolute = destination.filter(|path| path.is_absolute());
    let of_destination = absolute.and_then(Path::parent).and_then(Path::parent).map(Path::to_owned);
    of_destination.into_iter().chain(std::env::current_dir().ok()).collect()
}

/// The code to end with; `get` is the destination of a `wal get`.
pub(crate) fn exit_code(exit: Exit, get: Option<&Path>) -> u8 {
    match get {
        Some(destination)
            if failure_stops_recovery(Some(destination), &data_directories(Some(destination))) =>
        {
            exit.code_in_archive_recovery()
        }
        _ => exit.code(),
    }
}

/// What PostgreSQL is told by a failure, for the line in its log.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Consequence {
    /// The archiver keeps the file.
    PushedAgain,
    /// Recovery ends with a fatal error.
    RecoveryStops,
    /// A standby asks again; pg_rewind and people see the failure themselves.
    AskedAgain,
}

/// A call by PostgreSQL: what the line in the server log is about.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Hook {
    verb: &'static str,
    file: String,
    consequence: Consequence,
}

impl Hook {
    /// The hook that a verb is, if it is one.
    pub(crate) fn of(verb: &Verb) -> Option<Self> {
        match verb {
            Verb::Wal(WalVerb::Push(asked)) => Some(Self::push(&asked.path)),
            Verb::Wal(WalVerb::Get(asked)) => Some(Self::get(asked.name.clone(), &asked.destination)),
            _ => None,
        }
    }

    /// The hook that a command line with errors was probably meant to be.
    pub(crate) fn probable(arguments: &[OsString]) -> Option<Self> {
        if let Some(destination) = probable_get(arguments) {
            return Some(Self::get(String::new(), &destination));
        }
        words_after(arguments, "push").map(|_| Self::push(Path::new("")))
    }

    fn push(path: &Path) -> Self {
        let file = path.file_name().unwrap_or(path.as_os_str()).to_string_lossy().into_owned();
        Self { verb: "wal push", file, consequence: Consequence::PushedAgain }
    }

    fn get(file: String, destination: &Path) -> Self {
        let stops = failure_stops_recovery(Some(destination), &data_directories(Some(destination)));
        let consequence = if stops { Consequence::RecoveryStops } else { Consequence::AskedAgain };
        Self { verb: "wal get", file, consequence }
    }

    /// One line that says which file, what happened, what it means and what to do.
    pub(crate) fn line(&self, failure: &Failure) -> String {
        let file = if self.file.is_empty() { String::new() } else { format!(" {}", self.file) };
        let mut line =
            format!("walden {}{file}: {}: {}", self.verb, failure.kind.as_str(), failure.sentence());
        line.push_str(match self.consequence {
            Consequence::PushedAgain => "; not archived: PostgreSQL keeps the file and tries again",
            Consequence::RecoveryStops => {
                "; this is not the end of the archive: recovery stops here, start the server again when it is solved"
            }
            Consequence::AskedAgain => "; not fetched: this does not mean that it is not in the archive",
        });
        if let Some(hint) = &failure.hint {
            line.push_str("; hint: ");
            line.push_str(&one_line(hint));
        }
        line
    }
}

/// Looks at a command line that could not be parsed: the destination of the `wal get` that it was probably meant
/// to be, or `None` when it was something else.
pub(crate) fn probable_get(arguments: &[OsString]) -> Option<PathBuf> {
    let recovery = arguments.iter().map(Path::new).find(|path| is_recovery_destination(path));
    if let Some(path) = recovery {
        return Some(path.to_owned());
    }
    let rest = words_after(arguments, "get")?;
    Some(rest.last().map(PathBuf::from).unwrap_or_default())
}

/// What follows `wal … <verb>` in a command line.
fn words_after<'a>(arguments: &'a [OsString], verb: &str) -> Option<&'a [OsString]> {
    let wal = arguments.iter().position(|argument| argument == OsStr::new("wal"))?;
    let rest = arguments.get(wal + 1..)?;
    let verb = rest.iter().position(|argument| argument == OsStr::new(verb))?;
    rest.get(verb + 1..)
}

/// Whether recovery asks, and not pg_rewind or a person.
pub(crate) fn is_recovery_destination(path: &Path) -> bool {
    path.file_name().is_some_and(|name| RECOVERY_DESTINATIONS.iter().any(|known| name == OsStr::new(known)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn directory_with(files: &[&str]) -> tempfile::TempDir {
        let directory = tempfile::tempdir().unwrap();
        for file in files.iter().chain(&["PG_VERSION"]) {
            std::fs::write(directory.path().join(file), b"").unwrap();
        }
        directory
    }

    fn stops(files: &[&str], destination: &str) -> bool {
        let directory = directory_with(files);
        failure_stops_recovery(Some(Path::new(destination)), &[directory.path().to_owned()])
    }

    #[test]
    fn archive_recovery_is_stopped_and_a_standby_is_not() {
        assert!(stops(&["recovery.signal"], "pg_wal/RECOVERYXLOG"));
        assert!(stops(&["recovery.signal"], "pg_wal/000000010000000000000001"));
        assert!(stops(&[], "pg_wal/RECOVERYXLOG"));
        assert!(stops(&[], "/somewhere/pg_wal/RECOVERYHISTORY"));
        assert!(!stops(&["standby.signal"], "pg_wal/RECOVERYXLOG"));
        assert!(!stops(&["standby.signal", "recovery.signal"], "pg_wal/RECOVERYXLOG"));
        assert!(!stops(&[], "/pgdata/pg_wal/000000010000000000000001"), "pg_rewind");
    }

    #[test]
    fn the_signal_files_of_another_server_do_not_count() {
        let own = directory_with(&["recovery.signal"]);
        let other = directory_with(&["standby.signal"]);
        let directories = [own.path().to_owned(), other.path().to_owned()];
        assert!(failure_stops_recovery(None, &directories));
    }

    #[test]
    fn a_directory_that_cannot_be_looked_at_stops() {
        let destination = Path::new("pg_wal/RECOVERYXLOG");
        assert!(failure_stops_recovery(Some(destination), &[PathBuf::from("/proc/self/mem/x")]));
        assert!(failure_stops_recovery(Some(destination), &[]));
    }

    #[test]
    fn an_absolute_destination_names_its_data_directory() {
        let current = std::env::current_dir().unwrap();
        let directories = data_directories(Some(Path::new("/pgdata/pg_wal/RECOVERYXLOG")));
        assert_eq!(directories, [PathBuf::from("/pgdata"), current.clone()]);
        assert_eq!(data_directories(Some(Path::new("pg_wal/RECOVERYXLOG"))), [current]);
    }

    #[test]
    fn the_line_for_the_server_log_is_one_line_that_says_what_it_means() {
        let failure = Failure::new(walden_core::ErrorKind::Unavailable, "store unavailable\nkey=a")
            .with_hint("look at\nthe network");
        let push = Hook::push(Path::new("pg_wal/000000010000000000000003"));
        assert_eq!(
            push.line(&failure),
            "walden wal push 000000010000000000000003: unavailable: store unavailable key=a; not archived: PostgreSQL \
             keeps the file and tries again; hint: look at the network"
        );
        let get = Hook::get("00000002.history".into(), Path::new("pg_wal/RECOVERYHISTORY"));
        assert_eq!(
            get.line(&failure),
            "walden wal get 00000002.history: unavailable: store unavailable key=a; this is not the end of the archive: \
             recovery stops here, start the server again when it is solved; hint: look at the network"
        );
    }

    #[test]
    fn a_get_is_recognised_in_a_command_line_with_errors() {
        let probable = |line: &str| {
            let arguments: Vec<OsString> = line.split(' ').map(OsString::from).collect();
            probable_get(&arguments).map(|path| path.display().to_string())
        };
        for (line, destination) in [
            (
                "walden wal get 00000002.history pg_wal/RECOVERYHISTORY --rep x",
                Some("pg_wal/RECOVERYHISTORY"),
            ),
            ("walden --repo wal wal get f pg_wal/RECOVERYXLOG", Some("pg_wal/RECOVERYXLOG")),
            ("walden wall gt f pg_wal/RECOVERYXLOG", Some("pg_wal/RECOVERYXLOG")),
            ("walden wal -v get", Some("")),
            ("walden wal get 000000010000000000000001", Some("000000010000000000000001")),
            ("walden wal push pg_wal/000000010000000000000001", None),
            ("walden get wal", None),
            ("walden", None),
        ] {
            assert_eq!(probable(line).as_deref(), destination, "{line}");
        }
    }
}
