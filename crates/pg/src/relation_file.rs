//! The files of relations in a data directory: which they are, what their names say, and which of
//! them a base backup leaves out.
//!
//! PostgreSQL source: `src/common/relpath.c`, `src/backend/storage/file/reinit.c`
//! (`parse_filename_for_nontemp_relation`), `src/backend/storage/file/fd.c`
//! (`looks_like_temp_rel_name`).

use std::collections::BTreeSet;
use std::fmt;
use std::str::FromStr;

use crate::error::{Error, quoted};
use crate::hex;
use crate::ids::{Fork, Oid, RelFileLocator, RelFileNumber};

/// The name of a file of a relation: `[t<backend>_]<number>[_fsm|_vm|_init][.<segment>]`.
///
/// All pages of such files carry checksums, in every fork, if the cluster has checksums at all.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RelationFileName {
    /// The relation's file number.
    pub relation: RelFileNumber,
    /// The fork.
    pub fork: Fork,
    /// Which part of the fork, from 0; all but the last have 1 GiB, unless PostgreSQL was built
    /// otherwise.
    pub segment: u32,
    /// The number of the backend that the file belongs to, if it is of a temporary relation. Nobody
    /// else ever reads such a file, so no backup needs it.
    pub temporary_of: Option<u32>,
}

impl RelationFileName {
    /// The number of the file's first block within the fork, which page checksums depend on. `None` if
    /// no fork is that long.
    pub fn first_block(&self, relation_segment_blocks: u32) -> Option<u32> {
        self.segment.checked_mul(relation_segment_blocks)
    }

    /// Whether a base backup must not or need not hold the file: those of temporary relations, and all
    /// forks except `_init` of the relations in `unlogged`, which the server makes anew from that fork.
    pub fn is_left_out(&self, unlogged: &BTreeSet<RelFileNumber>) -> bool {
        self.temporary_of.is_some() || (self.fork != Fork::Init && unlogged.contains(&self.relation))
    }
}

impl fmt::Display for RelationFileName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(backend) = self.temporary_of {
            write!(f, "t{backend}_")?;
        }
        write!(f, "{}", self.relation)?;
        if self.fork != Fork::Main {
            write!(f, "_{}", self.fork.name())?;
        }
        if self.segment != 0 {
            write!(f, ".{}", self.segment)?;
        }
        Ok(())
    }
}

impl FromStr for RelationFileName {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        parse_name(text).ok_or_else(|| Error::InvalidFileName { text: quoted(text) })
    }
}

/// A file of a relation, by its path in the data directory.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RelationFile {
    /// The tablespace of the directory.
    pub tablespace: Oid,
    /// The database of the directory, 0 in `global`.
    pub database: Oid,
    /// What the file's name says.
    pub name: RelationFileName,
}

impl RelationFile {
    /// Recognises a file of a relation by its path relative to the data directory, with `/` between
    /// the parts: `global/<name>`, `base/<database>/<name>` or
    /// `pg_tblspc/<tablespace>/<version directory>/<database>/<name>`.
    ///
    /// Everything else, such as `pg_control`, `PG_VERSION`, `pg_filenode.map` and `pg_xact/0000`, is
    /// `None`: such files have no page checksums.
    pub fn from_path(path: &str) -> Option<Self> {
        let mut parts = path.split('/');
        let (tablespace, database, name) = match (parts.next()?, parts.next()?, parts.next(), parts.next()) {
            ("global", name, None, None) => (Oid::PG_GLOBAL, Oid::new(0), name),
            ("base", database, Some(name), None) => (Oid::PG_DEFAULT, parse_oid(database)?, name),
            ("pg_tblspc", tablespace, Some(version), Some(database)) if version.starts_with("PG_") => {
                (parse_oid(tablespace)?, parse_oid(database)?, parts.next()?)
            }
            _ => return None,
        };
        if parts.next().is_some() {
            return None;
        }
        Some(Self { tablespace, database, name: parse_name(name)? })
    }

    /// The relation's place; `None` for a temporary relation, whose files have names of their own.
    pub fn locator(&self) -> Option<RelFileLocator> {
        let Self { tablespace, database, name } = *self;
        name.temporary_of.is_none().then_some(RelFileLocator {
            tablespace,
            database,
            relation: name.relation,
        })
    }
}

/// The unlogged relations of a directory: those with an `_init` fork among its file names.
pub fn unlogged_relations<'a>(names: impl IntoIterator<Item = &'a str>) -> BTreeSet<RelFileNumber> {
    names
        .into_iter()
        .filter_map(parse_name)
        .filter(|name| name.fork == Fork::Init && name.temporary_of.is_none())
        .map(|name| name.relation)
        .collect()
}

fn parse_name(text: &str) -> Option<RelationFileName> {
    let (temporary_of, rest) = match text.strip_prefix('t') {
        Some(rest) => {
            let (backend, rest) = rest.split_once('_')?;
            (Some(parse_number(backend)?), rest)
        }
        None => (None, text),
    };
    let (rest, segment) = match rest.split_once('.') {
        Some((rest, segment)) => (rest, parse_number(segment).filter(|&number| number > 0)?),
        None => (rest, 0),
    };
    let (relation, fork) = match rest.split_once('_') {
        Some((relation, "fsm")) => (relation, Fork::Fsm),
        Some((relation, "vm")) => (relation, Fork::Vm),
        Some((relation, "init")) => (relation, Fork::Init),
        Some(_) => return None,
        None => (rest, Fork::Main),
    };
    let relation = RelFileNumber::new(parse_number(relation).filter(|&number| number > 0)?);
    Some(RelationFileName { relation, fork, segment, temporary_of })
}

/// A decimal number of 32 bits without leading zeros.
fn parse_number(text: &str) -> Option<u32> {
    let number = u32::try_from(hex::parse_decimal(text)?).ok()?;
    (text == "0" || !text.starts_with('0')).then_some(number)
}

fn parse_oid(text: &str) -> Option<Oid> {
    parse_number(text).map(Oid::new).filter(|oid| oid.is_valid())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn parse(text: &str) -> RelationFileName {
        text.parse().unwrap()
    }

    #[test]
    fn names_tell_relation_fork_and_segment() {
        let plain = RelationFileName {
            relation: RelFileNumber::new(16384),
            fork: Fork::Main,
            segment: 0,
            temporary_of: None,
        };
        assert_eq!(parse("16384"), plain);
        assert_eq!(parse("16384.12"), RelationFileName { segment: 12, ..plain });
        assert_eq!(parse("16384_vm.1"), RelationFileName { fork: Fork::Vm, segment: 1, ..plain });
        assert_eq!(
            parse("t3_16384_fsm"),
            RelationFileName { fork: Fork::Fsm, temporary_of: Some(3), ..plain }
        );
        assert_eq!(parse("16384.2").first_block(131_072), Some(262_144));
        assert_eq!(parse("16384.99999").first_block(131_072), None);
    }

    #[test]
    fn other_files_are_not_relations() {
        for name in [
            "",
            "PG_VERSION",
            "pg_control",
            "pg_filenode.map",
            "pg_internal.init",
            "0",
            "016384",
            "16384.0",
            "16384.01",
            "16384.",
            "16384_",
            "16384_main",
            "16384_fsm.1.2",
            "16384_fsm_vm",
            "4294967296",
            "t_16384",
            "t1",
            "t1_",
            "T1_16384",
            "16384 ",
            "+16384",
            "INCREMENTAL.16384",
        ] {
            assert!(name.parse::<RelationFileName>().is_err(), "{name:?}");
        }
    }

    #[test]
    fn paths_tell_tablespace_and_database() {
        let of = |path: &str| {
            RelationFile::from_path(path)
                .map(|file| (file.tablespace.get(), file.database.get(), file.name.to_string()))
        };
        assert_eq!(of("global/1262"), Some((1664, 0, "1262".into())));
        assert_eq!(of("base/5/1259_vm"), Some((1663, 5, "1259_vm".into())));
        assert_eq!(of("pg_tblspc/16400/PG_15_202209061/5/16401.1"), Some((16400, 5, "16401.1".into())));
        for other in [
            "global",
            "1262",
            "/global/1262",
            "global/pg_control",
            "global/5/1262",
            "base/1262",
            "base/pgsql_tmp/16384",
            "base/5/x/1259",
            "base/5/PG_VERSION",
            "pg_xact/0000",
            "pg_multixact/offsets/0000",
            "pg_wal/000000010000000000000001",
            "pg_tblspc/16400/5/16401",
            "pg_tblspc/16400/PG_15_202209061/16401",
            "pg_tblspc/16400/PG_15_202209061/5/16401/1",
            "pg_tblspc/16400/15/5/16401",
        ] {
            assert_eq!(of(other), None, "{other}");
        }
    }

    #[test]
    fn unlogged_relations_keep_only_their_init_fork() {
        let names =
            ["16384", "16384_fsm", "16384_init", "16384.1", "16390", "16390_vm", "t2_16395", "t2_7_init"];
        let unlogged = unlogged_relations(names);
        let left_out: Vec<_> = names.iter().filter(|name| parse(name).is_left_out(&unlogged)).collect();
        assert_eq!(left_out, [&"16384", &"16384_fsm", &"16384.1", &"t2_16395", &"t2_7_init"]);
    }

    proptest! {
        #[test]
        fn names_round_trip(relation in 1u32.., fork in 0u8..4, segment: u32, backend: Option<u32>) {
            let name = RelationFileName {
                relation: RelFileNumber::new(relation),
                fork: Fork::from_number(fork).unwrap(),
                segment,
                temporary_of: backend,
            };
            prop_assert_eq!(name.to_string().parse(), Ok(name));
        }

        #[test]
        fn whatever_parses_is_its_own_text(text in "(t[0-9]{1,3}_)?[0-9]{1,11}(_(fsm|vm|init|main))?(\\.[0-9]{1,3})?") {
            if let Ok(name) = text.parse::<RelationFileName>() {
                prop_assert_eq!(name.to_string(), text);
            }
        }

        #[test]
        fn any_path_is_taken_or_refused(path: String) {
            let _ = RelationFile::from_path(&path);
        }
    }
}
