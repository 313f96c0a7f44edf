//! How to reach a PostgreSQL server, by libpq's own rules, so that what works for `psql` works here.
//!
//! Values come, in this order, from the connection string, the service that it or `PGSERVICE` names, the `PG…`
//! variables, and defaults: a Unix socket in `/var/run/postgresql` or `/tmp`, port 5432, the user of the
//! operating system, the database `postgres`. A password may also come from the password file. TLS is rustls'.
//!
//! Not here: Kerberos, client certificates with a passphrase, revocation lists, service lookup by LDAP.

mod conninfo;
mod tls;

use std::fmt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use tokio_postgres::config::{ChannelBinding, SslMode};
use walden_core::ErrorKind;

use self::conninfo::{Parameters, PasswordFor, find_password, find_service};
pub(super) use self::tls::Connector;
use crate::error::{EngineError, Result};
use crate::fs::read_if_present;

/// Where servers have their sockets: Debian's and Red Hat's place, then PostgreSQL's own.
const SOCKET_DIRECTORIES: [&str; 2] = ["/var/run/postgresql", "/tmp"];
const DEFAULT_PORT: &str = "5432";
/// How long connecting may take unless `connect_timeout` says otherwise.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(30);
/// A silent connection is probed after this long, so that a dead server is noticed during a long copy.
const KEEPALIVE_IDLE: Duration = Duration::from_secs(30);
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(10);
const KEEPALIVE_PROBES: u32 = 3;
/// Largest service or password file read, in bytes.
const FILE_BYTES_MAX: u64 = 1 << 20;

/// The variables that are read, and the keyword that each stands for.
const VARIABLES: [(&str, &str); 14] = [
    ("PGHOST", "host"),
    ("PGHOSTADDR", "hostaddr"),
    ("PGPORT", "port"),
    ("PGDATABASE", "dbname"),
    ("PGUSER", "user"),
    ("PGPASSWORD", "password"),
    ("PGPASSFILE", "passfile"),
    ("PGOPTIONS", "options"),
    ("PGSSLMODE", "sslmode"),
    ("PGSSLROOTCERT", "sslrootcert"),
    ("PGSSLCERT", "sslcert"),
    ("PGSSLKEY", "sslkey"),
    ("PGCHANNELBINDING", "channel_binding"),
    ("PGCONNECT_TIMEOUT", "connect_timeout"),
];

/// Keywords that make a difference here, besides those of [`VARIABLES`].
const OTHER_KEYWORDS: [&str; 2] = ["service", "application_name"];

/// Keywords of libpq that are taken and change nothing here.
const IDLE_KEYWORDS: [&str; 14] = [
    "client_encoding",
    "fallback_application_name",
    "gssencmode",
    "keepalives",
    "keepalives_count",
    "keepalives_idle",
    "keepalives_interval",
    "krbsrvname",
    "load_balance_hosts",
    "replication",
    "sslcompression",
    "sslsni",
    "target_session_attrs",
    "tcp_user_timeout",
];

/// How far TLS is demanded and the server's certificate is checked; libpq's `sslmode`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum TlsMode {
    /// Never.
    Disable,
    /// When the server offers it, without a check (`prefer`, and `allow`, which differs in the order of tries only).
    Prefer,
    /// Always; checked against the root certificate when there is one.
    Require,
    /// Always, with a certificate of a known authority.
    VerifyCa,
    /// Always, with a certificate of a known authority for this host.
    VerifyFull,
}

impl TlsMode {
    fn parse(text: &str) -> Option<Self> {
        match text {
            "disable" => Some(Self::Disable),
            "allow" | "prefer" => Some(Self::Prefer),
            "require" => Some(Self::Require),
            "verify-ca" => Some(Self::VerifyCa),
            "verify-full" => Some(Self::VerifyFull),
            _ => None,
        }
    }
}

/// The variables and files of the process, or of a test.
pub(crate) struct Environment<'a> {
    variable: &'a dyn Fn(&str) -> Option<String>,
    home: Option<PathBuf>,
    user: Option<String>,
}

impl Environment<'_> {
    fn home(&self, file: &str) -> Option<PathBuf> {
        self.home.as_ref().map(|home| home.join(file))
    }
}

/// How to reach a PostgreSQL server. Neither `Debug` nor any error shows the password.
#[derive(Clone)]
pub struct ConnectionOptions {
    config: tokio_postgres::Config,
    tls: tls::TlsOptions,
    /// Says in messages what is connected to: host, port, user, database.
    target: String,
}

impl fmt::Debug for ConnectionOptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ConnectionOptions").field("target", &self.target).finish_non_exhaustive()
    }
}

impl ConnectionOptions {
    /// Works out how to connect: from `text`, a connection string or URL as libpq takes them, if there is one,
    /// and from the environment.
    ///
    /// # Errors
    /// Kind `config` for what can't be understood or is not supported, and when there is no server's socket in
    /// the usual places and no host was named; [`EngineError::Local`] for a file that can't be read.
    pub fn resolve(text: Option<&str>) -> Result<Self> {
        let account = nix::unistd::User::from_uid(nix::unistd::geteuid()).ok().flatten();
        let variable = |name: &str| std::env::var(name).ok();
        let home =
            variable("HOME").map(PathBuf::from).or_else(|| account.as_ref().map(|user| user.dir.clone()));
        let environment = Environment { variable: &variable, home, user: account.map(|user| user.name) };
        Self::resolve_in(text, &environment)
    }

    fn resolve_in(text: Option<&str>, environment: &Environment<'_>) -> Result<Self> {
        let parameters = gather(text, environment)?;
        refuse_unknown(&parameters)?;
        build(&parameters, environment)
    }

    /// What is connected to, for messages: host, port, user and database, never the password.
    #[must_use]
    pub fn target(&self) -> &str {
        &self.target
    }

    /// The same server, another database.
    #[must_use]
    pub(crate) fn with_database(&self, database: &str) -> Self {
        let mut other = self.clone();
        other.config.dbname(database);
        other
    }

    pub(super) fn config(&self) -> &tokio_postgres::Config {
        &self.config
    }

    pub(super) fn connector(&self) -> Result<Connector> {
        self.tls.connector()
    }
}

fn config_error(message: impl Into<String>) -> EngineError {
    EngineError::failed(ErrorKind::Config, message)
}

/// Collects the parameters from the string, the service and the variables; the earlier ones win.
fn gather(text: Option<&str>, environment: &Environment<'_>) -> Result<Parameters> {
    let mut parameters = conninfo::parse(text.unwrap_or_default()).map_err(config_error)?;
    parameters.retain(|_, value| !value.is_empty());
    let service = parameters.get("service").cloned().or_else(|| (environment.variable)("PGSERVICE"));
    if let Some(service) = service {
        for (key, value) in read_service(&service, environment)? {
            parameters.entry(key).or_insert(value);
        }
    }
    for (name, key) in VARIABLES {
        if let Some(value) = (environment.variable)(name).filter(|value| !value.is_empty()) {
            parameters.entry(key.to_owned()).or_insert(value);
        }
    }
    Ok(parameters)
}

fn read_service(service: &str, environment: &Environment<'_>) -> Result<Parameters> {
    let system =
        (environment.variable)("PGSYSCONFDIR").unwrap_or_else(|| "/etc/postgresql-common".to_owned());
    let own = (environment.variable)("PGSERVICEFILE").map(PathBuf::from);
    let files = [
        own.or_else(|| environment.home(".pg_service.conf")),
        Some(Path::new(&system).join("pg_service.conf")),
    ];
    for file in files.into_iter().flatten() {
        let Some(text) = read_text(&file)? else { continue };
        let found = find_service(&text, service);
        let found = found
            .map_err(|reason| config_error(format!("bad service file path={}: {reason}", file.display())))?;
        if let Some(parameters) = found {
            return Ok(parameters);
        }
    }
    Err(config_error(format!("there is no such service in the service files service={service}")))
}

fn read_text(path: &Path) -> Result<Option<String>> {
    let bytes = read_if_present(path, FILE_BYTES_MAX)?;
    Ok(bytes.map(|bytes| String::from_utf8_lossy(&bytes).into_owned()))
}

fn refuse_unknown(parameters: &Parameters) -> Result<()> {
    let known = |key: &str| {
        VARIABLES.iter().any(|(_, known)| *known == key)
            || OTHER_KEYWORDS.contains(&key)
            || IDLE_KEYWORDS.contains(&key)
    };
    match parameters.keys().find(|key| !known(key)) {
        Some(key) => Err(config_error(format!("connection parameter is not supported keyword={key:?}"))),
        None => Ok(()),
    }
}

fn build(parameters: &Parameters, environment: &Environment<'_>) -> Result<ConnectionOptions> {
    let get = |key: &str| parameters.get(key).map(String::as_str);
    let mut config = tokio_postgres::Config::new();
    let port = get("port").unwrap_or(DEFAULT_PORT);
    let host = match (get("host"), get("hostaddr")) {
        (Some(host), _) => host.to_owned(),
        // TLS wants a name; the address is one.
        (None, Some(address)) => address.to_owned(),
        (None, None) => default_socket_directory(port)?.to_owned(),
    };
    for host in host.split(',').filter(|host| !host.is_empty()) {
        config.host(host);
    }
    for address in get("hostaddr").unwrap_or_default().split(',').filter(|address| !address.is_empty()) {
        config.hostaddr(address.parse().map_err(|_| config_error("hostaddr is not an IP address"))?);
    }
    for port in port.split(',') {
        let port = if port.is_empty() { DEFAULT_PORT } else { port };
        config.port(port.parse().map_err(|_| config_error(format!("port is not a number port={port:?}")))?);
    }
    let os_user = || environment.user.clone();
    let user = get("user").map(str::to_owned).or_else(os_user);
    let user =
        user.ok_or_else(|| config_error("name the user with PGUSER: the operating system knows no name"))?;
    let database = get("dbname").unwrap_or("postgres");
    config.user(&user).dbname(database).application_name(get("application_name").unwrap_or("walden"));
    let wanted = PasswordFor { host: &host, port, database, user: &user };
    if let Some(password) = find_password_in(get("password"), get("passfile"), wanted, environment)? {
        config.password(password);
    }
    if let Some(options) = get("options") {
        config.options(options);
    }
    let tls = tls_options(parameters, &host, environment)?;
    set_transport(&mut config, parameters, &tls)?;
    let target = format!("host={host} port={port} user={user} database={database}");
    Ok(ConnectionOptions { config, tls, target })
}

fn set_transport(
    config: &mut tokio_postgres::Config,
    parameters: &Parameters,
    tls: &tls::TlsOptions,
) -> Result<()> {
    config.ssl_mode(match tls.mode {
        TlsMode::Disable => SslMode::Disable,
        TlsMode::Prefer => SslMode::Prefer,
        TlsMode::Require | TlsMode::VerifyCa | TlsMode::VerifyFull => SslMode::Require,
    });
    let get = |key: &str| parameters.get(key).map(String::as_str);
    match get("channel_binding") {
        None | Some("prefer") => {}
        Some("disable") => drop(config.channel_binding(ChannelBinding::Disable)),
        Some("require") => drop(config.channel_binding(ChannelBinding::Require)),
        Some(_) => return Err(config_error("channel_binding is one of disable, prefer and require")),
    }
    let timeout = match get("connect_timeout").map(str::parse::<u64>) {
        None => CONNECT_TIMEOUT,
        // libpq's "wait for ever", which nothing here does.
        Some(Ok(0)) => CONNECT_TIMEOUT.saturating_mul(10),
        Some(Ok(seconds)) => Duration::from_secs(seconds),
        Some(Err(_)) => return Err(config_error("connect_timeout is not a number of seconds")),
    };
    config.connect_timeout(timeout);
    config.keepalives(true).keepalives_idle(KEEPALIVE_IDLE);
    config.keepalives_interval(KEEPALIVE_INTERVAL).keepalives_retries(KEEPALIVE_PROBES);
    Ok(())
}

/// The first usual directory that holds a socket for this port.
fn default_socket_directory(port: &str) -> Result<&'static str> {
    let has_socket = |directory: &&&str| Path::new(directory).join(format!(".s.PGSQL.{port}")).try_exists();
    SOCKET_DIRECTORIES.iter().find(|directory| has_socket(directory).unwrap_or(false)).copied().ok_or_else(
        || {
            EngineError::failed(
                ErrorKind::Postgres,
                format!("no server listens on a socket in {} port={port}", SOCKET_DIRECTORIES.join(" or ")),
            )
            .with_hint(
                "start the server, or name its host or socket directory with PGHOST and its port with PGPORT",
            )
        },
    )
}

fn find_password_in(
    given: Option<&str>,
    file: Option<&str>,
    wanted: PasswordFor<'_>,
    environment: &Environment<'_>,
) -> Result<Option<String>> {
    if let Some(password) = given {
        return Ok(Some(password.to_owned()));
    }
    let Some(file) = file.map(PathBuf::from).or_else(|| environment.home(".pgpass")) else { return Ok(None) };
    match std::fs::metadata(&file) {
        Ok(metadata) if metadata.mode() & 0o077 != 0 => {
            tracing::warn!(path = %file.display(), "the password file is ignored: others than its owner may read it");
            return Ok(None);
        }
        Ok(_) => {}
        // Nobody needs a password file, and one that is not ours to see is none.
        Err(_) => return Ok(None),
    }
    // The first of several hosts: the connection takes one password.
    let first = |list: &str| list.split(',').next().unwrap_or_default().to_owned();
    let (host, port) = (first(wanted.host), first(wanted.port));
    let host = if SOCKET_DIRECTORIES.contains(&host.as_str()) { "localhost" } else { &host };
    let text = read_text(&file)?.unwrap_or_default();
    Ok(find_password(&text, PasswordFor { host, port: &port, ..wanted }))
}

fn tls_options(
    parameters: &Parameters,
    host: &str,
    environment: &Environment<'_>,
) -> Result<tls::TlsOptions> {
    let get = |key: &str| parameters.get(key).map(String::as_str);
    let only_sockets = !host.is_empty() && host.split(',').all(|host| host.starts_with('/'));
    let mode = match get("sslmode") {
        // There is no TLS over Unix sockets, whatever sslmode says.
        _ if only_sockets => TlsMode::Disable,
        None => TlsMode::Prefer,
        Some(mode) => TlsMode::parse(mode).ok_or_else(|| {
            config_error(format!(
                "sslmode is one of disable, prefer, require, verify-ca and verify-full sslmode={mode:?}"
            ))
        })?,
    };
    let system = get("sslrootcert") == Some("system");
    let mode = match (system, get("sslmode")) {
        // Half the world has a certificate of a public authority: with those only the full check means anything.
        (true, None) if !only_sockets => TlsMode::VerifyFull,
        (true, Some(_)) if !only_sockets && mode != TlsMode::VerifyFull => {
            return Err(config_error("sslrootcert=system demands sslmode=verify-full"));
        }
        _ => mode,
    };
    let existing = |file: &str| environment.home(file).filter(|path| path.try_exists().unwrap_or(false));
    let roots = match get("sslrootcert") {
        Some(_) if system => Some(tls::Roots::System),
        Some(file) => Some(tls::Roots::File(PathBuf::from(file))),
        None => existing(".postgresql/root.crt").map(tls::Roots::File),
    };
    let file = |key: &str, default: &str| get(key).map(PathBuf::from).or_else(|| existing(default));
    let client =
        file("sslcert", ".postgresql/postgresql.crt").zip(file("sslkey", ".postgresql/postgresql.key"));
    Ok(tls::TlsOptions { mode, roots, client })
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use tokio_postgres::config::Host;

    use super::*;

    fn resolve(
        text: Option<&str>,
        variables: &[(&str, &str)],
        home: Option<&Path>,
    ) -> Result<ConnectionOptions> {
        let variable = |name: &str| {
            variables.iter().find(|(known, _)| *known == name).map(|(_, value)| (*value).to_owned())
        };
        let user = Some("osuser".to_owned());
        ConnectionOptions::resolve_in(
            text,
            &Environment { variable: &variable, home: home.map(Path::to_owned), user },
        )
    }

    #[test]
    fn the_string_wins_over_the_service_over_the_variables() {
        let home = tempfile::tempdir().unwrap();
        std::fs::write(home.path().join(".pg_service.conf"), "[prod]\nhost=svc\nport=7\nuser=svcuser\n")
            .unwrap();
        let variables = [("PGSERVICE", "prod"), ("PGPORT", "9"), ("PGUSER", "env"), ("PGDATABASE", "envdb")];
        let options = resolve(Some("user=me"), &variables, Some(home.path())).unwrap();
        assert_eq!(options.target(), "host=svc port=7 user=me database=envdb");
        assert!(resolve(Some("service=none"), &[], Some(home.path())).is_err());
    }

    #[test]
    fn defaults_are_the_users_name_and_postgres() {
        let options = resolve(Some("host=/run/pg"), &[], None).unwrap();
        assert_eq!(options.target(), "host=/run/pg port=5432 user=osuser database=postgres");
        assert_eq!(options.config().get_hosts(), [Host::Unix("/run/pg".into())]);
        assert_eq!(options.config().get_ssl_mode(), SslMode::Disable);
    }

    #[test]
    fn a_password_comes_from_its_file_and_shows_nowhere() {
        let home = tempfile::tempdir().unwrap();
        let file = home.path().join(".pgpass");
        std::fs::write(&file, "db.example:*:*:me:sEcReT\n").unwrap();
        std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o600)).unwrap();
        let options = resolve(Some("host=db.example user=me"), &[], Some(home.path())).unwrap();
        assert_eq!(options.config().get_password(), Some(b"sEcReT".as_slice()));
        assert!(!format!("{options:?} {}", options.target()).contains("sEcReT"));
        std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o644)).unwrap();
        let options = resolve(Some("host=db.example user=me"), &[], Some(home.path())).unwrap();
        assert_eq!(options.config().get_password(), None);
    }

    #[test]
    fn what_is_not_understood_is_refused_by_name_only() {
        for (text, said) in [
            ("host=h sslcrl=sEcReT", "sslcrl"),
            ("host=h sslmode=sure", "sslmode"),
            ("host=h port=x", "port"),
            ("hostaddr=nowhere", "hostaddr"),
            ("host=h channel_binding=x", "channel_binding"),
        ] {
            let error = resolve(Some(text), &[], None).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Config);
            assert!(error.to_string().contains(said) && !error.to_string().contains("sEcReT"), "{error}");
        }
    }

    #[test]
    fn tls_modes() {
        let mode = |text: &str| resolve(Some(text), &[], None).unwrap().tls.mode;
        assert_eq!(mode("host=h"), TlsMode::Prefer);
        assert_eq!(mode("host=h sslmode=verify-full"), TlsMode::VerifyFull);
        assert_eq!(mode("host=/run/pg sslmode=verify-full"), TlsMode::Disable);
        assert_eq!(mode("host=h sslrootcert=system"), TlsMode::VerifyFull);
        assert!(resolve(Some("host=h sslrootcert=system sslmode=require"), &[], None).is_err());
    }
}
