//! `walden completions` and `walden man`: made from the command line's definition.

use std::path::Path;

use clap::CommandFactory;
use clap_complete::Shell;
use walden_core::ErrorKind;

use crate::args::Cli;
use crate::exit::Exit;
use crate::failure::Failure;
use crate::printer::write_stdout;

pub(super) fn completions(shell: Shell) -> Result<Exit, Failure> {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut Cli::command(), "walden", &mut script);
    write_stdout(&script)?;
    Ok(Exit::Done)
}

pub(super) fn man(directory: Option<&Path>) -> Result<Exit, Failure> {
    if let Some(directory) = directory {
        std::fs::create_dir_all(directory)
            .and_then(|()| clap_mangen::generate_to(Cli::command(), directory))
            .map_err(|error| {
                let message = format!("cannot write the manual pages path={}", directory.display());
                Failure::new(ErrorKind::LocalIo, message).caused_by(&error)
            })?;
        return Ok(Exit::Done);
    }
    let mut page = Vec::new();
    clap_mangen::Man::new(Cli::command()).render(&mut page).map_err(|error| {
        Failure::new(ErrorKind::Internal, "cannot render the manual page").caused_by(&error)
    })?;
    write_stdout(&page)?;
    Ok(Exit::Done)
}
