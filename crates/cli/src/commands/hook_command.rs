//! The command lines that PostgreSQL runs: this program, this repository, and every setting of the store that is
//! not built in, wherever it came from. So a server needs no configuration of its own, and it does not matter that
//! it runs under another account with other files.

use std::path::Path;

use walden_core::ErrorKind;

use crate::config::{Effective, Origin};
use crate::env;
use crate::failure::Failure;

/// The settings that `wal push` and `wal get` need. Of the agent's those that say how much of the machine it may take;
/// not the address of its metrics, which the next server on this host has, too.
const NEEDED: [&str; 5] = ["store.", "wal.", "agent.start", "agent.prefetch", "agent.max_rate"];

/// Builds the command line that runs this program with `verb`, such as `wal get %f %p`. It holds no secret:
/// credentials are no settings, and the server must have them in its own environment.
///
/// # Errors
/// Kind `config` when no repository is named, `local_io` when the path of this program is not known.
pub(super) fn hook_command(effective: &Effective, verb: &str) -> Result<String, Failure> {
    let program = std::env::current_exe().map_err(|error| {
        Failure::new(ErrorKind::LocalIo, "cannot tell the path of this program").caused_by(&error)
    })?;
    command_of(&program, effective, verb)
}

fn command_of(program: &Path, effective: &Effective, verb: &str) -> Result<String, Failure> {
    let repo = effective.repo()?;
    let mut words: Vec<String> = Vec::new();
    for setting in effective.shown() {
        let needed = NEEDED.iter().any(|prefix| setting.name.starts_with(prefix));
        if !needed || setting.origin == Origin::BuiltIn {
            continue;
        }
        let Some(variable) = env::SETTINGS.iter().find(|variable| variable.path == setting.name) else {
            continue;
        };
        let value = setting.value.as_str().map_or_else(|| setting.value.to_string(), str::to_owned);
        words.push(format!("{}={}", variable.name, word(&value)));
    }
    words.push(word(&program.display().to_string()));
    words.extend(["--repo".to_owned(), word(&repo.to_string())]);
    words.extend(["--server".to_owned(), word(effective.config.server.as_str()), verb.to_owned()]);
    Ok(words.join(" "))
}

/// One word for the shell that PostgreSQL runs, in which `%` stands for itself.
fn word(text: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "/._-+=:,@%".contains(c);
    let quoted = if !text.is_empty() && text.chars().all(plain) {
        text.to_owned()
    } else {
        format!("'{}'", text.replace('\'', r"'\''"))
    };
    quoted.replace('%', "%%")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Flags, load};

    fn command(program: &str, file: &str, environment: &[(&str, &str)]) -> String {
        // Neither of the usual files is read: one is named.
        let path = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(path.path(), file).unwrap();
        let effective =
            load(Some(path.path()), &environment.iter().copied().collect(), Flags::default()).unwrap();
        command_of(Path::new(program), &effective, "wal get %f %p").unwrap()
    }

    #[test]
    fn it_carries_what_files_and_environment_said_and_no_secret() {
        let file =
            "repo = \"s3://bucket/x\"\njobs = 3\n[store.s3]\nregion = \"eu-central-1\"\npath_style = true\n";
        let environment = [
            ("WALDEN_S3_ENDPOINT", "https://minio:9000"),
            ("WALDEN_WAL_GET_DEADLINE", "1m 30s"),
            ("AWS_SECRET_ACCESS_KEY", "sEcReT"),
            ("PGDATA", "/x"),
        ];
        assert_eq!(
            command("/usr/bin/walden", file, &environment),
            "WALDEN_S3_ENDPOINT=https://minio:9000 WALDEN_S3_PATH_STYLE=true WALDEN_S3_REGION=eu-central-1 \
             WALDEN_WAL_GET_DEADLINE='1m 30s' /usr/bin/walden --repo s3://bucket/x --server main wal get %f %p"
        );
    }

    #[test]
    fn odd_paths_are_quoted_for_the_shell_and_for_postgres() {
        let file = "repo = \"file:///back ups/100%\"\n";
        assert_eq!(
            command("/opt/my tools/wal'den", file, &[]),
            r"'/opt/my tools/wal'\''den' --repo 'file:///back ups/100%%' --server main wal get %f %p"
        );
    }
}
