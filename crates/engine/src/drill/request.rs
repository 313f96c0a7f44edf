//! What a drill is asked to do.

use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::time::Duration;

use walden_core::{RecoveryRequest, Setting};
use walden_store::SettingsFingerprint;

/// How long a drill may take unless told otherwise.
pub const DRILL_TIMEOUT: Duration = Duration::from_hours(12);
/// How old the newest good drill may be until `walden check` warns, unless told otherwise.
pub const DRILL_MAX_AGE: Duration = Duration::from_hours(35 * 24);

/// A drill.
#[derive(Debug, Clone)]
pub struct DrillRequest {
    /// The target. What the server does there is not up to it: a drill promotes.
    pub recovery: RecoveryRequest,
    /// Draws the target out of the recovery window instead, by this seed.
    pub seed: Option<u64>,
    /// The directory in which the drill makes its own.
    pub base: PathBuf,
    /// The directory of the server's programs; `None` looks in PATH and where distributions put them.
    pub bin_directory: Option<PathBuf>,
    /// The account of the operating system to run the server as, when root asks; `None` for `postgres`.
    pub user: Option<String>,
    /// The role to ask as, a superuser; `None` tries the account's name, then `postgres`.
    pub role: Option<String>,
    /// Assertions to make.
    pub assertions: Vec<Assertion>,
    /// The database that they are made in.
    pub database: String,
    /// Checks that are not to be made, by their names.
    pub skip: Vec<String>,
    /// Libraries to preload although they are not known to act on the server alone.
    pub preload: Vec<String>,
    /// More settings for the server.
    pub settings: Vec<Setting>,
    /// How long everything may take.
    pub timeout: Duration,
    /// How many files are written at once; `None` takes one per core.
    pub jobs: Option<NonZeroUsize>,
    /// The whole command line for `restore_command`, with `%f` and `%p`, unquoted.
    pub restore_command: String,
    /// The settings of the store, by which an agent knows who may ask it.
    pub agent_settings: SettingsFingerprint,
    /// Whether the evidence is stored.
    pub evidence: bool,
}

/// One statement of a file of assertions.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Assertion {
    /// Its name.
    pub name: String,
    /// The statement.
    pub sql: String,
}

/// Reads a file of assertions: SQL statements, each ended by a semicolon. A comment `-- name: …` before one names it;
/// without it is named by its line. Semicolons in quotes, in dollar quotes and in comments end nothing.
///
/// # Errors
/// When a quote or a comment is not closed: what and in which line.
pub fn parse_assertions(text: &str) -> Result<Vec<Assertion>, String> {
    let mut reader = Reader { text, at: 0, line: 1 };
    let mut assertions = Vec::new();
    let (mut name, mut sql, mut first_line) = (None, String::new(), 1);
    while let Some(token) = reader.next()? {
        match token {
            Token::Comment(comment) => {
                let named = comment.trim_start_matches(['-', ' ']).strip_prefix("name:");
                if let Some(named) = named.map(str::trim).filter(|named| !named.is_empty()) {
                    name = Some(named.chars().take(NAME_CHARACTERS_MAX).collect());
                }
            }
            Token::Semicolon => {
                let statement = std::mem::take(&mut sql);
                push(&mut assertions, &mut name, &statement, first_line);
            }
            Token::Text(part) => {
                if sql.trim().is_empty() {
                    first_line = reader.line - part.matches('\n').count() + leading_lines(part);
                }
                sql.push_str(part);
            }
        }
    }
    push(&mut assertions, &mut name, &sql, first_line);
    Ok(assertions)
}

/// Longer names are cut, in characters.
const NAME_CHARACTERS_MAX: usize = 128;

fn leading_lines(text: &str) -> usize {
    let blank = text.len() - text.trim_start().len();
    text.get(..blank).map_or(0, |blank| blank.matches('\n').count())
}

fn push(assertions: &mut Vec<Assertion>, name: &mut Option<String>, sql: &str, line: usize) {
    let sql = sql.trim();
    if !sql.is_empty() {
        let name = name.take().unwrap_or_else(|| format!("line {line}"));
        assertions.push(Assertion { name, sql: sql.to_owned() });
    }
}

enum Token<'a> {
    Comment(&'a str),
    Semicolon,
    Text(&'a str),
}

/// Splits SQL as psql does, as far as it takes to find the ends of statements.
struct Reader<'a> {
    text: &'a str,
    at: usize,
    line: usize,
}

impl<'a> Reader<'a> {
    fn rest(&self) -> &'a str {
        self.text.get(self.at..).unwrap_or_default()
    }

    fn take(&mut self, bytes: usize) -> &'a str {
        let taken = self.rest().get(..bytes).unwrap_or_else(|| self.rest());
        self.at += taken.len();
        self.line += taken.matches('\n').count();
        taken
    }

    fn next(&mut self) -> Result<Option<Token<'a>>, String> {
        let rest = self.rest();
        if rest.is_empty() {
            return Ok(None);
        }
        if rest.starts_with("--") {
            let end = rest.find('\n').unwrap_or(rest.len());
            return Ok(Some(Token::Comment(self.take(end))));
        }
        if rest.starts_with("/*") {
            let end = comment_end(rest).ok_or_else(|| self.open("comment"))?;
            return Ok(Some(Token::Comment(self.take(end))));
        }
        if rest.starts_with(';') {
            self.take(1);
            return Ok(Some(Token::Semicolon));
        }
        if rest.starts_with(['\'', '"']) {
            let end = self.quote_end(rest).ok_or_else(|| self.open("quote"))?;
            return Ok(Some(Token::Text(self.take(end))));
        }
        if let Some(tag) = dollar_tag(rest).filter(|_| !self.in_word()) {
            let body = rest.get(tag.len()..).unwrap_or_default();
            let end = body.find(tag).ok_or_else(|| self.open("dollar quote"))?;
            return Ok(Some(Token::Text(self.take(end + 2 * tag.len()))));
        }
        let first = rest.chars().next().map_or(1, char::len_utf8);
        let end = rest.get(first..).and_then(|more| more.find(['-', '/', ';', '\'', '"', '$']));
        Ok(Some(Token::Text(self.take(end.map_or(rest.len(), |end| first + end)))))
    }

    fn open(&self, what: &str) -> String {
        format!("a {what} is not closed line={}", self.line)
    }

    /// Whether what stands before is part of a word, in which `$` starts no quote.
    fn in_word(&self) -> bool {
        let before = self.text.get(..self.at).and_then(|before| before.chars().next_back());
        before.is_some_and(|c| c.is_alphanumeric() || c == '_' || c == '$')
    }

    /// The end of a quoted text. In `E''` a backslash takes the next character with it; a doubled quote opens the next.
    fn quote_end(&self, rest: &str) -> Option<usize> {
        let quote = rest.chars().next()?;
        let before = self.text.get(..self.at).unwrap_or_default();
        let mut last = before.chars().rev();
        let escapes = quote == '\''
            && matches!(last.next(), Some('e' | 'E'))
            && !last.next().is_some_and(|c| c.is_alphanumeric() || c == '_');
        let mut characters = rest.char_indices().skip(1);
        while let Some((at, character)) = characters.next() {
            match character {
                '\\' if escapes => drop(characters.next()),
                _ if character == quote => return Some(at + 1),
                _ => {}
            }
        }
        None
    }
}

/// The end of a comment, in which others may be nested.
fn comment_end(text: &str) -> Option<usize> {
    let mut depth = 0_usize;
    let bytes = text.as_bytes();
    let mut at = 0;
    while let Some(pair) = bytes.get(at..at + 2) {
        match pair {
            b"/*" => depth += 1,
            b"*/" => depth -= 1,
            _ => {
                at += 1;
                continue;
            }
        }
        at += 2;
        if depth == 0 {
            return Some(at);
        }
    }
    None
}

/// `$$` or `$tag$` at the beginning of a text.
fn dollar_tag(text: &str) -> Option<&str> {
    let rest = text.strip_prefix('$')?;
    let end = rest.find('$')?;
    let tag = rest.get(..end)?;
    let sound = tag.chars().all(|c| c.is_alphanumeric() || c == '_')
        && !tag.starts_with(|c: char| c.is_ascii_digit());
    sound.then(|| text.get(..end + 2)).flatten()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn parsed(text: &str) -> Vec<(String, String)> {
        parse_assertions(text).unwrap().into_iter().map(|one| (one.name, one.sql)).collect()
    }

    fn pair(name: &str, sql: &str) -> (String, String) {
        (name.to_owned(), sql.to_owned())
    }

    #[test]
    fn statements_are_named_by_comment_or_line() {
        let text = "-- Assertions of the shop.\n\n-- name: orders are there\nSELECT count(*) > 0\n  FROM orders;\n\
                    SELECT true;\n-- name: late\n-- and why\nSELECT 1 = 1";
        assert_eq!(
            parsed(text),
            [
                pair("orders are there", "SELECT count(*) > 0\n  FROM orders"),
                pair("line 6", "SELECT true"),
                pair("late", "SELECT 1 = 1")
            ]
        );
        assert_eq!(parsed(" ;; -- nothing\n"), []);
    }

    #[test]
    fn semicolons_inside_end_nothing() {
        for sql in [
            "SELECT ';' = ';'",
            "SELECT 'it''s; ' <> ''",
            r"SELECT E'a\';b' IS NOT NULL",
            r"SELECT 'a\' = 'b'",
            "SELECT \"a;b\" FROM t",
            "SELECT $$ ; $$ <> $x$ $$; $x$",
            "SELECT a$1 - 2 / 3 FROM t",
            "SELECT 1 WHERE $1 IS NULL",
        ] {
            assert_eq!(parsed(&format!("{sql};SELECT 2")), [pair("line 1", sql), pair("line 1", "SELECT 2")]);
        }
        assert_eq!(parsed("SELECT /* a; /* b; */ c; */ 1;"), [pair("line 1", "SELECT  1")]);
    }

    #[test]
    fn what_is_not_closed_is_refused() {
        for (text, says) in [
            ("SELECT 1;\nSELECT 'x", "a quote is not closed line=2"),
            ("/* x", "a comment is not closed line=1"),
            ("SELECT $a$ x $b$", "a dollar quote is not closed line=1"),
        ] {
            assert_eq!(parse_assertions(text).unwrap_err(), says);
        }
    }

    proptest! {
        #[test]
        fn any_text_is_read_or_refused(text in "([-/*;'\"$aeE\\\\ \n0]|ä){0,40}") {
            let _ = parse_assertions(&text);
        }
    }
}
