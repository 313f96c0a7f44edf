//! Commands to type next, complete with what this one was told.

use std::path::Path;

use jiff::Timestamp;
use walden_core::{Incarnation, RecoveryRequest, RecoveryTarget, TargetTimeline};
use walden_pg::Lsn;

use crate::args::default_action;
use crate::config::Origin;
use crate::session::Session;
use crate::text::shell_word;

/// The words that every further command needs besides its own.
#[derive(Debug, Clone, Default)]
pub(crate) struct Words {
    /// Which repository and server, as far as only the command line said so.
    common: Vec<String>,
    incarnation: Option<Incarnation>,
    pgdata: Option<String>,
}

impl Words {
    /// What has to be said again after this command line. `pgdata` names the archive, not a place to restore to.
    pub(crate) fn new(session: &Session, incarnation: Option<Incarnation>, pgdata: Option<&Path>) -> Self {
        let effective = &session.effective;
        let mut common = Vec::new();
        if let Some(file) = &session.config_file {
            common.extend(["--config".to_owned(), shell_word(&file.display().to_string())]);
        }
        let said = |path: &str| matches!(effective.origin(path), Origin::Flag(_));
        if let Some(repo) = effective.config.repo.as_ref().filter(|_| said("repo")) {
            common.extend(["--repo".to_owned(), shell_word(&repo.to_string())]);
        }
        if said("server") {
            common.extend(["--server".to_owned(), shell_word(effective.config.server.as_str())]);
        }
        Self { common, incarnation, pgdata: pgdata.map(|path| shell_word(&path.display().to_string())) }
    }

    /// `walden restore` for a request; where to is left to whoever types it.
    pub(crate) fn restore(&self, request: &RecoveryRequest) -> String {
        let mut words = self.command("restore");
        words.extend(self.incarnation.map(|id| format!("--incarnation {id}")));
        words.extend(target_words(request));
        words.push("--pgdata NEW_DIRECTORY".to_owned());
        words.join(" ")
    }

    /// `walden plan` for a request.
    pub(crate) fn plan(&self, request: &RecoveryRequest) -> String {
        let mut words = self.command("plan");
        words.extend(self.incarnation.map(|id| format!("--incarnation {id}")));
        words.extend(self.pgdata.as_ref().map(|path| format!("--pgdata {path}")));
        words.extend(target_words(request));
        words.join(" ")
    }

    /// `walden plan` for a position that the same request could ask for instead.
    pub(crate) fn plan_for(&self, request: &RecoveryRequest, lsn: Lsn) -> String {
        let target = RecoveryTarget::Lsn(lsn);
        self.plan(&RecoveryRequest { target, exclusive: false, ..request.clone() })
    }

    /// `walden plan` for everything that is archived.
    pub(crate) fn plan_for_all(&self, request: &RecoveryRequest) -> String {
        let target = RecoveryTarget::Latest;
        let action = default_action(&target);
        self.plan(&RecoveryRequest { target, exclusive: false, action, ..request.clone() })
    }

    fn command(&self, verb: &str) -> Vec<String> {
        let mut words = vec!["walden".to_owned()];
        words.extend(self.common.iter().cloned());
        words.push(verb.to_owned());
        words
    }
}

/// A moment as `--target-time` and PostgreSQL read it, to the microsecond.
pub(super) fn exact_time(time: Timestamp) -> String {
    time.strftime("%Y-%m-%d %H:%M:%S%.6f+00").to_string()
}

/// The options of a request: times absolute, so that they mean the same tomorrow.
fn target_words(request: &RecoveryRequest) -> Vec<String> {
    let mut words = Vec::new();
    match &request.target {
        RecoveryTarget::Latest => {}
        RecoveryTarget::Immediate => words.push("--target-immediate".to_owned()),
        RecoveryTarget::Time(time) => words.push(format!("--target-time '{}'", exact_time(*time))),
        RecoveryTarget::Lsn(lsn) => words.push(format!("--target-lsn {lsn}")),
        RecoveryTarget::Xid(xid) => words.push(format!("--target-xid {xid}")),
        RecoveryTarget::Name(name) => words.push(format!("--target-name {}", shell_word(name))),
    }
    if request.exclusive {
        words.push("--target-exclusive".to_owned());
    }
    match request.timeline {
        TargetTimeline::Latest => {}
        TargetTimeline::Current => words.push("--target-timeline current".to_owned()),
        TargetTimeline::Id(timeline) => words.push(format!("--target-timeline {timeline}")),
    }
    if request.action != default_action(&request.target) {
        words.push(format!("--target-action {}", request.action.as_str()));
    }
    words.extend(request.backup.as_ref().map(|id| format!("--backup {id}")));
    words
}
