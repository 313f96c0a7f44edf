//! The long help texts and the examples under them, for a person at two in the morning: what the verb does, what
//! it never does, and a line to paste.

pub(super) const WALDEN: &str = "\
WAL archiving and point-in-time recovery for PostgreSQL 13 to 18.

Walden stores WAL segments and base backups in a repository (a local directory, S3, Azure Blob or Google Cloud \
Storage) and brings a server back to any moment in between. Every object is written once, with its hash; nothing \
is overwritten, nothing is acknowledged before it is durable.

Stdout is data, everything else goes to stderr. The exit codes and the JSON of every verb are in docs/cli.md.";

pub(super) const WALDEN_EXAMPLES: &str = "\
Examples:
  Set up, on the database host:
    walden --repo s3://backups/prod init --pgdata /var/lib/postgresql/17/main
  In postgresql.conf:
    archive_mode = on
    archive_command = 'walden --repo s3://backups/prod wal push %p'
  Take a backup, look, restore:
    walden --repo s3://backups/prod backup create
    walden --repo s3://backups/prod window
    walden --repo s3://backups/prod restore --target-time '5 minutes ago' --pgdata /restored

Set WALDEN_REPO and WALDEN_SERVER, or a configuration file, to leave the common options out.";

pub(super) const INIT: &str = "\
Set up the repository for a server: run it once, on the database host.

Makes repository.json (after a probe of what the store can do), the server's record and the marker of its \
incarnation: its system identifier, PostgreSQL major and segment size. Run again it writes only what is missing and \
changes nothing.

A push into a place that was not set up fails, so that a mistyped URL never starts a second, lonely archive.";

pub(super) const INIT_EXAMPLES: &str = "\
Examples:
  walden --repo file:///var/backups/walden init --pgdata /var/lib/postgresql/17/main
  walden --repo s3://backups/prod --server orders init";

pub(super) const SERVER: &str = "\
Show whose archive this is, or let another system in.

A server is one archived PostgreSQL server under one name. It has one incarnation for each life of its data: initdb \
and pg_upgrade begin a new one.";

pub(super) const SERVER_SHOW: &str = "\
Show the server's incarnations, which of them is current, who added them, and what operators decided about them.";

pub(super) const SERVER_SHOW_EXAMPLES: &str = "\
Examples:
  walden server show
  walden --server orders server show --output json";

pub(super) const SERVER_ADOPT: &str = "\
Let a data directory archive under this server although something speaks against it.

Two things are refused until you say this: archiving from another system identifier (after initdb or pg_upgrade), \
and archiving from a data directory that was restored from this very repository. Run it when the new or restored \
server replaces the old one for good. While the old one still runs and archives, don't: give the new one its own \
--server instead.

The decision is recorded in the repository with your host and the reason. Nothing that is archived is changed.";

pub(super) const SERVER_ADOPT_EXAMPLES: &str = "\
Examples:
  walden server adopt --pgdata /var/lib/postgresql/17/main";

pub(super) const CHECK: &str = "\
Look whether archiving works and what can be restored.

Probes the store, reads the catalog, and (with a data directory) looks at what waits to be archived. Every finding \
says what it means and what to do.

Exit code 0 when all is well, 24 when a check failed; warnings alone do not fail it.";

pub(super) const CHECK_EXAMPLES: &str = "\
Examples:
  walden check --pgdata /var/lib/postgresql/17/main
  walden check --output json | jq '.checks[] | select(.status != \"ok\")'";

pub(super) const CONFIG: &str = "\
Show the effective configuration.

Settings come from, weakest first: what is built in, /etc/walden/walden.toml, $XDG_CONFIG_HOME/walden/walden.toml \
(or the one file named by --config or WALDEN_CONFIG), the environment, the command line.";

pub(super) const CONFIG_SHOW: &str = "\
Show every setting, its value and where it comes from. Holds no secret: credentials are never settings.";

pub(super) const CONFIG_SHOW_EXAMPLES: &str = "\
Examples:
  walden config show
  walden --config ./walden.toml config show --output json";

pub(super) const WAL: &str = "\
Archive and fetch WAL files one by one, as PostgreSQL asks for it, and see what is archived.";

pub(super) const WAL_PUSH: &str = "\
Archive one file: for archive_command.

Takes segments, partial segments, timeline histories and backup histories. The file is checked (size, header, \
address, system identifier), hashed, compressed and written under a name that must be free. Success means that \
these very bytes are durable in the repository: written now, or proven to be there already. Other bytes under the \
same name are a conflict; nothing is ever overwritten.

Every failure ends with a code from 1 to 125: PostgreSQL keeps the file, counts the failure in pg_stat_archiver and \
tries again.

Segments are read on the way. One with damaged WAL is archived all the same, because to refuse it would only fill the \
disk; a line on stderr says so loudly, and `walden check` and `walden window` report it.";

pub(super) const WAL_PUSH_EXAMPLES: &str = "\
Examples:
  In postgresql.conf:
    archive_command = 'walden --repo s3://backups/prod wal push %p'
  By hand:
    walden wal push /var/lib/postgresql/17/main/pg_wal/000000010000000000000003";

pub(super) const WAL_GET: &str = "\
Fetch one file: for restore_command, and for pg_rewind.

The file is fetched, checked against its hash, written aside, flushed and only then given its name.

Exit code 1 means proven absent and nothing else: the store answered, the archive was seen, and the file is not in \
it. For PostgreSQL that is the end of WAL. So in archive recovery every other failure ends above 200: PostgreSQL \
stops with a fatal error instead of promoting with WAL missing, and can be started again when the cause is gone. On \
a standby, and outside of recovery, failures keep their plain codes and PostgreSQL tries again.";

pub(super) const WAL_GET_EXAMPLES: &str = "\
Examples:
  In postgresql.conf (walden restore writes it for you):
    restore_command = 'walden --repo s3://backups/prod wal get %f %p'
  By hand:
    walden wal get 000000010000000000000003 /tmp/000000010000000000000003";

pub(super) const WAL_LIST: &str = "\
List the segments in the archive, timeline by timeline, as runs without gaps. More than one run on a timeline means \
that segments are missing in between; `walden window` says what that means for a restore.";

pub(super) const WAL_LIST_EXAMPLES: &str = "\
Examples:
  walden wal list
  walden wal list --timeline 2 --output json";

pub(super) const WAL_SHOW: &str = "\
Show what the archive knows about one file: its header, without fetching the rest. Sizes, hash, WAL addresses, who \
wrote it when, and of a segment what is in it: commits, their times, and what else is notable.";

pub(super) const WAL_SHOW_EXAMPLES: &str = "\
Examples:
  walden wal show 000000010000000000000003
  walden wal show 00000002.history";

pub(super) const WAL_FIND: &str = "\
Find what happened, from the archive alone: who dropped the table, and where to stop just before it.

Looks for drops, truncations, rewrites (VACUUM FULL, CLUSTER, some forms of ALTER TABLE), mass deletions and updates, \
dropped databases and restore points; with --around, --xid or --op commit also for single commits. Each event comes \
with its time, position and transaction, and with the walden plan that stops just before it. What was rolled back \
is not told.

Names are those that things had at that moment, as backups recorded them and the WAL says since. Where a name is not \
known, a number stands for it.";

pub(super) const WAL_FIND_EXAMPLES: &str = "\
Examples:
  walden wal find --table orders --op drop
  walden wal find --between 'yesterday 14:00' 'yesterday 15:00' --timezone Europe/Berlin
  walden wal find --around '2026-11-20 14:32:00+00'
  walden wal find --xid 74213
  walden wal find --restore-point before_migration --output json";

pub(super) const CATALOG: &str = "\
What is in the repository, and what is derived from it.

The catalog is nobody's file: it is read from the objects each time. What speeds that up (rollups in the repository, a cache in \
the state directory) can be made again at any time and is never trusted over the objects.";

pub(super) const CATALOG_SHOW: &str = "\
Show what is in the repository: for each incarnation of the server its segments, backups, history files, pins and records with \
their bytes, its first and last commit, and every object that does not belong there or is damaged, with the reason. Nothing \
is changed.

Takes requests in proportion to what it shows: directories are listed, and rollups tell of the segments in them. What is in a \
backup's directory is not listed: walden verify does that.";

pub(super) const CATALOG_SHOW_EXAMPLES: &str = "\
Examples:
  walden catalog show
  All servers of the repository:
    walden catalog show --all-servers
  In a script:
    walden catalog show --output json | jq -r '.servers[].incarnations[].foreign[] | .key'";

pub(super) const CATALOG_REBUILD: &str = "\
Make everything that is derived again, from the objects alone: the rollups of the WAL, the copy of the backup records, and the \
cache in the state directory. Tells what differed, and writes only that.

Never needed for a correct answer. Archiving, backups and retention may go on meanwhile.";

pub(super) const CATALOG_REBUILD_EXAMPLES: &str = "\
Examples:
  walden catalog rebuild
  walden catalog rebuild --output json | jq '.differences'";

pub(super) const WAL_INDEX: &str = "\
What is derived from the archived WAL: summaries that make plans and searches quick. Everything in them can be made \
again from the segments, and nothing is lost with them.";

pub(super) const WAL_INDEX_REBUILD: &str = "\
Make the summaries of LOG directories that are missing, from the indexes of the segments in them, and of segments \
without an index from the segments themselves. Also brings the copy of all backup records up to date.

Never needed for a correct answer: without the summaries plans only take more requests. The push that completes a LOG \
directory writes its summary; this makes those that a failure or an older walden left out.";

pub(super) const WAL_INDEX_REBUILD_EXAMPLES: &str = "\
Examples:
  walden wal index rebuild
  walden wal index rebuild --timeline 2 --all --output json";

pub(super) const BACKUP: &str = "\
Take and list base backups.

A base backup is what a restore begins with; the WAL archived since brings it forward. A backup that was \
interrupted is never listed as good.";

pub(super) const BACKUP_CREATE: &str = "\
Take a full base backup of a running server, from the host that has its data directory.

Connects to the server, reads the data directory in parallel while it works, checks page checksums, stores the files \
in packs, and waits until all WAL that the backup needs is in the repository. Only then is the backup recorded. \
Archiving must work: see `walden check`.

Interrupted or killed, it leaves parts that are not listed as a backup and hurt nothing; the server ends backup mode \
by itself when the connection is gone.";

pub(super) const BACKUP_CREATE_EXAMPLES: &str = "\
Examples:
  walden backup create --pgdata /var/lib/postgresql/17/main
  PGHOST=/run/postgresql PGUSER=postgres walden backup create";

pub(super) const BACKUP_LIST: &str = "\
List the finished backups of the server, oldest first. With --output json the array of backups, and nothing else.";

pub(super) const BACKUP_LIST_EXAMPLES: &str = "\
Examples:
  walden backup list
  walden backup list --output json | jq -r '.[-1].id'";

pub(super) const BACKUP_SHOW: &str = "\
Show everything recorded about one backup: sizes, WAL range, settings, tablespaces, damaged pages.";

pub(super) const BACKUP_SHOW_EXAMPLES: &str = "\
Examples:
  walden backup show latest
  walden backup show 20261120T103905Z-7f3a --output json";

pub(super) const WINDOW: &str = "\
Show what can be restored: the age of the newest restorable commit, and for each timeline the first and the last \
moment (as time, transaction and LSN), its backups and how far each can be rolled forward, every gap in its WAL with \
its likely cause, and damaged segments.";

pub(super) const WINDOW_EXAMPLES: &str = "\
Examples:
  walden window
  walden window --output json | jq .rpo_seconds";

pub(super) const PLAN: &str = "\
Show how a target would be restored, and touch nothing.

The plan is read from the WAL and says where PostgreSQL will stop, record for record: the last transaction that you \
will have and the first that you won't; which backup it starts from and why not from the others, which timelines it \
follows, which segments it needs, how long it takes, and the settings that `walden restore` would write. When the \
target can't be reached, it says why, and gives the nearest moments that can be as commands (exit code 22).

Without a target: the end of the archive.

--output has three more forms here: postgres (lines for postgresql.conf), cnpg (a CloudNativePG Cluster that \
bootstraps by recovery) and zalando (a clone section for Zalando's operator, for --target-time alone).";

pub(super) const PLAN_EXAMPLES: &str = "\
Examples:
  walden plan --target-time '2026-11-20 14:31:58+00'
  walden plan --target-time 'yesterday 14:32' --timezone Europe/Berlin --target-exclusive
  walden plan --target-name before_migration --output json | jq .stop
  walden plan --target-lsn 16/B374D848 --output postgres >> postgresql.conf
  walden plan --target-time '5 minutes ago' --output cnpg > restored.yaml
  walden plan --target-time '5 minutes ago' --output zalando";

pub(super) const RESTORE: &str = "\
Restore to a moment, into an empty data directory.

Makes the same plan as `walden plan` and carries it out: fetches the backup in parallel, checks every file's hash, \
flushes everything, writes recovery.signal and the settings that lead PostgreSQL to the target, and prints how to \
start it. A directory that is not empty is refused; a running server is never touched.

With --start the server is started, and where it stopped is compared with the plan: elsewhere is a loud failure (exit \
code 25).

The restored server does not archive into the repository it came from until you say `walden server adopt`. A standby \
made of it must be adopted before it is promoted.";

pub(super) const RESTORE_EXAMPLES: &str = "\
Examples:
  walden restore --pgdata /var/lib/postgresql/17/restored
  walden restore --target-time '5 minutes ago' --pgdata /var/lib/postgresql/17/restored
  walden restore --target-name before_migration --target-action promote --pgdata /restored";

pub(super) const DRILL: &str = "\
Restore for practice: start a copy, question it, keep the evidence.

Plans as `walden plan` does, restores as `walden restore` does into a directory of its own, starts the server, waits for \
the target, promotes it, asks it whether everything is there, and removes all of it again. Measured are each phase, the \
time until the server took connections (RTO), and what would have been lost (RPO). The record of it, good or bad, is \
stored in the repository once (`walden drill list`, `show`, `report`); nothing else is written there.

The copy can touch nothing outside of its directory: it does not archive, listens on no address, knows no other server, \
runs no jobs, and its tablespaces lie in the same directory. What a drill that was killed has left behind is removed by \
the next one.

Exit codes: 0 all is well; 24 a check did not hold; 25 recovery stopped elsewhere than planned; 22 there is no plan; 14 \
what is stored is damaged; 19 the server did not get to its target; 15 out of time, or the store can't be reached; 23 \
interrupted; others as for every verb.";

pub(super) const DRILL_EXAMPLES: &str = "\
Examples:
  walden drill
  walden drill --random --sql /etc/walden/assertions.sql --database shop
  walden drill --target-time '1 hour ago' --directory /mnt/scratch --timeout 4h
  walden drill --output json | jq '.ok, .rto_seconds'";

pub(super) const DRILL_LIST: &str = "\
List the drills there were, oldest first: when, to where, what came of it, and how long it took until the server took \
connections.";

pub(super) const DRILL_LIST_EXAMPLES: &str = "\
Examples:
  walden drill list
  walden drill list --last 10 --output json | jq '.drills[-1].ok'";

pub(super) const DRILL_SHOW: &str = "\
Show everything that is recorded of one drill: the plan, the phases, every check, the hashes of the backup, the versions, \
and after a failure the last lines of the server's log.";

pub(super) const DRILL_SHOW_EXAMPLES: &str = "\
Examples:
  walden drill show
  walden drill show 20261120T103905Z-7f3a --output json";

pub(super) const DRILL_REPORT: &str = "\
Write a report of one drill to stdout: what was done, what came of it, each check, a picture of the phases and the trend \
over the drills before it. As Markdown, or as one HTML page that loads nothing from anywhere.";

pub(super) const DRILL_REPORT_EXAMPLES: &str = "\
Examples:
  walden drill report > drill.md
  walden drill report --format html > drill.html";

pub(super) const AGENT: &str = "\
Archive and fetch ahead of PostgreSQL's calls, in the background.

PostgreSQL asks for one file at a time. The agent works on several: it archives what waits in pg_wal over warm \
connections, and fetches the next segments while recovery replays the ones before. `walden wal push` and `walden wal \
get` ask it first, and are done in a few milliseconds when it has the answer. Without an agent, or with one that does \
not answer, they do the work themselves; nothing depends on it, and nothing is lost when it is killed.

There is one agent for a data directory, repository and server. The first push that finds more files waiting, and the first segment that a \
recovery fetches, start one by themselves (unless WALDEN_AGENT is never or off); it is gone after a minute without \
work. This verb runs one that stays, in the foreground, for a service manager or a sidecar container. It must run as \
the account of the server, with the same settings and credentials as archive_command.";

pub(super) const AGENT_EXAMPLES: &str = "\
Examples:
  walden --repo s3://backups/prod agent --pgdata /var/lib/postgresql/17/main
  walden agent --memory 64MiB --max-rate 50MB --metrics 127.0.0.1:9712
  walden agent status
  walden agent stop";

pub(super) const AGENT_STATUS: &str = "\
Show what the running agent does: what waits, how fast it is archived, how hard it compresses and why, what was fetched \
ahead, and what failed.

Exit code 26 when no agent runs for the data directory, repository and server. That is no fault: agents that are started \
on demand are gone when there is nothing to do.";

pub(super) const AGENT_STATUS_EXAMPLES: &str = "\
Examples:
  walden agent status --pgdata /var/lib/postgresql/17/main
  walden agent status --output json | jq .push.queue_files";

pub(super) const AGENT_STOP: &str = "\
End the running agent, however it was started, of whatever version it is. What it has begun is finished first; what waits \
is archived by the next calls of PostgreSQL. A service manager may start it again: stop the service there.

Exit code 26 when no agent runs for the data directory, repository and server.";

pub(super) const AGENT_STOP_EXAMPLES: &str = "\
Examples:
  walden agent stop --pgdata /var/lib/postgresql/17/main";

pub(super) const COMPLETIONS_EXAMPLES: &str = "\
Examples:
  walden completions bash > /etc/bash_completion.d/walden
  walden completions zsh > ~/.zfunc/_walden";

pub(super) const MAN_EXAMPLES: &str = "\
Examples:
  walden man | man -l -
  walden man /usr/local/share/man/man1";

pub(super) const VERIFY: &str = "\
Look whether what is archived is still what was stored, and what can't be restored if not.

Three levels, each with all of the one before. presence lists everything and compares it with the catalog: gaps, \
missing packs, sizes. hash (the default) reads every byte of every object and compares it with the hashes that it was \
stored with. deep looks into it: each WAL record's checksum and its link to the record before, across segments and \
timelines; each file of a backup, each page, and what a server needs to start from it.

What is wrong is told as damaged or missing; what the store would not give is told as not proven, and is no damage. \
Then the recovery planner says which backups and moments are lost through it, and which backup still serves.

What was proven when is remembered in the state directory: --max-age skips what was proven lately, and an interrupted run \
goes on that way. With --sample and --max-bytes what has gone unproven for the longest time comes first.

Nothing is changed in the repository; --record leaves a short record, which walden check tells of.

Exit code 0 when what was looked at is good, 27 when something is damaged or missing, 28 when nothing wrong was found but \
something could not be read.";

pub(super) const VERIFY_EXAMPLES: &str = "\
Examples:
  Everything, and remember it; go on after an interruption:
    walden verify --max-age 1d --record
  Every night a part, everything within a month or so:
    walden verify --sample 5% --max-time 2h
  The backup that would be restored now, looked into:
    walden verify --level deep --latest
  In a script:
    walden verify --output json | jq '.findings[] | select(.verdict == \"damaged\")'";

pub(super) const RETENTION: &str = "\
Remove what the policy no longer promises.

The policy says what has to stay: a recovery window, a number of full backups, one of each day, week, month or year; \
pins keep a backup whatever it says. Everything that no rule keeps goes. Nothing goes without a policy, and never the \
last backup that can be restored, anything that a backup needs that stays, or anything younger than a backup that runs.";

pub(super) const RETENTION_PLAN: &str = "\
Show what would stay and what would go, why, how much it frees, and which moments stop being restorable with it. \
Nothing is changed.

Everything under the server's prefix is listed, and the recovery planner says what can be restored before and after.

It also simulates: another policy by its options, and a moment ahead with --at, as if nothing new came until then. \
--compare shows the difference to what the configured policy would do now.";

pub(super) const RETENTION_PLAN_EXAMPLES: &str = "\
Examples:
  walden retention plan
  What a shorter window would free, and which moments it costs:
    walden retention plan --window 7d --compare
  What is left in a month, if nothing new comes:
    walden retention plan --at 30d
  In a script:
    walden retention plan --output json | jq '.windows[] | select(.lost != [])'";

pub(super) const RETENTION_APPLY: &str = "\
Show a plan, ask, and carry it out.

It takes a lease, so that one run removes at a time, wherever it runs; then it lists and plans again, and removes nothing \
that was not shown. Commit records of backups go first and WAL last, the oldest first: the archive can be used at every \
instant, and a run that was ended is finished by the next. An audit record is written before and after.

Objects that the store keeps by Object Lock, an immutability policy or a hold are counted, and are no failure. Ends with 16 \
when the right to remove is missing, 29 while another run is at work, 30 when something has to stay.";

pub(super) const RETENTION_APPLY_EXAMPLES: &str = "\
Examples:
  walden retention apply
  From a timer:
    walden retention apply --yes
  With a policy of its own:
    walden retention apply --window 30d --keep-full 3 --monthly 12";

pub(super) const RETENTION_LOG: &str = "\
List the retention runs by their audit records, the newest first: who removed how much when, and what came of it. With \
--output json everything that the records say, the groups with their reasons included.";

pub(super) const RETENTION_LOG_EXAMPLES: &str = "\
Examples:
  walden retention log
  walden retention log --last 1 --output json | jq '.[0].begun.groups'";

pub(super) const BACKUP_PIN: &str = "\
Keep a backup whatever the retention policy says, with everything that it needs: the WAL that makes it consistent, the \
backups that it stands on. WAL after it stays only as far as something else keeps it.";

pub(super) const BACKUP_PIN_EXAMPLES: &str = "\
Examples:
  walden backup pin 20261120T103905Z-7f3a --reason 'before the migration'
  walden backup pin 20261120T103905Z-7f3a --reason 'audit 2026' --until 2027-03-31";

pub(super) const BACKUP_UNPIN: &str = "\
Let go of a pinned backup: the retention policy decides again.";

pub(super) const BACKUP_UNPIN_EXAMPLES: &str = "\
Examples:
  walden backup unpin 20261120T103905Z-7f3a";

pub(super) const BACKUP_DELETE: &str = "\
Remove backups by name, whatever the retention policy would keep. It shows which moments can't be restored without them, and \
asks.

Refused for the last backup that can be restored, a pinned one, one that another stands on, one that may be under way, \
and one that this version can't read. WAL stays: the next retention run says what of it nothing needs any more.";

pub(super) const BACKUP_DELETE_EXAMPLES: &str = "\
Examples:
  walden backup delete 20261120T103905Z-7f3a
  walden backup delete 20261120T103905Z-7f3a 20261121T103905Z-01c2 --yes";
