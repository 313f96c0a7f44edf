//! Cleaning up after a test that was killed: `Drop` does not run then.

use std::io::Write;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use super::error::{Error, Result};

/// Reads which server runs, and when its input ends without a farewell, stops that server and removes
/// its directory ($0). Signals meant for the test do not reach it.
const SCRIPT: &str = r#"
trap '' INT TERM HUP
pid=
while read -r word value; do
    case $word in
        server) pid=$value ;;
        farewell) exit 0 ;;
    esac
done
if [ -n "$pid" ]; then
    kill -QUIT "$pid" 2>/dev/null
    tries=0
    while [ "$tries" -lt 50 ] && kill -0 "$pid" 2>/dev/null; do
        sleep 0.1
        tries=$((tries + 1))
    done
    kill -0 "$pid" 2>/dev/null && kill -KILL "$pid"
fi
rm -rf -- "$0"
"#;

/// A process that outlives the test's own and waits for its end.
#[derive(Debug)]
pub(super) struct Watchdog {
    shell: Child,
}

impl Watchdog {
    /// Watches over `dir`.
    pub(super) fn over(dir: &Path) -> Result<Self> {
        let shell = Command::new("sh")
            .args(["-c", SCRIPT])
            .arg(dir)
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .current_dir("/")
            .process_group(0)
            .spawn()
            .map_err(|e| Error::io("start sh", Path::new("sh"), e))?;
        Ok(Self { shell })
    }

    /// Tells which process is the server now.
    pub(super) fn server_is(&mut self, pid: Option<u32>) {
        let line = pid.map_or_else(|| "server\n".to_owned(), |pid| format!("server {pid}\n"));
        self.tell(&line);
    }

    fn tell(&mut self, line: &str) {
        if let Some(pipe) = &mut self.shell.stdin {
            // It can only fail when the shell is gone, and then there is nobody to tell.
            let _ = pipe.write_all(line.as_bytes());
        }
    }
}

impl Drop for Watchdog {
    fn drop(&mut self) {
        self.tell("farewell\n");
        drop(self.shell.stdin.take());
        let _ = self.shell.wait();
    }
}
