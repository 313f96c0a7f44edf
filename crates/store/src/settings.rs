//! What a bucket is set to do with objects by itself: versions, locks, lifecycle rules.

use http::Method;
use serde::{Deserialize, Serialize};

use crate::budget::RetryBudget;
use crate::counters::Operation;
use crate::error::StoreError;
use crate::s3::{Answer, S3Requests};
use crate::store::{Call, Store};
use crate::xml::Element;

/// Something that a store may or may not tell.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Shown<T> {
    /// It told.
    Known(T),
    /// It refuses to tell us, and says this.
    Denied(String),
    /// It has no such question, or we have none for it.
    NotTold,
}

impl<T> Shown<T> {
    /// What it told, if it did.
    #[must_use]
    pub fn known(&self) -> Option<&T> {
        match self {
            Self::Known(value) => Some(value),
            Self::Denied(_) | Self::NotTold => None,
        }
    }
}

/// Whether a bucket keeps older versions of its objects.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Versioning {
    /// Never did.
    Off,
    /// It does: what is removed stays as an older version, until a rule of the bucket removes it.
    Enabled,
    /// It did, and older versions from then may be there.
    Suspended,
}

/// How an object lock holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LockMode {
    /// Those with a special right may lift it.
    Governance,
    /// Nobody may.
    Compliance,
}

/// For how long new objects are locked unless their writer says otherwise.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct DefaultRetention {
    /// How it holds.
    pub mode: LockMode,
    /// Days; a year counts as 365.
    pub days: u32,
}

/// Object Lock of a bucket.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ObjectLock {
    /// What new objects get; `None` when nothing.
    pub default_retention: Option<DefaultRetention>,
}

/// A move of objects to another storage class by a lifecycle rule.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Transition {
    /// Days after the object was written; `None` for a fixed date.
    pub days: Option<u32>,
    /// Where to.
    pub storage_class: String,
}

/// A lifecycle rule of a bucket.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct LifecycleRule {
    /// Its name; may be empty.
    pub id: String,
    /// Whether it is in force.
    pub enabled: bool,
    /// The keys that it is for begin with this, counted from the bucket's root; empty for all.
    pub prefix: String,
    /// Whether it is for some objects only, by their tags or their size.
    pub some_only: bool,
    /// Objects are removed so many days after they were written.
    pub expire_days: Option<u32>,
    /// Objects are removed at this date, as the bucket has it.
    pub expire_date: Option<String>,
    /// Older versions are removed so many days after they were replaced or removed.
    pub noncurrent_days: Option<u32>,
    /// Unfinished multipart uploads are ended so many days after they began.
    pub abort_incomplete_days: Option<u32>,
    /// Moves to other storage classes.
    pub transitions: Vec<Transition>,
}

impl LifecycleRule {
    /// Can the rule, being in force, meet objects whose keys, from the bucket's root, begin with `prefix`?
    #[must_use]
    pub fn meets(&self, prefix: &str) -> bool {
        self.enabled && (self.prefix.starts_with(prefix) || prefix.starts_with(&self.prefix))
    }

    fn of(rule: &Element) -> Self {
        let filter = rule.child("Filter");
        let and = filter.and_then(|filter| filter.child("And"));
        let prefix = [and, filter, Some(rule)]
            .into_iter()
            .flatten()
            .find_map(|element| element.child("Prefix"))
            .map(|prefix| prefix.text.clone())
            .unwrap_or_default();
        let narrows = |element: &Element| {
            let names = ["Tag", "ObjectSizeGreaterThan", "ObjectSizeLessThan"];
            element.children.iter().any(|child| names.contains(&child.name.as_str()))
        };
        let transitions = rule.all("Transition").map(|transition| Transition {
            days: transition.value_of("Days"),
            storage_class: transition.text_of("StorageClass").unwrap_or_default().to_owned(),
        });
        let days = |element: &str, days: &str| rule.child(element)?.value_of(days);
        Self {
            id: rule.text_of("ID").unwrap_or_default().to_owned(),
            enabled: rule.text_of("Status") == Some("Enabled"),
            prefix,
            some_only: [and, filter].into_iter().flatten().any(narrows),
            expire_days: days("Expiration", "Days"),
            expire_date: rule
                .child("Expiration")
                .and_then(|expiration| expiration.text_of("Date"))
                .map(str::to_owned),
            noncurrent_days: days("NoncurrentVersionExpiration", "NoncurrentDays"),
            abort_incomplete_days: days("AbortIncompleteMultipartUpload", "DaysAfterInitiation"),
            transitions: transitions.collect(),
        }
    }
}

/// What a bucket is set to do by itself, as far as the store shows it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BucketSettings {
    /// Versions.
    pub versioning: Shown<Versioning>,
    /// Object Lock; `None` when the bucket has none.
    pub object_lock: Shown<Option<ObjectLock>>,
    /// Lifecycle rules, in the bucket's order.
    pub lifecycle: Shown<Vec<LifecycleRule>>,
}

impl Store {
    /// Asks the bucket for its settings: three requests on S3; the other stores are not asked.
    ///
    /// # Errors
    /// When the store can't be reached or the bucket is missing. A refusal is no error, but [`Shown::Denied`].
    pub async fn bucket_settings(&self, budget: &RetryBudget) -> Result<BucketSettings, StoreError> {
        let Some(bucket) = &self.bucket else {
            return Ok(BucketSettings {
                versioning: Shown::NotTold,
                object_lock: Shown::NotTold,
                lifecycle: Shown::NotTold,
            });
        };
        Ok(BucketSettings {
            versioning: self.ask(bucket, "?versioning", budget).await?.read(None, versioning),
            object_lock: self
                .ask(bucket, "?object-lock", budget)
                .await?
                .read(Some(("ObjectLockConfigurationNotFoundError", None)), object_lock),
            lifecycle: self
                .ask(bucket, "?lifecycle", budget)
                .await?
                .read(Some(("NoSuchLifecycleConfiguration", Vec::new())), lifecycle),
        })
    }

    async fn ask(
        &self,
        bucket: &S3Requests,
        query: &str,
        budget: &RetryBudget,
    ) -> Result<Answer, StoreError> {
        let call = Call { operation: Operation::Other, action: "read the bucket's settings", key: "" };
        self.repeat(call, 0, budget, || async {
            let answer = bucket.send(Method::GET, query, bytes::Bytes::new()).await?;
            if answer.is_worth_repeating() || answer.code() == Some("NoSuchBucket") {
                return Err(answer.into_error());
            }
            Ok(answer)
        })
        .await
    }
}

impl Answer {
    /// Takes an answer about one setting: `none` is the code for "not set" and what that means.
    fn read<T>(self, none: Option<(&str, T)>, parse: impl FnOnce(&Element) -> Option<T>) -> Shown<T> {
        if self.status.is_success() {
            let parsed = self.document.as_ref().and_then(parse);
            return parsed.map_or(Shown::NotTold, Shown::Known);
        }
        match (none, self.code()) {
            (Some((code, value)), Some(told)) if told == code => Shown::Known(value),
            _ if matches!(self.status.as_u16(), 401 | 403) => {
                let code = self.code().map(|code| format!(" {code}")).unwrap_or_default();
                Shown::Denied(format!("HTTP {}{code}", self.status.as_u16()))
            }
            _ => Shown::NotTold,
        }
    }
}

// Not every compatible store names its answer as S3 does: what it is about must be in the name.
fn versioning(document: &Element) -> Option<Versioning> {
    match document.text_of("Status") {
        _ if !document.name.contains("Versioning") => None,
        None | Some("") => Some(Versioning::Off),
        Some("Enabled") => Some(Versioning::Enabled),
        Some("Suspended") => Some(Versioning::Suspended),
        Some(_) => None,
    }
}

#[expect(clippy::option_option, reason = "the outer one says whether the answer was understood")]
fn object_lock(document: &Element) -> Option<Option<ObjectLock>> {
    if !document.name.contains("ObjectLock") {
        return None;
    }
    if document.text_of("ObjectLockEnabled") != Some("Enabled") {
        return Some(None);
    }
    let retention = document.child("Rule").and_then(|rule| rule.child("DefaultRetention"));
    let default_retention = retention.and_then(|retention| {
        let mode = match retention.text_of("Mode")? {
            "COMPLIANCE" => LockMode::Compliance,
            _ => LockMode::Governance,
        };
        let years = || retention.value_of::<u32>("Years").map(|years| years.saturating_mul(365));
        Some(DefaultRetention { mode, days: retention.value_of("Days").or_else(years)? })
    });
    Some(Some(ObjectLock { default_retention }))
}

fn lifecycle(document: &Element) -> Option<Vec<LifecycleRule>> {
    document.name.contains("Lifecycle").then(|| document.all("Rule").map(LifecycleRule::of).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tree(xml: &str) -> Element {
        Element::parse(xml.as_bytes()).unwrap()
    }

    #[test]
    fn lifecycle_rules_are_read_in_both_forms() {
        let rules = lifecycle(&tree(
            "<LifecycleConfiguration>\
             <Rule><ID>old</ID><Prefix>pg/</Prefix><Status>Enabled</Status><Expiration><Days>30</Days></Expiration>\
             <AbortIncompleteMultipartUpload><DaysAfterInitiation>7</DaysAfterInitiation>\
             </AbortIncompleteMultipartUpload></Rule>\
             <Rule><Filter><And><Prefix>pg/x</Prefix><Tag><Key>a</Key><Value>b</Value></Tag></And></Filter>\
             <Status>Disabled</Status><NoncurrentVersionExpiration><NoncurrentDays>3</NoncurrentDays>\
             </NoncurrentVersionExpiration><Transition><Days>1</Days><StorageClass>GLACIER</StorageClass></Transition>\
             </Rule><Rule><Filter/><Status>Enabled</Status></Rule></LifecycleConfiguration>",
        ))
        .unwrap();
        let [old, tagged, all] = rules.as_slice() else { panic!("{rules:?}") };
        assert_eq!((old.id.as_str(), old.expire_days, old.abort_incomplete_days), ("old", Some(30), Some(7)));
        assert!(old.meets("pg/main/") && old.meets("") && !old.meets("other/") && !old.some_only);
        assert_eq!(
            (tagged.prefix.as_str(), tagged.noncurrent_days, tagged.some_only),
            ("pg/x", Some(3), true)
        );
        assert_eq!(tagged.transitions, [Transition { days: Some(1), storage_class: "GLACIER".into() }]);
        assert!(!tagged.meets("pg/x"));
        assert!(all.meets("anything") && !all.some_only);
    }

    #[test]
    fn versioning_and_locks_are_read() {
        assert_eq!(versioning(&tree("<VersioningConfiguration/>")), Some(Versioning::Off));
        let suspended = "<VersioningConfiguration><Status>Suspended</Status></VersioningConfiguration>";
        assert_eq!(versioning(&tree(suspended)), Some(Versioning::Suspended));
        assert_eq!(versioning(&tree("<Other/>")), None);
        let lock = object_lock(&tree(
            "<ObjectLockConfiguration><ObjectLockEnabled>Enabled</ObjectLockEnabled><Rule><DefaultRetention>\
             <Mode>COMPLIANCE</Mode><Years>1</Years></DefaultRetention></Rule></ObjectLockConfiguration>",
        ));
        let default_retention = Some(DefaultRetention { mode: LockMode::Compliance, days: 365 });
        assert_eq!(lock, Some(Some(ObjectLock { default_retention })));
    }
}
