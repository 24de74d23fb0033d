//! Somebody in front of a browser: marks navigations as browsers do, keeps cookies, submits forms as the page has them.
//!
//! Redirects are not followed by themselves: a test says when, with [`Person::follow`].

use std::collections::BTreeMap;

use super::{Client, Response, client::Request};

/// One browser, and whoever sits there.
pub(crate) struct Person {
    client: Client,
    /// Value by name.
    cookies: BTreeMap<String, String>,
}

/// A form of a page, ready to be filled in.
#[derive(Clone, Debug)]
pub(crate) struct Form {
    pub(crate) action: String,
    /// Hidden fields first, as the page has them.
    pub(crate) fields: Vec<(String, String)>,
}

impl Person {
    pub(crate) fn new(client: Client) -> Self {
        Self { client, cookies: BTreeMap::new() }
    }

    /// Goes to an address of this host.
    #[track_caller]
    pub(crate) fn visit(&mut self, target: &str) -> Response {
        let request = self.client.get(target).navigation();
        self.send(request)
    }

    /// Goes where the last answer points to; it must point to a path of this host.
    #[track_caller]
    pub(crate) fn follow(&mut self, answer: &Response) -> Response {
        let target = answer.header("location").unwrap_or_else(|| panic!("no redirect: {answer:?}")).to_owned();
        assert!(target.starts_with('/'), "{target}");
        self.visit(&target)
    }

    /// Submits the only form of a page with these fields besides those that it has.
    #[track_caller]
    pub(crate) fn submit(&mut self, page: &Response, fields: &[(&str, &str)]) -> Response {
        let mut form = Form::of(page);
        form.fields.extend(fields.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())));
        self.send_form(&form)
    }

    /// Submits a form, as the page has it or tampered with.
    #[track_caller]
    pub(crate) fn send_form(&mut self, form: &Form) -> Response {
        let request = self
            .client
            .post(&form.action, form.encoded())
            .header("Content-Type", "application/x-www-form-urlencoded")
            .header("Sec-Fetch-Site", "same-origin")
            .header("Sec-Fetch-Mode", "navigate")
            .header("Sec-Fetch-Dest", "document")
            .header("Accept", "text/html");
        self.send(request)
    }

    /// Opens the login page and fills it in.
    #[track_caller]
    pub(crate) fn log_in(&mut self, name: &str, password: &str) -> Response {
        let page = self.visit("/_auth/login").expect(200);
        self.submit(&page, &[("username", name), ("password", password)])
    }

    /// Sends anything with this browser's cookies, and keeps those of the answer.
    #[track_caller]
    pub(crate) fn send(&mut self, request: Request) -> Response {
        let pairs: Vec<String> = self.cookies.iter().map(|(name, value)| format!("{name}={value}")).collect();
        let request = if pairs.is_empty() { request } else { request.cookie(&pairs.join("; ")) };
        let answer = request.send();
        for line in answer.all("set-cookie") {
            let (name, value) = line.split(';').next().and_then(|pair| pair.split_once('=')).expect("a cookie");
            if line.contains("Max-Age=0") {
                self.cookies.remove(name);
            } else {
                self.cookies.insert(name.to_owned(), value.to_owned());
            }
        }
        answer
    }

    pub(crate) fn cookie(&self, name: &str) -> Option<&str> {
        self.cookies.get(name).map(String::as_str)
    }

    /// Plants a cookie, as a neighbouring host or somebody at the keyboard may.
    pub(crate) fn plant(&mut self, name: &str, value: &str) {
        self.cookies.insert(name.to_owned(), value.to_owned());
    }

    /// Loses one, as browsers do with old ones.
    pub(crate) fn forget(&mut self, name: &str) {
        self.cookies.remove(name);
    }
}

impl Form {
    /// The only form of a page.
    #[track_caller]
    pub(crate) fn of(page: &Response) -> Self {
        let text = page.text();
        assert_eq!(text.matches("<form").count(), 1, "one form: {text}");
        let form = text.split("<form").nth(1).and_then(|rest| rest.split("</form>").next()).expect("a form that ends");
        let action = attribute(form, "action").expect("an action");
        let hidden = form.split("<input").skip(1).filter(|input| input.contains("type=\"hidden\""));
        let fields = hidden
            .map(|input| (attribute(input, "name").expect("a name"), attribute(input, "value").unwrap_or_default()))
            .collect();
        Self { action, fields }
    }

    /// The same form with another value in a field, or with that field besides.
    pub(crate) fn with(mut self, name: &str, value: &str) -> Self {
        self.fields.retain(|(one, _)| one != name);
        self.fields.push((name.to_owned(), value.to_owned()));
        self
    }

    /// `application/x-www-form-urlencoded`.
    pub(crate) fn encoded(&self) -> String {
        let pair = |(name, value): &(String, String)| format!("{}={}", percent(name), percent(value));
        self.fields.iter().map(pair).collect::<Vec<_>>().join("&")
    }
}

/// Percent-encodes everything but letters and digits.
pub(crate) fn percent(text: &str) -> String {
    text.bytes()
        .map(|byte| if byte.is_ascii_alphanumeric() { char::from(byte).to_string() } else { format!("%{byte:02X}") })
        .collect()
}

fn attribute(tag: &str, name: &str) -> Option<String> {
    let value = tag.split(&format!(" {name}=\"")).nth(1)?.split('"').next()?;
    let plain = value.replace("&lt;", "<").replace("&gt;", ">").replace("&quot;", "\"").replace("&#39;", "'");
    Some(plain.replace("&amp;", "&"))
}
