//! The user that servers run as: PostgreSQL refuses to run as root.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, lchown};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::UNIX_EPOCH;

use super::error::{Error, Result};
use crate::testbench::Testbench;

/// The account that Debian's packages create.
const SERVER_USER: &str = "postgres";

/// Longest path of a directory that still leaves room for the socket's name: `sun_path` has 108 bytes.
const MAX_SOCKET_DIR: usize = 80;

/// The user that servers run as: `postgres` when the test runs as root, else the test's own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ServerAccount {
    ids: Option<(u32, u32)>,
}

impl ServerAccount {
    /// The account for this process.
    ///
    /// # Errors
    /// [`Error::Testbench`] when the process is root's and there is no user `postgres`.
    pub fn current() -> Result<Self> {
        if !nix::unistd::geteuid().is_root() {
            return Ok(Self { ids: None });
        }
        let found = nix::unistd::User::from_name(SERVER_USER).map_err(|e| Error::Testbench(e.into()))?;
        let user = found.ok_or_else(|| {
            Error::Testbench(std::io::Error::other("no user postgres; run `cargo xtask setup`"))
        })?;
        Ok(Self { ids: Some((user.uid.as_raw(), user.gid.as_raw())) })
    }

    /// Makes a command run as this account.
    pub fn run(self, command: &mut Command) -> &mut Command {
        match self.ids {
            Some((uid, gid)) => command.uid(uid).gid(gid),
            None => command,
        }
    }

    /// Gives a file, or a directory and everything below it, to this account. Links are not followed.
    ///
    /// # Errors
    /// [`Error::Io`] when something cannot be read or given away.
    pub fn own(self, path: &Path) -> Result<()> {
        let Some((uid, gid)) = self.ids else { return Ok(()) };
        let mut pending = vec![path.to_path_buf()];
        while let Some(path) = pending.pop() {
            lchown(&path, Some(uid), Some(gid)).map_err(|e| Error::io("give away", &path, e))?;
            if fs::symlink_metadata(&path).map_err(|e| Error::io("look at", &path, e))?.is_dir() {
                for entry in fs::read_dir(&path).map_err(|e| Error::io("list", &path, e))? {
                    pending.push(entry.map_err(|e| Error::io("list", &path, e))?.path());
                }
            }
        }
        Ok(())
    }

    /// A fresh directory of this account, removed when the value is dropped: in the usual place for
    /// temporary files, or in `/tmp` when that place is too deep for a socket or closed to the account.
    ///
    /// # Errors
    /// [`Error::Io`] when it cannot be created.
    pub fn temp_dir(self) -> Result<tempfile::TempDir> {
        let usual = std::env::temp_dir();
        let fits = usual.as_os_str().len() < MAX_SOCKET_DIR && self.can_reach(&usual);
        let parent = if fits { usual } else { PathBuf::from("/tmp") };
        let dir = tempfile::Builder::new()
            .prefix("walden-pg-")
            .tempdir_in(&parent)
            .map_err(|e| Error::io("create a directory", &parent, e))?;
        self.own(dir.path())?;
        Ok(dir)
    }

    /// A path to this program that the account can execute: the same one, or, when a directory above it is
    /// closed to the account (such as root's home), a copy in the test bench.
    ///
    /// # Errors
    /// [`Error::Io`] when it cannot be copied.
    pub fn executable(self, program: &Path) -> Result<PathBuf> {
        if self.can_reach(program) {
            return Ok(program.to_path_buf());
        }
        let metadata = fs::metadata(program).map_err(|e| Error::io("look at", program, e))?;
        let changed = metadata.modified().ok().and_then(|t| t.duration_since(UNIX_EPOCH).ok());
        let version = format!("{}-{}", metadata.len(), changed.unwrap_or_default().as_nanos());
        let programs = Testbench::locate().map_err(Error::Testbench)?.dir().join("programs");
        fs::create_dir_all(&programs).map_err(|e| Error::io("create", &programs, e))?;
        let name = program.file_name().unwrap_or_default();
        let copy = programs.join(format!("{version}-{}", name.to_string_lossy()));
        if !copy.try_exists().map_err(|e| Error::io("look for", &copy, e))? {
            let temporary = tempfile::NamedTempFile::new_in(&programs)
                .map_err(|e| Error::io("create a file", &programs, e))?
                .into_temp_path();
            fs::copy(program, &temporary).map_err(|e| Error::io("copy", program, e))?;
            let executable = fs::Permissions::from_mode(0o755);
            fs::set_permissions(&temporary, executable).map_err(|e| Error::io("open up", &temporary, e))?;
            temporary.persist(&copy).map_err(|e| Error::io("publish", &copy, e.error))?;
        }
        Ok(copy)
    }

    /// Whether every directory down to `path` may be passed. Only modes are looked at, for others than root.
    fn can_reach(self, path: &Path) -> bool {
        let Some((uid, _)) = self.ids else { return true };
        path.ancestors().all(|above| {
            fs::metadata(above).is_ok_and(|metadata| {
                let needed = if metadata.uid() == uid { 0o100 } else { 0o001 };
                metadata.mode() & needed != 0
            })
        })
    }
}
