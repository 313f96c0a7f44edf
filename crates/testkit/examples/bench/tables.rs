//! The report as Markdown tables, for the terminal and for the documentation.

use std::fmt::Write as _;

use walden_testkit::bench::statistics::figure;

use crate::options::Options;
use crate::publish::About;
use crate::records::{Record, Results};
use crate::tools::Tool;

/// Everything else is told as a ratio to this one, when it takes part.
pub(crate) const BASELINE: &str = "pgBackRest async";

/// A column: its title and what stands in the row of a tool.
type Column<'a> = (&'a str, Box<dyn Fn(&str) -> String + 'a>);

fn shown(value: Option<f64>) -> String {
    value.map_or_else(|| "–".to_owned(), figure)
}

fn ratio(value: Option<f64>, base: Option<f64>) -> String {
    match (value, base) {
        (Some(value), Some(base)) if base > 0.0 => format!("{:.2}", value / base),
        _ => "–".to_owned(),
    }
}

/// A table with a row for each tool that has a record of `what`.
fn table(tools: &[Tool], results: &Results, what: &str, columns: &[Column<'_>]) -> String {
    let rows: Vec<&Tool> = tools
        .iter()
        .filter(|tool| results.records.iter().any(|r| r.tool == tool.name && r.what == what))
        .collect();
    if rows.is_empty() {
        return String::new();
    }
    let titles: Vec<&str> = columns.iter().map(|(title, _)| *title).collect();
    let mut text = format!("| | {} |\n|---|{}\n", titles.join(" | "), "---|".repeat(columns.len()));
    for tool in rows {
        let cells: Vec<String> = columns.iter().map(|(_, cell)| cell(&tool.name)).collect();
        // Writing to a String does not fail.
        let _ = writeln!(text, "| {} | {} |", tool.name, cells.join(" | "));
    }
    text
}

/// Columns that more than one table has.
struct Columns<'a> {
    results: &'a Results,
    what: &'a str,
}

impl<'a> Columns<'a> {
    fn median(&self, figure: fn(&Record) -> Option<f64>) -> impl Fn(&str) -> Option<f64> + 'a {
        let (results, what) = (self.results, self.what);
        move |tool| results.median(tool, what, figure)
    }

    fn number(&self, title: &'a str, value: fn(&Record) -> Option<f64>) -> Column<'a> {
        let median = self.median(value);
        (title, Box::new(move |tool| shown(median(tool))))
    }

    fn rate(&self) -> Column<'a> {
        let (results, what) = (self.results, self.what);
        (
            "MiB/s: median, best",
            Box::new(move |tool| {
                let spread = results.spread(tool, what, |record| record.mib_per_second);
                let (median, best) = (spread.map(|s| s.median), spread.map(|s| s.high));
                format!("{}, {}", shown(median), shown(best))
            }),
        )
    }

    fn ratio(&self, title: &'a str, value: fn(&Record) -> Option<f64>) -> Column<'a> {
        let median = self.median(value);
        (title, Box::new(move |tool| ratio(median(tool), median(BASELINE))))
    }

    fn pair(
        &self,
        title: &'a str,
        one: fn(&Record) -> Option<f64>,
        other: fn(&Record) -> Option<f64>,
    ) -> Column<'a> {
        let (one, other) = (self.median(one), self.median(other));
        (title, Box::new(move |tool| format!("{} / {}", shown(one(tool)), shown(other(tool)))))
    }

    fn calls(&self) -> Column<'a> {
        self.pair("call p50 / p99, ms", |r| Some(r.p50_ms), |r| Some(r.p99_ms))
    }

    fn memory(&self) -> Column<'a> {
        self.pair("memory: largest / all, MiB", |r| Some(r.largest_rss_mib), |r| Some(r.sum_rss_mib))
    }

    fn cpu(&self) -> Column<'a> {
        self.number("CPU, ms", |r| Some(r.cpu_ms))
    }

    fn requests(&self) -> Column<'a> {
        self.number("requests", |r| Some(r.requests))
    }
}

/// The tables, each under its heading.
pub(crate) fn sections(tools: &[Tool], results: &Results, options: &Options) -> Vec<(&'static str, String)> {
    let columns = |what| Columns { results, what };
    let moved = |what| {
        let c = columns(what);
        vec![
            c.rate(),
            c.ratio("× pgBackRest async", |r| r.mib_per_second),
            c.cpu(),
            c.ratio("× its CPU", |r| Some(r.cpu_ms)),
            c.requests(),
            c.calls(),
            c.memory(),
            c.number("store's CPU, ms", |r| Some(r.store_cpu_ms)),
        ]
    };
    let called = |what| {
        let c = columns(what);
        vec![c.calls(), c.ratio("× pgBackRest async", |r| Some(r.p50_ms)), c.cpu(), c.requests()]
    };
    let mut push = moved("push");
    push.push(columns("push").number("compression", |r| r.stored_ratio));
    let mut acked = called("acked");
    // CPU time and requests of this case are mostly those of the work ahead.
    acked.truncate(2);
    let replays = columns("replay");
    let mut replay = called("replay");
    let waits = |r: &Record| Some(r.mean_ms);
    replay.insert(2, replays.ratio("× its waiting", waits));
    replay.insert(2, replays.number("recovery waits, ms a segment", waits));
    let starts = columns("start");
    let start = vec![starts.calls(), starts.cpu(), starts.number("memory, MiB", |r| Some(r.largest_rss_mib))];
    let mut sections = vec![
        ("push", table(tools, results, "push", &push)),
        ("fetch", table(tools, results, "fetch", &moved("fetch"))),
        ("replay", table(tools, results, "replay", &replay)),
        ("absent", table(tools, results, "absent", &called("absent"))),
        ("acked", table(tools, results, "acked", &acked)),
        ("latency", latency(tools, results, options)),
        ("paced", paced(results)),
        ("start", table(tools, results, "start", &start)),
    ];
    sections.retain(|(_, text)| !text.is_empty());
    sections
}

fn latency(tools: &[Tool], results: &Results, options: &Options) -> String {
    let rate = |what| move |tool: &str| results.median(tool, what, |r: &Record| r.mib_per_second);
    let (direct, near, far) = (rate("push"), rate("push_near"), rate("push_far"));
    let title = format!("+{} ms, MiB/s", options.delay_ms);
    let columns: Vec<Column<'_>> = vec![
        ("through the proxy, MiB/s", Box::new(|tool| shown(near(tool)))),
        (&title, Box::new(|tool| shown(far(tool)))),
        ("of that through the proxy", Box::new(|tool| ratio(far(tool), near(tool)))),
        ("of that without it", Box::new(|tool| ratio(far(tool), direct(tool)))),
        ("× pgBackRest async", Box::new(|tool| ratio(far(tool), far(BASELINE)))),
    ];
    table(tools, results, "push_far", &columns)
}

fn paced(results: &Results) -> String {
    if results.held.is_empty() {
        return String::new();
    }
    let mut text =
        "| | holds, MiB/s | falls behind at | × pgBackRest async | ready to archived there, ms |\n\
                    |---|---|---|---|---|\n"
            .to_owned();
    let held = |tool: &str| results.held.iter().find(|h| h.tool == tool).and_then(|h| h.mib_per_second);
    for one in &results.held {
        let _ = writeln!(
            text,
            "| {} | {} | {} | {} | {} |",
            one.tool,
            shown(one.mib_per_second),
            shown(one.too_much),
            ratio(one.mib_per_second, held(BASELINE)),
            shown(one.lag_ms),
        );
    }
    text
}

/// What each table shows.
pub(crate) fn heading(section: &str) -> &'static str {
    match section {
        "push" => "Push with a backlog, per segment",
        "fetch" => "Fetch in order, per segment",
        "replay" => "Fetch while recovery replays, per call",
        "absent" => "A segment that is not in the archive, per call",
        "acked" => "A push that was archived ahead of being asked, per call",
        "latency" => "Push with a backlog to a store far away",
        "paced" => "The largest rate that is held without a growing queue",
        _ => "The start of the program: printing its version",
    }
}

/// The whole report.
pub(crate) fn report(about: &About, tools: &[Tool], results: &Results, options: &Options) -> String {
    let mut text = format!("\n{}\n", about.text());
    for (name, table) in sections(tools, results, options) {
        let _ = write!(text, "\n{}\n\n{table}", heading(name));
    }
    for (tool, why) in &about.missing {
        let _ = writeln!(text, "\nleft out: {tool}: {why}");
    }
    for failed in &results.failed {
        let _ = writeln!(text, "\nfailed: {} {}: {}", failed.tool, failed.what, failed.why);
    }
    text
}
