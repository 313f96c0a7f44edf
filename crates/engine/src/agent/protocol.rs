//! What agent and hooks say to each other: frames with a head that never changes, and JSON inside.
//!
//! The head carries the protocol's number and the exact build of the program that sent it. Only equal builds read each
//! other's bodies; the head, and the two kinds of frame that ask an agent to end, are for every version there will be.
//! A connection carries one call. The agent answers with [`FrameKind::Beat`] as long as it works on it, and then once.
//!
//! | bytes | what |
//! |---|---|
//! | 8 | `WALDENAG` |
//! | 2 | number of the protocol, little-endian |
//! | 1 | [`FrameKind`] |
//! | 1 | length of the build, at most 64 |
//! | 4 | length of the body, little-endian, at most [`BODY_BYTES_MAX`] |
//! | … | the build, then the body |

use std::io::{self, Read};
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;
use std::sync::OnceLock;

use serde::{Deserialize, Serialize};
use walden_core::{ErrorKind, ServerName};

use super::status::AgentStatus;
use crate::archiver::{FileIdentity, PushReport};
use crate::error::EngineError;

/// The number of the protocol: of what bodies hold and of the order of frames.
pub const PROTOCOL: u16 = 1;
/// A body is never larger, in bytes.
pub const BODY_BYTES_MAX: u32 = 256 << 10;
const MAGIC: [u8; 8] = *b"WALDENAG";
/// The length of the head in bytes.
pub const HEAD_BYTES: usize = 16;
const BUILD_BYTES_MAX: u8 = 64;

/// What a frame is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FrameKind {
    /// A [`Call`]; from a hook, once, first.
    Call,
    /// An [`Answer`]; from the agent, once, last. Also answers [`FrameKind::Leave`] and [`FrameKind::Stop`], with a
    /// [`Farewell`].
    Answer,
    /// The agent is at work on the call. A [`Beat`], or no body when there is nothing to say.
    Beat,
    /// A [`Refusal`]: the agent does not talk to this build.
    Refused,
    /// No body: an agent that was started on demand should end.
    Leave,
    /// No body: the agent should end, whoever started it.
    Stop,
}

impl FrameKind {
    fn number(self) -> u8 {
        match self {
            Self::Call => 1,
            Self::Answer => 2,
            Self::Beat => 3,
            Self::Refused => 4,
            Self::Leave => 5,
            Self::Stop => 6,
        }
    }

    fn of(number: u8) -> Option<Self> {
        [Self::Call, Self::Answer, Self::Beat, Self::Refused, Self::Leave, Self::Stop]
            .into_iter()
            .find(|kind| kind.number() == number)
    }
}

/// What is wrong with what came over the socket.
#[derive(Debug, thiserror::Error)]
pub enum ProtocolError {
    /// The connection failed, ended, or was silent for too long.
    #[error("the connection broke: {0}")]
    Io(#[from] io::Error),
    /// These are not our frames.
    #[error("not a frame of walden's agent")]
    Magic,
    /// A frame of a kind that this version does not know, or not here.
    #[error("a frame of an unexpected kind kind={0}")]
    Kind(u8),
    /// A length beyond what is allowed.
    #[error("a frame is too large bytes={0}")]
    TooLarge(u64),
    /// The body is not what it should be.
    #[error("the body of a frame is not readable reason={0}")]
    Body(String),
}

/// The head of a frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Head {
    /// The number of the sender's protocol.
    pub protocol: u16,
    /// What it is.
    pub kind: FrameKind,
    build_bytes: u8,
    body_bytes: u32,
}

impl Head {
    /// Reads a head.
    ///
    /// # Errors
    /// [`ProtocolError`] for everything that can't be the head of a frame.
    pub fn parse(bytes: &[u8; HEAD_BYTES]) -> Result<Self, ProtocolError> {
        let [m0, m1, m2, m3, m4, m5, m6, m7, p0, p1, kind, build_bytes, b0, b1, b2, b3] = *bytes;
        if [m0, m1, m2, m3, m4, m5, m6, m7] != MAGIC {
            return Err(ProtocolError::Magic);
        }
        let head = Self {
            protocol: u16::from_le_bytes([p0, p1]),
            kind: FrameKind::of(kind).ok_or(ProtocolError::Kind(kind))?,
            build_bytes,
            body_bytes: u32::from_le_bytes([b0, b1, b2, b3]),
        };
        if build_bytes > BUILD_BYTES_MAX || head.body_bytes > BODY_BYTES_MAX {
            return Err(ProtocolError::TooLarge(u64::from(head.body_bytes)));
        }
        Ok(head)
    }

    /// How many bytes follow it: at most 64 more than [`BODY_BYTES_MAX`].
    #[must_use]
    pub fn rest_bytes(&self) -> usize {
        usize::from(self.build_bytes) + self.body_bytes as usize
    }

    /// Makes the frame of what followed.
    ///
    /// # Errors
    /// [`ProtocolError::Body`] when it is not as long as announced, or the build is no text.
    pub fn with_rest(self, mut rest: Vec<u8>) -> Result<Frame, ProtocolError> {
        if rest.len() != self.rest_bytes() {
            return Err(ProtocolError::Body("it ended early".to_owned()));
        }
        let body = rest.split_off(usize::from(self.build_bytes));
        let build =
            String::from_utf8(rest).map_err(|_| ProtocolError::Body("the build is no text".to_owned()))?;
        Ok(Frame { protocol: self.protocol, kind: self.kind, build, body })
    }
}

/// A frame as it was received.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Frame {
    /// The number of the sender's protocol.
    pub protocol: u16,
    /// What it is.
    pub kind: FrameKind,
    /// The sender's build.
    pub build: String,
    /// JSON, or nothing.
    pub body: Vec<u8>,
}

impl Frame {
    /// Whether the sender is the same program as this one.
    #[must_use]
    pub fn is_of(&self, build: &str) -> bool {
        self.protocol == PROTOCOL && self.build == build
    }

    /// Reads a frame; takes no more memory than a frame may have, whatever the head says.
    ///
    /// # Errors
    /// [`ProtocolError`].
    pub fn read(from: &mut impl Read) -> Result<Self, ProtocolError> {
        let mut head = [0; HEAD_BYTES];
        from.read_exact(&mut head)?;
        let head = Head::parse(&head)?;
        let mut rest = Vec::new();
        from.take(head.rest_bytes() as u64).read_to_end(&mut rest)?;
        head.with_rest(rest)
    }

    /// The body as what it should be.
    ///
    /// # Errors
    /// [`ProtocolError::Body`].
    pub fn parse<'a, T: Deserialize<'a>>(&'a self) -> Result<T, ProtocolError> {
        serde_json::from_slice(&self.body).map_err(|error| ProtocolError::Body(error.to_string()))
    }
}

/// A frame without a body, ready to be sent.
#[must_use]
pub fn bare_frame(kind: FrameKind, build: &str) -> Vec<u8> {
    assemble(kind, build, &[])
}

/// A frame, ready to be sent.
///
/// # Errors
/// [`ProtocolError`] when the body is too large, or is nothing that JSON can say.
pub fn frame(kind: FrameKind, build: &str, body: &impl Serialize) -> Result<Vec<u8>, ProtocolError> {
    let body = serde_json::to_vec(body).map_err(|error| ProtocolError::Body(error.to_string()))?;
    if body.len() > BODY_BYTES_MAX as usize {
        return Err(ProtocolError::TooLarge(body.len() as u64));
    }
    Ok(assemble(kind, build, &body))
}

fn assemble(kind: FrameKind, build: &str, body: &[u8]) -> Vec<u8> {
    let build = build.as_bytes();
    let build = build.get(..usize::from(BUILD_BYTES_MAX)).unwrap_or(build);
    let mut bytes = Vec::with_capacity(HEAD_BYTES + build.len() + body.len());
    bytes.extend(MAGIC);
    bytes.extend(PROTOCOL.to_le_bytes());
    bytes.push(kind.number());
    bytes.push(u8::try_from(build.len()).unwrap_or(BUILD_BYTES_MAX));
    bytes.extend(u32::try_from(body.len()).unwrap_or(u32::MAX).to_le_bytes());
    bytes.extend(build);
    bytes.extend(body);
    bytes
}

/// The build of this program: its version, and the size and date of its file as they were when this was first asked.
///
/// An upgrade replaces the file, so a program that still runs from the old one tells another build than the new one.
/// The number of the file is not part of it: a sidecar made of the same image has the same file under another one.
#[must_use]
pub fn build() -> &'static str {
    static BUILD: OnceLock<String> = OnceLock::new();
    BUILD.get_or_init(|| {
        let version = env!("CARGO_PKG_VERSION");
        match std::fs::metadata("/proc/self/exe") {
            Ok(file) => format!("{version}+{:x}.{:x}", file.size(), file.mtime()),
            // Not comparable with anything: no agent then.
            Err(_) => format!("{version}+?{}", std::process::id()),
        }
    })
}

/// A directory, by file system and number: a path may lead to different ones in different containers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct DirectoryIdentity {
    /// The number of the file system.
    pub device: u64,
    /// The number of the directory in it.
    pub inode: u64,
}

impl DirectoryIdentity {
    /// Takes it from what `stat` answered.
    #[must_use]
    pub fn of(metadata: &std::fs::Metadata) -> Self {
        Self { device: metadata.dev(), inode: metadata.ino() }
    }
}

/// Whose agent is meant: everything that must be the same for one to work for the other.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Caller {
    /// [`walden_store::Store::identity`].
    pub repository: String,
    /// The server.
    pub server: ServerName,
    /// The data directory as the caller sees it.
    pub data_directory: DirectoryIdentity,
    /// [`walden_store::SettingsFingerprint`] in hex. Made from secrets: it stays out of `Debug`.
    pub settings: String,
}

impl std::fmt::Debug for Caller {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { repository, server, data_directory, settings: _ } = self;
        f.debug_struct("Caller")
            .field("repository", repository)
            .field("server", server)
            .field("data_directory", data_directory)
            .finish_non_exhaustive()
    }
}

/// What a hook asks of the agent.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Call {
    /// Whose agent it takes it for.
    pub caller: Caller,
    /// What it wants.
    pub ask: Ask,
}

/// The calls.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "ask", rename_all = "snake_case")]
pub enum Ask {
    /// Archive this file in `pg_wal`.
    Push {
        /// Its name.
        name: String,
        /// The file as the hook sees it now.
        file: FileIdentity,
    },
    /// Have this file ready.
    Get(GetAsk),
    /// Tell the [`AgentStatus`].
    Status,
}

/// What a `restore_command` wants.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct GetAsk {
    /// The name of the file in the archive.
    pub name: String,
    /// Where PostgreSQL wants it, absolute.
    pub destination: PathBuf,
}

/// A file that waits for the hook in the spool: the hook checks that it still is this one, and moves it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReadyFile {
    /// Where it is, absolute.
    pub path: PathBuf,
    /// Which file it is.
    pub file: FileIdentity,
    /// Whether what guards against tablespaces in the wrong place found nothing to look at in it: then the hook need not
    /// look either.
    pub guard_clean: bool,
}

/// What the agent answers to a [`Call`].
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "answer", rename_all = "snake_case")]
pub enum Answer {
    /// The file is in the archive.
    Done {
        /// What a push by the hook itself would have reported.
        report: PushReport,
        /// Whether it had been archived before the hook asked.
        ahead: bool,
    },
    /// The file wanted is ready.
    Ready(ReadyFile),
    /// The file wanted is proven not to be in the archive.
    Absent,
    /// What the hook would have met itself.
    Failed(AgentFailure),
    /// The agent can't say: the hook does the work itself.
    DoItYourself {
        /// Why, in words.
        reason: String,
    },
    /// The status.
    Status(Box<AgentStatus>),
}

/// What a [`FrameKind::Beat`] says.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Beat {
    /// How long the agent's limit of the rate may hold up a call, in milliseconds: so much longer the hook waits.
    pub at_rate_ms: u64,
}

/// An error that travels: everything that a hook prints and decides its exit code from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AgentFailure {
    /// What sort of thing went wrong.
    pub kind: ErrorKind,
    /// What happened.
    pub message: String,
    /// What lies underneath, outermost first.
    pub causes: Vec<String>,
    /// What to do next.
    pub hint: Option<String>,
}

impl From<&EngineError> for AgentFailure {
    fn from(error: &EngineError) -> Self {
        let source = std::error::Error::source(error);
        let causes = std::iter::successors(source, |error| error.source()).map(ToString::to_string);
        Self { kind: error.kind(), message: error.to_string(), causes: causes.collect(), hint: error.hint() }
    }
}

/// Why a call of another build is not answered. Every version understands it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Refusal {
    /// The agent's process.
    pub pid: u32,
    /// Whether a hook started it: then it may be asked to leave.
    pub on_demand: bool,
}

/// The answer to [`FrameKind::Leave`] and [`FrameKind::Stop`]. Every version understands it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Farewell {
    /// The agent's process.
    pub pid: u32,
    /// Whether a hook started it.
    pub on_demand: bool,
    /// Whether it ends now.
    pub leaving: bool,
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn call() -> Call {
        let caller = Caller {
            repository: "s3://bucket".into(),
            server: "main".parse().unwrap(),
            data_directory: DirectoryIdentity { device: 1, inode: 2 },
            settings: "5ec7e7".into(),
        };
        let file = FileIdentity { device: 1, inode: 3, bytes: 16, mtime_ns: -1, ctime_ns: i64::MAX };
        Call { caller, ask: Ask::Push { name: "00000002.history".into(), file } }
    }

    #[test]
    fn a_frame_comes_back_as_it_was_sent() {
        let bytes = frame(FrameKind::Call, "1.2.3+a.b", &call()).unwrap();
        let frame = Frame::read(&mut bytes.as_slice()).unwrap();
        assert!(frame.is_of("1.2.3+a.b") && !frame.is_of("1.2.3+a.c"));
        assert_eq!((frame.kind, frame.protocol), (FrameKind::Call, PROTOCOL));
        assert_eq!(frame.parse::<Call>().unwrap(), call());
        assert!(frame.parse::<Answer>().is_err());
    }

    #[test]
    fn the_head_never_changes() {
        // Agents of all versions must understand each other's heads, and be able to ask each other to leave.
        assert_eq!(bare_frame(FrameKind::Leave, "b"), *b"WALDENAG\x01\x00\x05\x01\x00\x00\x00\x00b");
        let refusal = Refusal { pid: 7, on_demand: true };
        assert_eq!(serde_json::to_string(&refusal).unwrap(), r#"{"pid":7,"on_demand":true}"#);
        let farewell = Farewell { pid: 7, on_demand: true, leaving: false };
        let json = r#"{"pid":7,"on_demand":true,"leaving":false}"#;
        assert_eq!(serde_json::to_string(&farewell).unwrap(), json);
    }

    #[test]
    fn a_torn_frame_is_an_error_wherever_it_is_torn() {
        let bytes = frame(FrameKind::Call, "build", &call()).unwrap();
        for length in 0..bytes.len() {
            assert!(Frame::read(&mut &bytes[..length]).is_err(), "{length}");
        }
    }

    #[test]
    fn no_length_is_believed() {
        let mut bytes = bare_frame(FrameKind::Answer, "b");
        bytes[12..16].copy_from_slice(&u32::MAX.to_le_bytes());
        assert!(matches!(Frame::read(&mut bytes.as_slice()), Err(ProtocolError::TooLarge(_))));
        bytes[12..16].copy_from_slice(&BODY_BYTES_MAX.to_le_bytes());
        assert!(matches!(Frame::read(&mut bytes.as_slice()), Err(ProtocolError::Body(_))));
        let large = vec!["x"; BODY_BYTES_MAX as usize];
        assert!(matches!(frame(FrameKind::Answer, "b", &large), Err(ProtocolError::TooLarge(_))));
    }

    #[test]
    fn secrets_stay_out_of_debug() {
        assert!(!format!("{:?}", call()).contains("5ec7e7"));
    }

    #[test]
    fn an_error_travels_whole() {
        let error = EngineError::failed(ErrorKind::Denied, "refused key=a").with_hint("look at the policy");
        let failure = AgentFailure::from(&error);
        let json = serde_json::to_string(&Answer::Failed(failure.clone())).unwrap();
        assert_eq!(serde_json::from_str::<Answer>(&json).unwrap(), Answer::Failed(failure.clone()));
        assert_eq!(failure.kind, ErrorKind::Denied);
        assert_eq!(failure.hint.as_deref(), Some("look at the policy"));
    }

    proptest! {
        #[test]
        fn any_bytes_are_an_error_or_a_frame(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            let _ = Frame::read(&mut bytes.as_slice());
        }

        #[test]
        fn a_damaged_frame_never_panics(place in 0_usize..60, byte: u8, cut in 0_usize..300) {
            let mut bytes = frame(FrameKind::Call, "build", &call()).unwrap();
            bytes[place] = byte;
            bytes.truncate(cut.max(place + 1));
            if let Ok(frame) = Frame::read(&mut bytes.as_slice()) {
                let _ = frame.parse::<Call>();
                let _ = frame.parse::<Answer>();
            }
        }
    }
}
