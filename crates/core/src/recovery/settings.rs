//! The recovery settings that a plan comes to.

use walden_pg::TimelineId;

use super::answer::Setting;
use super::request::{RecoveryRequest, RecoveryTarget, postgres_time};

/// The settings in the order in which they must be written.
pub(super) fn settings(request: &RecoveryRequest, target_timeline: TimelineId) -> Vec<Setting> {
    let target = match &request.target {
        RecoveryTarget::Latest => None,
        RecoveryTarget::Immediate => Some(("recovery_target", "immediate".to_owned())),
        RecoveryTarget::Time(time) => Some(("recovery_target_time", postgres_time(*time))),
        RecoveryTarget::Lsn(lsn) => Some(("recovery_target_lsn", lsn.to_string())),
        RecoveryTarget::Xid(xid) => Some(("recovery_target_xid", xid.to_string())),
        RecoveryTarget::Name(name) => Some(("recovery_target_name", name.clone())),
    };
    // The unused targets are written empty, so that none left over from the source can clash; and before the
    // chosen one, because PostgreSQL takes an empty one after it for a second target
    // (`assign_recovery_target*`, src/backend/access/transam/xlogrecovery.c).
    let all = ["", "_time", "_lsn", "_xid", "_name"].map(|suffix| format!("recovery_target{suffix}"));
    let unused = all.into_iter().filter(|name| target.as_ref().is_none_or(|(chosen, _)| chosen != name));
    let mut settings: Vec<Setting> = unused.map(|name| Setting { name, value: String::new() }).collect();
    settings.extend(target.map(|(name, value)| Setting { name: name.to_owned(), value }));
    let inclusive = if request.exclusive { "off" } else { "on" };
    for (name, value) in [
        ("recovery_target_inclusive", inclusive.to_owned()),
        // A number: `latest` would be decided again, by what the archive shows then.
        ("recovery_target_timeline", target_timeline.to_string()),
        ("recovery_target_action", request.action.as_str().to_owned()),
    ] {
        settings.push(Setting { name: name.to_owned(), value });
    }
    settings
}
