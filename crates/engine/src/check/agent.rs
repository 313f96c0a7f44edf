//! The agent, as `walden check` tells of it.

use super::{Check, shown};
use crate::agent::client::DoItYourself;
use crate::agent::{AgentFound, AgentStatus};

const NAME: &str = "agent";

/// Without an agent everything works, so none of this is a failure.
pub(super) fn agent_check(found: Option<AgentFound>) -> Check {
    match found {
        None => Check::warning(
            NAME,
            "there is no state directory, so that no agent can run and each call does its work itself",
            "set WALDEN_STATE_DIRECTORY to a directory that the server's account can write",
        ),
        Some(AgentFound::Running(status)) => running(&status),
        Some(AgentFound::None { others }) => match others.iter().find_map(|place| place.about.as_ref()) {
            None => Check::ok(NAME, "none runs; each call does its work itself"),
            Some(other) => Check::warning(
                NAME,
                format!(
                    "the one that runs for this data directory is of another repository or server, and is not asked \
                     pid={} repository={} server={}",
                    other.pid, other.repository, other.server
                ),
                "run it with the repository and the server of archive_command",
            ),
        },
        Some(AgentFound::Unreachable { pid, reason }) => unreachable(pid, &reason),
    }
}

fn running(status: &AgentStatus) -> Check {
    let started = if status.on_demand { "started on demand" } else { "resident" };
    let detail = format!(
        "pid {}, version {}, {started}, since {}",
        status.pid,
        version(&status.build),
        shown(status.started_at)
    );
    match status.warnings.as_slice() {
        [] if status.leaving => Check::ok(NAME, format!("{detail}; it is leaving")),
        [] => Check::ok(NAME, detail),
        warnings => Check::warning(
            NAME,
            format!("{detail}; {}", warnings.join("; ")),
            "run it with the account and the settings of the server's own commands",
        ),
    }
}

fn unreachable(pid: Option<u32>, reason: &DoItYourself) -> Check {
    if let DoItYourself::OtherBuild { build, pid, .. } = reason {
        let detail = format!("pid {pid} is of another build, {build}: calls do without it");
        return Check::warning(NAME, detail, "restart it: walden agent stop, or its service");
    }
    let pid = pid.map_or_else(String::new, |pid| format!(" pid={pid}"));
    Check::warning(
        NAME,
        format!("one is there and can't be asked: {reason}{pid}; calls do without it"),
        "walden agent status says what to do",
    )
}

fn version(build: &str) -> &str {
    build.split('+').next().unwrap_or(build)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::check::CheckStatus;

    #[test]
    fn an_agent_that_is_not_there_is_no_fault_and_one_that_cant_be_asked_is_worth_a_warning() {
        let none = agent_check(Some(AgentFound::None { others: Vec::new() }));
        assert_eq!((none.name, none.status), ("agent", CheckStatus::Ok));
        assert_eq!(agent_check(None).status, CheckStatus::Warning);
        let silent =
            agent_check(Some(AgentFound::Unreachable { pid: Some(4711), reason: DoItYourself::Silent }));
        assert_eq!(silent.status, CheckStatus::Warning);
        assert!(silent.detail.contains("pid=4711"), "{}", silent.detail);
        let reason = DoItYourself::OtherBuild { build: "9.9+x".to_owned(), pid: 7, asked_to_leave: false };
        let other = agent_check(Some(AgentFound::Unreachable { pid: Some(7), reason }));
        assert!(other.detail.contains("pid 7") && other.detail.contains("9.9+x"), "{}", other.detail);
    }
}
