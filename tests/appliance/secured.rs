//! The API off loopback: with a token and TLS, or not at all.

use std::{fs, path::Path, process::Command};

use serde_json::Value;

use crate::process::{Process, Site, qadf_edge, run, stderr, stdout, until};

/// An authority, and a certificate of it for 127.0.0.1.
fn certificates(folder: &Path) {
    let openssl = |what: &[&str]| {
        let common = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-noenc", "-days", "2"];
        let made = Command::new("openssl").arg("req").arg("-x509").args(what).args(common).current_dir(folder).output();
        let made = made.expect("openssl is installed: apt-get install openssl");
        assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    };
    openssl(&["-subj", "/CN=authority", "-keyout", "ca.key", "-out", "ca.pem"]);
    let of_authority = ["-CA", "ca.pem", "-CAkey", "ca.key", "-subj", "/CN=api", "-keyout", "api.key", "-out", "api.pem"];
    let extensions = ["-addext", "basicConstraints=critical,CA:FALSE", "-addext", "subjectAltName=IP:127.0.0.1"];
    openssl(&[&of_authority[..], &extensions].concat());
}

fn configure(site: &Site, api: &str) {
    let data = site.data_dir();
    let text = format!(
        "[appliance]\nid = \"{}\"\ndata_dir = \"{}\"\n[metrics]\nlisten = \"127.0.0.1:0\"\n[api]\n{api}\n[streams.melt]\nsignals = {{ intensity = \"V\" }}\n",
        site.id,
        data.display()
    );
    fs::write(site.config(), text).expect("the folder is ours");
}

/// What `check` says of the section `[api]`, and its exit code.
fn checked(site: &Site, api: &str) -> (Option<i32>, String) {
    configure(site, api);
    let ran = run(&["check", site.config().to_str().expect("text")]);
    (ran.status.code(), stdout(&ran) + &stderr(&ran))
}

#[test]
fn off_loopback_the_api_has_a_token_and_tls_or_is_refused() {
    let site = Site::new("secured");
    certificates(site.folder());
    fs::write(site.folder().join("token"), "secret").expect("the folder is ours");
    let file = |name: &str| site.folder().join(name).display().to_string();
    let token = format!("token_file = \"{}\"", file("token"));
    let tls = |cert: &str, key: &str| format!("tls = {{ cert_file = \"{}\", key_file = \"{}\" }}", file(cert), file(key));
    let whole = format!("{token}\n{}", tls("api.pem", "api.key"));
    let anywhere = "listen = \"0.0.0.0:0\"";
    for (api, what) in [
        (format!("{anywhere}\n{}", tls("api.pem", "api.key")), "needs a token"),
        (format!("{anywhere}\n{token}"), "needs TLS"),
        (format!("{anywhere}\n{token}\n{}", tls("missing.pem", "api.key")), "missing.pem"),
        (format!("{anywhere}\n{token}\n{}", tls("token", "api.key")), "holds no certificate"),
        (format!("{anywhere}\n{token}\n{}", tls("api.pem", "ca.key")), "make no identity"),
        (format!("{anywhere}\n{token}\ntls = {{ cert_file = \"a\" }}"), "key_file"),
    ] {
        let (code, said) = checked(&site, &api);
        assert_eq!(code, Some(78), "{api}: {said}");
        assert!(said.contains(what) && said.contains("appliance.toml:"), "{api}: {said}");
    }
    assert_eq!(checked(&site, &format!("{anywhere}\n{whole}")).0, Some(0));

    // Loopback shows that it works: a certificate is for an address, and this is the one there is everywhere.
    let port = site.api().rsplit_once(':').expect("it has a port").1.to_owned();
    configure(&site, &format!("listen = \"127.0.0.1:{port}\"\n{whole}"));
    let mut command = qadf_edge(&["run", "-c"]);
    command.arg(site.config());
    let mut appliance = Process::start("appliance", command, site.folder());
    let url = format!("https://127.0.0.1:{port}");
    let top = |more: &[&str]| run(&[&["top", "--once", "--url", &url, "--token-file", &file("token")], more].concat());
    let status = until("the appliance answers over TLS", || {
        assert!(appliance.runs(), "the appliance ended: {}", appliance.log());
        let ran = top(&["--ca-file", &file("ca.pem")]);
        serde_json::from_str::<Value>(&stdout(&ran)).ok()
    });
    assert_eq!(status["appliance"], *site.id);
    let stranger = top(&[]);
    assert_eq!(stranger.status.code(), Some(1), "nobody vouches for it: {}", stderr(&stranger));
    let plain = run(&["top", "--once", "--url", &site.api()]);
    assert_eq!(plain.status.code(), Some(1), "{}", stdout(&plain));
    assert!(top(&["--ca-file", &file("token")]).status.code() == Some(2), "that is no certificate");
    appliance.end(rustix::process::Signal::TERM);
}
