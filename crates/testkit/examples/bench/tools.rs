//! The tools: how each is set up on the store and what its hooks are called.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use serde::Deserialize;
use walden_testkit::stores::{ACCESS_KEY, SECRET_KEY};

use crate::Result;
use crate::options::Options;
use crate::programs::first_line;

/// Variables of the environment and their values.
type Settings = &'static [(&'static str, &'static str)];

/// What is set where speed is all that counts: the fastest level, and bodies told by a checksum that the signature covers
/// and the store verifies, in place of a second SHA-256.
const FASTEST: Settings = &[
    ("WALDEN_WAL_COMPRESSION_LEVEL", "-7"),
    ("WALDEN_S3_UNSIGNED_PAYLOAD", "true"),
    ("WALDEN_S3_CHECKSUM", "crc64nvme"),
];

/// Who can't take part, and why.
pub(crate) type Missing = (String, String);

/// One tool in one setting.
#[derive(Debug, Clone)]
pub(crate) struct Tool {
    /// What it is called in tables.
    pub(crate) name: String,
    /// What its program says.
    pub(crate) version: String,
    /// It is what is measured, not what it is compared with.
    pub(crate) ours: bool,
    /// It gets fewer segments.
    pub(crate) slow: bool,
    /// It archives files that it was not asked for yet, and then acknowledges them at once.
    pub(crate) works_ahead: bool,
    kind: Kind,
}

#[derive(Debug, Clone)]
enum Kind {
    Walden { program: String, agent: bool, more: Settings },
    PgBackRest { program: String, asynchronous: bool },
    Barman { bin: String },
    WalG { program: String },
    Described(Description),
}

/// A peer as a file describes it. In all texts `{endpoint}`, `{bucket}`, `{access_key}`, `{secret_key}`, `{home}` (a
/// directory for what it keeps) and `{data}` (the data directory) are replaced.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
struct Description {
    /// What it is called in tables.
    name: String,
    /// A shell command that prints its version.
    #[serde(default)]
    version: Option<String>,
    /// Shell commands that are run once for a fresh bucket.
    #[serde(default)]
    prepare: Vec<String>,
    /// `archive_command`.
    push: String,
    /// `restore_command`.
    fetch: String,
    /// A shell command that ends what the hooks have left running.
    #[serde(default)]
    stop: Option<String>,
    /// Its environment besides `PATH` and `HOME`.
    #[serde(default)]
    environment: BTreeMap<String, String>,
    /// It gets fewer segments.
    #[serde(default)]
    slow: bool,
    /// It archives files ahead of being asked.
    #[serde(default)]
    works_ahead: bool,
}

/// Where a tool works.
#[derive(Debug, Clone)]
pub(crate) struct Place {
    /// The store's URL.
    pub(crate) endpoint: String,
    /// A bucket of its own.
    pub(crate) bucket: String,
    /// A directory for what it keeps on this machine.
    pub(crate) home: PathBuf,
    /// The data directory.
    pub(crate) data: PathBuf,
}

/// What is run for a tool in a place.
#[derive(Debug, Clone, Default)]
pub(crate) struct Commands {
    /// Shell commands for a fresh bucket.
    pub(crate) prepare: Vec<String>,
    /// `archive_command`.
    pub(crate) push: String,
    /// `restore_command`.
    pub(crate) fetch: String,
    /// Ends what the hooks have left running.
    pub(crate) stop: Option<String>,
    /// Prints the version and does nothing else.
    pub(crate) version: Option<String>,
    /// All of the environment besides `PATH`.
    pub(crate) environment: Vec<(String, String)>,
}

/// The tools that take part, in the order of the tables, and those that can't, with the reason.
pub(crate) fn assemble(options: &Options) -> Result<(Vec<Tool>, Vec<Missing>)> {
    let mut tools = Vec::new();
    let mut missing = options.missing.clone();
    walden(options, &mut tools, &mut missing)?;
    if let Some(program) = options.pgbackrest.as_ref().map(|path| path.display().to_string()) {
        let version = first_line(&program, &["version"]).unwrap_or_default();
        for (name, asynchronous) in [("pgBackRest async", true), ("pgBackRest sync", false)] {
            let kind = Kind::PgBackRest { program: program.clone(), asynchronous };
            tools.push(Tool::new(name, &version, kind).working_ahead(asynchronous));
        }
    }
    if let Some(bin) = options.barman.as_ref().map(|path| path.display().to_string()) {
        let version = first_line(&format!("{bin}/barman-cloud-wal-archive"), &["--version"]);
        let tool = Tool::new("Barman Cloud", &version.unwrap_or_default(), Kind::Barman { bin });
        tools.push(Tool { slow: true, ..tool });
    }
    for (name, path) in &options.peers {
        let program = path.display().to_string();
        if name != "wal-g" {
            let why = "only wal-g is known by name: describe it in a file and use --peer-file";
            missing.push((name.clone(), why.to_owned()));
        } else if let Some(version) = first_line(&program, &["--version"]) {
            tools.push(Tool::new("WAL-G", &version, Kind::WalG { program }));
        } else {
            missing.push((name.clone(), format!("{program} --version does not work")));
        }
    }
    for file in &options.peer_files {
        let text = fs::read(file).map_err(|error| format!("can't read {}: {error}", file.display()))?;
        let peer: Description =
            serde_json::from_slice(&text).map_err(|error| format!("{}: {error}", file.display()))?;
        let version = peer.version.as_deref().and_then(|line| first_line("sh", &["-c", line]));
        let (slow, works_ahead) = (peer.slow, peer.works_ahead);
        let name = peer.name.clone();
        let tool = Tool::new(&name, &version.unwrap_or_default(), Kind::Described(peer));
        tools.push(Tool { slow, works_ahead, ..tool });
    }
    tools.retain(|tool| options.wants(&tool.name));
    Ok((tools, missing))
}

fn walden(options: &Options, tools: &mut Vec<Tool>, missing: &mut Vec<Missing>) -> Result<()> {
    let program = options.walden.display().to_string();
    let version = first_line(&program, &["--version"]).ok_or_else(|| format!("{program} does not run"))?;
    let has_agent = first_line(&program, &["agent", "--help"]).is_some();
    let settings: [(&str, bool, Settings); 4] = [
        ("Walden agent, fastest", true, FASTEST),
        ("Walden agent", true, &[]),
        ("Walden direct, fastest", false, FASTEST),
        ("Walden direct", false, &[]),
    ];
    for (name, agent, more) in settings {
        if agent && !has_agent {
            missing.push((name.to_owned(), "this build has no agent".to_owned()));
            continue;
        }
        let kind = Kind::Walden { program: program.clone(), agent, more };
        tools.push(Tool { ours: true, ..Tool::new(name, &version, kind).working_ahead(agent) });
    }
    Ok(())
}

impl Tool {
    fn new(name: &str, version: &str, kind: Kind) -> Self {
        let version = version.to_owned();
        Self { name: name.to_owned(), version, ours: false, slow: false, works_ahead: false, kind }
    }

    fn working_ahead(self, works_ahead: bool) -> Self {
        Self { works_ahead, ..self }
    }

    /// Writes what the tool wants to find in its home, and tells its commands.
    pub(crate) fn commands(&self, place: &Place) -> Result<Commands> {
        fs::create_dir_all(&place.home)?;
        let mut commands = match &self.kind {
            Kind::Walden { program, agent, more } => walden_commands(program, *agent, more, place),
            Kind::PgBackRest { program, asynchronous } => pgbackrest(program, *asynchronous, place)?,
            Kind::Barman { bin } => barman(bin, place),
            Kind::WalG { program } => wal_g(program, place),
            Kind::Described(peer) => peer.commands(place),
        };
        commands.environment.push(("HOME".to_owned(), place.home.display().to_string()));
        commands.environment.push(("LC_ALL".to_owned(), "C.UTF-8".to_owned()));
        Ok(commands)
    }
}

fn amazon(place: &Place) -> Vec<(String, String)> {
    let variables = [
        ("AWS_ENDPOINT_URL", place.endpoint.as_str()),
        ("AWS_ACCESS_KEY_ID", ACCESS_KEY),
        ("AWS_SECRET_ACCESS_KEY", SECRET_KEY),
        ("AWS_REGION", "us-east-1"),
        ("AWS_DEFAULT_REGION", "us-east-1"),
        // Nobody should ask the network for credentials.
        ("AWS_EC2_METADATA_DISABLED", "true"),
    ];
    variables.map(|(name, value)| (name.to_owned(), value.to_owned())).to_vec()
}

fn walden_commands(program: &str, agent: bool, more: Settings, place: &Place) -> Commands {
    let mut environment = amazon(place);
    let mut set = |name: &str, value: String| environment.push((name.to_owned(), value));
    set("AWS_ALLOW_HTTP", "true".to_owned());
    set("WALDEN_REPO", format!("s3://{}/repo", place.bucket));
    set("WALDEN_STATE_DIRECTORY", place.home.join("state").display().to_string());
    if !agent {
        set("WALDEN_AGENT", "off".to_owned());
    }
    for (name, value) in more {
        set(name, (*value).to_owned());
    }
    Commands {
        prepare: vec![format!("{program} init --pgdata {}", place.data.display())],
        push: format!("{program} wal push %p"),
        fetch: format!("{program} wal get %f %p"),
        stop: agent.then(|| format!("{program} agent stop --pgdata {}", place.data.display())),
        version: Some(format!("{program} --version")),
        environment,
    }
}

fn pgbackrest(program: &str, asynchronous: bool, place: &Place) -> Result<Commands> {
    let home = place.home.display();
    let file = place.home.join("pgbackrest.conf");
    let settings = format!(
        "[global]\nrepo1-type=s3\nrepo1-path=/repo\nrepo1-s3-bucket={bucket}\nrepo1-s3-endpoint={endpoint}\n\
         repo1-s3-region=us-east-1\nrepo1-s3-uri-style=path\nrepo1-s3-key={ACCESS_KEY}\n\
         repo1-s3-key-secret={SECRET_KEY}\ncompress-type=zst\ncompress-level=1\nlog-level-console=warn\n\
         log-level-file=off\nlog-path={home}/log\nlock-path={home}/lock\nspool-path={home}/spool\n{more}",
        bucket = place.bucket,
        endpoint = place.endpoint,
        more = if asynchronous { "archive-async=y\nprocess-max=2\n" } else { "" },
    );
    // It refuses to make a stanza as root unless told so; older versions know neither the rule nor the setting.
    let root = if nix::unistd::geteuid().is_root() { "allow-root=y\n" } else { "" };
    fs::write(&file, settings + root)?;
    for below in ["log", "lock", "spool"] {
        fs::create_dir_all(place.home.join(below))?;
    }
    let call =
        format!("{program} --config={} --stanza=main --pg1-path={}", file.display(), place.data.display());
    Ok(Commands {
        prepare: vec![format!("{call} --no-online stanza-create")],
        push: format!("{call} archive-push %p"),
        fetch: format!("{call} archive-get %f %p"),
        stop: None,
        version: Some(format!("{program} version")),
        environment: Vec::new(),
    })
}

fn barman(bin: &str, place: &Place) -> Commands {
    let Place { endpoint, bucket, .. } = place;
    Commands {
        push: format!(
            "{bin}/barman-cloud-wal-archive --zstd --compression-level 1 --endpoint-url {endpoint} s3://{bucket}/repo \
             main %p"
        ),
        fetch: format!(
            "{bin}/barman-cloud-wal-restore --endpoint-url {endpoint} s3://{bucket}/repo main %f %p"
        ),
        version: Some(format!("{bin}/barman-cloud-wal-archive --version")),
        environment: amazon(place),
        ..Commands::default()
    }
}

fn wal_g(program: &str, place: &Place) -> Commands {
    let mut environment = amazon(place);
    let variables = [
        ("AWS_ENDPOINT", place.endpoint.clone()),
        ("AWS_S3_FORCE_PATH_STYLE", "true".to_owned()),
        ("WALG_S3_PREFIX", format!("s3://{}/repo", place.bucket)),
        ("WALG_COMPRESSION_METHOD", "zstd".to_owned()),
        ("PGDATA", place.data.display().to_string()),
    ];
    environment.extend(variables.map(|(name, value)| (name.to_owned(), value)));
    Commands {
        push: format!("{program} wal-push %p"),
        fetch: format!("{program} wal-fetch %f %p"),
        version: Some(format!("{program} --version")),
        environment,
        ..Commands::default()
    }
}

impl Description {
    fn commands(&self, place: &Place) -> Commands {
        let path = |path: &Path| path.display().to_string();
        let values = [
            ("{endpoint}", place.endpoint.clone()),
            ("{bucket}", place.bucket.clone()),
            ("{access_key}", ACCESS_KEY.to_owned()),
            ("{secret_key}", SECRET_KEY.to_owned()),
            ("{home}", path(&place.home)),
            ("{data}", path(&place.data)),
        ];
        let fill = |text: &String| values.iter().fold(text.clone(), |text, (name, v)| text.replace(name, v));
        let environment = self.environment.iter().map(|(name, value)| (name.clone(), fill(value)));
        Commands {
            prepare: self.prepare.iter().map(fill).collect(),
            push: fill(&self.push),
            fetch: fill(&self.fetch),
            stop: self.stop.as_ref().map(fill),
            version: None,
            environment: environment.collect(),
        }
    }
}
