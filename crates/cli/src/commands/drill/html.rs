//! The report of a drill as one HTML page: no script, nothing loaded from anywhere, well-formed as XML too.

use std::fmt::Write;

use jiff::Timestamp;
use walden_core::DrillRecord;

use super::show::{check_word, facts, in_seconds, seconds_or_dash};

/// Width of the drawings, in units of their own.
const WIDTH: f64 = 720.0;
/// Height of one bar of the phases.
const BAR: f64 = 22.0;
/// Where the bars begin: names stand before.
const LEFT: f64 = 90.0;
/// Room behind the longest bar, for its time.
const RIGHT: f64 = 90.0;
/// Height of the trend.
const TREND: f64 = 160.0;

const STYLE: &str = "\
:root{color-scheme:light dark;--ink:#1c2733;--dim:#5b6b7a;--line:#d5dde5;--paper:#fff;--good:#1a7f4b;--bad:#b3261e;--skip:#8a6d00;--bar:#2f6fab}\
@media(prefers-color-scheme:dark){:root{--ink:#e6ebf0;--dim:#9aa9b8;--line:#33414e;--paper:#12181f;--good:#4cc38a;--bad:#ff8a80;--skip:#e2c044;--bar:#6aa9e0}}\
body{margin:2rem auto;max-width:48rem;padding:0 1rem;background:var(--paper);color:var(--ink);font:15px/1.5 system-ui,sans-serif}\
h1{font-size:1.5rem;margin-bottom:.2rem}h2{font-size:1.1rem;margin-top:2rem}p.dim,.dim{color:var(--dim)}\
table{border-collapse:collapse;width:100%}th,td{text-align:left;vertical-align:top;padding:.3rem .8rem .3rem 0;border-bottom:1px solid var(--line);overflow-wrap:anywhere}\
th{font-weight:600;white-space:nowrap}.ok{color:var(--good)}.failed{color:var(--bad);font-weight:600}.skipped{color:var(--skip)}\
svg{width:100%;height:auto}svg text{font:13px system-ui,sans-serif;fill:var(--ink)}svg .dim{fill:var(--dim)}svg .bar{fill:var(--bar)}svg .good{fill:var(--good)}svg .bad{fill:var(--bad)}svg .axis{stroke:var(--line)}\
pre{overflow-x:auto;border:1px solid var(--line);padding:.8rem;font-size:12px}";

/// The whole page. `trend` ends with the drill itself.
pub(super) fn render(record: &DrillRecord, trend: &[DrillRecord]) -> String {
    let mut page = String::new();
    let verdict = if record.ok { "passed" } else { "failed" };
    let class = if record.ok { "ok" } else { "failed" };
    let title = escape(&format!("Restore drill of {}: {verdict}", record.server));
    let _ = write!(
        page,
        "<!DOCTYPE html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\"/>\n\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\"/>\n<title>{title}</title>\n\
         <style>{STYLE}</style>\n</head>\n<body>\n<h1>Restore drill of {}: <span class=\"{class}\">{verdict}</span></h1>\n\
         <p>{}.</p>\n",
        escape(record.server.as_str()),
        escape(&record.describe())
    );
    if let Some(hint) = record.error.as_ref().and_then(|error| error.hint.as_ref()) {
        let _ = writeln!(page, "<p class=\"dim\">What to do: {}.</p>", escape(hint));
    }
    render_facts(&mut page, record);
    if !record.phases.is_empty() {
        page.push_str("<h2>Phases</h2>\n");
        page.push_str(&phases(record));
    }
    render_checks(&mut page, record);
    page.push_str("<h2>Time until connections at the target, drill by drill</h2>\n");
    page.push_str(&trend_picture(trend));
    if !record.warnings.is_empty() {
        page.push_str("<h2>Warnings</h2>\n<ul>\n");
        for warning in &record.warnings {
            let _ = writeln!(page, "<li>{}</li>", escape(warning));
        }
        page.push_str("</ul>\n");
    }
    if !record.log.is_empty() {
        page.push_str("<h2>The server's last lines</h2>\n<pre>");
        for line in &record.log {
            let _ = writeln!(page, "{}", escape(line));
        }
        page.push_str("</pre>\n");
    }
    page.push_str("</body>\n</html>\n");
    page
}

fn render_facts(page: &mut String, record: &DrillRecord) {
    let mut rows = vec![("began", moment(record.started_at))];
    rows.extend(facts(record, moment));
    rows.push(("walden", record.versions.walden.clone()));
    rows.extend(record.versions.postgres.clone().map(|version| ("PostgreSQL", version)));
    if let Some(backup) = &record.backup {
        rows.extend(backup.record_sha256.clone().map(|sha256| ("SHA-256 of backup.json", sha256)));
        rows.extend(backup.manifest_sha256.clone().map(|sha256| ("SHA-256 of the manifest", sha256)));
    }
    rows.push(("made on", record.writer.host.clone()));
    page.push_str("<table>\n");
    for (name, value) in rows {
        let _ = writeln!(page, "<tr><th scope=\"row\">{name}</th><td>{}</td></tr>", escape(&value));
    }
    page.push_str("</table>\n");
}

fn render_checks(page: &mut String, record: &DrillRecord) {
    page.push_str("<h2>Checks</h2>\n");
    if record.checks.is_empty() {
        page.push_str("<p>None: the drill did not come so far.</p>\n");
        return;
    }
    page.push_str("<table>\n<tr><th>check</th><th>result</th><th>seen</th></tr>\n");
    for check in &record.checks {
        let word = check_word(check);
        let _ = writeln!(
            page,
            "<tr><td>{}</td><td class=\"{word}\">{word}</td><td>{}</td></tr>",
            escape(&check.name),
            escape(&check.detail)
        );
    }
    page.push_str("</table>\n");
}

/// One bar for each phase, each beginning where the one before ended.
fn phases(record: &DrillRecord) -> String {
    let whole: f64 = record.phases.iter().map(|phase| phase.seconds).sum();
    let scale = if whole > 0.0 { (WIDTH - LEFT - RIGHT) / whole } else { 0.0 };
    let height = BAR * 1.5 * count(record.phases.len());
    let mut svg = open(height, "The phases of the drill, one after the other");
    let mut at = LEFT;
    for (index, phase) in record.phases.iter().enumerate() {
        let width = phase.seconds * scale;
        let top = BAR * 1.5 * count(index);
        let middle = top + BAR * 0.7;
        let _ = writeln!(
            svg,
            "<text x=\"0\" y=\"{middle:.1}\">{}</text><rect class=\"bar\" x=\"{at:.1}\" y=\"{top:.1}\" \
             width=\"{:.1}\" height=\"{BAR:.1}\" rx=\"2\"/><text class=\"dim\" x=\"{:.1}\" y=\"{middle:.1}\">{}</text>",
            escape(&phase.name),
            width.max(1.5),
            at + width + 6.0,
            in_seconds(phase.seconds)
        );
        at += width;
    }
    svg.push_str("</svg>\n");
    svg
}

/// One column for each drill: as high as its time was long, red and low when it did not get there.
fn trend_picture(trend: &[DrillRecord]) -> String {
    const BELOW: f64 = 40.0;
    let longest = trend.iter().filter_map(|drill| drill.rto_seconds).fold(0.0, f64::max);
    let mut svg = open(TREND + BELOW, "The time until connections at the target, over the drills");
    let step = (WIDTH - LEFT) / count(trend.len().max(1));
    let width = (step * 0.7).min(48.0);
    for (share, label) in [(1.0, in_seconds(longest)), (0.0, "0".to_owned())] {
        let y = TREND - share * (TREND - 20.0);
        let _ = writeln!(
            svg,
            "<line class=\"axis\" x1=\"{LEFT:.1}\" y1=\"{y:.1}\" x2=\"{WIDTH:.1}\" y2=\"{y:.1}\"/>\
             <text class=\"dim\" x=\"0\" y=\"{:.1}\">{label}</text>",
            y + 4.0
        );
    }
    for (index, drill) in trend.iter().enumerate() {
        let share = match (drill.rto_seconds, longest > 0.0) {
            (Some(seconds), true) => seconds / longest,
            _ => 0.0,
        };
        let height = (share * (TREND - 20.0)).max(4.0);
        let (class, x) =
            (if drill.ok { "good" } else { "bad" }, LEFT + step * count(index) + (step - width) / 2.0);
        let _ = writeln!(
            svg,
            "<rect class=\"{class}\" x=\"{x:.1}\" y=\"{:.1}\" width=\"{width:.1}\" height=\"{height:.1}\" rx=\"2\">\
             <title>{}: {}, {}</title></rect>",
            TREND - height,
            drill.id,
            drill.outcome.describe(),
            seconds_or_dash(drill.rto_seconds)
        );
    }
    let ends = [(trend.first(), LEFT, "start"), (trend.last().filter(|_| trend.len() > 1), WIDTH, "end")];
    for (drill, x, anchor) in ends {
        if let Some(drill) = drill {
            let day = drill.started_at.strftime("%Y-%m-%d");
            let y = TREND + 20.0;
            let _ = writeln!(
                svg,
                "<text class=\"dim\" x=\"{x:.1}\" y=\"{y:.1}\" text-anchor=\"{anchor}\">{day}</text>"
            );
        }
    }
    svg.push_str("</svg>\n");
    svg
}

fn open(height: f64, what: &str) -> String {
    format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH:.0} {height:.0}\" role=\"img\" \
         aria-label=\"{what}\">\n"
    )
}

fn count(number: usize) -> f64 {
    f64::from(u32::try_from(number).unwrap_or(u32::MAX))
}

fn moment(moment: Timestamp) -> String {
    moment.strftime("%Y-%m-%d %H:%M:%S UTC").to_string()
}

/// Text that means nothing to HTML or XML. Characters that XML has no place for become marks.
fn escape(text: &str) -> String {
    let mut safe = String::with_capacity(text.len());
    for character in text.chars() {
        match character {
            '&' => safe.push_str("&amp;"),
            '<' => safe.push_str("&lt;"),
            '>' => safe.push_str("&gt;"),
            '"' => safe.push_str("&quot;"),
            '\'' => safe.push_str("&#39;"),
            '\n' | '\t' => safe.push(character),
            '\u{fffe}' | '\u{ffff}' => safe.push('\u{fffd}'),
            control if control.is_control() => safe.push('\u{fffd}'),
            other => safe.push(other),
        }
    }
    safe
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_in_a_text_is_markup() {
        assert_eq!(escape("<a href='x'>\"&\u{1}"), "&lt;a href=&#39;x&#39;&gt;&quot;&amp;\u{fffd}");
    }
}
