//! A bench for the program: a data directory, a repository beside it, and a clean environment.

use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

/// The fixtures of PostgreSQL 18: its segments have 1 MiB.
const FIXTURES: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/crates/pg/fixtures/pg18");
pub(crate) const SEGMENT: &str = "00000001000000000000000B";
pub(crate) const NEXT_SEGMENT: &str = "00000001000000000000000C";
const SEGMENT_BYTES: usize = 1 << 20;

pub(crate) struct Bench {
    directory: tempfile::TempDir,
}

/// What a run of the program left.
pub(crate) struct Run {
    pub(crate) code: i32,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

impl Bench {
    pub(crate) fn new() -> Self {
        let bench = Self { directory: tempfile::tempdir().unwrap() };
        let control = std::fs::read(format!("{FIXTURES}/pg_control")).unwrap();
        let page = std::fs::read(format!("{FIXTURES}/{SEGMENT}.page")).unwrap();
        std::fs::create_dir_all(bench.pgdata().join("global")).unwrap();
        std::fs::create_dir_all(bench.pgdata().join("pg_wal/archive_status")).unwrap();
        let mut file = control;
        file.resize(8192, 0);
        std::fs::write(bench.pgdata().join("global/pg_control"), file).unwrap();
        std::fs::write(bench.pgdata().join("PG_VERSION"), "18\n").unwrap();
        let mut segment = page;
        segment.resize(SEGMENT_BYTES, 0);
        std::fs::write(bench.segment(), segment).unwrap();
        bench
    }

    /// A bench with a repository for its server.
    pub(crate) fn with_repository() -> Self {
        let bench = Self::new();
        bench.ok(&["init"]);
        bench
    }

    /// A bench with a repository that holds one segment.
    pub(crate) fn with_segment() -> Self {
        let bench = Self::with_repository();
        bench.ok(&["wal", "push", bench.segment().to_str().unwrap()]);
        bench
    }

    pub(crate) fn path(&self) -> &Path {
        self.directory.path()
    }

    pub(crate) fn pgdata(&self) -> PathBuf {
        self.path().join("pgdata")
    }

    pub(crate) fn segment(&self) -> PathBuf {
        self.pgdata().join("pg_wal").join(SEGMENT)
    }

    pub(crate) fn repository(&self) -> PathBuf {
        self.path().join("repository")
    }

    /// The program with nothing in its environment but the repository and the data directory; it runs in the data
    /// directory, as PostgreSQL would run it.
    pub(crate) fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_walden"));
        command.env_clear().env("TZ", "UTC").env("HOME", self.path().join("home"));
        command.env("WALDEN_REPO", format!("file://{}", self.repository().display()));
        command.env("PGDATA", self.pgdata());
        // What a hook does by itself is what is tested here; tests of the agent say otherwise.
        command.env("WALDEN_AGENT", "off");
        command.current_dir(self.pgdata()).args(arguments).stdin(Stdio::null());
        command
    }

    pub(crate) fn run(&self, arguments: &[&str]) -> Run {
        self.finish(self.command(arguments))
    }

    pub(crate) fn finish(&self, mut command: Command) -> Run {
        let output = command.output().unwrap();
        self.told(&output)
    }

    fn told(&self, output: &Output) -> Run {
        let text = |bytes: &[u8]| self.redact(std::str::from_utf8(bytes).unwrap());
        Run {
            code: output.status.code().unwrap_or_else(|| panic!("{}", output.status)),
            stdout: text(&output.stdout),
            stderr: text(&output.stderr),
        }
    }

    /// Runs it; it must succeed.
    pub(crate) fn ok(&self, arguments: &[&str]) -> Run {
        let run = self.run(arguments);
        assert_eq!(run.code, 0, "{arguments:?}\n{}{}", run.stdout, run.stderr);
        run
    }

    /// Replaces what differs from run to run: the bench's directory, hosts, moments, random ids, durations.
    fn redact(&self, text: &str) -> String {
        let text = text.replace(self.path().to_str().unwrap(), "[DIR]");
        let text = text.replace(env!("CARGO_BIN_EXE_walden"), "[WALDEN]");
        let text = replace_shape(&text, "dddd-dd-dd dd:dd:dd UTC", "[MOMENT]");
        let text =
            replace_shape(&text, "hhhhhhhhhhhhhhhhhhhhhhhhhhhhhhhh", "[ID]").replace("[ID][ID]", "[SHA-256]");
        let text = replace_between(&text, "] by walden ", "\n", "[VERSION] on [HOST]");
        let text = replace_between(&text, "by                 walden ", "\n", "[VERSION] on [HOST]");
        let text = replace_between(&text, "walden             ", "\n", "[VERSION]");
        let text = replace_between(&text, "[MOMENT]  ", "  [DIR]", "[HOST]");
        // Sizes of objects depend on the lengths of names in their headers.
        let text = replace_shape(&text, "d.d KiB", "[SIZE]");
        let text = replace_shape(&text, "(dddd bytes)", "[BYTES]");
        let line_end = if text.starts_with('{') { "\"" } else { "\n" };
        let text = replace_between(&text, "no segment waits to be archived; ", line_end, "[ROOM]");
        replace_between(&text, "; time: ", "\n", "[TIME]")
    }
}

/// Replaces every run of characters that has the shape: `d` stands for a digit, `h` for a hexadecimal one.
pub(crate) fn replace_shape(text: &str, shape: &str, with: &str) -> String {
    let matches = |at: &str| {
        at.len() >= shape.len()
            && at.bytes().zip(shape.bytes()).all(|(byte, shape)| match shape {
                b'd' => byte.is_ascii_digit(),
                b'h' => byte.is_ascii_hexdigit() && !byte.is_ascii_uppercase(),
                other => byte == other,
            })
    };
    let mut out = String::new();
    let mut rest = text;
    while let Some(first) = rest.chars().next() {
        if matches(rest) {
            out.push_str(with);
            rest = &rest[shape.len()..];
        } else {
            out.push(first);
            rest = &rest[first.len_utf8()..];
        }
    }
    out
}

fn replace_between(text: &str, begin: &str, end: &str, with: &str) -> String {
    let mut out = String::new();
    let mut rest = text;
    while let Some(at) = rest.find(begin) {
        let (before, after) = rest.split_at(at + begin.len());
        out.push_str(before);
        out.push_str(with);
        rest = &after[after.find(end).unwrap_or(after.len())..];
    }
    out.push_str(rest);
    out
}
