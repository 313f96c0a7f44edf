//! Azurite, the emulator of Azure Blob Storage.

use std::path::Path;
use std::process::Command;

use super::part;
use crate::failure::Result;
use crate::proc;

/// The last release that runs on Node 18 and 20, which the stable distributions have.
const PACKAGE: &str = "azurite@3.35.0";

/// Installs Azurite unless it is there.
pub(super) fn ensure(dir: &Path) -> Result<()> {
    part(dir, "azurite", PACKAGE, |place| {
        let quietly = ["--silent", "--no-audit", "--no-fund", "--no-update-notifier", "--ignore-scripts"];
        proc::quiet(Command::new("npm").args(["install", "--prefix"]).arg(place).args(quietly).arg(PACKAGE))?;
        proc::quiet(Command::new(place.join("node_modules/.bin/azurite-blob")).arg("--version")).map(drop)
    })
}
