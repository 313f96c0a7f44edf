//! Starting programs: quiet ones whose output matters only when they fail, and loud ones.

use std::process::{Command, Stdio};

use crate::failure::{Failure, Result};

/// Longest piece of a failed program's output that is repeated, in lines from its end.
const SHOWN_LINES: usize = 40;

/// The command as one would type it.
pub(crate) fn shown(command: &Command) -> String {
    std::iter::once(command.get_program())
        .chain(command.get_args())
        .map(|word| quoted(&word.to_string_lossy()))
        .collect::<Vec<_>>()
        .join(" ")
}

/// A word as a POSIX shell wants it: in single quotes when it holds anything but plain characters.
pub(crate) fn quoted(word: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_./:=@%+,".contains(c);
    if !word.is_empty() && word.chars().all(plain) {
        word.to_owned()
    } else {
        format!("'{}'", word.replace('\'', r"'\''"))
    }
}

/// Runs a command without input and returns what it wrote to its standard output.
/// When it fails, the failure holds the end of everything that it wrote.
pub(crate) fn quiet(command: &mut Command) -> Result<String> {
    let output = command.stdin(Stdio::null()).output().map_err(|error| cannot_start(command, &error))?;
    let stdout = String::from_utf8_lossy(&output.stdout);
    if output.status.success() {
        return Ok(stdout.into_owned());
    }
    let stderr = String::from_utf8_lossy(&output.stderr);
    let lines: Vec<&str> = stdout.lines().chain(stderr.lines()).collect();
    let tail = lines.iter().skip(lines.len().saturating_sub(SHOWN_LINES));
    let tail = tail.fold(String::new(), |text, line| text + "\n  | " + line);
    Err(Failure::new(format!("`{}` failed ({}){tail}", shown(command), output.status)))
}

/// Runs a command without input whose output goes where ours goes.
pub(crate) fn loud(command: &mut Command) -> Result<()> {
    let status = command.stdin(Stdio::null()).status().map_err(|error| cannot_start(command, &error))?;
    if status.success() {
        Ok(())
    } else {
        Err(Failure::new(format!("`{}` failed ({status})", shown(command))))
    }
}

/// Whether a command can be started and succeeds; its output is thrown away.
pub(crate) fn succeeds(command: &mut Command) -> bool {
    command
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status()
        .is_ok_and(|status| status.success())
}

fn cannot_start(command: &Command, error: &std::io::Error) -> Failure {
    Failure::new(format!("cannot start `{}`: {error}", shown(command)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_quoted_for_a_shell() {
        assert_eq!(quoted("plain-word_1.2/3"), "plain-word_1.2/3");
        assert_eq!(quoted(""), "''");
        assert_eq!(quoted("two words"), "'two words'");
        assert_eq!(quoted("it's"), r"'it'\''s'");
    }

    #[test]
    fn a_failed_command_says_what_it_wrote() {
        let failure =
            quiet(Command::new("sh").args(["-c", "echo reason >&2; exit 3"])).unwrap_err().to_string();
        assert!(failure.contains("reason") && failure.contains("exit status: 3"), "{failure}");
    }
}
