//! Whether the transactions are there that the plan promised, and those not that it did not.

use walden_core::{Commit, DrillCheck};

use super::{CATALOG_TIME, Questions};
use crate::drill::session::{Said, Session};

const NAME: &str = "last transaction";

/// What a server says of a transaction.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Fate {
    Committed,
    /// It was never begun here, was aborted, or was open when recovery ended.
    NotThere,
    /// Too old to tell.
    Forgotten,
}

/// The last commit of the plan must be there, and the first that it leaves out must not. Asked before anything here takes
/// a transaction's number: the promoted server gives out the numbers of what was left out again.
pub(super) async fn last_transaction(questions: &Questions<'_>) -> Result<DrillCheck, Said> {
    let stop = &questions.plan.stop;
    let session = questions.door.open("postgres", true).await?;
    let next = next_transaction(&session).await?;
    let mut told = Vec::new();
    let mut ok = true;
    match &stop.last_kept {
        Some(commit) => {
            let there = fate(&session, commit, next).await?;
            ok &= there != Fate::NotThere;
            told.push(match there {
                Fate::Committed => format!("transaction {}, the last that was to be there, is", commit.xid),
                Fate::NotThere => {
                    format!("transaction {}, the last that was to be there, is MISSING", commit.xid)
                }
                Fate::Forgotten => format!("transaction {} is too old to be asked for", commit.xid),
            });
        }
        None => told.push("no transaction was committed between the backup's start and the stop".to_owned()),
    }
    if let Some(commit) = &stop.first_left_out {
        let there = fate(&session, commit, next).await?;
        ok &= there != Fate::Committed;
        told.push(match there {
            Fate::Committed => {
                format!("transaction {}, the first that was not to be there, IS THERE", commit.xid)
            }
            Fate::NotThere | Fate::Forgotten => {
                format!("transaction {}, the first that was not to be there, is not", commit.xid)
            }
        });
    }
    Ok(DrillCheck::new(NAME, ok, told.join("; ")))
}

/// The number that the next transaction will get, with its epoch.
async fn next_transaction(session: &Session) -> Result<u64, Said> {
    let sql = "SELECT pg_catalog.pg_snapshot_xmax(pg_catalog.pg_current_snapshot())::text";
    let text: String =
        session.one(sql, CATALOG_TIME).await?.try_get(0).map_err(|error| Said::wrong(&error))?;
    text.parse().map_err(|_| Said {
        message: format!("a transaction's number is no number: {text:?}"),
        out_of_time: false,
    })
}

async fn fate(session: &Session, commit: &Commit, next: u64) -> Result<Fate, Said> {
    let Some(full) = full_number(commit.xid.get(), next) else { return Ok(Fate::NotThere) };
    let sql = format!("SELECT pg_catalog.pg_xact_status('{full}'::pg_catalog.xid8)");
    let status: Option<String> =
        session.one(&sql, CATALOG_TIME).await?.try_get(0).map_err(|error| Said::wrong(&error))?;
    Ok(match status.as_deref() {
        Some("committed") => Fate::Committed,
        Some(_) => Fate::NotThere,
        None => Fate::Forgotten,
    })
}

/// The 64 bits of a transaction's number of which the low 32 are known: the newest below `next`; `None` when it is still
/// to come. Transactions of one recovery are never two billion apart.
fn full_number(xid: u32, next: u64) -> Option<u64> {
    let in_epoch = (next & !0xFFFF_FFFF) | u64::from(xid);
    if in_epoch < next {
        return Some(in_epoch);
    }
    let before = in_epoch.checked_sub(1 << 32)?;
    // Far away below is near above: it is to come.
    (next - before < 1 << 31).then_some(before)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_get_their_epoch() {
        const EPOCH: u64 = 1 << 32;
        assert_eq!(full_number(740, 741), Some(740));
        assert_eq!(full_number(741, 741), None);
        assert_eq!(full_number(5, EPOCH + 6), Some(EPOCH + 5));
        assert_eq!(full_number(u32::MAX, EPOCH + 6), Some(EPOCH - 1));
        assert_eq!(full_number(7, EPOCH + 6), None);
        assert_eq!(full_number(3, 3 * EPOCH - 2), Some(2 * EPOCH + 3));
    }
}
