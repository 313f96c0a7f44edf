//! A plan for others to carry out: settings for PostgreSQL, manifests for Kubernetes operators. What a form can't
//! express is said in it, or refused.

use std::fmt::Write;

use jiff::{SignedDuration, Timestamp};
use walden_core::{RecoveryAction, RecoveryPlan, RecoveryRequest, RecoveryTarget};
use walden_store::StoreUrl;

use super::text::stop_in_words;
use super::words::{Words, exact_time};
use crate::failure::Failure;
use crate::text::conf_line;

/// What a volume has beyond the backup and the WAL to replay.
const VOLUME_SPARE_PERCENT: u64 = 25;
const GIBIBYTE: u64 = 1 << 30;
/// Longest name that is made of the server's; operators append to it.
const NAME_CHARACTERS_MAX: usize = 40;

/// Lines for `postgresql.conf`.
pub(super) fn postgres(plan: &RecoveryPlan, restore_command: &str) -> String {
    let mut out = comment(plan, plan.planned_at);
    out.push_str(
        "# For a data directory that was restored from this backup. Append these lines to its postgresql.conf or\n\
         # postgresql.auto.conf in this order, make an empty file recovery.signal beside it (no standby.signal, which\n\
         # would go before it), and start the server. walden restore does all of it.\n",
    );
    for setting in &plan.settings {
        let _ = writeln!(out, "{}", conf_line(&setting.name, &setting.value));
    }
    let _ = writeln!(out, "{}", conf_line("restore_command", restore_command));
    out.push_str("# Not lower than these, or recovery does not start, or pauses on the way:\n");
    for (name, value) in required(plan) {
        let _ = writeln!(out, "# {name} = {value}");
    }
    out
}

/// A CloudNativePG `Cluster` that bootstraps by recovery.
pub(super) fn cnpg(plan: &RecoveryPlan, repo: &StoreUrl, now: Timestamp) -> String {
    let name = kubernetes_name(plan.server.as_str());
    let mut out = comment(plan, now);
    if plan.request.action != RecoveryAction::Promote {
        let action = plan.request.action.as_str();
        let _ = writeln!(
            out,
            "# CloudNativePG always promotes at the target: {action} can't be asked for there."
        );
    }
    out.push_str(
        "# Fill in the plugin that reads this repository, and archive the new server somewhere else.\n",
    );
    let _ = write!(
        out,
        "apiVersion: postgresql.cnpg.io/v1\n\
         kind: Cluster\n\
         metadata:\n\
         \x20 name: {name}-restored\n\
         spec:\n\
         \x20 instances: 1\n\
         \x20 storage:\n\
         \x20   size: {}Gi\n\
         \x20 postgresql:\n\
         \x20   parameters:\n",
        volume_gibibytes(plan)
    );
    for (setting, value) in required(plan) {
        let _ = writeln!(out, "      {setting}: {}", quoted(&value.to_string()));
    }
    let _ = write!(
        out,
        "  bootstrap:\n\
         \x20   recovery:\n\
         \x20     source: {name}\n\
         \x20     recoveryTarget:\n\
         \x20       backupID: {}\n\
         \x20       targetTLI: {}\n",
        quoted(plan.backup.id.as_str()),
        quoted(&plan.target_timeline.to_string())
    );
    let target = match &plan.request.target {
        RecoveryTarget::Latest => None,
        RecoveryTarget::Immediate => Some("targetImmediate: true".to_owned()),
        RecoveryTarget::Time(time) => Some(format!("targetTime: {}", quoted(&exact_time(*time)))),
        RecoveryTarget::Lsn(lsn) => Some(format!("targetLSN: {}", quoted(&lsn.to_string()))),
        RecoveryTarget::Xid(xid) => Some(format!("targetXID: {}", quoted(&xid.to_string()))),
        RecoveryTarget::Name(point) => Some(format!("targetName: {}", quoted(point))),
    };
    if let Some(target) = target {
        let _ = writeln!(out, "        {target}");
    }
    if plan.request.exclusive {
        out.push_str("        exclusive: true\n");
    }
    let _ = write!(
        out,
        "  externalClusters:\n\
         \x20   - name: {name}\n\
         \x20     plugin:\n\
         \x20       name: FILL-IN\n\
         \x20       parameters:\n\
         \x20         repo: {}\n\
         \x20         serverName: {}\n",
        quoted(&repo.to_string()),
        quoted(plan.server.as_str())
    );
    out
}

/// A `clone` section for a manifest of Zalando's operator.
///
/// # Errors
/// A usage failure for a target that such a section can't express: it knows moments alone.
pub(super) fn zalando(plan: &RecoveryPlan, words: &Words, now: Timestamp) -> Result<String, Failure> {
    let time = match &plan.request.target {
        // A moment is a whole number of microseconds: just before one is just after the one before.
        RecoveryTarget::Time(time) if plan.request.exclusive => {
            time.checked_sub(SignedDuration::from_micros(1)).unwrap_or(*time)
        }
        RecoveryTarget::Time(time) => *time,
        other => {
            let what = match other {
                RecoveryTarget::Latest => {
                    "no target: without a timestamp the operator copies the running server".to_owned()
                }
                other => format!("{}{}: it knows a timestamp alone", before(plan), other.describe()),
            };
            let message = format!("a clone section can't express {what}");
            return Err(Failure::usage(message).with_hint(instead(plan, words)));
        }
    };
    let mut out = comment(plan, now);
    if plan.request.exclusive {
        out.push_str(
            "# A clone stops just after its timestamp: this one is a microsecond before the target.\n",
        );
    }
    let _ = write!(
        out,
        "# Not expressed here, the image decides: the backup (the newest that ended before the timestamp), the\n\
         # timeline (latest) and the action (promote). This plan has backup {}, timeline {} and {}.\n\
         # It is for an archive that the operator's image can read; fill in the uid of the source.\n\
         spec:\n\
         \x20 clone:\n\
         \x20   cluster: {}\n\
         \x20   uid: FILL-IN\n\
         \x20   timestamp: {}\n",
        plan.backup.id,
        plan.target_timeline,
        plan.request.action.as_str(),
        quoted(plan.server.as_str()),
        // The operator takes an offset and no Z.
        quoted(&time.strftime("%Y-%m-%dT%H:%M:%S%.6f+00:00").to_string())
    );
    Ok(out)
}

/// What to do where a moment alone can't say it: the moment of a commit, if recovery can stop at it.
fn instead(plan: &RecoveryPlan, words: &Words) -> String {
    const OTHERS: &str = "--output cnpg and --output postgres can";
    let stop = &plan.stop;
    let Some(kept) = stop.last_kept.filter(|kept| kept.time >= plan.backup.finished_at) else {
        return OTHERS.to_owned();
    };
    // Without a later commit nothing in the archive ends a recovery to the moment of the last one.
    let exclusive = stop.first_left_out.is_none_or(|left_out| left_out.time <= kept.time);
    let target = RecoveryTarget::Time(kept.time);
    let near = words.plan(&RecoveryRequest { target, exclusive, ..plan.request.clone() });
    if exclusive {
        format!(
            "{OTHERS}; the nearest moment that it can express is just before the last commit: {near} --output zalando"
        )
    } else {
        format!("{OTHERS}; the moment of the last commit that is kept may do, see where it stops: {near}")
    }
}

fn before(plan: &RecoveryPlan) -> &'static str {
    if plan.request.exclusive { "just before " } else { "" }
}

/// What this is, for whoever finds the file later.
fn comment(plan: &RecoveryPlan, now: Timestamp) -> String {
    let kept = match plan.stop.last_kept {
        Some(commit) => format!("transaction {}, committed {}", commit.xid, exact_time(commit.time)),
        None => "none after the backup".to_owned(),
    };
    format!(
        "# walden plan of {}: {}{} of server {}\n\
         # from backup {}; PostgreSQL stops {}\n\
         # last transaction kept: {kept}\n",
        now.strftime("%Y-%m-%d %H:%M:%S UTC"),
        before(plan),
        plan.request.target.describe().replace(['\n', '\r'], " "),
        plan.server,
        plan.backup.id,
        stop_in_words(&plan.stop)
    )
}

fn required(plan: &RecoveryPlan) -> [(&'static str, u32); 5] {
    let required = &plan.required;
    [
        ("max_connections", required.max_connections),
        ("max_worker_processes", required.max_worker_processes),
        ("max_wal_senders", required.max_wal_senders),
        ("max_prepared_transactions", required.max_prepared_transactions),
        ("max_locks_per_transaction", required.max_locks_per_transaction),
    ]
}

fn volume_gibibytes(plan: &RecoveryPlan) -> u64 {
    let bytes = plan.backup.bytes.saturating_add(plan.estimate.wal_bytes);
    let spare = bytes / 100 * VOLUME_SPARE_PERCENT;
    bytes.saturating_add(spare).div_ceil(GIBIBYTE).max(1)
}

/// A name that Kubernetes takes: lower-case letters, digits and dashes, a letter first.
fn kubernetes_name(server: &str) -> String {
    let plain = server.chars().take(NAME_CHARACTERS_MAX).map(|c| {
        let c = c.to_ascii_lowercase();
        if c.is_ascii_alphanumeric() { c } else { '-' }
    });
    let name: String = plain.collect();
    let name = name.trim_matches('-');
    if name.starts_with(|c: char| c.is_ascii_lowercase()) { name.to_owned() } else { format!("pg-{name}") }
}

/// A YAML scalar in double quotes, which JSON's are.
fn quoted(text: &str) -> String {
    serde_json::to_string(text).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_what_kubernetes_takes() {
        for (server, name) in
            [("main", "main"), ("Orders_EU.1", "orders-eu-1"), ("1st", "pg-1st"), ("-x-", "x"), ("__", "pg-")]
        {
            assert_eq!(kubernetes_name(server).trim_end_matches('-'), name.trim_end_matches('-'), "{server}");
        }
    }

    #[test]
    fn scalars_are_quoted_so_that_yaml_reads_text() {
        assert_eq!(quoted("2"), "\"2\"");
        assert_eq!(quoted("a\"b\\c\nd"), "\"a\\\"b\\\\c\\nd\"");
    }
}
