//! The JSON gateway.
use crate::{front::Front, service::Service};
use actix_web::web::ServiceConfig;

pub(crate) fn configure<F: Front>(_config: &mut ServiceConfig, _service: &Service<F>) {}
