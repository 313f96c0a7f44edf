//! The steps of a history, drawn from a seed.

use super::dice::Dice;

/// The names of restore points: few, so that some come twice.
const NAMES: [&str; 3] = ["before deploy", "nightly", "half \"way\" 'there'"];

/// Where a recovery with promotion goes, from which the history then goes on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Turn {
    /// To a position on the newest timeline.
    Recent,
    /// To a position before an older fork if there is one: the new history does not ascend.
    Back,
    /// To the end of the archive.
    End,
    /// To the end of the archive, as a standby that is then promoted.
    Standby,
    /// To a position on a path that is not the newest.
    Sibling,
}

/// One step.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    /// Clients run random transactions at the same time.
    Work {
        /// How many clients.
        clients: u64,
        /// Transactions of each.
        transactions: u64,
    },
    /// A transaction is prepared.
    Prepare,
    /// A prepared transaction, if there is one, is committed or rolled back.
    Finish {
        /// Committed.
        commit: bool,
    },
    /// A restore point of this name.
    RestorePoint(&'static str),
    /// The segment is switched, a checkpoint made, and nothing happens for a while.
    Idle,
    /// A checkpoint.
    Checkpoint,
    /// One record of so many bytes.
    Large(u64),
    /// The server is stopped at once while clients work, and recovers by itself.
    Crash,
    /// The server is stopped at once, and the tail of a large record is lost.
    CrashInRecord,
    /// `max_connections` is raised, or lowered again, and the server restarted.
    Connections(u64),
    /// The server runs for a moment with `wal_level = minimal`.
    Minimal,
    /// The clock is set forward or back, by milliseconds.
    ClockStep(i64),
    /// A base backup, while clients work or not.
    Backup {
        /// Clients work.
        busy: bool,
    },
    /// Another server takes over after a recovery.
    Recover(Turn),
}

/// A history to be made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Script {
    /// What it was drawn from.
    pub seed: u64,
    /// Mebibytes of a segment.
    pub segment_mib: u64,
    /// The steps.
    pub steps: Vec<Step>,
    /// Whether the last segment is archived at the end; else it is lost with its server.
    pub archives_last: bool,
}

impl Script {
    /// Draws a script with `length` random steps besides those that every history has.
    pub fn draw(seed: u64, length: u64) -> Self {
        let mut dice = Dice::new(seed);
        let mut middle: Vec<Step> = (0..length).map(|_| random_step(&mut dice)).collect();
        // Without these a history would not be hostile.
        let name = dice.pick(&NAMES).copied().unwrap_or_default();
        middle.extend([
            Step::RestorePoint(name),
            Step::RestorePoint(name),
            Step::Prepare,
            Step::Large(dice.between(1 << 20, 5 << 19)),
            Step::Recover(Turn::Recent),
        ]);
        dice.shuffle(&mut middle);
        let work = Step::Work { clients: 4, transactions: 6 };
        let mut steps = vec![work.clone(), Step::Backup { busy: dice.percent(50) }, work.clone()];
        steps.extend(middle);
        steps.push(work);
        let segment_mib = if dice.percent(85) { 1 } else { 1 << dice.between(1, 4) };
        Self { seed, segment_mib, steps, archives_last: dice.percent(70) }
    }
}

fn random_step(dice: &mut Dice) -> Step {
    let name = dice.pick(&NAMES).copied().unwrap_or_default();
    match dice.weighted(&[30, 7, 9, 8, 6, 4, 6, 5, 4, 3, 1, 7, 8, 11]) {
        0 => Step::Work { clients: dice.between(1, 10), transactions: dice.between(1, 12) },
        1 => Step::Prepare,
        2 => Step::Finish { commit: dice.percent(60) },
        3 => Step::RestorePoint(name),
        4 => Step::Idle,
        5 => Step::Checkpoint,
        6 => Step::Large(dice.between(200_000, 3_500_000)),
        7 => Step::Crash,
        8 => Step::CrashInRecord,
        9 => Step::Connections(dice.between(30, 60)),
        10 => Step::Minimal,
        11 => {
            let size = i64::try_from(dice.between(1, 4_000)).unwrap_or_default();
            Step::ClockStep(if dice.percent(50) { size } else { -size })
        }
        12 => Step::Backup { busy: dice.percent(70) },
        _ => Step::Recover(match dice.weighted(&[3, 4, 2, 2, 2]) {
            0 => Turn::Recent,
            1 => Turn::Back,
            2 => Turn::End,
            3 => Turn::Standby,
            _ => Turn::Sibling,
        }),
    }
}
