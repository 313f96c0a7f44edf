//! kubernetes-validate, which knows the schemas of Kubernetes' own kinds, in a Python environment of its own.

use std::path::Path;
use std::process::Command;

use super::part;
use crate::failure::{Failure, Result};
use crate::proc;

/// The program and everything it needs, with exact versions.
const REQUIREMENTS: &str = include_str!("kubernetes-requirements.txt");

/// Installs it unless it is there.
pub(super) fn ensure(dir: &Path) -> Result<()> {
    part(dir, "kubernetes", REQUIREMENTS, |place| {
        proc::quiet(Command::new("python3").args(["-m", "venv"]).arg(place))?;
        let list = place.join("requirements.txt");
        std::fs::write(&list, REQUIREMENTS).map_err(|e| Failure::io("write", &list, &e))?;
        let mut pip = Command::new(place.join("bin/python"));
        pip.args(["-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--requirement"])
            .arg(&list);
        proc::quiet(&mut pip)?;
        proc::quiet(Command::new(place.join("bin/kubernetes-validate")).arg("--version")).map(drop)
    })
}
