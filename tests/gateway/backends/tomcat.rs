//! Tomcat with a JSP: path parameters, decoding before mapping, headers by any case.

use std::{fs, net::SocketAddr, path::Path, process::Command};

use tempfile::TempDir;

use crate::support::program::{Program, found, free_address};

struct Tomcat {
    _program: Program,
    _folder: TempDir,
    address: SocketAddr,
}

/// Says what a servlet is told, with every header, so that nothing forged hides in one that nobody thought of.
const PAGE: &str = r#"<%@ page contentType="text/plain; charset=UTF-8" trimDirectiveWhitespaces="true" session="false" %><%
String path = request.getServletPath() + (request.getPathInfo() == null ? "" : request.getPathInfo());
String id = request.getHeader("X-User-Id"), roles = request.getHeader("X-User-Roles");
out.print("host\t" + request.getHeader("Host") + "\n");
out.print("area\t" + config.getInitParameter("area") + "\n");
out.print("path\t" + path + "\n");
out.print("id\t" + (id == null ? "" : id) + "\n");
out.print("roles\t" + (roles == null ? "" : roles) + "\n");
out.print("uri\t" + request.getRequestURI() + "\n");
for (java.util.Enumeration<String> names = request.getHeaderNames(); names.hasMoreElements();) {
    String name = names.nextElement();
    for (java.util.Enumeration<String> values = request.getHeaders(name); values.hasMoreElements();) {
        out.print("header\t" + name + "=" + values.nextElement() + "\n");
    }
}
%>"#;

impl Tomcat {
    fn start() -> Option<Self> {
        let home = ["/usr/share/tomcat9", "/usr/share/tomcat10"];
        let home = home.into_iter().find(|home| Path::new(home).exists()).unwrap_or("/usr/share/tomcat10");
        let (java, bootstrap) = (found("java")?, found(&format!("{home}/bin/bootstrap.jar"))?);
        let folder = tempfile::tempdir().unwrap();
        let address = free_address();
        let base = folder.path();
        let application = base.join("webapps/ROOT/WEB-INF");
        for inner in [base.join("conf"), base.join("temp"), application.clone()] {
            fs::create_dir_all(inner).unwrap();
        }
        fs::write(application.join("belief.jsp"), PAGE).unwrap();
        let servlet = |(area, pattern): (&str, &str)| {
            format!(
                "<servlet><servlet-name>{area}</servlet-name><jsp-file>/WEB-INF/belief.jsp</jsp-file>\
                 <init-param><param-name>area</param-name><param-value>{area}</param-value></init-param></servlet>\n\
                 <servlet-mapping><servlet-name>{area}</servlet-name><url-pattern>{pattern}</url-pattern></servlet-mapping>\n"
            )
        };
        let areas = [("admin", "/admin/*"), ("public", "/public/*"), ("rest", "/*")];
        let servlets: String = areas.into_iter().map(servlet).collect();
        fs::write(application.join("web.xml"), format!("<web-app version=\"4.0\">\n{servlets}</web-app>\n")).unwrap();
        let server = format!(
            "<Server port=\"-1\"><Service name=\"Catalina\">\
             <Connector port=\"{}\" address=\"127.0.0.1\" protocol=\"HTTP/1.1\"/>\
             <Engine name=\"Catalina\" defaultHost=\"localhost\">\
             <Host name=\"localhost\" appBase=\"webapps\" autoDeploy=\"false\"/></Engine></Service></Server>\n",
            address.port()
        );
        fs::write(base.join("conf/server.xml"), server).unwrap();
        let mut command = Command::new(java);
        command.args(["-XX:TieredStopAtLevel=1", "-Xmx256m"]);
        command.arg(format!("-Dcatalina.home={home}")).arg(format!("-Dcatalina.base={}", base.display()));
        command.arg(format!("-Djava.io.tmpdir={}", base.join("temp").display()));
        command.arg("-cp").arg(format!("{}:{home}/bin/tomcat-juli.jar", bootstrap.display()));
        command
            .args(["org.apache.catalina.startup.Bootstrap", "start"])
            .stderr(fs::File::create(base.join("log")).unwrap());
        Some(Self { _program: Program::start(&mut command, address), _folder: folder, address })
    }
}

/// R7, R8, R12 and R13; one test, because Tomcat takes seconds to start.
#[test]
fn tomcat_believes_paths_and_identity_as_they_were_decided() {
    let Some(tomcat) = Tomcat::start() else { return };
    super::believes_the_paths_that_were_decided(tomcat.address);
    super::believes_the_identity_that_was_proved(tomcat.address);
    super::reads_back_every_value(tomcat.address);
}
