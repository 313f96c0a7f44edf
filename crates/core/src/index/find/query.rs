//! What is looked for.

use std::str::FromStr;

use jiff::Timestamp;
use serde::Serialize;
use walden_pg::{PgTimestamp, Xid};

use crate::index::events::RelationOperation;
use crate::index::facts::{WalFacts, WalFlags};
use crate::recovery::pg_time;

/// Kinds of events, in the words of `--op`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum FindOperation {
    /// A relation was dropped.
    Drop,
    /// A relation was truncated.
    Truncate,
    /// A relation was written anew.
    Rewrite,
    /// Many rows were deleted.
    MassDelete,
    /// Many rows were updated.
    MassUpdate,
    /// A database was dropped.
    DatabaseDrop,
    /// A restore point was made.
    RestorePoint,
    /// A transaction committed.
    Commit,
    /// A transaction was rolled back.
    Abort,
}

impl FindOperation {
    /// All that can be asked for, in the order of the documentation.
    pub const ALL: [Self; 8] = [
        Self::Drop,
        Self::Truncate,
        Self::Rewrite,
        Self::MassDelete,
        Self::MassUpdate,
        Self::DatabaseDrop,
        Self::RestorePoint,
        Self::Commit,
    ];

    /// The word for it.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Drop => "drop",
            Self::Truncate => "truncate",
            Self::Rewrite => "rewrite",
            Self::MassDelete => "mass-delete",
            Self::MassUpdate => "mass-update",
            Self::DatabaseDrop => "database-drop",
            Self::RestorePoint => "restore-point",
            Self::Commit => "commit",
            Self::Abort => "abort",
        }
    }

    pub(super) const fn of(operation: RelationOperation) -> Self {
        match operation {
            RelationOperation::Drop => Self::Drop,
            RelationOperation::Truncate => Self::Truncate,
            RelationOperation::Rewrite => Self::Rewrite,
            RelationOperation::MassDelete => Self::MassDelete,
            RelationOperation::MassUpdate => Self::MassUpdate,
        }
    }

    /// Whether it is done to a table.
    const fn is_of_tables(self) -> bool {
        matches!(self, Self::Drop | Self::Truncate | Self::Rewrite | Self::MassDelete | Self::MassUpdate)
    }

    const fn flag(self) -> WalFlags {
        match self {
            Self::Drop => WalFlags::DROP,
            Self::Truncate => WalFlags::TRUNCATE,
            Self::Rewrite => WalFlags::REWRITE,
            Self::MassDelete | Self::MassUpdate => WalFlags::MASS_CHANGE,
            Self::DatabaseDrop => WalFlags::DATABASE_DROP,
            Self::RestorePoint => WalFlags::RESTORE_POINT,
            Self::Commit | Self::Abort => WalFlags::NONE,
        }
    }
}

impl FromStr for FindOperation {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Self::ALL.into_iter().find(|operation| operation.as_str() == text).ok_or_else(|| {
            let words: Vec<_> = Self::ALL.iter().map(|operation| operation.as_str()).collect();
            format!("write one of {}", words.join(", "))
        })
    }
}

/// Which tables: a name, or a schema and a name, or a database and both, with dots in between. A `*` stands for any
/// letters.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TablePattern {
    database: Option<String>,
    schema: Option<String>,
    name: String,
}

impl FromStr for TablePattern {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let mut parts: Vec<String> = text.rsplitn(3, '.').map(str::to_owned).collect();
        if parts.iter().any(String::is_empty) {
            return Err("write a name, such as orders or public.orders; * stands for any letters".to_owned());
        }
        parts.reverse();
        let name = parts.pop().unwrap_or_default();
        let schema = parts.pop();
        Ok(Self { database: parts.pop(), schema, name })
    }
}

impl TablePattern {
    /// Whether a table is meant; of a schema that is not known, any may be.
    #[must_use]
    pub fn matches(&self, database: &str, schema: Option<&str>, name: &str) -> bool {
        let fits = |pattern: &Option<String>, text: Option<&str>| match (pattern, text) {
            (Some(pattern), Some(text)) => is_like(pattern, text),
            (Some(_), None) | (None, _) => true,
        };
        is_like(&self.name, name) && fits(&self.schema, schema) && fits(&self.database, Some(database))
    }
}

/// Whether a text is like a pattern in which `*` stands for any letters.
fn is_like(pattern: &str, text: &str) -> bool {
    let mut parts = pattern.split('*');
    let first = parts.next().unwrap_or_default();
    let Some(mut rest) = text.strip_prefix(first) else { return false };
    let Some(last) = parts.next_back() else { return rest.is_empty() };
    for part in parts {
        match rest.find(part) {
            Some(at) => rest = rest.get(at + part.len()..).unwrap_or_default(),
            None => return false,
        }
    }
    rest.ends_with(last)
}

/// What is looked for. Everything that is said must hold.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct FindQuery {
    /// Which tables.
    pub table: Option<TablePattern>,
    /// Which kinds of events; none for those that the rest suggests.
    pub operations: Vec<FindOperation>,
    /// Which transaction; of more than 32 bits, the lower ones.
    pub xid: Option<u64>,
    /// Not before this moment.
    pub from: Option<Timestamp>,
    /// Not after this moment.
    pub to: Option<Timestamp>,
    /// Which restore point.
    pub restore_point: Option<String>,
    /// The commits around this moment.
    pub around: Option<Timestamp>,
}

impl FindQuery {
    /// Whether a kind of event is looked for, of this transaction.
    #[must_use]
    pub fn wants(&self, operation: FindOperation, xid: Option<Xid>) -> bool {
        let of_transaction = self.low_xid().is_none_or(|wanted| xid == Some(wanted));
        of_transaction && self.wants_kind(operation)
    }

    fn wants_kind(&self, operation: FindOperation) -> bool {
        if !self.operations.is_empty() {
            return self.operations.contains(&operation);
        }
        match operation {
            FindOperation::Abort => self.xid.is_some(),
            FindOperation::Commit => self.xid.is_some() || self.around.is_some(),
            _ if self.around.is_some() => false,
            FindOperation::RestorePoint => self.table.is_none() && self.xid.is_none(),
            _ if self.restore_point.is_some() => false,
            operation => self.table.is_none() || operation.is_of_tables(),
        }
    }

    /// Whether records must be read, which tell of all commits.
    #[must_use]
    pub fn needs_records(&self) -> bool {
        self.wants_kind(FindOperation::Commit) || self.wants_kind(FindOperation::Abort)
    }

    /// Whether indexes must be read.
    #[must_use]
    pub fn needs_events(&self) -> bool {
        FindOperation::ALL
            .iter()
            .any(|operation| self.wants_kind(*operation) && operation.flag() != WalFlags::NONE)
    }

    /// Whether table names matter.
    #[must_use]
    pub fn needs_names(&self) -> bool {
        FindOperation::ALL.iter().any(|operation| {
            self.wants_kind(*operation)
                && (operation.is_of_tables() || *operation == FindOperation::DatabaseDrop)
        })
    }

    /// Whether a stretch of WAL may hold an event that is looked for.
    #[must_use]
    pub fn may_hold_events(&self, facts: &WalFacts) -> bool {
        let wanted = FindOperation::ALL
            .into_iter()
            .filter(|operation| self.wants_kind(*operation))
            .map(FindOperation::flag)
            .fold(WalFlags::NONE, WalFlags::with);
        // Restore points have times of their own.
        let timeless = wanted.any(WalFlags::RESTORE_POINT) && facts.flags.any(WalFlags::RESTORE_POINT);
        facts.flags.any(wanted) && (timeless || self.may_hold_time(facts))
    }

    /// Whether a stretch of WAL may hold a commit or an abort that is looked for.
    #[must_use]
    pub fn may_hold_records(&self, facts: &WalFacts) -> bool {
        let may_hold = |wanted| facts.xids.is_some_and(|xids| xids.may_hold(wanted));
        facts.commits + facts.aborts > 0 && self.may_hold_time(facts) && self.low_xid().is_none_or(may_hold)
    }

    fn may_hold_time(&self, facts: &WalFacts) -> bool {
        let Some(times) = facts.end_times else { return self.from.is_none() && self.to.is_none() };
        self.from.is_none_or(|from| times.max >= pg_time(from))
            && self.to.is_none_or(|to| times.min <= pg_time(to))
    }

    pub(super) fn is_between(&self, time: PgTimestamp) -> bool {
        self.from.is_none_or(|from| time >= pg_time(from)) && self.to.is_none_or(|to| time <= pg_time(to))
    }

    #[expect(clippy::cast_possible_truncation, reason = "the low 32 bits are the id in records")]
    fn low_xid(&self) -> Option<Xid> {
        self.xid.map(|xid| Xid::new(xid as u32))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_have_up_to_three_parts() {
        let matches = |pattern: &str, database: &str, schema: Option<&str>, name: &str| {
            pattern.parse::<TablePattern>().unwrap().matches(database, schema, name)
        };
        assert!(matches("orders", "shop", Some("public"), "orders"));
        assert!(!matches("orders", "shop", Some("public"), "orders2"));
        assert!(matches("order*", "shop", Some("public"), "orders2"));
        assert!(matches("*r*s", "shop", Some("public"), "orders"));
        assert!(!matches("*r*x*s", "shop", Some("public"), "orders"));
        assert!(matches("public.orders", "shop", Some("public"), "orders"));
        assert!(!matches("audit.orders", "shop", Some("public"), "orders"));
        assert!(matches("audit.orders", "shop", None, "orders"));
        assert!(!matches("warehouse.public.orders", "shop", Some("public"), "orders"));
        assert!("a..b".parse::<TablePattern>().is_err());
        assert!("".parse::<TablePattern>().is_err());
    }

    #[test]
    fn what_is_wanted_follows_from_what_is_said() {
        let wanted = |query: &FindQuery| -> Vec<&str> {
            let all = FindOperation::ALL.into_iter().chain([FindOperation::Abort]);
            all.filter(|operation| query.wants(*operation, Some(Xid::new(7))))
                .map(FindOperation::as_str)
                .collect()
        };
        let tables = ["drop", "truncate", "rewrite", "mass-delete", "mass-update"];
        let all = FindQuery::default();
        assert_eq!(wanted(&all), [&tables[..], &["database-drop", "restore-point"]].concat());
        assert!(!all.needs_records());
        let table = FindQuery { table: "t".parse().ok(), ..FindQuery::default() };
        assert_eq!(wanted(&table), tables);
        let point = FindQuery { restore_point: Some("p".into()), ..FindQuery::default() };
        assert_eq!(wanted(&point), ["restore-point"]);
        assert!(!point.needs_names());
        let around = FindQuery { around: Some(Timestamp::UNIX_EPOCH), ..FindQuery::default() };
        assert_eq!(wanted(&around), ["commit"]);
        assert!(!around.needs_events() && around.needs_records());
        let xid = FindQuery { xid: Some((1 << 32) + 7), ..FindQuery::default() };
        assert_eq!(wanted(&xid), [&tables[..], &["database-drop", "commit", "abort"]].concat());
        assert!(!xid.wants(FindOperation::Commit, Some(Xid::new(8))));
        let drop = FindQuery { operations: vec![FindOperation::Drop], xid: Some(7), ..FindQuery::default() };
        assert_eq!(wanted(&drop), ["drop"]);
    }

    #[test]
    fn facts_tell_where_to_look() {
        let times = |min, max| {
            let time = |second: i64| PgTimestamp::from_unix_micros(second * 1_000_000);
            Some(crate::index::TimeRange { min: time(min), max: time(max) })
        };
        let at = |second| Timestamp::from_second(second).ok();
        let facts =
            WalFacts { end_times: times(10, 20), flags: WalFlags::DROP, commits: 1, ..WalFacts::default() };
        let query = FindQuery { from: at(20), to: at(30), ..FindQuery::default() };
        assert!(query.may_hold_events(&facts));
        assert!(!FindQuery { from: at(21), ..query.clone() }.may_hold_events(&facts));
        assert!(!FindQuery { from: None, to: at(9), ..query.clone() }.may_hold_events(&facts));
        let points = WalFacts { flags: WalFlags::RESTORE_POINT, ..WalFacts::default() };
        assert!(query.may_hold_events(&points));
        assert!(!FindQuery { operations: vec![FindOperation::Drop], ..query }.may_hold_events(&points));
        assert!(!FindQuery { xid: Some(3), ..FindQuery::default() }.may_hold_records(&facts));
    }
}
