//! What a query string or a form says.

use actix_web::web::Query;

/// Names and values, in order, without their escapes; none if it is malformed.
pub(crate) fn pairs(encoded: &str) -> Vec<(String, String)> {
    Query::<Vec<(String, String)>>::from_query(encoded).map(Query::into_inner).unwrap_or_default()
}
