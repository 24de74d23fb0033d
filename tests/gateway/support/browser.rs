//! A real Chromium without a window, spoken to through chromedriver (W3C WebDriver, JSON over plain HTTP).
//!
//! Waits for what a page holds, never for time. Dropping it closes the browser and its driver.

use std::{
    fs,
    net::SocketAddr,
    path::{Path, PathBuf},
    process::Command,
};

use base64::{Engine, engine::general_purpose::STANDARD};
use serde_json::{Value, json};

use super::{
    Client,
    program::{Program, found, free_address},
};

/// One browser with one window.
pub(crate) struct Browser {
    driver: Client,
    session: String,
    _program: Program,
}

impl Browser {
    /// Starts it, or `None` when Chromium or its driver is not installed (see [`found`]).
    #[track_caller]
    pub(crate) fn start() -> Option<Self> {
        let (chromium, chromedriver) = (found("chromium")?, found("chromedriver")?);
        let address = free_address();
        let mut command = Command::new(chromedriver);
        command.arg(format!("--port={}", address.port())).arg("--log-level=SEVERE");
        let program = Program::start(&mut command, address);
        let arguments = [
            "--headless=new",
            "--no-sandbox",
            "--disable-gpu",
            "--disable-dev-shm-usage",
            "--disable-quic",
            "--no-first-run",
            "--disable-background-networking",
            "--disable-component-update",
            "--disable-sync",
            "--hide-scrollbars",
            // The name under which the certificate was made.
            "--host-resolver-rules=MAP *.test 127.0.0.1",
        ];
        let wanted = json!({ "capabilities": { "alwaysMatch": {
            "browserName": "chrome",
            "acceptInsecureCerts": true,
            "goog:chromeOptions": { "binary": chromium, "args": arguments },
        }}});
        let driver = Client::plain(address);
        let answer = driver.post("/session", "").json(&wanted).send().expect(200).json();
        let session = answer["value"]["sessionId"].as_str().expect("a session of the driver").to_owned();
        Some(Self { driver, session, _program: program })
    }

    /// Opens a page and waits until it has loaded.
    #[track_caller]
    pub(crate) fn open(&self, gateway: SocketAddr, path: &str) {
        self.open_host("app.test", gateway, path);
    }

    /// As [`Self::open`], on another host of the gateway.
    #[track_caller]
    pub(crate) fn open_host(&self, host: &str, gateway: SocketAddr, path: &str) {
        self.command("url", &json!({ "url": format!("https://{host}:{}{path}", gateway.port()) }));
    }

    /// Types into the element that this CSS selector finds.
    #[track_caller]
    pub(crate) fn type_into(&self, selector: &str, text: &str) {
        self.command(&format!("element/{}/value", self.element(selector)), &json!({ "text": text }));
    }

    #[track_caller]
    pub(crate) fn click(&self, selector: &str) {
        self.command(&format!("element/{}/click", self.element(selector)), &json!({}));
    }

    /// Clicks what leads to another page, and waits until that one is there, however alike the two are.
    #[track_caller]
    pub(crate) fn click_through(&self, selector: &str) {
        self.run("document.documentElement.dataset.left = 'yes'");
        self.click(selector);
        super::eventually("another page is there", || {
            let script = "return document.readyState === 'complete' && !document.documentElement.dataset.left";
            self.run(script) == true
        });
    }

    /// Waits until the page shows this text.
    #[track_caller]
    pub(crate) fn sees(&self, text: &str) {
        let mut shown = String::new();
        let begun = portcullis::clock::instant();
        while begun.elapsed() < super::patience() {
            shown = self.text();
            if shown.contains(text) {
                return;
            }
            std::thread::yield_now();
        }
        panic!("{text:?} is not in the page at {}:\n{shown}", self.path());
    }

    /// Path and query of the page.
    #[track_caller]
    pub(crate) fn path(&self) -> String {
        self.run("return location.pathname + location.search").as_str().expect("a path").to_owned()
    }

    /// Runs a script in the page, as a developer's console does, and answers what it returns.
    #[track_caller]
    pub(crate) fn run(&self, script: &str) -> Value {
        self.command("execute/sync", &json!({ "script": script, "args": [] }))
    }

    /// As [`Self::run`], for scripts that say `done(…)` later.
    #[track_caller]
    pub(crate) fn run_async(&self, script: &str) -> Value {
        let script = format!("const done = arguments[arguments.length - 1]; {script}");
        self.command("execute/async", &json!({ "script": script, "args": [] }))
    }

    /// A cookie as the browser keeps it, those included that no script can read.
    #[track_caller]
    pub(crate) fn cookie(&self, name: &str) -> Value {
        let target = format!("/session/{}/cookie/{name}", self.session);
        self.driver.get(&target).send().expect(200).json()["value"].take()
    }

    /// Loses every cookie, as browsers do that are told to.
    #[track_caller]
    pub(crate) fn forget_cookies(&self) {
        self.driver.request("DELETE", &format!("/session/{}/cookie", self.session)).send().expect(200);
    }

    /// What the page shows.
    #[track_caller]
    pub(crate) fn text(&self) -> String {
        self.run("return document.body ? document.body.innerText : ''").as_str().unwrap_or("").to_owned()
    }

    /// Everything that the page and its console complained about.
    #[track_caller]
    pub(crate) fn complaints(&self) -> Vec<String> {
        let log = self.command("se/log", &json!({ "type": "browser" }));
        let entries = log.as_array().expect("a list");
        entries.iter().map(|entry| entry["message"].as_str().unwrap_or_default().to_owned()).collect()
    }

    /// What the window looks like at this size, dark or light.
    #[track_caller]
    pub(crate) fn screenshot(&self, (width, height): (u32, u32), scheme: &str, file: &Path) {
        self.devtools(
            "Emulation.setEmulatedMedia",
            &json!({ "features": [{ "name": "prefers-color-scheme", "value": scheme }] }),
        );
        let size = json!({ "width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 600 });
        self.devtools("Emulation.setDeviceMetricsOverride", &size);
        let shot = self.driver.get(&format!("/session/{}/screenshot", self.session)).send().expect(200).json();
        let image = STANDARD.decode(shot["value"].as_str().expect("an image")).expect("base64");
        fs::write(file, image).expect("the image can be written");
    }

    /// Where to keep a picture: `PORTCULLIS_SCREENSHOTS`, or else a folder of the test.
    pub(crate) fn picture(&self, folder: &Path, name: &str) -> PathBuf {
        let kept = std::env::var_os("PORTCULLIS_SCREENSHOTS").map(PathBuf::from);
        kept.unwrap_or_else(|| folder.to_path_buf()).join(format!("{name}.png"))
    }

    /// From now on pages run no script, as some people set their browsers.
    #[track_caller]
    pub(crate) fn without_scripts(&self) {
        self.devtools("Emulation.setScriptExecutionDisabled", &json!({ "value": true }));
    }

    #[track_caller]
    fn devtools(&self, command: &str, parameters: &Value) {
        self.command("goog/cdp/execute", &json!({ "cmd": command, "params": parameters }));
    }

    #[track_caller]
    fn element(&self, selector: &str) -> String {
        let found = self.command("element", &json!({ "using": "css selector", "value": selector }));
        let reference = found.as_object().and_then(|object| object.values().next()).and_then(Value::as_str);
        reference.expect("an element").to_owned()
    }

    #[track_caller]
    fn command(&self, command: &str, parameters: &Value) -> Value {
        let target = format!("/session/{}/{command}", self.session);
        self.driver.post(&target, "").json(parameters).send().expect(200).json()["value"].take()
    }
}

impl Drop for Browser {
    fn drop(&mut self) {
        // The driver closes its browser; then it is ended itself.
        let delete = self.driver.request("DELETE", &format!("/session/{}", self.session));
        let _ = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| delete.send()));
    }
}
