//! Whatever is asked in whatever order, and whatever happens to the archive meanwhile: the answers are those of a direct
//! get. The only liberty is a file that was good in the archive when it was fetched.

use walden_testkit::stores::{Fault, FaultRule};

use super::*;

/// Gives the same numbers for the same seed.
struct Dice(u64);

impl Dice {
    fn roll(&mut self, sides: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        (mixed ^ (mixed >> 31)) % sides
    }

    fn hits(&mut self, percent: u64) -> bool {
        self.roll(100) < percent
    }
}

/// One run: an archive of two timelines, and a recovery that is not always a sensible one.
struct Run {
    bench: Bench,
    dice: Dice,
    /// What recovery asked for last.
    at: (u32, u64),
    down: bool,
}

/// The archive has these segments, or some of them.
const SEGMENTS: u64 = 10;
const FORK: u64 = 5;

fn bytes_of(name: &str) -> Vec<u8> {
    match name.parse::<ArchiveFileName>().unwrap() {
        ArchiveFileName::History(timeline) => {
            let forks: Vec<(u32, u64)> =
                (1..timeline.get()).map(|parent| (parent, FORK + u64::from(parent) - 1)).collect();
            history(&forks).into_bytes()
        }
        other => {
            let id = other.segment().unwrap().id(SIZE).unwrap();
            content(id.timeline.get(), id.number.get())
        }
    }
}

impl Run {
    async fn new(s3: bool, seed: u64) -> Self {
        let mut dice = Dice(seed);
        let mut bench = Bench::over(s3, options()).await;
        bench.ctx.store_deadline = Duration::from_millis(if bench.server.is_some() { 250 } else { 20_000 });
        bench.begin(options());
        bench.signal(if dice.hits(50) { "standby.signal" } else { "recovery.signal" });
        for timeline in 1..=2 {
            for number in 1..=SEGMENTS {
                if dice.hits(85) {
                    bench.put_segment(timeline, number);
                }
            }
        }
        if dice.hits(70) {
            bench.put("00000002.history", &bytes_of("00000002.history"));
        }
        Self { bench, dice, at: (1, 1), down: false }
    }

    /// The next thing that a recovery asks for, mostly.
    fn next_ask(&mut self) -> String {
        let (timeline, number) = self.at;
        match self.dice.roll(20) {
            0..=10 => self.at.1 = number % (SEGMENTS + 2) + 1,
            11 => {}
            12 => self.at = (3 - timeline, number),
            13 => self.at = (1 + u32::from(self.dice.hits(50)), 1 + self.dice.roll(SEGMENTS)),
            14 if number >= FORK => self.at.0 = 2,
            roll => return format!("{:08X}.history", if roll < 18 { timeline + 1 } else { 3 }),
        }
        name(self.at.0, self.at.1)
    }

    /// Something happens to the archive, and time passes.
    fn happens(&mut self) {
        self.bench.pass(2000);
        let name = if self.dice.hits(20) {
            format!("{:08X}.history", 2 + self.dice.roll(2))
        } else {
            name(1 + u32::from(self.dice.hits(50)), 1 + self.dice.roll(SEGMENTS))
        };
        let object = self.bench.object(&name);
        match self.dice.roll(10) {
            0..=3 => self.bench.put(&name, &bytes_of(&name)),
            4 | 5 => drop(std::fs::remove_file(object)),
            6 => {
                if let Ok(mut bytes) = std::fs::read(&object) {
                    let half = bytes.len() / 2;
                    bytes[half] ^= 0x20;
                    std::fs::remove_file(&object).unwrap();
                    std::fs::write(&object, bytes).unwrap();
                }
            }
            7 => {
                let aside = self.bench.directory.path().join("marker");
                let marker = self.bench.marker();
                if std::fs::rename(&marker, &aside).is_err() {
                    std::fs::rename(&aside, &marker).unwrap();
                }
            }
            8 => {
                let pid = 100 + self.dice.roll(1000);
                let text = format!("{pid}\n/data\n{pid}\n");
                std::fs::write(self.bench.data.path().join("postmaster.pid"), text).unwrap();
            }
            _ => self.turn_the_store(),
        }
    }

    fn turn_the_store(&mut self) {
        self.down = !self.down;
        match &self.bench.server {
            Some(server) if self.down => {
                server.inject(FaultRule::next(Fault::Unavailable, http::Method::GET, u32::MAX));
            }
            Some(server) => server.clear_faults(),
            None => {
                let repo = self.bench.directory.path().join("repo");
                let away = self.bench.directory.path().join("away");
                let (from, to) = if self.down { (&repo, &away) } else { (&away, &repo) };
                if !self.down {
                    std::fs::remove_dir(&repo).unwrap();
                }
                std::fs::rename(from, to).unwrap();
                if self.down {
                    std::fs::create_dir(&repo).unwrap();
                }
            }
        }
    }

    async fn step(&mut self) -> Result<(), String> {
        let unmounted = self.down && self.bench.server.is_none();
        if unmounted || self.down && self.dice.hits(50) {
            self.turn_the_store_after_an_ask().await?;
        } else if self.dice.hits(25) {
            self.happens();
        }
        if self.dice.hits(60) {
            self.bench.settle().await;
        }
        self.ask_both().await
    }

    async fn turn_the_store_after_an_ask(&mut self) -> Result<(), String> {
        self.ask_both().await?;
        self.bench.pass(2000);
        self.turn_the_store();
        Ok(())
    }

    async fn ask_both(&mut self) -> Result<(), String> {
        let name = self.next_ask();
        let got = self.bench.ask(&name).await;
        let expected = self.bench.direct(&name).await;
        // It was there when it was fetched, and passed all checks: taking it away since does not make it wrong.
        let was_good = got == Got::Bytes(bytes_of(&name));
        if got == expected || was_good && !name.ends_with(".history") || got == Got::DoItYourself {
            return Ok(());
        }
        Err(format!("{name} down={}: {} instead of {}", self.down, short(&got), short(&expected)))
    }
}

async fn run(s3: bool, seed: u64, steps: u32) {
    let mut run = Run::new(s3, seed).await;
    for step in 0..steps {
        if let Err(what) = run.step().await {
            panic!("seed={seed} step={step} {what}");
        }
    }
    // It must be worth something, too.
    let numbers = run.bench.prefetcher().numbers();
    assert!(numbers.calls >= u64::from(steps), "seed={seed} {numbers:?}");
}

#[tokio::test]
async fn a_local_archive_is_answered_as_by_direct_gets() {
    for seed in 0..12 {
        run(false, seed, 60).await;
    }
}

#[tokio::test]
async fn an_s3_archive_is_answered_as_by_direct_gets() {
    for seed in 100..106 {
        run(true, seed, 50).await;
    }
}
