//! stub
use crate::failure::Result;
pub(crate) fn main(_a: &[String]) -> Result<()> {
    Ok(())
}
