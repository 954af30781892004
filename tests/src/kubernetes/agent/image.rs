//! Which program stands for an image. Nothing is pulled: the programs are Debian's, the real CoreDNS, and our own
//! stand-in for Kubernetes' test image agnhost.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use nix::sys::signal::Signal;
use serde_json::Value;

use super::sandbox::{Applets, BUSYBOX, applets};
use super::volumes::Mounts;

/// Where nginx has its pages.
const PAGES: &str = "/usr/share/nginx/html";

/// The programs that stand for images.
#[derive(Clone, Debug)]
pub(crate) struct Images {
    /// Plays agnhost.
    pub(crate) agnhost: PathBuf,
    /// The cluster's name server.
    pub(crate) coredns: PathBuf,
    applets: Applets,
}

/// Why a container cannot be started.
#[derive(Debug)]
pub(super) enum ImageError {
    /// No program stands for the image.
    Unknown(String),
    /// What it mounts is not there.
    Volume(String),
    /// Its files could not be written.
    Files(io::Error),
}

impl Images {
    /// With these two; the others are Debian's.
    ///
    /// # Errors
    /// There is no busybox.
    pub(crate) fn new(agnhost: PathBuf, coredns: PathBuf) -> io::Result<Self> {
        Ok(Self { agnhost, coredns, applets: applets()? })
    }

    /// The command line of a container; what it needs on disk is written into `folder`, which is the container's own.
    pub(super) fn command(
        &self,
        container: &Value,
        folder: &Path,
        mounts: &Mounts,
    ) -> Result<Vec<String>, ImageError> {
        let image = container["image"].as_str().unwrap_or_default();
        let given = |field: &str| {
            let words = container[field].as_array().map(|words| super::words(words)).unwrap_or_default();
            words.iter().map(|word| mounts.relocate(word)).collect::<Vec<_>>()
        };
        let (command, arguments) = (given("command"), given("args"));
        let of = |program: &Path| vec![program.to_string_lossy().into_owned()];
        let (entry, default) = match name(image) {
            "nginx" => (nginx(folder, mounts).map_err(ImageError::Files)?, Vec::new()),
            // Its applets are the image's programs: `Shell` finds them.
            "busybox" => (Vec::new(), vec!["sh".to_owned()]),
            "coredns" => (of(&self.coredns), Vec::new()),
            "agnhost" => (of(&self.agnhost), vec!["pause".to_owned()]),
            "pause" => (vec![BUSYBOX.to_owned(), "sleep".to_owned(), "infinity".to_owned()], Vec::new()),
            _ => {
                return Err(ImageError::Unknown(format!(
                    "no program of this machine stands for the image {image}"
                )));
            }
        };
        let words = match (command.is_empty(), arguments.is_empty()) {
            (true, true) => [entry, default].concat(),
            (true, false) => [entry, arguments].concat(),
            (false, _) => [command, arguments].concat(),
        };
        // The image's own path of its program.
        let own = |word: &String| if word == "/agnhost" { of(&self.agnhost).concat() } else { word.clone() };
        Ok(words.iter().map(own).collect())
    }

    /// The applets that are the image's programs, where it is busybox.
    pub(super) fn applets(&self, container: &Value) -> Option<Applets> {
        let image = container["image"].as_str().unwrap_or_default();
        (name(image) == "busybox").then(|| self.applets.clone())
    }
}

/// What tells a container of this image to end.
pub(super) fn stop_signal(container: &Value) -> Signal {
    match name(container["image"].as_str().unwrap_or_default()) {
        // As the image has it: open requests are answered.
        "nginx" => Signal::SIGQUIT,
        _ => Signal::SIGTERM,
    }
}

/// `registry.k8s.io/e2e-test-images/agnhost:2.53` is `agnhost`.
fn name(image: &str) -> &str {
    let last = image.rsplit('/').next().unwrap_or(image);
    last.split(['@', ':']).next().unwrap_or(last)
}

/// Debian's nginx with its stock page on port 80 of every address of the pod.
fn nginx(folder: &Path, mounts: &Mounts) -> io::Result<Vec<String>> {
    fs::create_dir_all(folder)?;
    let here = folder.display();
    let pages = mounts.relocate(PAGES);
    let configuration = folder.join("nginx.conf");
    fs::write(
        &configuration,
        format!(
            "daemon off;\nuser root;\nworker_processes 1;\npid {here}/nginx.pid;\nerror_log stderr notice;\n\
             events {{}}\nhttp {{\n  access_log off;\n  client_body_temp_path {here}/body;\n  \
             proxy_temp_path {here}/proxy;\n  fastcgi_temp_path {here}/fastcgi;\n  uwsgi_temp_path {here}/uwsgi;\n  \
             scgi_temp_path {here}/scgi;\n  server {{\n    listen 80;\n    listen [::]:80;\n    \
             root {pages};\n    index index.html;\n  }}\n}}\n"
        ),
    )?;
    Ok(vec!["/usr/sbin/nginx".to_owned(), "-c".to_owned(), configuration.to_string_lossy().into_owned()])
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn command(container: &Value) -> Result<Vec<String>, ImageError> {
        let folder = tempfile::tempdir().unwrap();
        let (agnhost, coredns) = ("/bin/our-agnhost".into(), "/bin/coredns".into());
        let images = Images { agnhost, coredns, applets: Applets::default() };
        images.command(container, folder.path(), &Mounts::default())
    }

    #[test]
    fn images_are_known_by_their_last_name() {
        for image in ["nginx", "nginx:1.25-alpine", "docker.io/library/nginx@sha256:00"] {
            assert_eq!(name(image), "nginx");
        }
        assert_eq!(name("localhost:5000/e2e/agnhost:2.53"), "agnhost");
    }

    #[test]
    fn nginx_ends_when_its_requests_are_answered() {
        assert_eq!(stop_signal(&json!({"image": "nginx:1.25-alpine"})), Signal::SIGQUIT);
        assert_eq!(stop_signal(&json!({"image": "busybox"})), Signal::SIGTERM);
    }

    #[test]
    fn commands_and_arguments_are_joined_as_the_runtime_does() {
        let agnhost =
            command(&json!({"image": "e2e/agnhost:2", "args": ["netexec", "--http-port=80"]})).unwrap();
        assert_eq!(agnhost, ["/bin/our-agnhost", "netexec", "--http-port=80"]);
        let busybox =
            command(&json!({"image": "busybox:1.36", "command": ["sleep"], "args": ["60"]})).unwrap();
        assert_eq!(busybox, ["sleep", "60"]);
        let words = |container: Value| command(&container).unwrap().join(" ");
        assert_eq!(words(json!({"image": "busybox"})), "sh");
        assert_eq!(words(json!({"image": "busybox", "args": ["sleep", "9"]})), "sleep 9");
        assert_eq!(words(json!({"image": "agnhost"})), "/bin/our-agnhost pause");
        let full =
            json!({"image": "agnhost:2", "command": ["/agnhost", "netexec"], "args": ["--udp-port=9"]});
        assert_eq!(words(full), "/bin/our-agnhost netexec --udp-port=9");
        let replaced = command(&json!({"image": "nginx", "command": ["true"]})).unwrap();
        assert_eq!(replaced, ["true"]);
        let unknown = command(&json!({"image": "example.com/some/thing:1"}));
        assert!(matches!(unknown, Err(ImageError::Unknown(why)) if why.contains("example.com/some/thing:1")));
    }
}
