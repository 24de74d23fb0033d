//! Changes of files without anybody asking: written, replaced, gone, linked elsewhere.

use std::{fs, os::unix::fs::symlink, path::Path};

use crate::support::{Gateway, Upstream, eventually, gateway::Running};

fn gateway(upstream: &Upstream) -> Running {
    Gateway::new().admin().server("watch = true").route("/a/{*rest}", upstream).auth(&["none"]).start()
}

#[track_caller]
fn serves(gateway: &Running, path: &str) {
    eventually("the change is in use", || gateway.client().get(path).send().status == 200);
}

/// The result of the last reload, once there have been so many.
#[track_caller]
fn results(gateway: &Running, result: &str, count: f64) {
    eventually(result, || gateway.metric("portcullis_reloads_total", &[("result", result)]) == count);
}

fn replace(path: &Path, text: &str) {
    let draft = path.with_extension("draft");
    fs::write(&draft, text).expect("it is written");
    fs::rename(&draft, path).expect("it is renamed");
}

#[test]
fn a_file_that_is_written_or_replaced_is_a_reload() {
    let upstream = Upstream::start();
    let gateway = gateway(&upstream);
    let path = gateway.folder().join("gateway.toml");

    gateway.edit("/a/{*rest}", "/b/{*rest}");
    serves(&gateway, "/b/x");
    replace(&path, &fs::read_to_string(&path).expect("gateway.toml").replace("/b/{*rest}", "/c/{*rest}"));
    serves(&gateway, "/c/x");
}

#[test]
fn a_file_that_vanishes_changes_nothing_until_it_comes_back() {
    let upstream = Upstream::start();
    let gateway = gateway(&upstream);
    let path = gateway.folder().join("gateway.toml");
    let text = fs::read_to_string(&path).expect("gateway.toml");

    fs::remove_file(&path).expect("it is removed");
    results(&gateway, "refused", 1.0);
    gateway.client().get("/a/x").send().expect(200);
    fs::write(&path, text.replace("/a/{*rest}", "/b/{*rest}")).expect("it is written");

    serves(&gateway, "/b/x");
}

#[test]
fn a_link_that_is_swapped_as_kubernetes_does_is_a_reload() {
    let upstream = Upstream::start();
    let folder = tempfile::tempdir().expect("a folder");
    let at = |name: &str| folder.path().join(name);
    let version = |name: &str, path: &str| {
        fs::create_dir(at(name)).expect("a folder");
        let text = format!(
            "[[route]]\nname = \"more\"\nmatch = {{ path = {path:?} }}\nauth = [\"none\"]\nupstream = \"u0\"\n"
        );
        fs::write(at(name).join("more.toml"), text).expect("it is written");
    };
    version("..one", "/one/{*rest}");
    version("..two", "/two/{*rest}");
    symlink("..one", at("..data")).expect("a link");
    symlink("..data/more.toml", at("more.toml")).expect("a link");
    let gateway = Gateway::new()
        .admin()
        .server("watch = true")
        .route("/a/{*rest}", &upstream)
        .auth(&["none"])
        .include(&at("*.toml"))
        .start();
    gateway.client().get("/one/x").send().expect(200);

    symlink("..two", at("..new")).expect("a link");
    fs::rename(at("..new"), at("..data")).expect("the link is swapped");

    serves(&gateway, "/two/x");
    gateway.client().get("/one/x").send().expect(404);
    fs::write(
        at("third.toml"),
        "[[route]]\nname = \"third\"\nmatch = { path = \"/third\" }\nauth = [\"none\"]\nupstream = \"u0\"\n",
    )
    .expect("it is written");
    serves(&gateway, "/third");
}

#[test]
fn users_keys_secrets_and_certificates_are_watched_too() {
    let upstream = Upstream::start();
    let gateway = gateway(&upstream);
    let served = || {
        let connection = gateway.client().connect();
        connection.tls().and_then(|tls| tls.peer_certificates()).expect("a certificate")[0].to_vec()
    };
    let before = served();

    gateway.pki().issue(&gateway.folder(), &["app.test"]);
    eventually("the certificate is in use", || served() != before);
    let old = gateway.admin();
    fs::write(gateway.folder().join("admin.token"), "another-token-of-32-characters--").expect("it is written");
    eventually("the token is no more", || old.get("/api/v1/routes").send().status == 401);
}

#[test]
fn a_touch_is_no_new_generation() {
    let upstream = Upstream::start();
    let gateway = gateway(&upstream);
    let path = gateway.folder().join("gateway.toml");

    replace(&path, &fs::read_to_string(&path).expect("gateway.toml"));

    results(&gateway, "unchanged", 1.0);
    assert_eq!(gateway.metric("portcullis_config_generation", &[]), 1.0);
}

#[test]
fn without_the_watch_a_change_waits_for_somebody_to_ask() {
    let upstream = Upstream::start();
    let gateway = gateway(&upstream);

    gateway.edit("watch = true", "watch = false");
    results(&gateway, "applied", 1.0);
    gateway.edit("/a/{*rest}", "/b/{*rest}");
    gateway.reload().expect(200);

    gateway.client().get("/b/x").send().expect(200);
    assert_eq!(gateway.metric("portcullis_reloads_total", &[("result", "applied")]), 2.0);
}
