//! Reading the layers and laying them over each other.

use std::collections::BTreeMap;
use std::io::Read;
use std::path::{Path, PathBuf};

use serde::Deserialize;
use toml::{Table, Value};
use walden_core::ErrorKind;
use walden_store::Environment;

use super::{Config, Effective, Origin, SYSTEM_FILE};
use crate::env::{self, ValueKind};
use crate::failure::Failure;

/// Largest configuration file read, in bytes.
const FILE_BYTES_MAX: u64 = 1 << 20;

/// What the command line says: a setting's path, the option, and the value.
#[derive(Debug, Clone, Default)]
pub(crate) struct Flags(Vec<(&'static str, &'static str, Value)>);

impl Flags {
    /// Sets `path` by `option`, when a value was given.
    pub(crate) fn set(&mut self, path: &'static str, option: &'static str, value: Option<impl Into<Value>>) {
        if let Some(value) = value {
            self.0.push((path, option, value.into()));
        }
    }

    /// Sets a path of the file system by `option`, when one was given.
    ///
    /// # Errors
    /// Kind `config` when it is not UTF-8.
    pub(crate) fn set_path(
        &mut self,
        path: &'static str,
        option: &'static str,
        value: Option<&Path>,
    ) -> Result<(), Failure> {
        let Some(value) = value else { return Ok(()) };
        let text =
            value.to_str().ok_or_else(|| invalid(option, &value.display().to_string(), "it is not UTF-8"))?;
        self.set(path, option, Some(text));
        Ok(())
    }
}

/// Loads the configuration: the named file or the usual ones, the environment, the flags.
///
/// # Errors
/// Kind `config`, with the file and line, the variable or the option at fault.
pub(crate) fn load(
    named_file: Option<&Path>,
    environment: &Environment,
    flags: Flags,
) -> Result<Effective, Failure> {
    load_from(named_file, Path::new(SYSTEM_FILE), environment, flags)
}

fn load_from(
    named_file: Option<&Path>,
    system_file: &Path,
    environment: &Environment,
    flags: Flags,
) -> Result<Effective, Failure> {
    let mut layers = Layers::default();
    let named = named_file.map(Path::to_owned).or_else(|| environment.get(env::CONFIG).map(PathBuf::from));
    if let Some(path) = named {
        if !layers.add_file(&path)? {
            let message = format!("configuration file is not there path={}", path.display());
            let failure = Failure::new(ErrorKind::Config, message);
            return Err(failure.with_hint("it is named by --config or WALDEN_CONFIG"));
        }
    } else {
        layers.add_file(system_file)?;
        if let Some(path) = user_file(environment) {
            layers.add_file(&path)?;
        }
    }
    for variable in env::SETTINGS {
        if let Some(text) = environment.get(variable.name) {
            let value =
                read_variable(variable.kind, text).map_err(|reason| invalid(variable.name, text, reason))?;
            layers.add_value(variable.path, variable.name, Origin::Environment(variable.name), value)?;
        }
    }
    for (path, option, value) in flags.0 {
        layers.add_value(path, option, Origin::Flag(option), value)?;
    }
    layers.finish(environment)
}

/// `$XDG_CONFIG_HOME/walden/walden.toml`.
fn user_file(environment: &Environment) -> Option<PathBuf> {
    let directory = match environment.get(env::XDG_CONFIG_HOME) {
        Some(directory) => PathBuf::from(directory),
        None => Path::new(environment.get(env::HOME)?).join(".config"),
    };
    // The XDG specification has relative ones ignored.
    directory.is_absolute().then(|| directory.join("walden/walden.toml"))
}

/// `$XDG_STATE_HOME/walden`, else `~/.local/state/walden`; the home directory may be known to the system only,
/// because PostgreSQL is often started without HOME.
fn default_state_directory(environment: &Environment) -> Option<PathBuf> {
    let absolute = |path: &str| Some(PathBuf::from(path)).filter(|path| path.is_absolute());
    if let Some(directory) = environment.get(env::XDG_STATE_HOME).and_then(absolute) {
        return Some(directory.join("walden"));
    }
    let of_system =
        || nix::unistd::User::from_uid(nix::unistd::geteuid()).ok().flatten().map(|user| user.dir);
    let home = environment.get(env::HOME).and_then(absolute).or_else(of_system)?;
    home.is_absolute().then(|| Path::new(&home).join(".local/state/walden"))
}

#[derive(Debug, Default)]
struct Layers {
    table: Table,
    origins: BTreeMap<String, Origin>,
    files: Vec<PathBuf>,
}

impl Layers {
    /// Lays a file over what is there; false when it is not there.
    fn add_file(&mut self, path: &Path) -> Result<bool, Failure> {
        let Some(text) = read_file(path)? else { return Ok(false) };
        // Read into the struct first: its errors know the line.
        toml::from_str::<Config>(&text).map_err(|error| file_failure(path, &text, &error))?;
        let table: Table = toml::from_str(&text).map_err(|error| file_failure(path, &text, &error))?;
        let mut leaves = Vec::new();
        flatten("", &table, &mut leaves);
        for name in leaves {
            self.origins.insert(name, Origin::File(path.to_owned()));
        }
        overlay(&mut self.table, table);
        self.files.push(path.to_owned());
        Ok(true)
    }

    /// Lays one value over what is there.
    fn add_value(&mut self, path: &str, source: &str, origin: Origin, value: Value) -> Result<(), Failure> {
        let shown = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
        let layer = path
            .rsplit('.')
            .fold(value, |value, name| Value::Table(Table::from_iter([(name.to_owned(), value)])));
        let Value::Table(layer) = layer else { return Ok(()) };
        // Alone first: an error then names the variable or the option.
        Config::deserialize(layer.clone()).map_err(|error| invalid(source, &shown, error.message()))?;
        overlay(&mut self.table, layer);
        self.origins.insert(path.to_owned(), origin);
        Ok(())
    }

    fn finish(self, environment: &Environment) -> Result<Effective, Failure> {
        let Self { table, origins, files } = self;
        let mut config = Config::deserialize(table).map_err(|error| {
            Failure::new(ErrorKind::Config, format!("settings are not valid: {}", error.message()))
        })?;
        if config.state_directory.is_none() {
            config.state_directory = default_state_directory(environment);
        }
        // An agent leaves the directory that it was started in, and must mean the same files as the hooks.
        let drill = &mut config.drill;
        for path in [
            &mut config.state_directory,
            &mut config.pgdata,
            &mut config.store.ca_bundle,
            &mut drill.directory,
            &mut drill.pg_bin,
            &mut drill.sql,
        ] {
            if let Some(absolute) = path.as_deref().and_then(|path| std::path::absolute(path).ok()) {
                *path = Some(absolute);
            }
        }
        let built_in = super::built_in_store();
        let store = &mut config.store;
        store.request_timeout = store.request_timeout.or(built_in.request_timeout);
        store.connect_timeout = store.connect_timeout.or(built_in.connect_timeout);
        store.operation_timeout = store.operation_timeout.or(built_in.operation_timeout);
        let warnings = unknown_variables(environment);

        Ok(Effective { config, origins, files, warnings })
    }
}

/// Variables with walden's prefix that mean nothing. Not an error: Kubernetes makes `WALDEN_PORT` and others of a
/// service's name.
fn unknown_variables(environment: &Environment) -> Vec<String> {
    let known = |name: &str| {
        env::OTHERS.contains(&name) || env::SETTINGS.iter().any(|variable| variable.name == name)
    };
    let unknown = environment.with_prefix(env::PREFIX).map(|(name, _)| name).filter(|name| !known(name));
    unknown.map(|name| format!("environment variable {name} means nothing to walden")).collect()
}

fn read_file(path: &Path) -> Result<Option<String>, Failure> {
    let failed = |error: std::io::Error| {
        Failure::new(ErrorKind::Config, format!("cannot read configuration file path={}", path.display()))
            .caused_by(&error)
    };
    let file = match std::fs::File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(failed(error)),
    };
    let mut text = String::new();
    file.take(FILE_BYTES_MAX + 1).read_to_string(&mut text).map_err(failed)?;
    if text.len() as u64 > FILE_BYTES_MAX {
        return Err(Failure::new(
            ErrorKind::Config,
            format!("configuration file is larger than 1 MiB path={}", path.display()),
        ));
    }
    Ok(Some(text))
}

fn file_failure(path: &Path, text: &str, error: &toml::de::Error) -> Failure {
    let place = error
        .span()
        .and_then(|span| text.get(..span.start))
        .map_or_else(String::new, |before| format!(" line={}", before.matches('\n').count() + 1));
    let message = format!(
        "configuration file is not valid: {} path={}{place}",
        crate::failure::one_line(error.message()),
        path.display()
    );
    Failure::new(ErrorKind::Config, message).with_hint("docs/cli.md lists every setting")
}

fn invalid(source: &str, value: &str, reason: &str) -> Failure {
    let reason = crate::failure::one_line(reason);
    // What is in a URL that was refused might be a secret; such reasons show what may be shown.
    let told = reason.contains("url=") || reason.contains("value=");
    let value = if told { String::new() } else { format!(" value={value:?}") };
    Failure::new(ErrorKind::Config, format!("{source} is not valid: {reason}{value}"))
}

fn read_variable(kind: ValueKind, text: &str) -> Result<Value, &'static str> {
    match kind {
        ValueKind::Text => Ok(Value::String(text.to_owned())),
        ValueKind::Integer => text.parse().map(Value::Integer).map_err(|_| "it is not a whole number"),
        ValueKind::Boolean => match text.to_ascii_lowercase().as_str() {
            "true" | "1" | "yes" | "on" => Ok(Value::Boolean(true)),
            "false" | "0" | "no" | "off" => Ok(Value::Boolean(false)),
            _ => Err("it is neither true nor false"),
        },
    }
}

/// Lays `upper` over `lower`, table by table.
fn overlay(lower: &mut Table, upper: Table) {
    for (name, value) in upper {
        match (lower.get_mut(&name), value) {
            (Some(Value::Table(below)), Value::Table(above)) => overlay(below, above),
            (_, value) => {
                lower.insert(name, value);
            }
        }
    }
}

fn flatten(prefix: &str, table: &Table, leaves: &mut Vec<String>) {
    for (name, value) in table {
        let path = if prefix.is_empty() { name.clone() } else { format!("{prefix}.{name}") };
        match value {
            Value::Table(table) => flatten(&path, table, leaves),
            _ => leaves.push(path),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Files {
        directory: tempfile::TempDir,
    }

    impl Files {
        fn new() -> Self {
            Self { directory: tempfile::tempdir().unwrap() }
        }

        fn write(&self, name: &str, text: &str) -> PathBuf {
            let path = self.directory.path().join(name);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(&path, text).unwrap();
            path
        }

        fn load(&self, environment: &[(&str, &str)], flags: Flags) -> Result<Effective, Failure> {
            let system = self.directory.path().join("etc/walden.toml");
            load_from(None, &system, &environment.iter().copied().collect(), flags)
        }
    }

    #[test]
    fn each_layer_wins_over_the_ones_below_and_is_remembered() {
        let files = Files::new();
        let system = files.write(
            "etc/walden.toml",
            "repo = \"file:///system\"\nserver = \"system\"\njobs = 2\n[wal]\npush_deadline = \"30s\"\n",
        );
        let user = files
            .write("home/walden/walden.toml", "server = \"user\"\njobs = 3\n[store.s3]\nregion = \"x\"\n");
        let home = files.directory.path().join("home");
        let environment =
            [("XDG_CONFIG_HOME", home.to_str().unwrap()), ("WALDEN_SERVER", "env"), ("WALDEN_JOBS", "5")];
        let mut flags = Flags::default();
        flags.set("jobs", "--jobs", Some(7));
        let effective = files.load(&environment, flags).unwrap();
        let config = &effective.config;
        assert_eq!(config.repo.as_ref().unwrap().to_string(), "file:///system");
        assert_eq!((config.server.as_str(), config.jobs.get()), ("env", 7));
        assert_eq!(config.wal.push_deadline.0.as_secs(), 30);
        assert_eq!(config.store.s3.region.as_deref(), Some("x"));
        assert_eq!(effective.origin("repo"), Origin::File(system.clone()));
        assert_eq!(effective.origin("store.s3.region"), Origin::File(user.clone()));
        assert_eq!(effective.origin("server"), Origin::Environment("WALDEN_SERVER"));
        assert_eq!(effective.origin("jobs"), Origin::Flag("--jobs"));
        assert_eq!(effective.origin("wal.get_deadline"), Origin::BuiltIn);
        assert_eq!(effective.files, [system, user]);
    }

    #[test]
    fn a_named_file_replaces_the_usual_ones_and_must_be_there() {
        let files = Files::new();
        files.write("etc/walden.toml", "server = \"system\"\n");
        let named = files.write("named.toml", "jobs = 9\n");
        let environment = [("WALDEN_CONFIG", named.to_str().unwrap())];
        let effective = files.load(&environment, Flags::default()).unwrap();
        assert_eq!((effective.config.server.as_str(), effective.config.jobs.get()), ("main", 9));
        let failure = files.load(&[("WALDEN_CONFIG", "/nowhere/walden.toml")], Flags::default()).unwrap_err();
        assert_eq!(failure.message, "configuration file is not there path=/nowhere/walden.toml");
    }

    #[test]
    fn errors_name_the_file_and_line_or_the_variable() {
        let files = Files::new();
        for (text, message) in [
            ("jobs = 1\nserfer = \"x\"\n", "unknown field `serfer`"),
            ("[store.s3]\nsecret_access_key = \"x\"\n", "unknown field `secret_access_key`"),
            ("jobs = 1\njobs = 2\n", "duplicate key"),
            ("jobs = 0\n", "jobs are 1 to 256"),
            ("[wal]\ncompression_level = 40\n", "-7 to 19"),
            ("[wal]\npush_deadline = \"soon\"\n", "written like"),
            ("[wal]\npush_deadline = \"0s\"\n", "written like"),
            ("server = \"a b\"\n", "invalid server name"),
            ("repo = \"backups\"\n", "file:///dir"),
            ("[agent]\nstart = \"sometimes\"\n", "auto, never or off"),
            ("[agent]\nmemory = \"1MiB\"\n", "at least 4MiB"),
            ("[agent]\nmemory = \"64 megabytes\"\n", "such as 64MiB"),
            ("[agent]\nin_flight = 65\n", "1 to 64"),
            ("[agent]\nmax_rate = \"fast\"\n", "bytes per second, such as 50MB"),
            ("[agent]\nmax_rate = \"1kB\"\n", "at least 100kB"),
            ("[agent]\nmetrics = \"9712\"\n", "an address with a port"),
            ("jobs =\n", "line=1"),
        ] {
            files.write("etc/walden.toml", text);
            let failure = files.load(&[], Flags::default()).unwrap_err();
            assert!(failure.message.contains(message), "{text}: {}", failure.message);
            assert!(
                failure.message.contains("line=") && !failure.message.contains('\n'),
                "{}",
                failure.message
            );
        }
        files.write("etc/walden.toml", "");
        for (name, value, message) in [
            ("WALDEN_JOBS", "many", "WALDEN_JOBS is not valid: it is not a whole number value=\"many\""),
            ("WALDEN_JOBS", "0", "WALDEN_JOBS is not valid: jobs are 1 to 256 value=\"0\""),
            ("WALDEN_S3_PATH_STYLE", "maybe", "neither true nor false"),
            ("WALDEN_S3_SSE", "rot13", "unknown variant"),
        ] {
            let failure = files.load(&[(name, value)], Flags::default()).unwrap_err();
            assert!(failure.message.contains(message), "{}", failure.message);
        }
    }

    #[test]
    fn a_secret_in_a_refused_url_is_not_shown() {
        let files = Files::new();
        let failure =
            files.load(&[("WALDEN_REPO", "s3://key:sEcReT@bucket/x")], Flags::default()).unwrap_err();
        assert!(!failure.sentence().contains("sEcReT"), "{}", failure.sentence());
        files.write("etc/walden.toml", "repo = \"s3://key:sEcReT@bucket/x\"\n");
        let failure = files.load(&[], Flags::default()).unwrap_err();
        assert!(!failure.sentence().contains("sEcReT"), "{}", failure.sentence());
    }

    #[test]
    fn every_variable_stands_for_a_setting_that_exists() {
        let files = Files::new();
        let value = |path: &str, kind: ValueKind| match (kind, path) {
            (ValueKind::Integer, _) => "3",
            (ValueKind::Boolean, _) => "true",
            (_, "repo") => "file:///x",
            (_, "store.s3.sse") => "AES256",
            (_, "store.s3.checksum") => "sha256",
            (_, "agent.start") => "never",
            (_, "agent.memory" | "agent.max_rate" | "agent.prefetch") => "7MiB",
            (_, "agent.metrics") => "127.0.0.1:9712",
            (_, "agent.idle" | "agent.unhealthy_after" | "drill.max_age") => "7s",
            (_, "retention.zone") => "Europe/Berlin",
            (_, path) if path.starts_with("retention.") => "9d",
            (_, "drill.directory" | "drill.pg_bin" | "drill.sql") => "/x",
            (_, "pgdata" | "state_directory" | "store.ca_bundle") => "/x",
            (_, path) if path.ends_with("deadline") || path.ends_with("timeout") => "7s",
            _ => "x",
        };
        for variable in env::SETTINGS {
            let text = value(variable.path, variable.kind);
            let effective = files.load(&[(variable.name, text)], Flags::default()).unwrap();
            let shown = effective.shown();
            let setting = shown.iter().find(|setting| setting.name == variable.path).unwrap();
            assert_eq!(setting.origin, Origin::Environment(variable.name));
            assert_eq!(setting.value.to_string().trim_matches('"'), text, "{}", variable.name);
        }
    }

    #[test]
    fn every_setting_has_a_variable() {
        let full = Config { repo: Some("file:///x".parse().unwrap()), ..Config::default() };
        let shown =
            Effective { config: full, origins: BTreeMap::new(), files: Vec::new(), warnings: Vec::new() }
                .shown();
        for setting in shown {
            assert!(env::SETTINGS.iter().any(|variable| variable.path == setting.name), "{}", setting.name);
        }
    }

    #[test]
    fn unknown_variables_are_told() {
        let effective =
            Files::new().load(&[("WALDEN_REPOSITORY", "x"), ("WALDEN_LOG", "x")], Flags::default());
        assert_eq!(
            effective.unwrap().warnings,
            ["environment variable WALDEN_REPOSITORY means nothing to walden"]
        );
    }
}
