//! `kill -9` under load: whatever was acknowledged is there afterwards, and nothing that ended comes back.

use std::{
    collections::{HashMap, HashSet},
    sync::mpsc::{self, Sender},
    thread,
};

use serde_json::{Value, json};

use super::{PASSWORD, State};
use crate::support::{Client, Connection, Upstream, client::Request, gateway::SESSION_COOKIE, process::Process};

/// What was acknowledged so far.
#[derive(Default)]
struct Told {
    /// Keys, with the token and the subject.
    alive: HashMap<String, (String, String)>,
    ended: HashSet<String>,
}

impl Told {
    fn ended(&mut self, key: String) {
        self.alive.remove(&key);
        self.ended.insert(key);
    }
}

#[test]
fn what_was_acknowledged_holds_after_a_kill_under_load() {
    let cycles = if super::long() { 200 } else { 3 };
    let (upstream, state) = (Upstream::start(), State::new());
    let gateway = state.gateway(&upstream).table("[session]\nmax_per_user = 100000");
    let mut gateway = gateway.start_process();
    let mut told = Told::default();
    for cycle in 0..cycles {
        let (did, hears) = mpsc::channel();
        thread::scope(|scope| {
            let workers: Vec<_> = (0..WORKERS)
                .map(|worker| {
                    let (admin, client, did) = (gateway.admin(), gateway.client(), did.clone());
                    scope.spawn(move || work(cycle, worker, &admin, &client, &did))
                })
                .collect();
            // After a number of acknowledgements that differs from cycle to cycle.
            for _ in 0..20 + cycle * 37 % 150 {
                hears.recv().expect("the gateway works");
            }
            gateway.kill();
            for worker in workers {
                let done = worker.join().expect("it ends with the gateway");
                told.alive.extend(done.alive);
                told.ended.extend(done.ended);
            }
        });
        gateway.start_again();
        check(&gateway, &told, cycle);
    }
    println!("{cycles} kills: {} logins and {} ends were acknowledged and hold", told.alive.len(), told.ended.len());
    assert!(told.alive.len() >= cycles && told.ended.len() >= cycles, "the test tests something");
}

/// Logs in and out until the gateway is gone. What was asked for and not answered is in neither list.
fn work(cycle: usize, worker: usize, admin: &Client, client: &Client, did: &Sender<()>) -> Told {
    let mut told = Told::default();
    let (Ok(mut to_admin), Ok(mut to_gateway)) = (admin.try_connect(&[]), client.try_connect(&["http/1.1"])) else {
        return told;
    };
    for step in 0.. {
        let subject = format!("user-{cycle}-{worker}-{}", step / 8);
        let done = match step % 8 {
            3 => end(admin, &mut to_admin, &mut told),
            5 => log_out(client, &mut to_gateway, &mut told),
            7 if worker.is_multiple_of(2) => end_subject(admin, &mut to_admin, &subject, &mut told),
            6 if worker == 0 => log_in(client, &mut to_gateway),
            _ => open(admin, &mut to_admin, &subject, &mut told),
        };
        if done.is_none() {
            break;
        }
        // The killer has heard enough.
        let _ = did.send(());
    }
    told
}

/// The answer, if there is a whole one.
fn ask(connection: &mut Connection, request: &Request, status: u16) -> Option<Value> {
    connection.write(&request.bytes()).ok()?;
    let response = connection.read_response("POST").ok()?.expect(status);
    Some(response.json())
}

fn open(admin: &Client, connection: &mut Connection, subject: &str, told: &mut Told) -> Option<()> {
    let created = ask(connection, &admin.post("/api/v1/sessions", "").json(&json!({ "subject": subject })), 201)?;
    let text = |name: &str| created[name].as_str().expect("a text").to_owned();
    told.alive.insert(text("key"), (text("token"), subject.to_owned()));
    Some(())
}

fn end(admin: &Client, connection: &mut Connection, told: &mut Told) -> Option<()> {
    let Some(key) = told.alive.keys().next().cloned() else { return Some(()) };
    told.alive.remove(&key);
    ask(connection, &admin.request("DELETE", &format!("/api/v1/sessions/{key}")), 200)?;
    told.ended(key);
    Some(())
}

fn end_subject(admin: &Client, connection: &mut Connection, subject: &str, told: &mut Told) -> Option<()> {
    let theirs: Vec<String> =
        told.alive.iter().filter(|(_, (_, of))| of == subject).map(|(key, _)| key.clone()).collect();
    told.alive.retain(|_, (_, of)| of != subject);
    ask(connection, &admin.request("DELETE", &format!("/api/v1/sessions?subject={subject}")), 200)?;
    theirs.into_iter().for_each(|key| told.ended(key));
    Some(())
}

fn log_out(client: &Client, connection: &mut Connection, told: &mut Told) -> Option<()> {
    let Some((key, (token, _))) = told.alive.iter().next().map(|(key, what)| (key.clone(), what.clone())) else {
        return Some(());
    };
    told.alive.remove(&key);
    let request = client
        .post("/_auth/logout", "")
        .cookie(&format!("{SESSION_COOKIE}={token}"))
        .header("Sec-Fetch-Site", "same-origin")
        .header("Accept", "application/json");
    ask(connection, &request, 200)?;
    told.ended(key);
    Some(())
}

fn log_in(client: &Client, connection: &mut Connection) -> Option<()> {
    let request = client
        .post("/_auth/login", "")
        .header("Sec-Fetch-Site", "same-origin")
        .header("Accept", "application/json")
        .json(&json!({ "username": "alice", "password": PASSWORD }));
    ask(connection, &request, 200).map(drop)
}

#[track_caller]
fn check(gateway: &Process, told: &Told, cycle: usize) {
    let admin = gateway.admin();
    let mut connection = admin.connect();
    let mut there = HashSet::new();
    let mut after = String::new();
    loop {
        let page = connection.send(&admin.get(&format!("/api/v1/sessions?limit=1000{after}"))).expect(200).json();
        for session in page["sessions"].as_array().expect("a list") {
            there.insert(session["key"].as_str().expect("a key").to_owned());
        }
        match page["next"].as_str() {
            Some(next) => after = format!("&after={next}"),
            None => break,
        }
    }
    let lost: Vec<_> = told.alive.keys().filter(|key| !there.contains(*key)).collect();
    let back: Vec<_> = told.ended.iter().filter(|key| there.contains(*key)).collect();
    assert!(lost.is_empty() && back.is_empty(), "cycle {cycle}: lost {lost:?}, came back {back:?}");
}

const WORKERS: usize = 6;
