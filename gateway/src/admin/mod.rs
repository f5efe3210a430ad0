//! The admin listener: `/metrics`, `/status`, `/healthz`.
//!
//! **Runs on: control.** Reading is all it can do; it listens on loopback unless told otherwise.

mod listener;
mod prometheus;
mod status;

use std::io;
use std::os::fd::OwnedFd;

use axum::Router;
use axum::extract::State as Extract;
use axum::http::{StatusCode, header};
use axum::response::IntoResponse;
use axum::routing::get;
use tokio::net::TcpListener;

use crate::control::Shared;
use listener::Bounded;

pub use status::Status;

/// Serves the admin listener from a task of the current runtime.
///
/// # Errors
/// When the reactor has no room for the socket.
pub fn serve(listener: OwnedFd, shared: Shared) -> io::Result<()> {
    let listener = Bounded::new(TcpListener::from_std(listener.into())?);
    let routes = Router::new()
        .route("/metrics", get(metrics))
        .route("/status", get(status))
        .route("/healthz", get(healthz))
        .with_state(shared);
    tokio::spawn(async move {
        if let Err(error) = axum::serve(listener, routes).await {
            tracing::error!(%error, "the admin listener ended");
        }
    });
    Ok(())
}

async fn metrics(Extract(shared): Extract<Shared>) -> impl IntoResponse {
    let text = shared.with(|state| prometheus::render(&prometheus::View::of(state)));
    ([(header::CONTENT_TYPE, prometheus::CONTENT_TYPE)], text)
}

async fn status(Extract(shared): Extract<Shared>) -> impl IntoResponse {
    let text = shared.with(|state| status::render(state));
    ([(header::CONTENT_TYPE, "application/json")], text)
}

/// 200 while a data process serves, else 503.
async fn healthz(Extract(shared): Extract<Shared>) -> impl IntoResponse {
    if shared.with(|state| state.data_pid.is_some()) {
        (StatusCode::OK, "ok\n")
    } else {
        (StatusCode::SERVICE_UNAVAILABLE, "no data process\n")
    }
}
