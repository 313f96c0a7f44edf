//! The assertions that the operator brings.

use tokio::time::Instant;
use tokio_postgres::types::Type;
use walden_core::DrillCheck;

use super::{DrillRequest, Questions};
use crate::drill::request::Assertion;
use crate::drill::session::{Said, Session};

/// Makes all assertions, one after the other in one session that can write nothing; each is a check.
pub(super) async fn ask(questions: &Questions<'_>) {
    let DrillRequest { assertions, database, timeout, .. } = questions.request;
    if assertions.is_empty() {
        return;
    }
    let session = match questions.in_database(database).await {
        Ok(session) => session,
        Err(said) => {
            questions.note(DrillCheck::new("assertions", false, said.message));
            return;
        }
    };
    for assertion in assertions {
        let begun = Instant::now();
        let made = match one(&session, assertion, *timeout).await {
            Ok(None) => continue,
            Ok(Some(made)) => made,
            // What was to be asserted is not known to hold.
            Err(said) => DrillCheck::new(&assertion.name, false, said.message),
        };
        questions.note(DrillCheck { seconds: begun.elapsed().as_secs_f64(), ..made });
    }
}

/// A statement without columns prepares the next ones and asserts nothing.
async fn one(
    session: &Session,
    assertion: &Assertion,
    within: std::time::Duration,
) -> Result<Option<DrillCheck>, Said> {
    let name = &assertion.name;
    let statement = session.bounded(within, session.client.prepare(&assertion.sql)).await?;
    let kind = statement.columns().first().map(tokio_postgres::Column::type_);
    if let Some(other) = kind.filter(|kind| **kind != Type::BOOL) {
        let detail = format!("its first column is {other}, and an assertion gives true or false");
        return Ok(Some(DrillCheck::new(name, false, detail)));
    }
    let rows = session.bounded(within, session.client.query(&statement, &[])).await?;
    if kind.is_none() {
        return Ok(None);
    }
    let is_true = |row: &tokio_postgres::Row| row.try_get::<_, Option<bool>>(0).ok().flatten() == Some(true);
    let wrong = rows.iter().filter(|row| !is_true(row)).count();
    let detail = match (rows.len(), wrong) {
        (0, _) => "it gives no row, and none that is not true".to_owned(),
        (1, 0) => "true".to_owned(),
        (1, _) => "not true".to_owned(),
        (rows, 0) => format!("true in all of {rows} rows"),
        (rows, wrong) => format!("not true in {wrong} of {rows} rows"),
    };
    Ok(Some(DrillCheck::new(name, wrong == 0, detail)))
}
