//! The identity headers: who is calling, told to the upstream (R12, R13).
//!
//! In: the verified identity and the settings. Out: header lines; whatever a client sent under these names was left
//! out before. An absent value is an absent header; a set that is too large is refused, never cut.
//! Values are prepared once: those of `fields` with the identity, those of `extra` once for each generation.

use std::{cell::RefCell, sync::Arc};

use http::{HeaderName, HeaderValue};
use serde_json::Value;

use super::{Lines, RewriteError, Settings, names};
use crate::identity::{ExtraHeaders, Field, Identity, encode_item, encode_text};

/// Whether a header of a client, or a trailer, is removed because its name is ours to set (R12).
pub fn is_managed(name: &HeaderName, settings: &Settings) -> bool {
    match names::kind(name, settings) {
        None => true,
        Some(names::Kind::Identity | names::Kind::Forwarding) => true,
        Some(
            names::Kind::Authorization
            | names::Kind::Connection
            | names::Kind::Cookie
            | names::Kind::Expect
            | names::Kind::Framing
            | names::Kind::Hop
            | names::Kind::Host
            | names::Kind::MethodOverride
            | names::Kind::Ordinary
            | names::Kind::Proof
            | names::Kind::RequestId
            | names::Kind::Te
            | names::Kind::Traceparent
            | names::Kind::Tracestate
            | names::Kind::Upgrade
            | names::Kind::WebSocketKey,
        ) => false,
    }
}

/// Whether a header of this name can carry something of an identity: it has no meaning of its own to us.
pub fn may_carry(name: &HeaderName) -> bool {
    names::is_free(name)
}

/// Adds the headers of an identity, and what was signed about it.
pub(super) fn put(
    lines: &mut Lines,
    identity: &Identity,
    assertion: Option<&str>,
    settings: &Settings,
) -> Result<(), RewriteError> {
    let bytes = RECENT.with_borrow_mut(|recent| recent.put(lines, identity, settings))?;
    if let (Some(text), Some(assertion)) = (assertion, &settings.assertion) {
        let name = assertion.header.as_str();
        if bytes + name.len() + text.len() > settings.max_bytes {
            return Err(RewriteError::IdentityTooLarge);
        }
        lines.put_bytes(name, text.as_bytes());
    }
    Ok(())
}

/// The lines of callers that came twice of late, so that whoever asks often is not spelled out each time.
struct Recent(Vec<Spelled>);

/// One caller, under one generation of the settings.
#[derive(Default)]
struct Spelled {
    /// The serial number of the identity.
    of: u64,
    generation: u64,
    lines: Vec<u8>,
    /// Of names and values.
    bytes: usize,
    /// Who came last and is not `of`: if they come again, `of` did not come between.
    next: u64,
}

impl Recent {
    #[expect(clippy::indexing_slicing, reason = "a remainder is within")]
    fn put(&mut self, lines: &mut Lines, identity: &Identity, settings: &Settings) -> Result<usize, RewriteError> {
        let serial = identity.serial();
        #[expect(clippy::cast_possible_truncation, reason = "any part of a number will do")]
        let known = &mut self.0[serial as usize % RECENT_CALLERS];
        if known.of == serial && known.generation == settings.generation {
            known.next = 0;
            lines.put_lines(&known.lines);
            return Ok(known.bytes);
        }
        let begin = lines.len();
        let bytes = put_each(lines, identity, settings)?;
        if known.next == serial {
            (known.of, known.generation, known.next) = (serial, settings.generation, 0);
            known.bytes = bytes;
            known.lines.clear();
            known.lines.extend_from_slice(lines.since(begin));
        } else {
            known.next = serial;
        }
        Ok(bytes)
    }
}

/// Adds them one by one, and tells the bytes of their names and values.
fn put_each(lines: &mut Lines, identity: &Identity, settings: &Settings) -> Result<usize, RewriteError> {
    let mut bytes = 0;
    let mut put = |name: &HeaderName, value: &HeaderValue| {
        bytes += name.as_str().len() + value.len();
        if bytes > settings.max_bytes {
            return Err(RewriteError::IdentityTooLarge);
        }
        lines.put(name, value);
        Ok(())
    };
    let prepared = (settings.subject_with_realm || !settings.extra.is_empty()).then(|| prepared(identity, settings));
    for (name, field) in &*settings.fields {
        let value = match (field, &prepared) {
            (Field::Id, Some(prepared)) if settings.subject_with_realm => {
                prepared.values.get(settings.extra.len()).and_then(Option::as_ref)
            }
            _ => identity.header(*field),
        };
        if let Some(value) = value {
            put(name, value)?;
        }
    }
    for ((name, _), value) in settings.extra.iter().zip(prepared.iter().flat_map(|prepared| &prepared.values)) {
        if let Some(value) = value {
            put(name, value)?;
        }
    }
    Ok(bytes)
}

/// The values of `extra` in their order and, behind them, `realm:sub` if that is asked for.
fn prepared(identity: &Identity, settings: &Settings) -> Arc<ExtraHeaders> {
    let slot = identity.extra();
    if let Some(known) = &*slot.load()
        && known.generation == settings.generation
    {
        return Arc::clone(known);
    }
    let claim = |path: &crate::policy::ClaimPath| identity.claims().and_then(|claims| path.find(claims));
    let mut values: Vec<Option<HeaderValue>> =
        settings.extra.iter().map(|(_, path)| claim(path).and_then(header_value)).collect();
    if settings.subject_with_realm {
        // With its colons encoded the realm ends at the first colon, and no two pairs look alike.
        let realm = encode_text(identity.realm()).replace(':', "%3A");
        let text = format!("{realm}:{}", encode_text(identity.subject()));
        values.push(HeaderValue::try_from(text).ok());
    }
    let made = Arc::new(ExtraHeaders { generation: settings.generation, values: values.into() });
    slot.store(Some(Arc::clone(&made)));
    made
}

/// A claim as a header value; objects, `null` and what is empty have none.
fn header_value(claim: &Value) -> Option<HeaderValue> {
    let scalar = |value: &Value| match value {
        Value::String(text) => Some(text.clone()),
        Value::Bool(truth) => Some(truth.to_string()),
        Value::Number(number) => Some(number.to_string()),
        Value::Array(_) | Value::Null | Value::Object(_) => None,
    };
    let text = match claim {
        Value::Array(items) => {
            let items: Vec<String> = items.iter().filter_map(scalar).filter(|item| !item.is_empty()).collect();
            items.iter().map(|item| encode_item(item)).collect::<Vec<_>>().join(",")
        }
        Value::Bool(_) | Value::Null | Value::Number(_) | Value::Object(_) | Value::String(_) => {
            encode_text(&scalar(claim)?).into_owned()
        }
    };
    if text.is_empty() { None } else { HeaderValue::try_from(text).ok() }
}

thread_local! {
    static RECENT: RefCell<Recent> = RefCell::new(Recent((0..RECENT_CALLERS).map(|_| Spelled::default()).collect()));
}

/// Callers for each worker whose lines are kept; a power of two.
const RECENT_CALLERS: usize = 128;

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;
    use crate::{
        headers::{
            Profile,
            tests::{identity, settings},
        },
        identity::{IdentityParts, decode},
        policy::ClaimPath,
    };

    fn with_claims(claims: Value) -> Identity {
        let Value::Object(claims) = claims else { panic!("an object") };
        Identity::new(IdentityParts { claims, ..identity().to_parts() }).unwrap()
    }

    fn shown(identity: &Identity, settings: &Settings) -> Result<Vec<String>, RewriteError> {
        let mut lines = Lines::new();
        put(&mut lines, identity, None, settings)?;
        Ok(lines.to_map().iter().map(|(name, value)| format!("{name}: {}", value.to_str().unwrap())).collect())
    }

    #[test]
    fn each_profile_carries_the_fields_it_names() {
        for (profile, expect) in [
            (
                Profile::XUser,
                &[
                    "x-user-id: alice",
                    "x-user-name: Alice %C3%84",
                    "x-user-email: a@example.com",
                    "x-user-roles: admin,a%2Cb",
                    "x-user-groups: ops",
                    "x-user-auth: session",
                ][..],
            ),
            (
                Profile::RemoteUser,
                &[
                    "remote-user: alice",
                    "remote-name: Alice %C3%84",
                    "remote-email: a@example.com",
                    "remote-groups: ops",
                ],
            ),
            (
                Profile::XForwardedUser,
                &[
                    "x-forwarded-user: alice",
                    "x-forwarded-email: a@example.com",
                    "x-forwarded-groups: ops",
                    "x-forwarded-preferred-username: Alice %C3%84",
                ],
            ),
            (
                Profile::XAuthRequest,
                &[
                    "x-auth-request-user: alice",
                    "x-auth-request-email: a@example.com",
                    "x-auth-request-groups: ops",
                    "x-auth-request-preferred-username: Alice %C3%84",
                ],
            ),
        ] {
            let settings = Settings { fields: profile.fields(), ..settings() };
            let shown = shown(&identity(), &settings).unwrap();
            assert_eq!(shown, expect, "{profile:?}");
        }
    }

    #[test]
    fn extra_headers_are_made_once_for_each_generation() {
        let extra = |name: &str, path: &str| (name.parse().unwrap(), ClaimPath::dotted(path));
        let mut settings = Settings {
            fields: Box::new([]),
            extra: Box::new([extra("x-dept", "dept"), extra("x-n", "n"), extra("x-list", "list"), extra("x-no", "no")]),
            ..settings()
        };
        let identity = with_claims(json!({ "dept": "R&D ü", "n": 7, "list": ["a b", "c", {}], "no": {} }));

        assert_eq!(shown(&identity, &settings).unwrap(), ["x-dept: R&D %C3%BC", "x-n: 7", "x-list: a%20b,c"]);
        let first = identity.extra().load_full().unwrap();
        shown(&identity, &settings).unwrap();
        assert!(Arc::ptr_eq(&first, &identity.extra().load_full().unwrap()));

        settings.generation += 1;
        settings.extra = Box::new([extra("x-other", "n")]);
        assert_eq!(shown(&identity, &settings).unwrap(), ["x-other: 7"]);
    }

    #[test]
    fn a_caller_is_told_alike_however_often_and_with_whom_in_turn() {
        let callers: Vec<Identity> = (0..3 * RECENT_CALLERS)
            .map(|number| {
                Identity::new(IdentityParts { subject: number.to_string(), ..identity().to_parts() }).unwrap()
            })
            .collect();
        let mut settings = settings();
        for round in 0..4 {
            settings.generation += round / 2;
            for caller in callers.iter().flat_map(|caller| [caller, caller, &callers[0]]) {
                let mut each = Lines::new();
                put_each(&mut each, caller, &settings).unwrap();
                let mut lines = Lines::new();
                put(&mut lines, caller, None, &settings).unwrap();
                assert_eq!(lines, each, "{} in round {round}", caller.subject());
            }
        }
    }

    #[test]
    fn the_realm_can_go_with_the_subject() {
        let settings = Settings { subject_with_realm: true, ..settings() };
        let parts = IdentityParts { realm: "st:aff".into(), subject: "a:b".into(), ..identity().to_parts() };
        let identity = Identity::new(parts).unwrap();

        assert_eq!(shown(&identity, &settings).unwrap()[0], "x-user-id: st%3Aaff:a:b");
    }

    #[test]
    fn headers_above_the_bound_are_refused_not_cut() {
        let exact: usize = shown(&identity(), &settings()).unwrap().iter().map(|line| line.len() - 2).sum();

        assert!(shown(&identity(), &Settings { max_bytes: exact, ..settings() }).is_ok());
        assert_eq!(
            shown(&identity(), &Settings { max_bytes: exact - 1, ..settings() }),
            Err(RewriteError::IdentityTooLarge)
        );
    }

    proptest! {
        #[test]
        fn decoding_the_split_value_gives_the_list_back(
            roles in prop::collection::vec("\\PC{1,8}|[,;% a]{1,4}", 0..6),
            name in "\\PC{1,12}",
        ) {
            let parts = IdentityParts { roles: roles.clone(), name: Some(name.clone()), ..identity().to_parts() };
            let mut lines = Lines::new();
            put(&mut lines, &Identity::new(parts).unwrap(), None, &settings()).unwrap();
            let headers = lines.to_map();

            let read: Vec<String> = headers.get("x-user-roles").map_or_else(Vec::new, |value| {
                value.to_str().unwrap().split(',').map(decode).collect()
            });
            prop_assert_eq!(read, roles);
            prop_assert_eq!(decode(headers["x-user-name"].to_str().unwrap()), name);
        }
    }
}
