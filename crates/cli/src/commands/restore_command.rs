//! The `restore_command` of a restored server: this program, this repository, and every setting that came from
//! the environment, so that the server needs no configuration of its own to recover.

use std::path::Path;

use walden_core::ServerName;
use walden_store::StoreUrl;

use crate::config::{Effective, Origin};

/// Builds the command line for `program`, with `%f` and `%p`. It holds no secret: credentials are no settings,
/// and the server must have them in its own environment.
pub(super) fn restore_command(
    program: &Path,
    effective: &Effective,
    repo: &StoreUrl,
    server: &ServerName,
) -> String {
    let mut words: Vec<String> = effective
        .shown()
        .into_iter()
        .filter(|setting| !["repo", "server", "pgdata", "jobs"].contains(&setting.name.as_str()))
        .filter_map(|setting| match setting.origin {
            Origin::Environment(name) => {
                let value = setting.value.as_str().map_or_else(|| setting.value.to_string(), str::to_owned);
                Some(format!("{name}={}", word(&value)))
            }
            Origin::BuiltIn | Origin::File(_) | Origin::Flag(_) => None,
        })
        .collect();
    words.push(word(&program.display().to_string()));
    if effective.file_is_named {
        for file in &effective.files {
            words.extend(["--config".to_owned(), word(&absolute(file))]);
        }
    }
    words.extend([
        "--repo".to_owned(),
        word(&repo.to_string()),
        "--server".to_owned(),
        word(server.as_str()),
    ]);
    words.push("wal get %f %p".to_owned());
    words.join(" ")
}

fn absolute(path: &Path) -> String {
    std::path::absolute(path).unwrap_or_else(|_| path.to_owned()).display().to_string()
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

    fn command(program: &str, environment: &[(&str, &str)], repo: &str) -> String {
        // Neither of the usual files is read: one is named.
        let file = tempfile::NamedTempFile::new().unwrap();
        let effective =
            load(Some(file.path()), &environment.iter().copied().collect(), Flags::default()).unwrap();
        restore_command(Path::new(program), &effective, &repo.parse().unwrap(), &"main".parse().unwrap())
            .replace(&file.path().display().to_string(), "/etc/w.toml")
    }

    #[test]
    fn it_carries_what_the_environment_said_and_no_secret() {
        let environment = [
            ("WALDEN_S3_ENDPOINT", "https://minio:9000"),
            ("AWS_SECRET_ACCESS_KEY", "sEcReT"),
            ("PGDATA", "/x"),
        ];
        assert_eq!(
            command("/usr/bin/walden", &environment, "s3://bucket/x"),
            "WALDEN_S3_ENDPOINT=https://minio:9000 /usr/bin/walden --config /etc/w.toml --repo s3://bucket/x --server \
             main wal get %f %p"
        );
    }

    #[test]
    fn odd_paths_are_quoted_for_the_shell_and_for_postgres() {
        assert_eq!(
            command("/opt/my tools/wal'den", &[], "file:///back ups/100%"),
            r"'/opt/my tools/wal'\''den' --config /etc/w.toml --repo 'file:///back ups/100%%' --server main wal get %f %p"
        );
    }
}
