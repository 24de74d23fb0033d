//! lighttpd with a CGI script: header names become environment variables, `-` and `_` alike.

use std::{fs, net::SocketAddr, process::Command};

use tempfile::TempDir;

use crate::support::program::{Program, found, free_address};

struct Lighttpd {
    _program: Program,
    _folder: TempDir,
    address: SocketAddr,
}

/// Prints what it was told, and every variable, so that nothing forged hides in one that nobody thought of.
const SCRIPT: &str = r#"
print "Content-Type: text/plain\r\n\r\n";
my ($id, $roles) = ($ENV{HTTP_X_USER_ID} // '', $ENV{HTTP_X_USER_ROLES} // '');
print "host\t$ENV{HTTP_HOST}\narea\t$ENV{AREA}\npath\t$ENV{PATH_INFO}\nid\t$id\nroles\t$roles\n";
print "env\t$_=$ENV{$_}\n" for sort keys %ENV;
"#;

impl Lighttpd {
    fn start() -> Option<Self> {
        let (program, perl) = (found("lighttpd")?, found("perl")?);
        let folder = tempfile::tempdir().unwrap();
        let address = free_address();
        let dir = folder.path().display();
        fs::write(folder.path().join("belief.cgi"), SCRIPT).unwrap();
        let area = |area: &str| format!("{{ setenv.add-environment = (\"AREA\" => \"{area}\") }}");
        let text = format!(
            "server.modules = (\"mod_alias\", \"mod_setenv\", \"mod_cgi\")\nserver.document-root = \"{dir}\"\n\
             server.bind = \"127.0.0.1\"\nserver.port = {}\nserver.errorlog = \"{dir}/error.log\"\n\
             server.upload-dirs = (\"{dir}\")\n\
             alias.url = (\"/\" => \"{dir}/belief.cgi/\")\ncgi.assign = (\".cgi\" => \"{}\")\n\
             $HTTP[\"url\"] =~ \"^/admin(/|$)\" {}\nelse $HTTP[\"url\"] =~ \"^/public(/|$)\" {}\nelse $HTTP[\"url\"] =~ \"\" {}\n",
            address.port(),
            perl.display(),
            area("admin"),
            area("public"),
            area("rest"),
        );
        let file = folder.path().join("lighttpd.conf");
        fs::write(&file, text).unwrap();
        let program = Program::start(Command::new(program).arg("-D").arg("-f").arg(file), address);
        Some(Self { _program: program, _folder: folder, address })
    }
}

/// R7, R8.
#[test]
fn a_cgi_script_believes_the_paths_that_were_decided() {
    let Some(lighttpd) = Lighttpd::start() else { return };
    super::believes_the_paths_that_were_decided(lighttpd.address);
}

/// R12.
#[test]
fn a_cgi_script_believes_the_identity_that_was_proved() {
    let Some(lighttpd) = Lighttpd::start() else { return };
    super::believes_the_identity_that_was_proved(lighttpd.address);
}

/// R13.
#[test]
fn a_cgi_script_reads_back_every_value() {
    let Some(lighttpd) = Lighttpd::start() else { return };
    super::reads_back_every_value(lighttpd.address);
}
