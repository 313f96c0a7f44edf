//! moto, an S3 emulator that creates conditionally in one step, in a Python environment of its own.

use std::path::Path;
use std::process::Command;

use super::part;
use crate::failure::{Failure, Result};
use crate::proc;

/// moto's server and everything it needs, with exact versions.
const REQUIREMENTS: &str = include_str!("moto-requirements.txt");

/// Installs moto unless it is there.
pub(super) fn ensure(dir: &Path) -> Result<()> {
    part(dir, "moto", REQUIREMENTS, |place| {
        proc::quiet(Command::new("python3").args(["-m", "venv"]).arg(place))?;
        let list = place.join("requirements.txt");
        std::fs::write(&list, REQUIREMENTS).map_err(|e| Failure::io("write", &list, &e))?;
        let mut pip = Command::new(place.join("bin/python"));
        pip.args(["-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--requirement"])
            .arg(&list);
        proc::quiet(&mut pip)?;
        proc::quiet(Command::new(place.join("bin/moto_server")).arg("--help")).map(drop)
    })
}
