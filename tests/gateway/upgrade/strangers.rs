//! Who may follow a process, how many may, and that one which fails has changed nothing.

use super::*;
use crate::support::program;

/// One word of the protocol, as the new process says it.
fn say(stream: &mut UnixStream, message: &Value) {
    let text = message.to_string();
    // It may have hung up; then nothing is heard either.
    let _ = stream.write_all(&u32::try_from(text.len()).unwrap().to_be_bytes());
    let _ = stream.write_all(text.as_bytes());
}

fn hear(stream: &mut UnixStream) -> Option<Value> {
    let mut length = [0; 4];
    stream.read_exact(&mut length).ok()?;
    let mut text = vec![0; usize::try_from(u32::from_be_bytes(length)).unwrap()];
    stream.read_exact(&mut text).ok()?;
    serde_json::from_slice(&text).ok()
}

/// The first word, and the answer.
fn begin(folder: &Path, state: Option<PathBuf>) -> (UnixStream, Option<Value>) {
    let mut stream = UnixStream::connect(socket(folder)).unwrap();
    say(&mut stream, &json!({ "Hello": { "version": 1, "program": "test", "state": state } }));
    let answer = hear(&mut stream);
    (stream, answer)
}

#[test]
fn a_new_process_that_cannot_start_changes_nothing() {
    let upstream = echoing();
    let (gateway, _folder) = can_be_followed(&upstream, true, "5s");
    let alice = session(&gateway, "alice");
    let text = fs::read_to_string(gateway.config()).unwrap();
    fs::write(gateway.config(), format!("{text}\n[nonsense]\n")).unwrap();

    assert!(refused_follower(&gateway).contains("nonsense"));

    visit(&alice).send().expect(200);
    visit(&session(&gateway, "alice")).send().expect(200);
}

#[test]
fn a_new_process_that_dies_before_it_takes_over_changes_nothing() {
    for durable in [true, false] {
        let upstream = echoing();
        let (mut gateway, folder) = can_be_followed(&upstream, durable, "5s");
        let alice = session(&gateway, "alice");
        let state = durable.then(|| folder.path().join("state"));
        let (mut stream, sockets) = begin(folder.path(), state);
        assert!(sockets.unwrap()["Sockets"]["names"].as_array().is_some_and(|names| names.len() == 3));
        say(&mut stream, &json!("Release"));
        assert!(hear(&mut stream).unwrap().get("Released").is_some());

        drop(stream);

        gateway.says("this process goes on as before");
        visit(&alice).send().expect(200);
        let bob = session(&gateway, "bob");
        // And it can be followed all the same.
        assert_eq!(gateway.upgrade().wait(), Some(0));
        visit(&alice).send().expect(200);
        visit(&bob).send().expect(200);
    }
}

/// What waits for the database while nobody knows whose it is holds in the end.
#[test]
fn a_login_waits_for_a_new_process_that_takes_its_time() {
    let upstream = echoing();
    let (gateway, folder) = can_be_followed(&upstream, true, "5s");
    let (mut stream, _) = begin(folder.path(), Some(folder.path().join("state")));
    say(&mut stream, &json!("Release"));
    assert!(hear(&mut stream).unwrap().get("Released").is_some());
    let (admin, client) = (gateway.admin(), gateway.client());
    let waiting = std::thread::spawn(move || session_by(&admin, &client, "alice"));

    drop(stream);

    visit(&waiting.join().unwrap()).send().expect(200);
}

#[test]
fn one_process_follows_at_a_time() {
    let upstream = echoing();
    let (mut gateway, folder) = can_be_followed(&upstream, false, "5s");
    let (first, answer) = begin(folder.path(), None);
    assert!(answer.is_some());

    let (_second, answer) = begin(folder.path(), None);
    assert_eq!(answer, None);
    assert!(refused_follower(&gateway).contains("has hung up"));

    drop(first);
    gateway.says("nothing came of it");
    assert_eq!(gateway.upgrade().wait(), Some(0));
}

/// It would not hear of what the third one ends.
#[test]
fn nobody_follows_while_the_process_before_is_there() {
    let upstream = echoing();
    let (mut gateway, _folder) = can_be_followed(&upstream, false, LONG);
    let tunnel = tunnel(&session(&gateway, "alice"));
    let old = gateway.upgrade();

    assert!(refused_follower(&gateway).contains("has not left yet"));

    drop(tunnel);
    assert_eq!(old.wait(), Some(0));
    gateway.says("the process before this one has left");
    assert_eq!(gateway.upgrade().wait(), Some(0));
}

#[test]
fn a_process_that_keeps_its_state_elsewhere_does_not_follow() {
    let upstream = echoing();
    let (gateway, folder) = can_be_followed(&upstream, true, "5s");
    for state in [None, Some(folder.path().join("elsewhere"))] {
        let (_stream, answer) = begin(folder.path(), state);
        let answer = answer.unwrap();
        assert!(answer["Refused"]["why"].as_str().is_some_and(|why| why.contains("state_dir")), "{answer}");
        gateway.says("nothing came of it");
    }
}

#[test]
fn nobody_else_gets_anything() {
    let (Some(setpriv), Some(python)) = (program::found("setpriv"), program::found("/usr/bin/python3")) else { return };
    if !rustix::process::geteuid().is_root() {
        return;
    }
    let upstream = echoing();
    let (gateway, folder) = can_be_followed(&upstream, false, "5s");
    let socket = socket(folder.path());
    assert_eq!(fs::metadata(&socket).unwrap().permissions().mode() & 0o777, 0o600);
    let ask = || {
        let script = "import socket, struct, sys\n\
            s = socket.socket(socket.AF_UNIX)\n\
            s.connect(sys.argv[1])\n\
            t = b'{\"Hello\":{\"version\":1,\"program\":\"x\",\"state\":null}}'\n\
            s.sendall(struct.pack('>I', len(t)) + t)\n\
            print(len(s.recv(4)))\n";
        let nobody = ["--reuid", "65534", "--regid", "65534", "--clear-groups"];
        Command::new(&setpriv).args(nobody).arg(&python).args(["-c", script]).arg(&socket).output().unwrap()
    };

    let shut_out = ask();
    assert!(String::from_utf8_lossy(&shut_out.stderr).contains("PermissionError"), "{shut_out:?}");
    // Even if somebody opens the doors.
    fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o755)).unwrap();
    fs::set_permissions(&socket, fs::Permissions::from_mode(0o777)).unwrap();
    let asked = ask();

    assert_ne!(String::from_utf8_lossy(&asked.stdout).trim(), "4", "{asked:?}");
    gateway.says("belongs to user 65534");
    assert!(refused_follower(&gateway).contains("chmod 700"));
}
