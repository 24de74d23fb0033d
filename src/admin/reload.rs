//! Reloading the configuration, and what came of the last time.

use http::StatusCode;
use serde_json::{Value, json};

use super::{Context, problem::Problem, sessions::time};
use crate::change::{Applied, Cause, Outcome};

/// Reloads and waits for what comes of it: 200 if it was applied, 422 if it was refused, 409 if it asks for a restart.
pub(super) async fn reload(context: &Context<'_>) -> Result<(StatusCode, Value), Problem> {
    let outcome = context.reloads.reload(Cause::Admin).await.map_err(|_| Problem::Stopping)?;
    let status = match &outcome {
        Outcome::Applied(_) | Outcome::Unchanged => StatusCode::OK,
        Outcome::Refused(_) => StatusCode::UNPROCESSABLE_ENTITY,
        Outcome::RestartNeeded(_) => StatusCode::CONFLICT,
    };
    Ok((status, describe(&outcome, context.generation)))
}

/// What came of the last reload, whoever asked for it.
pub(super) fn last(context: &Context<'_>) -> Value {
    let last = context.reloads.last().map(|(at, outcome)| {
        let mut told = describe(&outcome, context.generation);
        told["at"] = time(at);
        told
    });
    json!({ "generation": context.generation, "last_success_at": time(context.reloads.last_success()), "last": last })
}

/// `generation` is the one in use if nothing was applied.
fn describe(outcome: &Outcome, generation: u64) -> Value {
    let result = outcome.label();
    match outcome {
        Outcome::Applied(Applied { generation, changes, warnings, sessions_ended, sessions_updated }) => json!({
            "result": result,
            "generation": generation,
            "changes": changes,
            "warnings": warnings,
            "sessions_ended": sessions_ended,
            "sessions_updated": sessions_updated,
        }),
        Outcome::Refused(problems) => json!({
            "result": result,
            "generation": generation,
            "problems": problems,
            "message": format!("the reload was refused, nothing has changed\n\n{}", problems.join("\n")),
        }),
        Outcome::RestartNeeded(keys) => json!({
            "result": result,
            "generation": generation,
            "keys": keys,
            "message": format!("nothing has changed: these keys need a restart: {}", keys.join(", ")),
        }),
        Outcome::Unchanged => json!({ "result": result, "generation": generation }),
    }
}
