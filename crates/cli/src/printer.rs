//! Everything that is printed. Stdout is data; errors, warnings and notes go to stderr.
//!
//! A reader that goes away (`walden wal list | head`) is no error: what was done stays done, and the exit code
//! says so.

use std::io::{self, IsTerminal, Write};

use jiff::tz::TimeZone;
use serde::Serialize;
use walden_core::ErrorKind;
use walden_store::Environment;

use crate::args::{ColorChoice, OutputFormat};
use crate::env;
use crate::failure::Failure;
use crate::text::{Canvas, Paint, Text, spelled_out};

/// Columns where no terminal says how many there are.
const COLUMNS_DEFAULT: usize = 80;
const COLUMNS_MIN: usize = 40;
const COLUMNS_MAX: usize = 120;

/// How much goes to stderr.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Verbosity {
    /// Errors only.
    Quiet,
    /// Warnings and progress too.
    Normal,
    /// Counters and times too.
    Verbose,
}

/// Decides what goes where, and in which form.
#[derive(Debug, Clone)]
pub(crate) struct Printer {
    format: OutputFormat,
    verbosity: Verbosity,
    stdout_paint: Paint,
    stderr_paint: Paint,
    stdout_is_terminal: bool,
    stderr_is_terminal: bool,
    /// The system's unless one is given.
    zone: Option<TimeZone>,
    canvas: Canvas,
}

impl Printer {
    /// A printer for this process's stdout and stderr.
    pub(crate) fn new(
        format: OutputFormat,
        color: ColorChoice,
        verbosity: Verbosity,
        no_color: bool,
    ) -> Self {
        let stdout_is_terminal = io::stdout().is_terminal();
        let stderr_is_terminal = io::stderr().is_terminal();
        let paint = |is_terminal| {
            if color.is_used(is_terminal, no_color) { Paint::Ansi } else { Paint::Plain }
        };
        Self {
            format,
            verbosity,
            stdout_paint: paint(stdout_is_terminal),
            stderr_paint: paint(stderr_is_terminal),
            stdout_is_terminal,
            stderr_is_terminal,
            zone: None,
            canvas: Canvas { columns: COLUMNS_DEFAULT, unicode: false },
        }
    }

    /// The same, as wide as the terminal, with the characters that the locale has.
    pub(crate) fn with_terminal(mut self, environment: &Environment) -> Self {
        self.canvas.columns = columns(environment);
        let locale = env::LOCALE.iter().find_map(|name| environment.get(name));
        self.canvas.unicode = locale.is_some_and(|locale| {
            let locale = locale.to_ascii_lowercase();
            locale.contains("utf-8") || locale.contains("utf8")
        });
        self
    }

    /// The same, showing moments in a zone of one's own besides UTC.
    pub(crate) fn with_zone(self, zone: Option<TimeZone>) -> Self {
        Self { zone: zone.or(self.zone), ..self }
    }

    /// The form of stdout.
    pub(crate) fn format(&self) -> OutputFormat {
        self.format
    }

    /// How much is said on stderr.
    pub(crate) fn verbosity(&self) -> Verbosity {
        self.verbosity
    }

    /// Whether progress may be drawn.
    pub(crate) fn draws_progress(&self) -> bool {
        self.stderr_is_terminal && self.verbosity >= Verbosity::Normal
    }

    /// Prints a report: the document for programs, or the text made by `render` for people.
    ///
    /// # Errors
    /// When stdout can't be written for another reason than that nobody reads it.
    pub(crate) fn report<T: Serialize>(
        &self,
        document: &T,
        render: impl FnOnce(&mut Text),
    ) -> Result<(), Failure> {
        match self.format {
            OutputFormat::Json => self.json(document),
            _ => {
                let mut text = self.text(self.stdout_paint);
                render(&mut text);
                write_stdout(text.finish().as_bytes())
            }
        }
    }

    fn json<T: Serialize>(&self, document: &T) -> Result<(), Failure> {
        let rendered = if self.stdout_is_terminal {
            serde_json::to_string_pretty(document)
        } else {
            serde_json::to_string(document)
        };
        let mut line = rendered.map_err(|error| {
            Failure::new(ErrorKind::Internal, "cannot render the report").caused_by(&error)
        })?;
        line.push('\n');
        write_stdout(line.as_bytes())
    }

    /// Prints a failure: as a document on stdout with `--output json`, else in words on stderr.
    pub(crate) fn failure(&self, failure: &Failure) {
        match self.format {
            // Nothing more can be done when this fails too.
            OutputFormat::Json => drop(self.json(&failure.document())),
            _ => self.aside(|text| text.failure(failure)),
        }
    }

    /// Prints to stderr what is not data, made for people.
    pub(crate) fn aside(&self, render: impl FnOnce(&mut Text)) {
        let mut text = self.text(self.stderr_paint);
        render(&mut text);
        write_stderr(&text.finish());
    }

    fn text(&self, paint: Paint) -> Text {
        Text::new(paint, self.zone.clone()).with_canvas(self.canvas)
    }

    /// Prints a warning, unless quiet.
    pub(crate) fn warning(&self, message: &str) {
        if self.verbosity >= Verbosity::Normal {
            let warning = self.stderr_paint.yellow("warning:");
            self.aside(|text| text.line(format!("{warning} {message}")));
        }
    }

    /// Prints a note, when asked to say more.
    pub(crate) fn note(&self, message: &str) {
        if self.verbosity >= Verbosity::Verbose {
            self.aside(|text| text.line(message));
        }
    }
}

/// The width for drawings: what the environment says, or the terminal, within bounds.
fn columns(environment: &Environment) -> usize {
    let said = environment.get(env::COLUMNS).and_then(|columns| columns.trim().parse().ok());
    let terminal = || terminal_size::terminal_size().map(|(width, _)| usize::from(width.0));
    let columns = said.or_else(terminal).filter(|columns| *columns > 0);
    columns.unwrap_or(COLUMNS_DEFAULT).clamp(COLUMNS_MIN, COLUMNS_MAX)
}

/// Prints one line to stderr: for the server log, which is read line by line.
pub(crate) fn log_line(line: &str) {
    write_stderr(&spelled_out(&format!("{}\n", crate::failure::one_line(line))));
}

/// Writes to stdout, whatever the format.
///
/// # Errors
/// When stdout can't be written for another reason than that nobody reads it.
pub(crate) fn write_stdout(bytes: &[u8]) -> Result<(), Failure> {
    let mut stdout = io::stdout().lock();
    match stdout.write_all(bytes).and_then(|()| stdout.flush()) {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => {
            Err(Failure::new(ErrorKind::LocalIo, "cannot write to stdout").caused_by(&error))
        }
        _ => Ok(()),
    }
}

/// Asks on stderr, where the answer is typed behind the question.
pub(crate) fn ask(question: &str) {
    write_stderr(question);
}

fn write_stderr(text: &str) {
    // Nobody is left to be told when this fails.
    drop(io::stderr().lock().write_all(text.as_bytes()));
}
