//! `{prefix}/resend`: a form that came after its session had run out is shown to its person, and sent again by their
//! click (see [`super::stash`]).

use bytes::Bytes;
use http::{
    HeaderValue, Method, Response, StatusCode,
    header::{LOCATION, SET_COOKIE},
    request::Parts,
};
use http_body::Body;

use super::{
    Answer, Context, Event, form, query, require_encryption,
    return_to::ReturnTo,
    see_other,
    stash::{Form, STASH_COOKIE, Taken},
    views,
};
use crate::{
    page::{self, Text},
    refusal::Refusal,
    session::{SameSite, cookie},
};

/// The form with the question whether to send it (GET), the sending, or the refusal to (POST).
///
/// # Errors
/// [`Refusal`]s for bodies and methods.
pub async fn resend<B: Body<Data = Bytes>>(head: &Parts, body: B, context: Context<'_>) -> Result<Answer, Refusal> {
    require_encryption(context.view)?;
    match head.method {
        Method::GET | Method::HEAD => Ok(Answer::told(question(head, context))),
        Method::POST if query(head, "discard").is_some() => Ok(Answer::told(discard(head, context))),
        Method::POST => {
            let body = form::read_up_to(body, Form::MAX_BYTES).await?;
            Ok(send(head, &body, context))
        }
        _ => Err(Refusal::MethodNotAllowed { allow: HeaderValue::from_static("GET, HEAD, POST") }),
    }
}

/// Where a browser goes after a login: to the question, if a form waits for whoever logged in.
pub(super) fn next(
    head: &http::HeaderMap,
    session: &crate::session::Session,
    return_to: &ReturnTo,
    context: Context<'_>,
) -> String {
    let identity = session.identity();
    let prefix = &context.login.prefix;
    let here = format!("{prefix}/resend");
    let asks_already = return_to.as_str().split('?').next() == Some(&here);
    if !asks_already && context.stash.waits(head, identity.realm(), identity.subject(), context.now) {
        format!("{here}?return_to={}", return_to.encoded())
    } else {
        return_to.as_str().to_owned()
    }
}

fn question(head: &Parts, context: Context<'_>) -> Response<Bytes> {
    let face = context.face;
    let return_to = ReturnTo::or_root(query(head, "return_to").as_deref());
    let shown = context.session.and_then(|session| {
        let identity = session.identity();
        context.stash.show(&head.headers, identity.realm(), identity.subject(), context.now)
    });
    match shown {
        Some(shown) => {
            let content = views::resend(face, &context.login.prefix, &shown, &return_to);
            face.page_leading_on(StatusCode::OK, face.say(Text::ResendQuestion), &content)
        }
        None => nothing(StatusCode::NOT_FOUND, &return_to, context),
    }
}

fn send(head: &Parts, body: &[u8], context: Context<'_>) -> Answer {
    let taken = match context.session {
        Some(session) => {
            let identity = session.identity();
            context.stash.take(&head.headers, (identity.realm(), identity.subject()), body, context.now)
        }
        None => Taken::Nothing,
    };
    match taken {
        Taken::Sent(target) => {
            let mut response = page::empty(StatusCode::TEMPORARY_REDIRECT);
            let location = HeaderValue::try_from(target.as_str()).unwrap_or(HeaderValue::from_static("/"));
            response.headers_mut().insert(LOCATION, location);
            response.headers_mut().append(SET_COOKIE, clear());
            Answer { response, event: Event::Told }
        }
        Taken::Altered | Taken::Nothing => Answer::told(nothing(StatusCode::GONE, &ReturnTo::ROOT, context)),
    }
}

fn discard(head: &Parts, context: Context<'_>) -> Response<Bytes> {
    if let Some(session) = context.session {
        let identity = session.identity();
        context.stash.discard(&head.headers, identity.realm(), identity.subject(), context.now);
    }
    let return_to = ReturnTo::or_root(query(head, "return_to").as_deref());
    let mut response = see_other(return_to.as_str());
    response.headers_mut().append(SET_COOKIE, clear());
    response
}

fn nothing(status: StatusCode, return_to: &ReturnTo, context: Context<'_>) -> Response<Bytes> {
    let face = context.face;
    face.page(status, face.say(Text::NothingToResend), &views::nothing_to_resend(face, return_to))
}

fn clear() -> HeaderValue {
    cookie::value(STASH_COOKIE, "", "; Max-Age=0", SameSite::Lax)
}
