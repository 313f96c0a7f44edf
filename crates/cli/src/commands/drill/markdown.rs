//! The report of a drill as Markdown.

use std::fmt::Write;

use jiff::Timestamp;
use walden_core::DrillRecord;

use super::show::{check_word, facts, in_seconds, seconds_or_dash};

/// The whole report. `trend` ends with the drill itself.
pub(super) fn render(record: &DrillRecord, trend: &[DrillRecord]) -> String {
    let mut text = String::new();
    let verdict = if record.ok { "passed" } else { "FAILED" };
    let _ = writeln!(text, "# Restore drill of {}: {verdict}\n", cell(record.server.as_str()));
    let _ = writeln!(text, "{}.\n", cell(&record.describe()));
    if let Some(hint) = record.error.as_ref().and_then(|error| error.hint.as_ref()) {
        let _ = writeln!(text, "What to do: {}.\n", cell(hint));
    }
    text.push_str("| | |\n|---|---|\n");
    let _ = writeln!(text, "| began | {} |", moment(record.started_at));
    for (name, value) in facts(record, moment) {
        let _ = writeln!(text, "| {name} | {} |", cell(&value));
    }
    let _ = writeln!(text, "| walden | {} |", cell(&record.versions.walden));
    if let Some(version) = &record.versions.postgres {
        let _ = writeln!(text, "| PostgreSQL | {} |", cell(version));
    }
    if let Some(backup) = &record.backup {
        for (name, sha256) in [("backup.json", &backup.record_sha256), ("manifest", &backup.manifest_sha256)]
        {
            if let Some(sha256) = sha256 {
                let _ = writeln!(text, "| SHA-256 of {name} | `{}` |", cell(sha256));
            }
        }
    }
    let _ = writeln!(text, "| made on | {} |", cell(&record.writer.host));
    text.push_str("\n## Phases\n\n| phase | time |\n|---|--:|\n");
    for phase in &record.phases {
        let _ = writeln!(text, "| {} | {} |", cell(&phase.name), in_seconds(phase.seconds));
    }
    text.push_str("\n## Checks\n\n");
    if record.checks.is_empty() {
        text.push_str("None: the drill did not come so far.\n");
    } else {
        text.push_str("| check | result | seen |\n|---|---|---|\n");
        for check in &record.checks {
            let _ =
                writeln!(text, "| {} | {} | {} |", cell(&check.name), check_word(check), cell(&check.detail));
        }
    }
    text.push_str("\n## Trend\n\n| drill | result | RTO | RPO |\n|---|---|--:|--:|\n");
    for drill in trend {
        let _ = writeln!(
            text,
            "| {} | {} | {} | {} |",
            drill.id,
            drill.outcome.describe(),
            seconds_or_dash(drill.rto_seconds),
            seconds_or_dash(drill.rpo_seconds)
        );
    }
    if !record.warnings.is_empty() {
        text.push_str("\n## Warnings\n\n");
        for warning in &record.warnings {
            let _ = writeln!(text, "- {}", cell(warning));
        }
    }
    if !record.log.is_empty() {
        text.push_str("\n## The server's last lines\n\n");
        for line in &record.log {
            // Indented code needs no fence, which a line could close.
            let _ = writeln!(text, "    {}", line.replace(['\n', '\r'], " "));
        }
    }
    text
}

fn moment(moment: Timestamp) -> String {
    moment.strftime("%Y-%m-%d %H:%M:%S UTC").to_string()
}

/// Text that means nothing to Markdown, on one line.
fn cell(text: &str) -> String {
    let mut safe = String::with_capacity(text.len());
    for character in text.chars() {
        match character {
            '\n' | '\r' => safe.push(' '),
            '<' => safe.push_str("&lt;"),
            '&' => safe.push_str("&amp;"),
            '\\' | '`' | '*' | '_' | '[' | ']' | '|' | '#' | '!' => {
                safe.push('\\');
                safe.push(character);
            }
            other => safe.push(other),
        }
    }
    safe
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_in_a_cell_is_markup() {
        assert_eq!(
            cell("a|b\n<script> *x* [y](z) `c` &amp;"),
            "a\\|b &lt;script> \\*x\\* \\[y\\](z) \\`c\\` &amp;amp;"
        );
    }
}
