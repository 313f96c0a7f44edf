//! Whether a restored server could archive into its source's archive.
//!
//! `walden wal push` refuses a restored copy; whatever else an archive_command does, it does for the copy too.

use std::path::Path;

use super::settings::{has_includes, value_of};

/// A larger configuration file is not looked into, in bytes.
const CONF_BYTES_MAX: u64 = 1 << 20;

/// What the files of the backup say about archiving.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Archiving {
    /// The server does not archive.
    Off,
    /// All that archives is one `walden wal push`.
    Walden,
    /// Something else archives, too or instead.
    Other,
    /// A file that is not looked at may decide it.
    Unknown,
}

impl Archiving {
    /// Judges `postgresql.auto.conf`, which wins, and `postgresql.conf`, when it is in the backup.
    pub(super) fn of(auto_conf: &str, conf: Option<&str>) -> Self {
        if has_includes(auto_conf) {
            return Self::Unknown;
        }
        // `None` when an included file, or one outside of the backup, may say it.
        let known = |name: &str| {
            value_of(auto_conf, name).or_else(|| {
                let conf = conf.filter(|conf| !has_includes(conf))?;
                Some(value_of(conf, name).unwrap_or_default())
            })
        };
        if known("archive_mode").is_some_and(|mode| mode.is_empty() || is_off(&mode)) {
            return Self::Off;
        }
        match (known("archive_command"), known("archive_library")) {
            (Some(_), Some(library)) if !library.is_empty() => Self::Other,
            (Some(command), _) if !is_one_push(&command) => Self::Other,
            (Some(_), Some(_)) => Self::Walden,
            _ => Self::Unknown,
        }
    }

    /// Whether nothing can reach the source's archive although `archive_mode` stays as it is.
    pub(super) fn is_harmless(self) -> bool {
        matches!(self, Self::Off | Self::Walden)
    }

    /// What to say when it is decided here.
    pub(super) fn warning(self) -> Option<String> {
        let why = match self {
            Self::Off => return None,
            Self::Walden => {
                return Some(
                    "archive_mode stays on: archiving into the source's archive is refused until walden server adopt, \
                     and WAL is kept in pg_wal meanwhile; --archive-mode off restores a server that does not archive"
                        .to_owned(),
                );
            }
            Self::Other => "something else than one walden wal push archives",
            Self::Unknown => "a file that is not in the backup, or is included, may say what archives",
        };
        Some(format!(
            "archive_mode is set to off: {why}, and could write into the source's archive; look at archive_command \
             and archive_library before switching it on, or restore with --archive-mode preserve"
        ))
    }

    /// What to say when `archive_mode` was to stay.
    pub(super) fn warning_when_preserved(self) -> Option<String> {
        let what = match self {
            Self::Off | Self::Walden => return self.warning(),
            Self::Other => "something else than one walden wal push archives",
            Self::Unknown => "a file that is not in the backup, or is included, may say what archives",
        };
        Some(format!(
            "archive_mode stays as it is: {what}, and only walden wal push refuses to archive into the source's archive"
        ))
    }
}

/// Whether a value of a Boolean, or of `archive_mode`, means off.
fn is_off(value: &str) -> bool {
    let value = value.to_ascii_lowercase();
    // Any beginning that is not ambiguous is good for PostgreSQL (parse_bool in src/backend/utils/adt/bool.c).
    value == "0"
        || value == "of"
        || ["off", "false", "no"]
            .iter()
            .any(|word| !value.is_empty() && word.starts_with(&value) && value != "o")
}

/// The one `walden wal push` that archives for a server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PushCommand {
    /// The variables that it sets for the program.
    pub variables: Vec<(String, String)>,
    /// The program's arguments, `%p` as it stands there.
    pub arguments: Vec<String>,
}

/// How the server of a data directory archives, as `postgresql.auto.conf` and `postgresql.conf` say, when that is one
/// `walden wal push`; `None` when it is something else, or is not said there.
#[must_use]
pub fn configured_push(data_directory: &Path) -> Option<PushCommand> {
    let read = |name| {
        let bytes = crate::fs::read_if_present(&data_directory.join(name), CONF_BYTES_MAX).ok().flatten()?;
        String::from_utf8(bytes).ok()
    };
    let said = |name| value_of(&read(name)?, "archive_command");
    let command = said("postgresql.auto.conf").or_else(|| said("postgresql.conf"))?;
    // What PostgreSQL makes of it.
    one_push(&command.replace("%%", "%"))
}

/// Whether a shell runs nothing but one `walden … wal push … %p` for this command.
fn is_one_push(command: &str) -> bool {
    one_push(command).is_some()
}

fn one_push(command: &str) -> Option<PushCommand> {
    if command.contains([';', '&', '|', '`', '<', '>', '(', ')', '{', '}', '\n', '\r', '\\']) {
        return None;
    }
    let mut rest = words(command)?.into_iter().peekable();
    let _ = rest.next_if(|word| word == "env");
    let mut variables = Vec::new();
    while let Some(word) = rest.next_if(|word| is_assignment(word)) {
        variables.extend(word.split_once('=').map(|(name, value)| (name.to_owned(), value.to_owned())));
    }
    let program = rest.next().unwrap_or_default();
    let is_this_one = || std::env::current_exe().is_ok_and(|this| this == Path::new(&program));
    if program.rsplit('/').next() != Some("walden") && !is_this_one() {
        return None;
    }
    let arguments: Vec<String> = rest.collect();
    let pushes = arguments.windows(2).filter(|pair| *pair == ["wal", "push"]).count();
    (pushes == 1 && arguments.iter().any(|word| word == "%p")).then_some(PushCommand { variables, arguments })
}

fn is_assignment(word: &str) -> bool {
    word.split_once('=').is_some_and(|(name, _)| {
        name.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_')
            && name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_')
    })
}

/// The words of a command, without their quotes; `None` when a quote is not closed.
fn words(command: &str) -> Option<Vec<String>> {
    let mut words = Vec::new();
    let mut word: Option<String> = None;
    let mut quote = None;
    for character in command.chars() {
        match (quote, character) {
            (Some(open), _) if character == open => quote = None,
            (None, '\'' | '"') => {
                quote = Some(character);
                word.get_or_insert_default();
            }
            (None, _) if character.is_whitespace() => words.extend(word.take()),
            _ => word.get_or_insert_default().push(character),
        }
    }
    words.extend(word);
    quote.is_none().then_some(words)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_single_push_counts_as_one() {
        for good in [
            "walden wal push %p",
            "/usr/bin/walden wal push \"%p\"",
            "env A=b WALDEN_REPO='s3://b/p q' /opt/walden --server main wal push %p",
            "WALDEN_SERVER=main walden --config '/etc/my walden.toml' wal push %p",
        ] {
            assert!(is_one_push(good), "{good}");
        }
        for bad in [
            "",
            "cp %p /archive/%f",
            "cp %p /archive/%f && walden wal push %p",
            "walden wal push %p && cp %p /archive/%f",
            "walden wal push %p; cp %p /archive/%f",
            "walden wal push %p | tee",
            "walden wal push %p &",
            "walden wal push $(cp %p /archive/%f; echo %p)",
            "walden wal push `x` %p",
            "walden wal push %p\ncp %p /archive",
            "bash -c 'walden wal push %p'",
            "cp walden wal push %p",
            "walden wal get %p",
            "walden wal push %f",
            "A=b cp %p wal push",
            "walden wal push '%p",
        ] {
            assert!(!is_one_push(bad), "{bad}");
        }
    }

    #[test]
    fn what_archives_is_taken_from_the_file_that_wins() {
        let directory = tempfile::tempdir().unwrap();
        let write = |name: &str, text: &str| std::fs::write(directory.path().join(name), text).unwrap();
        assert_eq!(configured_push(directory.path()), None);
        write("postgresql.conf", "archive_command = 'cp %p /archive/%f'\n");
        assert_eq!(configured_push(directory.path()), None);
        write(
            "postgresql.auto.conf",
            "archive_command = 'WALDEN_SERVER=db1 walden --repo ''file:///100%%'' wal push %p'\n",
        );
        let push = configured_push(directory.path()).unwrap();
        assert_eq!(push.variables, [("WALDEN_SERVER".to_owned(), "db1".to_owned())]);
        assert_eq!(push.arguments, ["--repo", "file:///100%", "wal", "push", "%p"]);
    }

    #[test]
    fn what_is_not_known_is_not_harmless() {
        let of = Archiving::of;
        let on = "archive_mode = on\narchive_command = 'walden wal push %p'\n";
        assert_eq!(of("", Some(on)), Archiving::Walden);
        assert_eq!(of("", Some("archive_command = 'cp %p /a/%f'\n")), Archiving::Off);
        assert_eq!(of("archive_mode = 'off'\n", Some(on)), Archiving::Off);
        assert_eq!(of("archive_command = 'cp %p /a/%f'\n", Some(on)), Archiving::Other);
        assert_eq!(of("", Some(&format!("{on}archive_library = 'basic_archive'\n"))), Archiving::Other);
        assert_eq!(of("", Some(&format!("{on}include_dir = 'conf.d'\n"))), Archiving::Unknown);
        assert_eq!(of(on, Some("include 'more.conf'\n")), Archiving::Unknown, "archive_library is not known");
        assert_eq!(of(&format!("{on}archive_library = ''\n"), None), Archiving::Walden);
        assert_eq!(of("", None), Archiving::Unknown);
        for (archiving, harmless) in [
            (Archiving::Off, true),
            (Archiving::Walden, true),
            (Archiving::Other, false),
            (Archiving::Unknown, false),
        ] {
            assert_eq!(archiving.is_harmless(), harmless, "{archiving:?}");
            let says_off = |text: String| text.contains("archive_mode is set to off");
            assert_eq!(archiving.warning().is_some_and(says_off), !harmless, "{archiving:?}");
        }
    }
}
