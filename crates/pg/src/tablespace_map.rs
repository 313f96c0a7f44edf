//! `tablespace_map`: which links the server makes in `pg_tblspc` when it starts from a base backup.
//!
//! PostgreSQL source: `do_pg_backup_start` in `src/backend/access/transam/xlog.c` writes it,
//! `read_tablespace_map` in `xlogrecovery.c` (before 15 in `xlog.c`) reads it.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use crate::error::{Error, quoted};
use crate::hex;
use crate::ids::Oid;
use crate::major::PgMajor;

/// The tablespaces of a base backup and where their directories are.
///
/// The entries keep the order of the file. PostgreSQL 13 writes line breaks in a path with a backslash
/// before them and leaves backslashes alone; from 14 on backslashes are escaped too. So both
/// directions need the major version.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct TablespaceMap {
    entries: Vec<(Oid, PathBuf)>,
}

impl TablespaceMap {
    /// Parses the file's bytes. An empty file gives an empty map.
    ///
    /// # Errors
    /// [`Error::InvalidTablespaceMap`] where the server would refuse the file, and for a tablespace
    /// that is not a number above 0, or is listed twice.
    pub fn parse(bytes: &[u8], major: PgMajor) -> Result<Self, Error> {
        let mut map = Self::default();
        let mut number = 0;
        let mut rest = bytes;
        while !rest.is_empty() {
            let (line, after) = split_line(rest, major).ok_or_else(|| Error::InvalidTablespaceMap {
                line: number + 1,
                why: "the last line is cut short",
                text: quoted(&String::from_utf8_lossy(rest)),
            })?;
            rest = after;
            if line.is_empty() {
                continue;
            }
            number += 1;
            let invalid = |why| Error::InvalidTablespaceMap {
                line: number,
                why,
                text: quoted(&String::from_utf8_lossy(&line)),
            };
            let (tablespace, path) =
                parse_line(&line).ok_or_else(|| invalid("not of the form <oid> <path>"))?;
            if map.get(tablespace).is_some() {
                return Err(invalid("the tablespace is listed twice"));
            }
            map.entries.push((tablespace, path));
        }
        Ok(map)
    }

    /// The file's bytes, for a server of version `major`.
    ///
    /// An empty map gives no bytes; then no file must be written at all.
    ///
    /// # Errors
    /// [`Error::InvalidTablespaceMap`] for an empty path, and for one that ends in a backslash in 13,
    /// which that version cannot read back.
    pub fn render(&self, major: PgMajor) -> Result<Vec<u8>, Error> {
        let mut bytes = Vec::new();
        for (index, (tablespace, path)) in self.entries.iter().enumerate() {
            let path = path.as_os_str().as_bytes();
            if path.is_empty() || (major == PgMajor::V13 && path.ends_with(b"\\")) {
                return Err(Error::InvalidTablespaceMap {
                    line: index + 1,
                    why: "the path cannot be written",
                    text: quoted(&String::from_utf8_lossy(path)),
                });
            }
            bytes.extend_from_slice(format!("{tablespace} ").as_bytes());
            for &byte in path {
                if matches!(byte, b'\n' | b'\r') || (byte == b'\\' && major > PgMajor::V13) {
                    bytes.push(b'\\');
                }
                bytes.push(byte);
            }
            bytes.push(b'\n');
        }
        Ok(bytes)
    }

    /// Whether there are no tablespaces besides the built-in two.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// The tablespaces with their directories, in the order of the file.
    pub fn entries(&self) -> impl Iterator<Item = (Oid, &Path)> {
        self.entries.iter().map(|(tablespace, path)| (*tablespace, path.as_path()))
    }

    /// The directory of a tablespace.
    pub fn get(&self, tablespace: Oid) -> Option<&Path> {
        self.entries.iter().find(|(oid, _)| *oid == tablespace).map(|(_, path)| path.as_path())
    }

    /// Sets the directory of a tablespace, adding it at the end if it is not yet there.
    pub fn set(&mut self, tablespace: Oid, path: PathBuf) {
        match self.entries.iter_mut().find(|(oid, _)| *oid == tablespace) {
            Some((_, old)) => *old = path,
            None => self.entries.push((tablespace, path)),
        }
    }
}

/// Takes one line, with its escapes undone, off the front. `None` if no line end follows.
fn split_line(bytes: &[u8], major: PgMajor) -> Option<(Vec<u8>, &[u8])> {
    let mut line = Vec::new();
    let mut escaped = false;
    for (index, &byte) in bytes.iter().enumerate() {
        let ends_line = matches!(byte, b'\n' | b'\r');
        if ends_line && !escaped {
            return Some((line, bytes.get(index + 1..).unwrap_or_default()));
        }
        if major == PgMajor::V13 {
            // The backslash was taken as itself; it turns out to be an escape only now.
            if ends_line {
                line.pop();
            }
            line.push(byte);
            escaped = byte == b'\\';
        } else if byte == b'\\' && !escaped {
            escaped = true;
        } else {
            line.push(byte);
            escaped = false;
        }
    }
    None
}

fn parse_line(line: &[u8]) -> Option<(Oid, PathBuf)> {
    let space = line.iter().position(|&byte| byte == b' ')?;
    let (number, path) = line.split_at_checked(space)?;
    let path = path.get(1..).filter(|path| !path.is_empty() && !path.contains(&0))?;
    let number = hex::parse_decimal(std::str::from_utf8(number).ok()?)?;
    let tablespace = Oid::new(u32::try_from(number).ok()?);
    tablespace.is_valid().then(|| (tablespace, PathBuf::from(OsStr::from_bytes(path))))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::fixtures::BACKUPS;

    #[test]
    fn real_files_of_all_majors() {
        for files in &BACKUPS {
            let map = TablespaceMap::parse(files.tablespace_map, files.major).unwrap();
            let of = |name: &str| PathBuf::from(format!("/var/tmp/wpg/ts{}/{name}", files.major));
            assert_eq!(map.get(Oid::new(16384)), Some(of("back\\slash").as_path()), "{}", files.major);
            assert_eq!(map.get(Oid::new(16385)), Some(of("new\nline").as_path()));
            assert_eq!(map.get(Oid::new(16386)), Some(of("plain dir").as_path()));
            assert_eq!(map.entries().count(), 3);
            assert_eq!(map.render(files.major).unwrap(), files.tablespace_map);
        }
    }

    #[test]
    fn paths_can_be_changed() {
        let mut map = TablespaceMap::parse(b"16384 /old\n16385 /keep\n", PgMajor::V18).unwrap();
        map.set(Oid::new(16384), "/new".into());
        map.set(Oid::new(5), "/added".into());
        assert_eq!(map.render(PgMajor::V18).unwrap(), b"16384 /new\n16385 /keep\n5 /added\n");
        assert!(TablespaceMap::parse(b"", PgMajor::V18).unwrap().is_empty());
        assert!(TablespaceMap::parse(b"\n\r\n", PgMajor::V18).unwrap().is_empty());
    }

    #[test]
    fn what_the_server_refuses_is_refused() {
        for bad in
            ["16384 /x", "16384 /x\\\n", "16384\n", "x /y\n", "0 /y\n", "16384 \n", "1 /a\n1 /b\n", " /x\n"]
        {
            assert!(TablespaceMap::parse(bad.as_bytes(), PgMajor::V15).is_err(), "{bad:?}");
        }
        let map = TablespaceMap::parse(b"1 /ends\\\\\n", PgMajor::V14).unwrap();
        assert!(map.render(PgMajor::V13).is_err());
    }

    proptest! {
        #[test]
        fn maps_round_trip(
            list in prop::collection::btree_map(1u32.., "/[a-b\\\\\n\r ]{0,8}", 0..6),
            which in 0usize..6,
        ) {
            let major = PgMajor::ALL[which];
            let mut map = TablespaceMap::default();
            for (oid, path) in list {
                // A path that ends in a backslash is beyond what 13 can write.
                map.set(Oid::new(oid), PathBuf::from(path + "x"));
            }
            prop_assert_eq!(TablespaceMap::parse(&map.render(major).unwrap(), major), Ok(map));
        }

        #[test]
        fn any_bytes_are_taken_or_refused(bytes: Vec<u8>, which in 0usize..6) {
            let _ = TablespaceMap::parse(&bytes, PgMajor::ALL[which]);
        }

        #[test]
        fn mutated_files_are_taken_or_refused(which in 0usize..6, noise: [(u8, u8); 3]) {
            let files = &BACKUPS[which];
            let mut bytes = files.tablespace_map.to_vec();
            for (at, byte) in noise {
                let at = usize::from(at) % bytes.len();
                bytes[at] = byte;
            }
            if let Ok(map) = TablespaceMap::parse(&bytes, files.major)
                && let Ok(rendered) = map.render(files.major)
            {
                prop_assert_eq!(TablespaceMap::parse(&rendered, files.major), Ok(map));
            }
        }
    }
}
