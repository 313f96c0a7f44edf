//! The documentation against the program: tables, examples, and commands that are run.

use std::path::Path;
use std::process::Command;

use walden_testkit::postgres::ServerAccount;
use walden_testkit::testbench::Testbench;

use crate::shapes::read_example;
use crate::support::{Bench, SEGMENT};

#[path = "../../crates/cli/src/env.rs"]
#[expect(dead_code, reason = "the table needs the settings alone")]
mod env;
#[path = "../../crates/cli/src/exit.rs"]
mod exit;

fn document(name: &str) -> String {
    std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join(name)).unwrap()
}

/// The cells of the table under the heading row that begins with `heading`.
fn table(text: &str, heading: &str) -> Vec<Vec<String>> {
    let rows = text.lines().skip_while(|line| !line.starts_with(heading)).skip(2);
    let rows = rows.take_while(|line| line.starts_with('|'));
    rows.map(|row| row.trim_matches('|').split(" | ").map(|cell| cell.trim().to_owned()).collect()).collect()
}

/// The code blocks of a language, joined.
fn blocks(text: &str, language: &str) -> Vec<String> {
    let mut found = Vec::new();
    let mut rest = text;
    while let Some((_, after)) = rest.split_once(&format!("```{language}\n")) {
        let (block, after) = after.split_once("```").unwrap();
        found.push(block.to_owned());
        rest = after;
    }
    found
}

#[test]
fn the_table_of_variables_is_the_programs() {
    let documented: Vec<String> = table(&document("docs/cli.md"), "| variable | setting |")
        .iter()
        .map(|row| row[..3].join(" "))
        .collect();
    let known: Vec<String> = env::SETTINGS
        .iter()
        .map(|variable| {
            let kind = match variable.kind {
                env::ValueKind::Text => "text",
                env::ValueKind::Integer => "integer",
                env::ValueKind::Boolean => "boolean",
            };
            format!("`{}` `{}` {kind}", variable.name, variable.path)
        })
        .collect();
    assert_eq!(documented, known);
    for name in env::OTHERS {
        assert!(document("docs/cli.md").contains(name), "{name}");
    }
}

#[test]
fn the_table_of_exit_codes_is_the_programs() {
    let documented: Vec<String> =
        table(&document("docs/cli.md"), "| code | meaning |").iter().map(|row| row[0].clone()).collect();
    let known: Vec<String> = exit::Exit::ALL.iter().map(|exit| exit.code().to_string()).collect();
    assert_eq!(documented, known);
}

#[test]
fn every_verb_has_a_section() {
    let text = document("docs/cli.md");
    for verb in crate::help::VERBS.iter().filter(|verb| {
        !["", "server", "config", "wal", "wal index", "backup", "retention", "catalog"].contains(verb)
    }) {
        assert!(text.contains(&format!("\n### `walden {verb}`\n")), "{verb}");
    }
}

#[test]
fn every_json_example_has_the_programs_form() {
    let text = document("docs/cli.md");
    let mut examples = 0;
    for part in text.split("<!-- json: ").skip(1) {
        let (kind, rest) = part.split_once(" -->\n```json\n").unwrap();
        let (example, _) = rest.split_once("\n```").unwrap();
        read_example(kind, example);
        examples += 1;
    }
    assert_eq!(examples, blocks(&text, "json").len(), "an example without its kind");
}

#[test]
fn no_link_leads_nowhere() {
    for name in [
        "README.md",
        "docs/cli.md",
        "docs/format.md",
        "docs/glossary.md",
        "docs/operations/agent.md",
        "docs/operations/drill.md",
        "docs/operations/first-archive.md",
        "docs/kubernetes/README.md",
        "docs/adr/0001-name-and-layout.md",
        "docs/adr/0002-a-server-is-a-log-of-revisions.md",
    ] {
        let text = document(name);
        let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join(name);
        for part in text.split("](").skip(1) {
            let target = part.split(')').next().unwrap();
            if target.starts_with("https://") {
                continue;
            }
            let (file, anchor) = target.split_once('#').unwrap_or((target, ""));
            let linked =
                if file.is_empty() { directory.clone() } else { directory.parent().unwrap().join(file) };
            assert!(linked.try_exists().unwrap(), "{name}: {target}");
            if !anchor.is_empty() {
                let text = std::fs::read_to_string(linked).unwrap();
                assert!(
                    text.lines().any(|line| anchor_of(line).as_deref() == Some(anchor)),
                    "{name}: {target}"
                );
            }
        }
    }
}

/// The anchor that a heading gets.
fn anchor_of(line: &str) -> Option<String> {
    let heading = line.strip_prefix('#')?.trim_start_matches('#').trim();
    let kept = heading.chars().filter(|c| c.is_alphanumeric() || *c == ' ' || *c == '-' || *c == '_');
    Some(kept.collect::<String>().to_lowercase().replace(' ', "-"))
}

/// A throw-away server in `$PGDATA`, which goes when the script ends.
const SERVER: &str = r#"
initdb --username=postgres --auth=trust --no-sync > initdb.log
cat >> "$PGDATA/postgresql.conf" <<END
listen_addresses = ''
unix_socket_directories = '$PGHOST'
fsync = off
END
pg_ctl start --wait --silent --log=first.log
stop() { pg_ctl stop --silent --mode=immediate -D "$1" 2> /dev/null || true; }
trap 'stop "$PGDATA"; stop "$PGDATA.restored"' EXIT
"#;

/// Runs a script; its output is shown when it fails.
fn run_script(mut shell: Command, script: &str) -> String {
    let output = shell.args(["-euo", "pipefail", "-c", script]).output().unwrap();
    let (stdout, stderr) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{}\n{stdout}\n{stderr}", output.status);
    stdout.into_owned()
}

#[test]
fn a_segment_is_read_without_walden_as_the_format_says() {
    let bench = Bench::with_segment();
    let mut shell = Command::new("bash");
    shell.current_dir(bench.repository());
    run_script(shell, &blocks(&document("docs/format.md"), "sh").concat());
    let decoded = std::fs::read(bench.repository().join("segment")).unwrap();
    assert_eq!(decoded, std::fs::read(bench.segment()).unwrap(), "{SEGMENT}");
}

#[test]
fn the_commands_of_the_agents_page_work_as_written() {
    let bench = Bench::with_repository();
    let commands = blocks(&document("docs/operations/agent.md"), "sh").concat();
    let commands = commands
        .replace("/var/lib/postgresql/17/main", &bench.pgdata().display().to_string())
        .replace("/var/backups/walden", &bench.repository().display().to_string());
    let program = Path::new(env!("CARGO_BIN_EXE_walden"));
    let mut shell = Command::new("bash");
    shell.env_clear().current_dir(bench.path()).env("HOME", bench.path());
    shell.env("PATH", format!("{}:/usr/bin:/bin", program.parent().unwrap().display()));
    let said = run_script(shell, &commands);
    assert_eq!(said.lines().filter(|line| *line == "no agent runs").count(), 2, "{said}");
}

#[test]
fn the_agents_page_names_no_variable_that_is_not_there() {
    let text = document("docs/operations/agent.md");
    let mut words = text.split(|c: char| !(c.is_ascii_uppercase() || c == '_')).collect::<Vec<_>>();
    words.retain(|word| word.starts_with("WALDEN_"));
    assert!(words.len() > 5);
    for word in words {
        assert!(env::SETTINGS.iter().any(|variable| variable.name == word), "{word}");
    }
}

#[test]
fn systemd_takes_the_agents_unit() {
    let directory = tempfile::tempdir().unwrap();
    let unit = blocks(&document("docs/operations/agent.md"), "ini").concat();
    let unit = unit.replace("/usr/local/bin/walden", env!("CARGO_BIN_EXE_walden"));
    let path = directory.path().join("walden-agent.service");
    std::fs::write(&path, unit).unwrap();
    let output = match Command::new("systemd-analyze").args(["verify", "--man=no"]).arg(&path).output() {
        Ok(output) => output,
        // Not every machine has it.
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return,
        Err(error) => panic!("{error}"),
    };
    // What it says of other units of the machine is not ours.
    let said = String::from_utf8_lossy(&output.stderr);
    let ours: Vec<&str> = said.lines().filter(|line| line.contains("walden-agent")).collect();
    assert!(ours.is_empty(), "{said}");
}

#[test]
fn the_first_archive_works_as_written() {
    let account = ServerAccount::current().unwrap();
    let program = account.executable(Path::new(env!("CARGO_BIN_EXE_walden"))).unwrap();
    let directory = account.temp_dir().unwrap();
    let servers = Testbench::locate().unwrap().postgres_bin(walden_pg::PgMajor::new(15).unwrap()).unwrap();
    let at = |name: &str| directory.path().join(name).display().to_string();
    let text = document("docs/operations/first-archive.md");
    let commands = blocks(&text, "sh");
    let (places, rest) = commands.split_first().unwrap();
    assert!(places.starts_with("export PGDATA="), "the first block says where things are");
    let places = places
        .replace("/var/lib/postgresql/17/main", &at("data"))
        .replace("/var/backups/walden", &at("repository"));
    let mut shell = Command::new("bash");
    account.run(&mut shell);
    let walden = directory.path().join("bin");
    std::fs::create_dir(&walden).unwrap();
    std::os::unix::fs::symlink(program, walden.join("walden")).unwrap();
    let clients = "/usr/lib/postgresql/15/bin";
    shell.env_clear().current_dir(directory.path());
    shell.env("PATH", format!("{}:{}:{clients}:/usr/bin:/bin", walden.display(), servers.display()));
    shell.env("PGHOST", directory.path()).env("PGUSER", "postgres").env("HOME", directory.path());
    let said = run_script(shell, &format!("{places}{SERVER}{}", rest.concat()));
    assert!(said.contains("all was well at"), "{said}");
    assert_eq!(said.lines().filter(|line| *line == "1000").count(), 2, "{said}");
}
