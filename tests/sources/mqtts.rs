//! MQTT over TLS, with a password from a file and a certificate of our own, as the configuration says them, against Mosquitto.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use qadf_edge::{
    config::parse,
    ingest::{MqttUrl, SourceKind},
};

use super::{
    Running,
    mqtt::{Mosquitto, free_port, publish},
};

/// An authority with two certificates: the broker's for 127.0.0.1, and ours.
struct Authority(PathBuf);

impl Authority {
    fn new(directory: &Path, name: &str) -> Self {
        let authority = Self(directory.join(name));
        fs::create_dir(&authority.0).unwrap();
        authority.openssl(&["req", "-x509", "-subj", &format!("/CN={name}"), "-keyout", "ca.key", "-out", "ca.pem"], &[]);
        authority.sign("broker", "subjectAltName=IP:127.0.0.1");
        authority.sign("client", "extendedKeyUsage=clientAuth");
        authority
    }

    fn sign(&self, who: &str, extension: &str) {
        let (key, out) = (format!("{who}.key"), format!("{who}.pem"));
        let subject = format!("/CN={who}");
        self.openssl(
            &["req", "-x509", "-CA", "ca.pem", "-CAkey", "ca.key", "-subj", &subject, "-keyout", &key, "-out", &out],
            &["-addext", "basicConstraints=critical,CA:FALSE", "-addext", extension],
        );
    }

    fn openssl(&self, what: &[&str], more: &[&str]) {
        let made = Command::new("openssl")
            .args(what)
            .args(["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-noenc", "-days", "2"])
            .args(more)
            .current_dir(&self.0)
            .output()
            .expect("openssl is installed: apt-get install openssl");
        assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    }

    fn file(&self, name: &str) -> String {
        self.0.join(name).display().to_string()
    }
}

/// A broker that speaks TLS with clients of `authority` who know the password, and plainly with the test.
struct Guarded {
    broker: Mosquitto,
    tls_port: u16,
}

impl Guarded {
    async fn start(directory: &Path, authority: &Authority) -> Self {
        let (port, tls_port) = (free_port(), free_port());
        let passwords = directory.join("passwords");
        let made = Command::new("mosquitto_passwd").arg("-b").arg("-c").arg(&passwords).args(["lpbf-07", "a b$c"]).status();
        assert!(made.expect("it comes with Mosquitto").success());
        // As root, Mosquitto would become a user who may not read these files.
        let text = format!(
            "per_listener_settings true\nuser root\n\
             listener {port} 127.0.0.1\nallow_anonymous true\n\
             listener {tls_port} 127.0.0.1\nallow_anonymous false\npassword_file {}\nrequire_certificate true\n\
             cafile {}\ncertfile {}\nkeyfile {}\n",
            passwords.display(),
            authority.file("ca.pem"),
            authority.file("broker.pem"),
            authority.file("broker.key"),
        );
        Self { broker: Mosquitto::start_with(directory, port, &text).await, tls_port }
    }

    fn plain(&self) -> &MqttUrl {
        &self.broker.url
    }
}

/// The source that a configuration describes.
fn source(port: u16, protocol: &str, password_file: &Path, trusted: &Authority, own: &Authority) -> SourceKind {
    let text = format!(
        "[appliance]\nid = \"lpbf-07\"\n[streams.melt]\nsignals = {{ intensity = \"V\" }}\n\
         [sources.floor]\ntype = \"mqtt\"\nurl = \"mqtts://127.0.0.1:{port}\"\nprotocol = \"{protocol}\"\nusername = \"lpbf-07\"\n\
         password_file = \"{}\"\ntls = {{ ca_file = \"{}\", certificate_file = \"{}\", key_file = \"{}\" }}\n\
         subscriptions = [ {{ topic = \"plant/+\" }} ]\n",
        password_file.display(),
        trusted.file("ca.pem"),
        own.file("client.pem"),
        own.file("client.key"),
    );
    let config = parse(&text).unwrap_or_else(|faults| panic!("{faults:?}"));
    config.sources[0].source.kind.clone()
}

#[tokio::test]
async fn rows_come_over_tls_to_who_knows_the_password() {
    let directory = tempfile::tempdir().unwrap();
    let authority = Authority::new(directory.path(), "plant");
    let guarded = Guarded::start(directory.path(), &authority).await;
    let password = directory.path().join("password");
    fs::write(&password, "a b$c\n").unwrap();
    for protocol in ["3.1.1", "5"] {
        let mut running = Running::start(source(guarded.tls_port, protocol, &password, &authority, &authority));
        running.until_up().await;
        publish(guarded.plain(), &[("plant/a", "{\"time\":1}".into())]).await;
        assert_eq!(running.sync(1).await.0, [1]);
        running.end().await;
    }
}

#[tokio::test]
async fn a_wrong_password_authority_or_certificate_is_a_state_that_says_so() {
    let directory = tempfile::tempdir().unwrap();
    let (authority, stranger) = (Authority::new(directory.path(), "plant"), Authority::new(directory.path(), "stranger"));
    let guarded = Guarded::start(directory.path(), &authority).await;
    let (right, wrong) = (directory.path().join("right"), directory.path().join("wrong"));
    fs::write(&right, "a b$c").unwrap();
    fs::write(&wrong, "guess").unwrap();
    for protocol in ["3.1.1", "5"] {
        let is_down = async |kind: SourceKind, why: &str| {
            let running = Running::start(kind);
            running.until_down(why).await;
            running.end().await;
        };
        let port = guarded.tls_port;
        is_down(source(port, protocol, &wrong, &authority, &authority), "NotAuthorized").await;
        is_down(source(port, protocol, &right, &stranger, &authority), "UnknownIssuer").await;
        // The broker refuses ours only after the handshake of version 1.3: how, is up to it.
        is_down(source(port, protocol, &right, &authority, &stranger), "127.0.0.1").await;
    }
    let away = Authority(directory.path().join("away"));
    let running = Running::start(source(guarded.tls_port, "5", &right, &away, &authority));
    running.until_down("cannot read").await;
    running.end().await;
}
