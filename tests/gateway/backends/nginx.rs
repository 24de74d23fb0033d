//! nginx, told to read header names as laxly as it can.

use std::{fs, net::SocketAddr, process::Command};

use tempfile::TempDir;

use crate::support::program::{Program, found, free_address};

struct Nginx {
    _program: Program,
    _folder: TempDir,
    address: SocketAddr,
}

impl Nginx {
    fn start() -> Option<Self> {
        let program = found("nginx")?;
        let folder = tempfile::tempdir().unwrap();
        let address = free_address();
        let dir = folder.path().display();
        let believe = |area: &str| {
            format!(
                "return 200 \"host\\t$http_host\\narea\\t{area}\\npath\\t$uri\\nid\\t$http_x_user_id\\nroles\\t$http_x_user_roles\\n\
                 others\\t$http_remote_user $remote_user $http_x_forwarded_user $http_x_auth_request_user $http_proxy \
                 $http_x_user_email $http_x_original_url $http_x_forwarded_for\\n\";"
            )
        };
        let temporary: String = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"]
            .iter()
            .map(|kind| format!("{kind}_temp_path {dir}/{kind};\n"))
            .collect();
        let text = format!(
            "daemon off;\nmaster_process off;\npid {dir}/pid;\nerror_log {dir}/error.log;\nevents {{}}\nhttp {{\n\
             access_log off;\n{temporary}default_type text/plain;\nunderscores_in_headers on;\nignore_invalid_headers off;\n\
             server {{\nlisten {address};\nlocation ~ ^/admin(/|$) {{ {} }}\nlocation ~ ^/public(/|$) {{ {} }}\n\
             location / {{ {} }}\n}}\n}}\n",
            believe("admin"),
            believe("public"),
            believe("rest"),
        );
        let file = folder.path().join("nginx.conf");
        fs::write(&file, text).unwrap();
        let log = folder.path().join("error.log");
        let program = Program::start(Command::new(program).arg("-c").arg(file).arg("-e").arg(log), address);
        Some(Self { _program: program, _folder: folder, address })
    }
}

/// R7, R8.
#[test]
fn nginx_believes_the_paths_that_were_decided() {
    let Some(nginx) = Nginx::start() else { return };
    super::believes_the_paths_that_were_decided(nginx.address);
}

/// R12.
#[test]
fn nginx_believes_the_identity_that_was_proved() {
    let Some(nginx) = Nginx::start() else { return };
    super::believes_the_identity_that_was_proved(nginx.address);
}

/// R13.
#[test]
fn nginx_reads_back_every_value() {
    let Some(nginx) = Nginx::start() else { return };
    super::reads_back_every_value(nginx.address);
}
