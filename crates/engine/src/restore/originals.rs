//! The few files of a backup that are looked at before anything is written: what they say decides whether the
//! backup can be what its record says, and some of them are written in another form than they have in it.

use walden_core::{BackupRecord, ErrorKind, RecoveryPlan};
use walden_pg::{BackupLabel, ControlFile, TablespaceMap};

use super::MAPPING_OPTION;
use super::destination::TablespacePlace;
use super::inventory::{AUTO_CONF, CONF, CONTROL, HBA, IDENT, Inventory, LABEL, MAP, VERSION, display};
use super::packs::Packs;
use crate::error::{EngineError, Result};

/// Largest of these files, in bytes.
const ORIGINAL_BYTES_MAX: u64 = 16 << 20;

/// The files that are read early.
#[derive(Debug)]
pub(super) struct Originals {
    /// The bytes of `global/pg_control`, to be written last.
    pub(super) control_bytes: Vec<u8>,
    pub(super) control: ControlFile,
    pub(super) tablespace_map: TablespaceMap,
    /// Empty when the backup has none.
    pub(super) auto_conf: Vec<u8>,
    /// `postgresql.conf`, when it lay in the data directory.
    pub(super) conf: Option<Vec<u8>>,
    pub(super) has_hba: bool,
    pub(super) has_ident: bool,
}

impl Originals {
    /// Reads them and compares them with the backup's record.
    ///
    /// # Errors
    /// Of kind `corrupt` when one is missing that must be there, or contradicts the record; of the store.
    pub(super) async fn read(packs: &Packs, inventory: &Inventory, record: &BackupRecord) -> Result<Self> {
        let wanted = inventory.notable.values().filter(|file| ![HBA, IDENT].contains(&file.path.as_slice()));
        let mut all = packs.read_small(wanted, ORIGINAL_BYTES_MAX).await?;
        let mut needed = |path: &[u8]| {
            let missing = "it is missing, and without it the server would not be right";
            all.remove(path).ok_or_else(|| contradiction(path, missing))
        };
        let control_bytes = needed(CONTROL)?;
        let control = ControlFile::parse(&control_bytes).map_err(|source| unreadable(CONTROL, source))?;
        if control.system_id != record.incarnation.system_id || control.major != record.incarnation.major {
            return Err(contradiction(CONTROL, "it belongs to another system or major"));
        }
        let label = needed(LABEL)?;
        check_label(&BackupLabel::parse(&label).map_err(|source| unreadable(LABEL, source))?, record)?;
        let version = needed(VERSION)?;
        if String::from_utf8_lossy(&version).trim() != record.incarnation.major.to_string() {
            return Err(contradiction(VERSION, "it names another major"));
        }
        let map = all.remove(MAP).unwrap_or_default();
        let tablespace_map =
            TablespaceMap::parse(&map, record.incarnation.major).map_err(|source| unreadable(MAP, source))?;
        Ok(Self {
            control_bytes,
            control,
            tablespace_map,
            auto_conf: all.remove(AUTO_CONF).unwrap_or_default(),
            conf: all.remove(CONF),
            has_hba: inventory.notable.contains_key(HBA),
            has_ident: inventory.notable.contains_key(IDENT),
        })
    }

    /// The tablespace map with the new places: the server makes its links by it. `None` when there must be none.
    ///
    /// # Errors
    /// Of kind `corrupt` when the backup's map and its record do not name the same tablespaces.
    pub(super) fn map_to(&self, places: &[TablespacePlace], plan: &RecoveryPlan) -> Result<Option<Vec<u8>>> {
        let mut map = self.tablespace_map.clone();
        let in_place = |path: &std::path::Path| path.starts_with("pg_tblspc");
        let unknown = map
            .entries()
            .find(|(oid, path)| !in_place(path) && !places.iter().any(|place| place.oid == oid.get()))
            .map(|(oid, _)| oid);
        if let Some(oid) = unknown {
            let message = format!("it names a tablespace that the backup's record does not oid={oid}");
            return Err(contradiction(MAP, &message));
        }
        for place in places {
            map.set(walden_pg::Oid::new(place.oid), place.place.path.clone());
        }
        if map.is_empty() {
            return Ok(None);
        }
        map.render(plan.incarnation.major).map(Some).map_err(|source| unreadable(MAP, source))
    }
}

/// Looks for tablespaces made while the backup was taken: its files have them and its map has not, and replay of
/// their creation links to the old path, whatever was mapped.
///
/// # Errors
/// Of kind `config` when one of them was to go elsewhere.
pub(super) fn made_during_backup(map: &TablespaceMap, places: &[TablespacePlace]) -> Result<Vec<String>> {
    let mut warnings = Vec::new();
    for place in places.iter().filter(|place| map.get(walden_pg::Oid::new(place.oid)).is_none()) {
        let (oid, path) = (place.oid, place.original.display());
        if place.mapped {
            let message = format!(
                "a tablespace was made while the backup was taken, and replay puts it back where it was: it can't be \
                 given another place oid={oid} path={path}"
            );
            return Err(EngineError::failed(ErrorKind::Config, message).with_hint(format!(
                "choose a later backup (--backup), or restore without {MAPPING_OPTION} on a host where nothing uses {path}"
            )));
        }
        warnings.push(format!(
            "a tablespace was made while the backup was taken: replay links to it where it was oid={oid} path={path}"
        ));
    }
    Ok(warnings)
}

fn check_label(label: &BackupLabel, record: &BackupRecord) -> Result<()> {
    if label.incremental_from.is_some() {
        return Err(contradiction(LABEL, "it belongs to an incremental backup, from which no server starts"));
    }
    let timeline_differs = label.start_timeline.is_some_and(|timeline| timeline != record.timeline);
    if label.start_lsn != record.start_lsn
        || label.checkpoint_lsn != record.checkpoint_lsn
        || timeline_differs
    {
        let message = format!(
            "it starts elsewhere than the backup's record says label={} record={}",
            label.start_lsn, record.start_lsn
        );
        return Err(contradiction(LABEL, &message));
    }
    Ok(())
}

fn contradiction(path: &[u8], what: &str) -> EngineError {
    let message = format!("the backup can't be restored: {what} file={}", display(path));
    EngineError::failed(ErrorKind::Corrupt, message)
        .with_hint("nothing was written: choose another backup (--backup; walden backup list shows them)")
}

fn unreadable(path: &[u8], source: walden_pg::Error) -> EngineError {
    EngineError::Format { what: format!("{} of the backup", display(path)), source }
}
