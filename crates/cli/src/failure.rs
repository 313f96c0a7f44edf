//! A failure as it is shown: kind, sentence, causes, hint. Everything that can go wrong ends here.

use std::error::Error;

use serde::Serialize;
use walden_core::{ErrorKind, Refusal};
use walden_engine::EngineError;
use walden_store::StoreError;

use crate::exit::Exit;

/// The sort of a failure: one of the domain's kinds, or one that only a command line has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum FailureKind {
    /// A kind of error of the layers below.
    Domain(ErrorKind),
    /// The command line is not understood.
    Usage,
    /// A signal ended the work.
    Interrupted,
}

impl FailureKind {
    /// The word used in JSON.
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Domain(kind) => kind.as_str(),
            Self::Usage => "usage",
            Self::Interrupted => "interrupted",
        }
    }
}

/// Why a verb failed.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Failure {
    /// What sort.
    pub(crate) kind: FailureKind,
    /// What happened.
    pub(crate) message: String,
    /// What lies underneath, outermost first.
    pub(crate) causes: Vec<String>,
    /// What to do next.
    pub(crate) hint: Option<String>,
    /// The planner's refusal, when that is what it is.
    pub(crate) refusal: Option<Box<Refusal>>,
}

/// A failure in JSON.
#[derive(Debug, Serialize)]
pub(crate) struct FailureDocument<'a> {
    error: ErrorBody<'a>,
    #[serde(skip_serializing_if = "Option::is_none")]
    refusal: Option<&'a Refusal>,
}

#[derive(Debug, Serialize)]
struct ErrorBody<'a> {
    kind: &'static str,
    message: &'a str,
    #[serde(skip_serializing_if = "<[String]>::is_empty")]
    causes: &'a [String],
    hint: Option<&'a str>,
}

impl Failure {
    /// A failure of a domain's kind.
    pub(crate) fn new(kind: ErrorKind, message: impl Into<String>) -> Self {
        Self::of(FailureKind::Domain(kind), message)
    }

    /// A command line that is not understood.
    pub(crate) fn usage(message: impl Into<String>) -> Self {
        Self::of(FailureKind::Usage, message)
    }

    /// Work that a signal ended.
    pub(crate) fn interrupted(message: impl Into<String>) -> Self {
        Self::of(FailureKind::Interrupted, message)
    }

    fn of(kind: FailureKind, message: impl Into<String>) -> Self {
        Self { kind, message: message.into(), causes: Vec::new(), hint: None, refusal: None }
    }

    /// The same with a hint what to do next.
    pub(crate) fn with_hint(self, hint: impl Into<String>) -> Self {
        Self { hint: Some(hint.into()), ..self }
    }

    /// The same with what lies underneath.
    pub(crate) fn caused_by(self, error: &(dyn Error + 'static)) -> Self {
        let causes =
            std::iter::successors(Some(error), |error| (*error).source()).map(ToString::to_string).collect();
        Self { causes, ..self }
    }

    /// The exit code that belongs to it.
    pub(crate) fn exit(&self) -> Exit {
        match self.kind {
            FailureKind::Domain(kind) => kind.into(),
            FailureKind::Usage => Exit::Usage,
            FailureKind::Interrupted => Exit::Interrupted,
        }
    }

    /// Message and causes as one sentence.
    pub(crate) fn sentence(&self) -> String {
        let mut sentence = one_line(&self.message);
        for cause in &self.causes {
            sentence.push_str(": ");
            sentence.push_str(&one_line(cause));
        }
        sentence
    }

    /// The failure in JSON.
    pub(crate) fn document(&self) -> FailureDocument<'_> {
        FailureDocument {
            error: ErrorBody {
                kind: self.kind.as_str(),
                message: &self.message,
                causes: &self.causes,
                hint: self.hint.as_deref(),
            },
            refusal: self.refusal.as_deref(),
        }
    }
}

/// A text without line breaks, for places that take one line.
pub(crate) fn one_line(text: &str) -> String {
    text.split(['\n', '\r']).map(str::trim).filter(|line| !line.is_empty()).collect::<Vec<_>>().join(" ")
}

impl From<EngineError> for Failure {
    fn from(error: EngineError) -> Self {
        let mut failure = Self::new(error.kind(), error.to_string());
        failure.hint = error.hint();
        if let Some(source) = error.source() {
            failure = failure.caused_by(source);
            // Some messages say their cause already.
            let message = failure.message.clone();
            failure.causes.retain(|cause| !message.contains(cause.as_str()));
        }
        if let EngineError::Refused(refusal) = error {
            failure.refusal = Some(refusal);
        }
        failure
    }
}

impl From<StoreError> for Failure {
    fn from(error: StoreError) -> Self {
        EngineError::from(error).into()
    }
}

impl From<Refusal> for Failure {
    fn from(refusal: Refusal) -> Self {
        EngineError::Refused(Box::new(refusal)).into()
    }
}
