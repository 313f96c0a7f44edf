//! What was asked of the store: requests, bytes, retries and errors, by operation.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

use serde::{Deserialize, Serialize};

/// The kinds of request that are counted apart, because stores bill and limit them apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Operation {
    /// Writing an object.
    Put,
    /// Reading an object or a part of it.
    Get,
    /// Asking for an object's size.
    Head,
    /// One page of a listing.
    List,
    /// Removing objects, one or many in a request.
    Delete,
    /// Everything else, such as fetching credentials.
    Other,
}

impl Operation {
    /// All of them, in the order in which they are shown.
    pub const ALL: [Self; 6] = [Self::Put, Self::Get, Self::Head, Self::List, Self::Delete, Self::Other];

    /// The word used in JSON and in messages.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Put => "put",
            Self::Get => "get",
            Self::Head => "head",
            Self::List => "list",
            Self::Delete => "delete",
            Self::Other => "other",
        }
    }
}

/// The count of one kind of request.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct OperationCount {
    /// Requests sent, each retry being one more.
    pub requests: u64,
    /// Bytes of bodies handed to the connection; headers are not counted.
    pub bytes_sent: u64,
    /// Bytes of bodies received; headers are not counted.
    pub bytes_received: u64,
    /// Requests that repeated an earlier one.
    pub retries: u64,
    /// Requests that failed on the way or were answered with an error. An object that is not there (404) and a
    /// name that is taken (409, 412) are answers, not errors.
    pub errors: u64,
}

impl OperationCount {
    fn is_zero(&self) -> bool {
        *self == Self::default()
    }

    fn minus(self, earlier: Self) -> Self {
        Self {
            requests: self.requests.saturating_sub(earlier.requests),
            bytes_sent: self.bytes_sent.saturating_sub(earlier.bytes_sent),
            bytes_received: self.bytes_received.saturating_sub(earlier.bytes_received),
            retries: self.retries.saturating_sub(earlier.retries),
            errors: self.errors.saturating_sub(earlier.errors),
        }
    }
}

/// The counts at one moment, as shown to people and in JSON. For a local directory a request is one operation on
/// a file or a directory.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct CounterSnapshot {
    /// Objects written.
    #[serde(skip_serializing_if = "OperationCount::is_zero")]
    pub put: OperationCount,
    /// Objects read.
    #[serde(skip_serializing_if = "OperationCount::is_zero")]
    pub get: OperationCount,
    /// Sizes asked for.
    #[serde(skip_serializing_if = "OperationCount::is_zero")]
    pub head: OperationCount,
    /// Pages listed.
    #[serde(skip_serializing_if = "OperationCount::is_zero")]
    pub list: OperationCount,
    /// Removals.
    #[serde(skip_serializing_if = "OperationCount::is_zero")]
    pub delete: OperationCount,
    /// The rest.
    #[serde(skip_serializing_if = "OperationCount::is_zero")]
    pub other: OperationCount,
}

impl CounterSnapshot {
    /// The count of one operation.
    #[must_use]
    pub fn of(&self, operation: Operation) -> OperationCount {
        match operation {
            Operation::Put => self.put,
            Operation::Get => self.get,
            Operation::Head => self.head,
            Operation::List => self.list,
            Operation::Delete => self.delete,
            Operation::Other => self.other,
        }
    }

    /// All requests together.
    #[must_use]
    pub fn requests(&self) -> u64 {
        Operation::ALL.iter().map(|operation| self.of(*operation).requests).sum()
    }

    /// What was counted since `earlier`, a snapshot of the same counters.
    #[must_use]
    pub fn since(&self, earlier: &Self) -> Self {
        Self {
            put: self.put.minus(earlier.put),
            get: self.get.minus(earlier.get),
            head: self.head.minus(earlier.head),
            list: self.list.minus(earlier.list),
            delete: self.delete.minus(earlier.delete),
            other: self.other.minus(earlier.other),
        }
    }
}

/// So many odd names are remembered.
const ODD_NAMES_MAX: usize = 1000;

#[derive(Debug, Default)]
struct Cell {
    requests: AtomicU64,
    bytes_sent: AtomicU64,
    bytes_received: AtomicU64,
    retries: AtomicU64,
    errors: AtomicU64,
}

impl Cell {
    fn load(&self) -> OperationCount {
        OperationCount {
            requests: self.requests.load(Ordering::Relaxed),
            bytes_sent: self.bytes_sent.load(Ordering::Relaxed),
            bytes_received: self.bytes_received.load(Ordering::Relaxed),
            retries: self.retries.load(Ordering::Relaxed),
            errors: self.errors.load(Ordering::Relaxed),
        }
    }
}

/// Counters shared by all clones of a store.
#[derive(Debug, Default)]
pub struct Counters {
    cells: [Cell; 6],
    /// Names that listings showed and that can't be keys, from the bucket's root.
    odd_names: Mutex<BTreeSet<String>>,
}

impl Counters {
    fn cell(&self, operation: Operation) -> &Cell {
        let [put, get, head, list, delete, other] = &self.cells;
        match operation {
            Operation::Put => put,
            Operation::Get => get,
            Operation::Head => head,
            Operation::List => list,
            Operation::Delete => delete,
            Operation::Other => other,
        }
    }

    pub(crate) fn note_odd_names(&self, names: Vec<String>) {
        let mut known = self.odd_names.lock().unwrap_or_else(PoisonError::into_inner);
        for name in names {
            if known.len() < ODD_NAMES_MAX && known.insert(name.clone()) {
                tracing::warn!(name, "an object of this name is none of a repository: it is passed over");
            }
        }
    }

    pub(crate) fn odd_names(&self) -> BTreeSet<String> {
        self.odd_names.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub(crate) fn request(&self, operation: Operation, bytes_sent: u64) {
        let cell = self.cell(operation);
        cell.requests.fetch_add(1, Ordering::Relaxed);
        cell.bytes_sent.fetch_add(bytes_sent, Ordering::Relaxed);
    }

    pub(crate) fn sent(&self, operation: Operation, bytes: u64) {
        self.cell(operation).bytes_sent.fetch_add(bytes, Ordering::Relaxed);
    }

    pub(crate) fn received(&self, operation: Operation, bytes: u64) {
        self.cell(operation).bytes_received.fetch_add(bytes, Ordering::Relaxed);
    }

    pub(crate) fn retry(&self, operation: Operation) {
        self.cell(operation).retries.fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn error(&self, operation: Operation) {
        self.cell(operation).errors.fetch_add(1, Ordering::Relaxed);
    }

    /// The counts now.
    #[must_use]
    pub fn snapshot(&self) -> CounterSnapshot {
        CounterSnapshot {
            put: self.cell(Operation::Put).load(),
            get: self.cell(Operation::Get).load(),
            head: self.cell(Operation::Head).load(),
            list: self.cell(Operation::List).load(),
            delete: self.cell(Operation::Delete).load(),
            other: self.cell(Operation::Other).load(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_operation_is_counted_apart_and_differences_add_up() {
        let counters = Counters::default();
        for (n, operation) in Operation::ALL.into_iter().enumerate() {
            for _ in 0..=n {
                counters.request(operation, 10);
            }
        }
        let before = counters.snapshot();
        assert_eq!(before.requests(), 1 + 2 + 3 + 4 + 5 + 6);
        assert_eq!(before.list, OperationCount { requests: 4, bytes_sent: 40, ..OperationCount::default() });
        counters.retry(Operation::Get);
        counters.error(Operation::Get);
        counters.received(Operation::Get, 7);
        let since = counters.snapshot().since(&before);
        let get = OperationCount { bytes_received: 7, retries: 1, errors: 1, ..OperationCount::default() };
        assert_eq!(since, CounterSnapshot { get, ..CounterSnapshot::default() });
    }

    #[test]
    fn json_leaves_out_what_did_not_happen_and_reads_back() {
        let counters = Counters::default();
        counters.request(Operation::Put, 3);
        let json = serde_json::to_string(&counters.snapshot()).unwrap();
        assert_eq!(
            json,
            r#"{"put":{"requests":1,"bytes_sent":3,"bytes_received":0,"retries":0,"errors":0}}"#
        );
        assert_eq!(serde_json::from_str::<CounterSnapshot>(&json).unwrap(), counters.snapshot());
    }
}
