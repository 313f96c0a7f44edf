//! Finding the server's programs.

use std::path::{Path, PathBuf};
use std::process::Command;

use walden_core::ErrorKind;
use walden_pg::PgMajor;

use crate::error::{EngineError, Result};
use crate::restore::request::StartOptions;

/// The programs of one PostgreSQL installation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Programs {
    /// Where they are.
    pub(crate) directory: PathBuf,
}

impl Programs {
    /// What `postgres --version` says, without the program's name.
    pub(crate) fn version(&self) -> Option<String> {
        let output = Command::new(self.directory.join("postgres")).arg("--version").output().ok()?;
        let said = String::from_utf8_lossy(&output.stdout);
        let version = said.trim().trim_start_matches("postgres (PostgreSQL) ");
        (!version.is_empty()).then(|| version.to_owned())
    }
}

/// Looks for the programs of this major: where the options say, in PATH, and where distributions put them. `None`
/// when there are none and no start was asked for.
///
/// # Errors
/// Of kind `config` when a start was asked for and they are not there.
pub(crate) fn find_programs(major: PgMajor, start: Option<&StartOptions>) -> Result<Option<Programs>> {
    if let Some(directory) = start.and_then(|start| start.bin_directory.as_deref()) {
        return match major_of(directory) {
            Some(found) if found == major.to_string() => {
                Ok(Some(Programs { directory: directory.to_owned() }))
            }
            Some(found) => Err(missing(major, &format!("{} has PostgreSQL {found}", directory.display()))),
            None => {
                Err(missing(major, &format!("{} has no program postgres that runs", directory.display())))
            }
        };
    }
    let path = std::env::var_os("PATH").unwrap_or_default();
    let mut candidates: Vec<PathBuf> = std::env::split_paths(&path).collect();
    candidates.push(PathBuf::from(format!("/usr/lib/postgresql/{major}/bin")));
    candidates.push(PathBuf::from(format!("/usr/pgsql-{major}/bin")));
    candidates.push(PathBuf::from("/usr/local/pgsql/bin"));
    candidates.push(PathBuf::from(format!("/opt/homebrew/opt/postgresql@{major}/bin")));
    let found = candidates.into_iter().find(|directory| major_of(directory) == Some(major.to_string()));
    match (found, start) {
        (Some(directory), _) => Ok(Some(Programs { directory })),
        (None, None) => Ok(None),
        (None, Some(_)) => Err(missing(major, "neither PATH nor the usual places have them")),
    }
}

fn missing(major: PgMajor, what: &str) -> EngineError {
    let message = format!("the programs of PostgreSQL {major} were not found: {what}");
    EngineError::failed(ErrorKind::Config, message).with_hint(
        "install them, or name their directory with --pg-bin; without --start they are not needed here",
    )
}

/// The major that `postgres --version` in a directory tells: `postgres (PostgreSQL) 15.18 (Debian 15.18-1)`.
fn major_of(directory: &Path) -> Option<String> {
    let program = directory.join("postgres");
    if !program.is_file() {
        return None;
    }
    let output = Command::new(program).arg("--version").output().ok()?;
    parse_major(&String::from_utf8_lossy(&output.stdout))
}

fn parse_major(text: &str) -> Option<String> {
    let version = text.trim().strip_prefix("postgres (PostgreSQL) ")?;
    let digits: String = version.chars().take_while(char::is_ascii_digit).collect();
    (!digits.is_empty()).then_some(digits)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_read() {
        for (text, major) in [
            ("postgres (PostgreSQL) 15.18 (Debian 15.18-0+deb12u1)\n", Some("15")),
            ("postgres (PostgreSQL) 18beta1", Some("18")),
            ("postgres (EnterpriseDB) 15", None),
            ("", None),
        ] {
            assert_eq!(parse_major(text).as_deref(), major, "{text}");
        }
    }

    #[test]
    fn a_directory_without_a_server_is_refused_by_name() {
        let empty = tempfile::tempdir().unwrap();
        let options =
            StartOptions { bin_directory: Some(empty.path().to_owned()), ..StartOptions::default() };
        let error = find_programs(PgMajor::V17, Some(&options)).unwrap_err();
        assert!(error.to_string().contains("has no program postgres") && error.hint().is_some(), "{error}");
    }
}
