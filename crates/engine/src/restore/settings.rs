//! PostgreSQL's configuration files as text: reading a value, dropping settings, adding a block.
//!
//! PostgreSQL source: `src/backend/utils/misc/guc-file.l`. A setting never spans lines, names are compared without
//! regard to case, the last line of a name wins, and `postgresql.auto.conf` is read after `postgresql.conf`.

use walden_core::Setting;

/// Settings that belong to one recovery or to one standby: the source's must not reach the restored server.
const OF_RECOVERY: [&str; 8] = [
    "archive_cleanup_command",
    "primary_conninfo",
    "primary_slot_name",
    "promote_trigger_file",
    "recovery_end_command",
    "recovery_min_apply_delay",
    "restore_command",
    "trigger_file",
];

/// Whether a setting of the source is dropped whatever we write.
fn is_of_recovery(name: &str) -> bool {
    name.starts_with("recovery_target") || OF_RECOVERY.contains(&name)
}

/// What a line of a configuration file says.
#[derive(Debug, PartialEq, Eq)]
enum Line<'a> {
    /// Nothing, a comment, or something that the server would refuse too.
    Other,
    /// `include`, `include_dir` or `include_if_exists`.
    Include,
    /// A setting: its name in lower case and what follows it.
    Setting(String, &'a str),
}

fn parse_line(line: &str) -> Line<'_> {
    let text = line.trim_start_matches([' ', '\t', '\r', '\x0b', '\x0c']);
    let letter = |c: char| c.is_ascii_alphabetic() || c == '_' || !c.is_ascii();
    let later = |c: char| letter(c) || c.is_ascii_digit() || c == '$' || c == '.';
    if !text.starts_with(letter) {
        return Line::Other;
    }
    let end = text.find(|c| !later(c)).unwrap_or(text.len());
    let (name, rest) = text.split_at(end);
    let name = name.to_ascii_lowercase();
    match name.as_str() {
        "include" | "include_dir" | "include_if_exists" => Line::Include,
        _ => Line::Setting(name, rest),
    }
}

/// The value in what follows a name: `= 'it''s' # comment` gives `it's`.
fn parse_value(rest: &str) -> String {
    let text = rest.trim_start();
    let text = text.strip_prefix('=').unwrap_or(text).trim_start();
    let Some(quoted) = text.strip_prefix('\'') else {
        return text.split(|c: char| c == '#' || c.is_whitespace()).next().unwrap_or_default().to_owned();
    };
    let mut value = String::new();
    let mut characters = quoted.chars().peekable();
    while let Some(character) = characters.next() {
        match character {
            '\'' if characters.peek() == Some(&'\'') => value.extend(characters.next()),
            '\'' => break,
            '\\' => value.extend(characters.next().map(|escaped| match escaped {
                'n' => '\n',
                'r' => '\r',
                't' => '\t',
                other => other,
            })),
            other => value.push(other),
        }
    }
    value
}

/// The value that the last line of this name gives, if there is one.
pub(super) fn value_of(conf: &str, name: &str) -> Option<String> {
    let mut lines = conf.split('\n').rev();
    lines.find_map(|line| match parse_line(line) {
        Line::Setting(found, rest) if found == name => Some(parse_value(rest)),
        _ => None,
    })
}

/// Whether it includes other files: what it does not say itself, they may say.
pub(super) fn has_includes(conf: &str) -> bool {
    conf.split('\n').any(|line| parse_line(line) == Line::Include)
}

/// A value in the quotes of a configuration file.
pub(super) fn quote(value: &str) -> String {
    let mut quoted = String::with_capacity(value.len() + 2);
    quoted.push('\'');
    for character in value.chars() {
        match character {
            '\'' => quoted.push_str("''"),
            '\\' => quoted.push_str("\\\\"),
            '\n' => quoted.push_str("\\n"),
            '\r' => quoted.push_str("\\r"),
            other => quoted.push(other),
        }
    }
    quoted.push('\'');
    quoted
}

/// Settings as lines of a configuration file.
pub(super) fn render(settings: &[Setting]) -> Vec<u8> {
    let lines = settings.iter().map(|setting| format!("{} = {}\n", setting.name, quote(&setting.value)));
    lines.collect::<String>().into_bytes()
}

/// A rewritten `postgresql.auto.conf`.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Rewritten {
    pub(super) text: Vec<u8>,
    /// Names that were dropped, in lower case, each once, in the order of the file.
    pub(super) dropped: Vec<String>,
}

/// Drops the source's recovery settings, and whatever we set ourselves; everything else stays as it is; then adds
/// our settings in a block, where they win.
pub(super) fn rewrite_auto_conf(original: &[u8], title: &str, settings: &[Setting]) -> Rewritten {
    let mut text = Vec::new();
    let mut dropped: Vec<String> = Vec::new();
    for line in original.split_inclusive(|byte| *byte == b'\n') {
        if let Line::Setting(name, _) = parse_line(&String::from_utf8_lossy(line))
            && (is_of_recovery(&name)
                || settings.iter().any(|setting| setting.name.eq_ignore_ascii_case(&name)))
        {
            if !dropped.contains(&name) {
                dropped.push(name);
            }
            continue;
        }
        text.extend_from_slice(line);
    }
    if !text.is_empty() && !text.ends_with(b"\n") {
        text.push(b'\n');
    }
    for line in title.lines() {
        text.extend_from_slice(format!("# {line}\n").as_bytes());
    }
    text.extend_from_slice(&render(settings));
    Rewritten { text, dropped }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn setting(name: &str, value: &str) -> Setting {
        Setting { name: name.to_owned(), value: value.to_owned() }
    }

    #[test]
    fn old_targets_go_and_everything_else_stays() {
        let original = "# Do not edit this file manually!\n\
                        work_mem = '8MB'\n\
                        recovery_target_time = '2020-01-01'\n\
                        \tRecovery_Target_XID='7' # late\n\
                        #recovery_target = 'immediate'\n\
                        restore_command 'cp /a/%f %p'\n\
                        include_if_exists 'more.conf'\n\
                        include 'recovery_target_more.conf'\n\
                        primary_conninfo = 'host=db1 password=secret'\n\
                        my.recovery_target = 'x'\n\
                        archive_mode=on\n\
                        Archive_Cleanup_Command = 'rm %r'\n\
                        search_path = 'recovery_target, \"x\"'";
        let settings = [
            setting("recovery_target_time", "2026-11-20 09:30:01.138926+00"),
            setting("archive_mode", "off"),
        ];
        let rewritten = rewrite_auto_conf(original.as_bytes(), "walden restore\nsecond line", &settings);
        assert_eq!(
            String::from_utf8(rewritten.text).unwrap(),
            "# Do not edit this file manually!\n\
             work_mem = '8MB'\n\
             #recovery_target = 'immediate'\n\
             include_if_exists 'more.conf'\n\
             include 'recovery_target_more.conf'\n\
             my.recovery_target = 'x'\n\
             search_path = 'recovery_target, \"x\"'\n\
             # walden restore\n\
             # second line\n\
             recovery_target_time = '2026-11-20 09:30:01.138926+00'\n\
             archive_mode = 'off'\n"
        );
        assert_eq!(
            rewritten.dropped,
            [
                "recovery_target_time",
                "recovery_target_xid",
                "restore_command",
                "primary_conninfo",
                "archive_mode",
                "archive_cleanup_command"
            ]
        );
    }

    #[test]
    fn an_empty_file_gets_just_the_block() {
        let rewritten = rewrite_auto_conf(b"", "t", &[setting("a", "b")]);
        assert_eq!(rewritten.text, b"# t\na = 'b'\n");
    }

    #[test]
    fn commands_are_quoted_as_the_server_reads_them() {
        assert_eq!(quote("walden wal get %f \"%p\""), "'walden wal get %f \"%p\"'");
        assert_eq!(quote(r"it's a C:\dir"), r"'it''s a C:\\dir'");
        assert_eq!(quote("two\nlines"), r"'two\nlines'");
    }

    #[test]
    fn the_last_line_of_a_name_wins() {
        let conf = "max_connections = 100\n#max_connections = 7\nMAX_CONNECTIONS 200 # more\nhot_standby=off\nport=5433#x\n";
        assert_eq!(value_of(conf, "max_connections").as_deref(), Some("200"));
        assert_eq!(value_of(conf, "hot_standby").as_deref(), Some("off"));
        assert_eq!(value_of(conf, "port").as_deref(), Some("5433"));
        assert_eq!(value_of(conf, "work_mem"), None);
        assert_eq!(value_of("a = 'it''s \\\\ x' # y", "a").as_deref(), Some("it's \\ x"));
    }

    proptest! {
        #[test]
        fn quoted_values_are_read_back(value in "[ -~\n\r\t€]{0,40}") {
            let conf = format!("a = {}\n", quote(&value));
            prop_assert_eq!(conf.matches('\n').count(), 1);
            prop_assert_eq!(value_of(&conf, "a"), Some(value));
        }

        #[test]
        fn rewriting_twice_changes_nothing_more(lines in prop::collection::vec("(recovery_target_time|work_mem|#x|include) ?=? ?'?[a-z]{0,5}'?", 0..8)) {
            let ours = [setting("restore_command", "x")];
            let once = rewrite_auto_conf(lines.join("\n").as_bytes(), "t", &ours);
            let twice = rewrite_auto_conf(&once.text, "t", &ours);
            let kept = once.text.strip_suffix(b"restore_command = 'x'\n").unwrap();
            prop_assert_eq!(twice.text, [kept, b"# t\nrestore_command = 'x'\n"].concat());
        }
    }
}
