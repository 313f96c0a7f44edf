//! What `cargo xtask bench` has decided. It has checked the words of its user already.

use std::path::PathBuf;

use crate::Result;

/// All that a run depends on.
#[derive(Debug, Clone, Default)]
pub(crate) struct Options {
    /// The program.
    pub(crate) walden: PathBuf,
    /// pgBackRest's program, when it is installed.
    pub(crate) pgbackrest: Option<PathBuf>,
    /// The directory of Barman's programs, when they are installed.
    pub(crate) barman: Option<PathBuf>,
    /// Further peers: name and program.
    pub(crate) peers: Vec<(String, PathBuf)>,
    /// Further peers, described in files.
    pub(crate) peer_files: Vec<PathBuf>,
    /// Peers that can't take part, and why.
    pub(crate) missing: Vec<crate::tools::Missing>,
    /// Only these tools; all when empty.
    pub(crate) only: Vec<String>,
    /// What is measured.
    pub(crate) what: Vec<String>,
    /// Segments of a case.
    pub(crate) segments: usize,
    /// Segments of a case of a slow tool.
    pub(crate) slow_segments: usize,
    /// Repetitions.
    pub(crate) rounds: usize,
    /// Added to every request of a store far away, in milliseconds.
    pub(crate) delay_ms: u64,
    /// Replay of a segment keeps a core busy for so long, in milliseconds.
    pub(crate) replay_ms: u64,
    /// Steps of the search for the largest rate.
    pub(crate) steps: usize,
    /// Where the report goes.
    pub(crate) output: PathBuf,
    /// The documentation's directory, when it is to be changed.
    pub(crate) publish: Option<PathBuf>,
    /// The command line as its user typed it.
    pub(crate) typed: String,
}

impl Options {
    /// Whether this is measured.
    pub(crate) fn measures(&self, what: &str) -> bool {
        self.what.iter().any(|wanted| wanted == what)
    }

    /// Whether this tool takes part.
    pub(crate) fn wants(&self, tool: &str) -> bool {
        self.only.is_empty() || self.only.iter().any(|wanted| tool.starts_with(wanted.as_str()))
    }
}

/// Reads `--name value` pairs.
pub(crate) fn parse(arguments: &[String]) -> Result<Options> {
    let mut options = Options::default();
    let list = |value: &str| value.split(',').filter(|w| !w.is_empty()).map(str::to_owned).collect();
    let pair = |value: &str| {
        let (name, rest) = value.split_once('=').ok_or_else(|| format!("no NAME=... in {value:?}"))?;
        Ok::<_, crate::Error>((name.to_owned(), rest.to_owned()))
    };
    for words in arguments.chunks(2) {
        let [name, value] = words else { return Err("an option without a value".into()) };
        match name.as_str() {
            "--walden" => options.walden = value.into(),
            "--pgbackrest" => options.pgbackrest = Some(value.into()),
            "--barman" => options.barman = Some(value.into()),
            "--peer" => options.peers.push(pair(value).map(|(name, path)| (name, path.into()))?),
            "--peer-file" => options.peer_files.push(value.into()),
            "--missing" => options.missing.push(pair(value)?),
            "--tools" => options.only = list(value),
            "--what" => options.what = list(value),
            "--segments" => options.segments = value.parse()?,
            "--slow-segments" => options.slow_segments = value.parse()?,
            "--rounds" => options.rounds = value.parse()?,
            "--delay" => options.delay_ms = value.parse()?,
            "--replay-ms" => options.replay_ms = value.parse()?,
            "--steps" => options.steps = value.parse()?,
            "--output" => options.output = value.into(),
            "--publish" => options.publish = Some(value.into()),
            "--typed" => options.typed.clone_from(value),
            other => return Err(format!("no option {other}").into()),
        }
    }
    Ok(options)
}
