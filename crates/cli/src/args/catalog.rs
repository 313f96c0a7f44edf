//! The options of `walden catalog`.

use clap::{Args, Subcommand};

use super::{IncarnationArgs, help};

/// `walden catalog …`.
#[derive(Debug, Subcommand)]
pub(crate) enum CatalogVerb {
    /// Show what is in the repository, and what does not belong there
    #[command(long_about = help::CATALOG_SHOW, after_help = help::CATALOG_SHOW_EXAMPLES)]
    Show(CatalogShowArgs),
    /// Make everything that is derived again, from the objects alone
    #[command(long_about = help::CATALOG_REBUILD, after_help = help::CATALOG_REBUILD_EXAMPLES)]
    Rebuild(IncarnationArgs),
}

/// `walden catalog show`.
#[derive(Debug, Clone, Args)]
pub(crate) struct CatalogShowArgs {
    /// All servers in the repository, and what lies beside them
    #[arg(long)]
    pub(crate) all_servers: bool,
}
