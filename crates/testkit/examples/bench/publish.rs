//! The report's files: JSON and charts below `target/bench`, and what the documentation shows.

use std::fmt::Write as _;
use std::fs;

use serde::Serialize;
use walden_testkit::bench::chart::{Bar, BarChart};
use walden_testkit::bench::statistics::Spread;
use walden_testkit::bench::workload::Workload;

use crate::Result;
use crate::options::Options;
use crate::programs::first_line;
use crate::records::{Record, Results};
use crate::tables::{BASELINE, heading, sections};
use crate::tools::{Missing, Place, Tool};

/// The part of the documentation that is written anew.
const BEGIN: &str = "<!-- Written by `cargo xtask bench --publish`: -->";
const END: &str = "<!-- until here. -->";

/// On what, when and how it was measured.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct About {
    /// When it began, in UTC.
    pub(crate) date: String,
    /// The processor and how many of it.
    pub(crate) machine: String,
    /// The kernel's release.
    pub(crate) kernel: String,
    /// The load of the last minute when it ended; what else ran is in it.
    pub(crate) load: String,
    /// The commit that was measured.
    pub(crate) commit: String,
    /// The command line.
    pub(crate) command: String,
    /// Name, version and hooks of each tool.
    pub(crate) tools: Vec<AboutTool>,
    /// Who could not take part, and why.
    pub(crate) missing: Vec<Missing>,
    /// What wrote the WAL.
    pub(crate) workload: String,
    /// Segments of 16 MiB in a case, and for slow tools.
    pub(crate) segments: [usize; 2],
    /// Rounds.
    pub(crate) rounds: usize,
    /// Plain bytes for each byte that zstd at level 1 makes of them.
    pub(crate) zstd_1_ratio: f64,
    /// Plain megabytes that one core compresses in a second at level 1.
    pub(crate) zstd_1_mb_per_second: f64,
}

/// One tool.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct AboutTool {
    /// What it is called here.
    pub(crate) name: String,
    /// What its program says.
    pub(crate) version: String,
    /// `archive_command`, in a bucket of the name `BUCKET`.
    pub(crate) push: String,
    /// `restore_command`.
    pub(crate) fetch: String,
}

/// The date and time, in UTC.
pub(crate) fn now() -> String {
    first_line("date", &["-u", "+%Y-%m-%d %H:%M UTC"]).unwrap_or_default()
}

impl About {
    /// Asks the machine.
    pub(crate) fn new(
        options: &Options,
        workload: &Workload,
        tools: &[Tool],
        missing: &[Missing],
        date: String,
    ) -> Result<Self> {
        let read = |path: &str| fs::read_to_string(path).unwrap_or_default();
        let processor = read("/proc/cpuinfo");
        let processor = processor.lines().find_map(|line| line.strip_prefix("model name")?.split_once(':'));
        let cores = std::thread::available_parallelism()?;
        let commit = first_line("git", &["describe", "--always", "--dirty"]).unwrap_or_default();
        let (zstd_1_ratio, speed) = workload.zstd(1)?;
        Ok(Self {
            date,
            machine: format!("{} × {}", cores, processor.map_or("unknown", |(_, name)| name.trim())),
            kernel: read("/proc/sys/kernel/osrelease").trim().to_owned(),
            load: read("/proc/loadavg").split(' ').next().unwrap_or_default().to_owned(),
            commit,
            command: options.typed.clone(),
            tools: tools.iter().map(described).collect::<Result<_>>()?,
            missing: missing.to_vec(),
            workload: format!("PostgreSQL {}: {}", workload.about.server, workload.about.load),
            segments: [options.segments, options.slow_segments],
            rounds: options.rounds,
            zstd_1_ratio,
            zstd_1_mb_per_second: speed / 1e6,
        })
    }

    /// For people.
    pub(crate) fn text(&self) -> String {
        let mut versions: Vec<&str> = self.tools.iter().map(|tool| tool.version.as_str()).collect();
        versions.dedup();
        format!(
            "`{}`, {}, commit {}. {}, Linux {}, load {} at the end. {}. WAL of {}; zstd level 1 makes it {:.2} times \
             smaller, {:.0} MB/s on a core. {} segments of 16 MiB ({} for slow tools), medians of {} rounds by turns.",
            self.command,
            self.date,
            self.commit,
            self.machine,
            self.kernel,
            self.load,
            versions.join(", "),
            self.workload,
            self.zstd_1_ratio,
            self.zstd_1_mb_per_second,
            self.segments[0],
            self.segments[1],
            self.rounds,
        )
    }
}

fn described(tool: &Tool) -> Result<AboutTool> {
    let home = tempfile::tempdir()?;
    let place = Place {
        endpoint: "http://127.0.0.1:PORT".to_owned(),
        bucket: "BUCKET".to_owned(),
        home: home.path().to_owned(),
        data: "PGDATA".into(),
    };
    let commands = tool.commands(&place)?;
    let here = home.path().display().to_string();
    let plain = |text: &str| text.replace(&here, "HOME");
    Ok(AboutTool {
        name: tool.name.clone(),
        version: tool.version.clone(),
        push: plain(&commands.push),
        fetch: plain(&commands.fetch),
    })
}

#[derive(Serialize)]
struct Document<'a> {
    schema: u32,
    about: &'a About,
    results: &'a Results,
}

/// Writes the JSON and the charts, and the documentation if that is wanted.
pub(crate) fn write(options: &Options, about: &About, tools: &[Tool], results: &Results) -> Result<()> {
    fs::create_dir_all(&options.output)?;
    let json = options.output.join("bench.json");
    fs::write(&json, serde_json::to_string_pretty(&Document { schema: 1, about, results })? + "\n")?;
    println!("\nwritten: {}", json.display());
    let charts = charts(about, tools, results, options);
    for (name, chart) in &charts {
        fs::write(options.output.join(format!("{name}.svg")), chart.to_svg())?;
    }
    let Some(docs) = &options.publish else { return Ok(()) };
    let pictures = docs.join("benchmarks");
    fs::create_dir_all(&pictures)?;
    for (name, chart) in &charts {
        fs::write(pictures.join(format!("{name}.svg")), chart.to_svg())?;
    }
    let page = docs.join("benchmarks.md");
    let text = fs::read_to_string(&page)?;
    let (before, rest) = text.split_once(BEGIN).ok_or("docs/benchmarks.md has lost its marks")?;
    let (_, after) = rest.split_once(END).ok_or("docs/benchmarks.md has lost its marks")?;
    let body = documented(about, tools, results, options, &charts);
    fs::write(&page, format!("{before}{BEGIN}\n\n{body}\n{END}{after}"))?;
    println!("written: {}", page.display());
    Ok(())
}

fn documented(
    about: &About,
    tools: &[Tool],
    results: &Results,
    options: &Options,
    charts: &[(&'static str, BarChart)],
) -> String {
    let mut text = format!("{}\n", about.text());
    // Writing to a String does not fail.
    for (name, table) in sections(tools, results, options) {
        let _ = write!(text, "\n### {}\n\n", heading(name));
        for (picture, chart) in charts.iter().filter(|(picture, _)| picture.split('-').next() == Some(name)) {
            let _ = write!(text, "![{}](benchmarks/{picture}.svg)\n\n", chart.title);
        }
        text += &table;
    }
    for (tool, why) in &about.missing {
        let _ = write!(text, "\nLeft out: {tool}: {why}.\n");
    }
    for failed in &results.failed {
        let first = failed.why.lines().next().unwrap_or_default();
        let _ = write!(text, "\nFailed: {}, {}: {first}\n", failed.tool, failed.what);
    }
    text
}

/// A figure of a record.
type Figure = fn(&Record) -> Option<f64>;

fn charts(
    about: &About,
    tools: &[Tool],
    results: &Results,
    options: &Options,
) -> Vec<(&'static str, BarChart)> {
    let rate = |record: &Record| record.mib_per_second;
    let far = format!("Push to a store {} ms away", options.delay_ms);
    let replay = format!("A get while recovery replays, {} ms a segment, p50", options.replay_ms);
    let measured: [(&'static str, &str, &str, &str, Figure); 9] = [
        ("push", "Push with a backlog", "MiB/s", "push", rate),
        ("push-cpu", "CPU time of a pushed segment", "ms", "push", |r| Some(r.cpu_ms)),
        ("push-memory", "Largest process while pushing", "MiB", "push", |r| Some(r.largest_rss_mib)),
        ("fetch", "Fetch in order", "MiB/s", "fetch", rate),
        ("replay", &replay, "ms", "replay", |r| Some(r.p50_ms)),
        ("absent", "A segment that is absent, p50", "ms", "absent", |r| Some(r.p50_ms)),
        ("acked", "A push that was archived ahead, p50", "ms", "acked", |r| Some(r.p50_ms)),
        ("latency", &far, "MiB/s", "push_far", rate),
        ("start", "Start of the program, p50", "ms", "start", |r| Some(r.p50_ms)),
    ];
    let mut charts = Vec::new();
    for (name, title, unit, what, figure) in measured {
        let value = |tool: &Tool| results.spread(&tool.name, what, figure);
        charts.push((name, chart(about, tools, title, unit, &value)));
    }
    let held = |tool: &Tool| {
        let held = results.held.iter().find(|held| held.tool == tool.name)?;
        held.mib_per_second.map(|rate| Spread { low: rate, median: rate, high: rate })
    };
    charts.push(("paced", chart(about, tools, "Largest rate held without a growing queue", "MiB/s", &held)));
    charts.retain(|(_, chart)| !chart.bars.is_empty());
    charts
}

fn chart(
    about: &About,
    tools: &[Tool],
    title: &str,
    unit: &str,
    value: &dyn Fn(&Tool) -> Option<Spread>,
) -> BarChart {
    let base = tools.iter().find(|tool| tool.name == BASELINE).and_then(value);
    let bars = tools.iter().filter_map(|tool| {
        let Spread { low, median, high } = value(tool)?;
        let note = base.filter(|base| base.median > 0.0 && tool.name != BASELINE);
        let note = note.map_or_else(String::new, |base| format!("× {:.2}", median / base.median));
        Some(Bar { label: tool.name.clone(), value: median, range: Some((low, high)), note, ours: tool.ours })
    });
    let subtitle = format!(
        "{}; {}; median of {} rounds, line: all rounds; × is the ratio to {BASELINE}",
        about.machine, about.date, about.rounds
    );
    BarChart { title: title.to_owned(), subtitle, unit: unit.to_owned(), bars: bars.collect() }
}
