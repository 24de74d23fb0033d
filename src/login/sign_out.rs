//! `{prefix}/logout`: the question, and the act.

use std::borrow::Cow;

use bytes::Bytes;
use http::{
    HeaderMap, HeaderValue, Method, StatusCode,
    header::{ACCEPT, SET_COOKIE},
    request::Parts,
};
use http_body::Body;
use serde_json::json;

use super::{
    Answer, Context, Event,
    form::{self, Kind},
    query, require_encryption,
    return_to::ReturnTo,
    see_other, shown_name, views,
};
use crate::{
    page::{self, Text},
    refusal::Refusal,
    session::cookie,
};

/// `{prefix}/logout`: the question (GET), or the act (POST).
///
/// # Errors
/// [`Refusal`]s for bodies and methods. Whoever is not logged in is logged out too.
pub async fn sign_out<B: Body<Data = Bytes>>(head: &Parts, body: B, context: Context<'_>) -> Result<Answer, Refusal> {
    require_encryption(context.view)?;
    match head.method {
        Method::GET | Method::HEAD => {
            let who = context.session.map(|session| shown_name(session.identity()));
            let return_to = query(head, "return_to").and_then(|text| ReturnTo::parse(&text));
            let content = views::sign_out(context.face, &context.login.prefix, who, return_to.as_ref());
            Ok(Answer::told(context.face.page_leading_on(StatusCode::OK, context.face.say(Text::SignOut), &content)))
        }
        Method::POST => {
            let body = form::read(body).await?;
            let wants_json = wants_json(&head.headers);
            // Programs need not send a body.
            let return_to = if body.is_empty() || form::kind(&head.headers)? == Kind::Json {
                None
            } else {
                form::return_to(&body)?.and_then(|text| ReturnTo::parse(&text))
            };
            let event = match context.session {
                Some(session) => {
                    context.store.end(session.key()).await.map_err(|_| Refusal::NotWritten)?;
                    context.tell_logout(session);
                    Event::LoggedOut
                }
                None => Event::Told,
            };
            let mut response = if wants_json {
                page::json(StatusCode::OK, &json!({ "authenticated": false }))
            } else {
                let sign_in = || Cow::Owned(format!("{}/login?signed_out", context.login.prefix));
                let next = return_to.as_ref().map_or_else(sign_in, |path| Cow::Borrowed(path.as_str()));
                see_other(&next)
            };
            response.headers_mut().append(SET_COOKIE, cookie::clear(context.sessions));
            Ok(Answer { response, event })
        }
        _ => Err(Refusal::MethodNotAllowed { allow: HeaderValue::from_static("GET, HEAD, POST") }),
    }
}

/// Programs say that they want JSON; browsers say that they want HTML, among others.
pub(super) fn wants_json(headers: &HeaderMap) -> bool {
    let accepts = |kind: &[u8]| {
        let mut listed = headers.get_all(ACCEPT).iter().flat_map(|value| value.as_bytes().split(|byte| *byte == b','));
        listed.any(|item| {
            item.split(|byte| *byte == b';').next().is_some_and(|item| item.trim_ascii().eq_ignore_ascii_case(kind))
        })
    };
    accepts(b"application/json") && !accepts(b"text/html")
}
