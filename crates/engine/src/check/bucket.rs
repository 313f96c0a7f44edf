//! What the bucket does by itself: versions, locks, and rules that remove objects.

use walden_store::{BucketSettings, LifecycleRule, LockMode, ObjectLock, Scheme, Shown, Versioning};

use super::Check;
use crate::context::Context;

const BUCKET: &str = "bucket";
const LIFECYCLE: &str = "lifecycle";
const HINT_EXPIRES: &str = "a rule of the bucket knows nothing of what a backup needs: limit it to other prefixes, and let \
                            walden retention remove what is old";
const HINT_ARCHIVED: &str = "objects of such a class must be restored for hours before they can be read";
const HINT_DENIED: &str =
    "walden works without; to have it looked at, allow s3:GetLifecycleConfiguration and the like";
/// Classes whose objects can't be read at once.
const SLOW_CLASSES: [&str; 2] = ["GLACIER", "DEEP_ARCHIVE"];

/// Says what the bucket is set to do, as far as the store shows it; nothing on a local directory. That it can't be read
/// is a finding.
pub(super) async fn bucket_checks(ctx: &Context) -> Vec<Check> {
    if ctx.store.url().scheme() == Scheme::File {
        return Vec::new();
    }
    match ctx.store.bucket_settings(&ctx.budget()).await {
        Ok(settings) => {
            let root = ctx.store.url().prefix();
            let root = if root.is_empty() { String::new() } else { format!("{root}/") };
            judge(&settings, &format!("{root}{}", ctx.layout().prefix()))
        }
        Err(error) => {
            let detail = format!("the bucket's settings could not be read: {error}");
            vec![Check::warning(BUCKET, detail, "look at the store and try again")]
        }
    }
}

/// `prefix`: where the server's objects lie, from the bucket's root.
fn judge(settings: &BucketSettings, prefix: &str) -> Vec<Check> {
    let words = [
        format!("versions: {}", told(&settings.versioning, |versioning| versions(*versioning))),
        format!("object lock: {}", told(&settings.object_lock, |lock| lock_words(lock.as_ref()))),
        format!("lifecycle rules: {}", told(&settings.lifecycle, |rules| rules_words(rules, prefix))),
    ];
    let detail = words.join("; ");
    let denied = [
        matches!(settings.versioning, Shown::Denied(_)),
        matches!(settings.object_lock, Shown::Denied(_)),
        matches!(settings.lifecycle, Shown::Denied(_)),
    ];
    let mut first = Check::ok(BUCKET, detail);
    first.hint = denied.contains(&true).then(|| HINT_DENIED.to_owned());
    let mut checks = vec![first];
    let rules = settings.lifecycle.known().map(Vec::as_slice).unwrap_or_default();
    for rule in rules.iter().filter(|rule| rule.meets(prefix)) {
        checks.extend(judge_rule(rule));
    }
    checks
}

fn told<T>(shown: &Shown<T>, words: impl FnOnce(&T) -> String) -> String {
    match shown {
        Shown::Known(value) => words(value),
        Shown::Denied(why) => format!("not shown to us ({why})"),
        Shown::NotTold => "not shown by this store".to_owned(),
    }
}

fn versions(versioning: Versioning) -> String {
    let words = match versioning {
        Versioning::Off => "off",
        Versioning::Enabled => {
            "kept, so what is removed takes room until a rule of the bucket removes its versions"
        }
        Versioning::Suspended => "no more, and older ones may be there",
    };
    words.to_owned()
}

fn lock_words(lock: Option<&ObjectLock>) -> String {
    match lock.map(|lock| lock.default_retention) {
        None => "none".to_owned(),
        Some(None) => "on, without a default".to_owned(),
        Some(Some(retention)) => {
            let mode = match retention.mode {
                LockMode::Governance => "governance",
                LockMode::Compliance => "compliance",
            };
            format!("every new object for {} days ({mode})", retention.days)
        }
    }
}

fn rules_words(rules: &[LifecycleRule], prefix: &str) -> String {
    let here = rules.iter().filter(|rule| rule.meets(prefix)).count();
    match (rules.len(), here) {
        (0, _) => "none".to_owned(),
        (all, 0) => format!("{all}, none for this server's objects"),
        (all, here) => format!("{all}, {here} for this server's objects"),
    }
}

fn judge_rule(rule: &LifecycleRule) -> Vec<Check> {
    let mut checks = Vec::new();
    let name = if rule.id.is_empty() { "without a name".to_owned() } else { format!("{:?}", rule.id) };
    let some = if rule.some_only { ", for some objects by tag or size" } else { "" };
    let when = match (rule.expire_days, &rule.expire_date) {
        (Some(days), _) => Some(format!("{days} days after they were written")),
        (None, Some(date)) => Some(format!("on {date}")),
        (None, None) => None,
    };
    if let Some(when) = when {
        let detail = format!(
            "rule {name} removes this server's objects {when}{some}: WAL and backups that are needed, too"
        );
        checks.push(Check::warning(LIFECYCLE, detail, HINT_EXPIRES));
    }
    for transition in &rule.transitions {
        if SLOW_CLASSES.contains(&transition.storage_class.as_str()) {
            let when = transition.days.map(|days| format!(" after {days} days")).unwrap_or_default();
            let class = &transition.storage_class;
            let detail = format!("rule {name} moves this server's objects to {class}{when}{some}");
            checks.push(Check::warning(LIFECYCLE, detail, HINT_ARCHIVED));
        }
    }
    checks
}

#[cfg(test)]
mod tests {
    use walden_store::{DefaultRetention, Transition};

    use super::*;
    use crate::check::CheckStatus;

    fn settings(lifecycle: Shown<Vec<LifecycleRule>>) -> BucketSettings {
        BucketSettings { versioning: Shown::NotTold, object_lock: Shown::Known(None), lifecycle }
    }

    fn rule(prefix: &str) -> LifecycleRule {
        LifecycleRule { id: "old".into(), enabled: true, prefix: prefix.into(), ..LifecycleRule::default() }
    }

    #[test]
    fn a_rule_that_removes_what_is_ours_is_named() {
        let expires = |prefix: &str| LifecycleRule { expire_days: Some(30), ..rule(prefix) };
        let noncurrent =
            LifecycleRule { noncurrent_days: Some(7), abort_incomplete_days: Some(1), ..rule("") };
        let disabled = LifecycleRule { enabled: false, ..expires("") };
        for (rule, warned) in [
            (expires(""), true),
            (expires("pg/main/"), true),
            (expires("pg/main/7/wal/"), true),
            (expires("pg/m"), true),
            (expires("pg/other/"), false),
            (noncurrent, false),
            (disabled, false),
        ] {
            let checks = judge(&settings(Shown::Known(vec![rule.clone()])), "pg/main/");
            assert_eq!(checks.len(), 1 + usize::from(warned), "{rule:?}");
            assert_eq!(checks[0].status, CheckStatus::Ok);
            if warned {
                assert_eq!(checks[1].status, CheckStatus::Warning);
                assert!(checks[1].detail.starts_with("rule \"old\" removes"), "{}", checks[1].detail);
            }
        }
        let slow = Transition { days: Some(3), storage_class: "GLACIER".into() };
        let moved = LifecycleRule { transitions: vec![slow], ..rule("") };
        let checks = judge(&settings(Shown::Known(vec![moved])), "pg/main/");
        assert!(checks[1].detail.contains("moves this server's objects to GLACIER after 3 days"));
    }

    #[test]
    fn what_is_not_shown_is_said_as_such() {
        let checks = judge(&settings(Shown::Denied("HTTP 403 AccessDenied".into())), "main/");
        let [only] = checks.as_slice() else { panic!("{checks:?}") };
        assert_eq!(
            only.detail,
            "versions: not shown by this store; object lock: none; lifecycle rules: not shown to us (HTTP 403 AccessDenied)"
        );
        assert!(only.hint.is_some());
        let retention = DefaultRetention { mode: LockMode::Compliance, days: 30 };
        let lock = ObjectLock { default_retention: Some(retention) };
        assert_eq!(lock_words(Some(&lock)), "every new object for 30 days (compliance)");
    }
}
