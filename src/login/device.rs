//! The device cookie: which users have logged in from this browser before, so that guessing at their names from
//! elsewhere does not slow them down here (OWASP, "Slow Down Online Guessing Attacks with Device Cookies").
//!
//! In: the cookie of a request, and after a login whose it was. Out: whether the browser is known to a user, and the
//! cookie's next value.
//! Invariants: nothing is stored but the key, so there is nothing to fill up; a mark counts for one (realm, subject)
//! and one browser only, for half a year; the value has one length and is random to whoever lacks the key, so it tells
//! nothing, not even how many people use the browser; it opens nothing: a password is still needed.

use std::fmt;

use aws_lc_rs::hmac;
use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use http::{HeaderMap, HeaderValue};
use zeroize::Zeroizing;

use crate::{
    clock::Timestamp,
    durable::{Batch, Durable, LoadError, Table},
    secret,
    session::{SameSite, cookie},
};

/// Its name. One of ours: cut out of `Cookie` like the session's (R14). Not `__Host-`, which would need the path `/`:
/// it lives for months, and with our own prefix as its path no other request carries it. A neighbouring host that
/// plants another one makes the browser a stranger, which costs at most a short wait.
pub const DEVICE_COOKIE: &str = "__Secure-portcullis-device";

/// Makes and recognizes marks.
pub struct Devices {
    key: hmac::Key,
}

/// What a browser's cookie holds: a random name, and marks of the users who logged in there last.
#[derive(Clone, Debug)]
pub(super) struct Device {
    id: [u8; ID_BYTES],
    marks: [[u8; MARK_BYTES]; MARKS],
}

impl Devices {
    /// With a key of this process: a restart makes browsers strangers, which costs at most a short wait.
    pub fn new() -> Self {
        Self::with(&Zeroizing::new(secret::random()))
    }

    /// With the key that is on disk, which is made at first; without a disk, with one of this process. Waits for the
    /// disk: not for workers.
    ///
    /// # Errors
    /// [`LoadError`] when it cannot be read or written.
    pub fn open(durable: Option<&Durable>) -> Result<Self, LoadError> {
        let Some(durable) = durable else {
            return Ok(Self::new());
        };
        let mut known = None;
        durable.load(Table::Devices, |name, key| {
            if name == KEY {
                known = Some(Zeroizing::new(key.try_into().map_err(|_| "the key of device cookies cannot be read")?));
            }
            Ok(())
        })?;
        let key = match known {
            Some(key) => key,
            None => {
                let key = Zeroizing::new(secret::random::<KEY_BYTES>());
                let written = durable.commit(Batch::new().put(Table::Devices, KEY, key.to_vec())).wait();
                written.map_err(|_| LoadError::of_record(Table::Devices, "its key cannot be written"))?;
                key
            }
        };
        Ok(Self::with(&key))
    }

    fn with(key: &[u8; KEY_BYTES]) -> Self {
        Self { key: hmac::Key::new(hmac::HMAC_SHA256, key) }
    }

    /// Whether this user has logged in from this browser within about half a year. Takes the same time whatever the
    /// answer is.
    pub(super) fn knows(&self, device: &Device, realm: &str, subject: &str, now: Timestamp) -> bool {
        let period = period(now);
        let marks = (0..=PERIODS).map(|age| self.mark(device, realm, subject, period.saturating_sub(age)));
        marks.fold(false, |known, mark| known | device.slot_of(&mark).is_some())
    }

    /// The cookie's value after a login of this user: the marks of others who use the browser stay, up to a few.
    pub(super) fn remember(&self, device: Option<Device>, realm: &str, subject: &str, now: Timestamp) -> String {
        let mut device = device.unwrap_or_else(Device::generate);
        let period = period(now);
        let old = (0..=PERIODS)
            .find_map(|age| device.slot_of(&self.mark(&device, realm, subject, period.saturating_sub(age))));
        let mark = self.mark(&device, realm, subject, period);
        // The newest first; without an old mark of this user the oldest of all goes.
        if let Some(newer) = device.marks.get_mut(..=old.unwrap_or(MARKS - 1)) {
            newer.rotate_right(1);
        }
        device.marks[0] = mark;
        device.encode()
    }

    fn mark(&self, device: &Device, realm: &str, subject: &str, period: u64) -> [u8; MARK_BYTES] {
        let mut context = hmac::Context::with_key(&self.key);
        context.update(b"portcullis device\0");
        context.update(&device.id);
        context.update(&period.to_be_bytes());
        context.update(&(realm.len() as u64).to_be_bytes());
        context.update(realm.as_bytes());
        context.update(subject.as_bytes());
        let tag = context.sign();
        let mut mark = [0; MARK_BYTES];
        mark.iter_mut().zip(tag.as_ref()).for_each(|(to, from)| *to = *from);
        mark
    }
}

/// `Set-Cookie` with such a value, for the endpoints under `prefix`.
pub(super) fn set_cookie(prefix: &str, value: &str) -> HeaderValue {
    cookie::value_at(prefix, DEVICE_COOKIE, value, LIFETIME, SameSite::Lax)
}

impl Default for Devices {
    fn default() -> Self {
        Self::new()
    }
}

impl fmt::Debug for Devices {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("[devices]")
    }
}

impl Device {
    /// What a request's cookie says; `None` if it is absent, doubled or none of ours.
    pub(super) fn of(headers: &HeaderMap) -> Option<Self> {
        let cookie::Presented::One(value) = cookie::find(headers, DEVICE_COOKIE) else {
            return None;
        };
        if value.len() != TEXT_BYTES {
            return None;
        }
        let bytes = URL_SAFE_NO_PAD.decode(value).ok()?;
        let (id, marks) = bytes.split_first_chunk::<ID_BYTES>()?;
        let (chunks, []) = marks.as_chunks::<MARK_BYTES>() else {
            return None;
        };
        Some(Self { id: *id, marks: chunks.try_into().ok()? })
    }

    /// The random name, for buckets of its own.
    pub(super) const fn id(&self) -> &[u8; ID_BYTES] {
        &self.id
    }

    /// A browser that nobody is known in: its marks are random, as marks look.
    fn generate() -> Self {
        Self { id: secret::random(), marks: std::array::from_fn(|_| secret::random()) }
    }

    fn slot_of(&self, mark: &[u8; MARK_BYTES]) -> Option<usize> {
        self.marks.iter().position(|own| secret::constant_time_eq(own, mark))
    }

    fn encode(&self) -> String {
        URL_SAFE_NO_PAD.encode([&self.id[..], self.marks.as_flattened()].concat())
    }
}

fn period(now: Timestamp) -> u64 {
    now.unix_seconds() / PERIOD_SECONDS
}

/// The record with the key of all marks, and its length.
const KEY: &[u8] = b"key";
const KEY_BYTES: usize = 32;

const ID_BYTES: usize = 16;
const MARK_BYTES: usize = 16;

/// Users of one browser that are known in it.
const MARKS: usize = 4;

/// Of the cookie's value.
const TEXT_BYTES: usize = ((ID_BYTES + MARKS * MARK_BYTES) * 8).div_ceil(6);

/// A mark counts for the rest of its period and so many more.
const PERIODS: u64 = 6;
const PERIOD_SECONDS: u64 = 30 * 24 * 60 * 60;

/// As long as a mark counts; each login begins it anew.
const LIFETIME: &str = "; Max-Age=15552000";

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use http::header::COOKIE;

    use super::*;
    use crate::{clock::Clock, durable};

    const NOW: Timestamp = Timestamp::from_unix_seconds(1_800_000_000);
    const DAY: Duration = Duration::from_secs(24 * 60 * 60);

    fn sent(value: &str) -> HeaderMap {
        HeaderMap::from_iter([(COOKIE, HeaderValue::try_from(format!("{DEVICE_COOKIE}={value}")).unwrap())])
    }

    fn next(devices: &Devices, device: Option<Device>, realm: &str, subject: &str) -> Device {
        Device::of(&sent(&devices.remember(device, realm, subject, NOW))).unwrap()
    }

    #[test]
    fn a_browser_is_known_to_whoever_logged_in_there_and_to_nobody_else() {
        let devices = Devices::new();
        let device = next(&devices, None, "staff", "u-1");

        assert!(devices.knows(&device, "staff", "u-1", NOW));
        for (realm, subject) in [("staff", "u-2"), ("partners", "u-1"), ("staf", "fu-1"), ("staffu", "-1"), ("", "")] {
            assert!(!devices.knows(&device, realm, subject, NOW), "{realm} {subject}");
        }
        assert!(!Devices::new().knows(&device, "staff", "u-1", NOW), "another key");
        let elsewhere = Device { id: secret::random(), ..device };
        assert!(!devices.knows(&elsewhere, "staff", "u-1", NOW), "a mark counts in its browser only");
    }

    #[test]
    fn a_mark_counts_for_half_a_year() {
        let devices = Devices::new();
        let device = next(&devices, None, "staff", "u-1");

        assert!(devices.knows(&device, "staff", "u-1", NOW.plus(179 * DAY)));
        assert!(!devices.knows(&device, "staff", "u-1", NOW.plus(211 * DAY)));
        assert!(!devices.knows(&device, "staff", "u-1", NOW.minus(31 * DAY)), "nor before it was made");
    }

    #[test]
    fn a_browser_is_known_after_a_restart_where_there_is_a_disk() {
        let folder = tempfile::tempdir().unwrap();
        let settings =
            durable::Settings { dir: folder.path().join("state"), key_file: None, timeout: durable::Settings::TIMEOUT };
        let open = || Durable::open(&settings, &Clock::manual(NOW), |_| ()).unwrap();
        let first = Devices::open(Some(&open())).unwrap();
        let device = next(&first, None, "staff", "u-1");

        let second = Devices::open(Some(&open())).unwrap();
        assert!(second.knows(&device, "staff", "u-1", NOW));
        assert!(!second.knows(&device, "staff", "u-2", NOW));
        assert!(!Devices::open(None).unwrap().knows(&device, "staff", "u-1", NOW), "without a disk nothing is kept");

        let broken = open();
        broken.commit(Batch::new().put(Table::Devices, KEY, vec![7; 31])).wait().unwrap();
        assert!(Devices::open(Some(&broken)).is_err(), "half a key is no key");
    }

    #[test]
    fn four_people_can_share_a_browser() {
        let devices = Devices::new();
        let device = ["a", "b", "c", "a", "d"]
            .into_iter()
            .fold(None, |device, subject| Some(next(&devices, device, "staff", subject)))
            .unwrap();
        for subject in ["a", "b", "c", "d"] {
            assert!(devices.knows(&device, "staff", subject, NOW), "{subject}");
        }

        let device = next(&devices, Some(device), "staff", "e");
        let known = ["a", "b", "c", "d", "e"].map(|subject| devices.knows(&device, "staff", subject, NOW));
        assert_eq!(known, [true, false, true, true, true], "who was there longest ago is forgotten");
    }

    #[test]
    fn the_cookie_is_protected_and_of_one_length() {
        let devices = Devices::new();
        let one = devices.remember(None, "staff", "u-1", NOW);
        let two = devices.remember(Device::of(&sent(&one)), "staff", "a much longer subject", NOW);

        assert_eq!(one.len(), two.len());
        let header = set_cookie("/_auth", &one);
        let expected = format!("{DEVICE_COOKIE}={one}; Path=/_auth; Max-Age=15552000; Secure; HttpOnly; SameSite=Lax");
        assert_eq!(header.to_str().unwrap(), expected);
        assert_ne!(one, devices.remember(None, "staff", "u-1", NOW), "random to whoever lacks the key");
    }

    #[test]
    fn nothing_else_is_a_device() {
        let good = "A".repeat(TEXT_BYTES);
        for (cookies, expect) in [
            (format!("{DEVICE_COOKIE}={good}"), true),
            (format!("{DEVICE_COOKIE}={good}; {DEVICE_COOKIE}={good}"), false),
            (format!("{DEVICE_COOKIE}={good}A"), false),
            (format!("{DEVICE_COOKIE}=\"{}\"", &good[2..]), false),
            (format!("{DEVICE_COOKIE}=+{}", &good[1..]), false),
            (format!("{DEVICE_COOKIE}="), false),
            (String::from("x=y"), false),
        ] {
            let headers = HeaderMap::from_iter([(COOKIE, HeaderValue::try_from(&cookies).unwrap())]);
            assert_eq!(Device::of(&headers).is_some(), expect, "{cookies}");
        }
    }
}
