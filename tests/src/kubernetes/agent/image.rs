//! Which program stands for an image. Nothing is pulled: the programs are Debian's, the real CoreDNS, and our own
//! stand-in for Kubernetes' test image agnhost.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use serde_json::Value;

/// The programs that stand for images.
#[derive(Clone, Debug)]
pub(crate) struct Images {
    /// Plays agnhost.
    pub(crate) agnhost: PathBuf,
    /// The cluster's name server.
    pub(crate) coredns: PathBuf,
}

/// Why a container cannot be started.
#[derive(Debug)]
pub(super) enum ImageError {
    /// No program stands for the image.
    Unknown(String),
    /// Its files could not be written.
    Files(io::Error),
}

impl Images {
    /// The command line of a container; what it needs on disk is written into `folder`, which is the container's own.
    pub(super) fn command(&self, container: &Value, folder: &Path) -> Result<Vec<String>, ImageError> {
        let image = container["image"].as_str().unwrap_or_default();
        let given =
            |field: &str| container[field].as_array().map(|words| super::words(words)).unwrap_or_default();
        let (command, arguments) = (given("command"), given("args"));
        let of = |program: &Path| vec![program.to_string_lossy().into_owned()];
        let entry = match name(image) {
            "nginx" => nginx(folder).map_err(ImageError::Files)?,
            // Its applets are the image's programs.
            "busybox" => vec!["/usr/bin/busybox".to_owned()],
            "coredns" => of(&self.coredns),
            "agnhost" => of(&self.agnhost),
            _ => {
                return Err(ImageError::Unknown(format!(
                    "no program of this machine stands for the image {image}"
                )));
            }
        };
        let words = match name(image) {
            "busybox" if command.is_empty() && arguments.is_empty() => {
                [entry, vec!["sh".to_owned()]].concat()
            }
            "busybox" => [entry, command, arguments].concat(),
            _ if command.is_empty() => [entry, arguments].concat(),
            _ => [command, arguments].concat(),
        };
        Ok(words)
    }
}

/// `registry.k8s.io/e2e-test-images/agnhost:2.53` is `agnhost`.
fn name(image: &str) -> &str {
    let last = image.rsplit('/').next().unwrap_or(image);
    last.split(['@', ':']).next().unwrap_or(last)
}

/// Debian's nginx with its stock page on port 80 of every address of the pod.
fn nginx(folder: &Path) -> io::Result<Vec<String>> {
    fs::create_dir_all(folder)?;
    let here = folder.display();
    let configuration = folder.join("nginx.conf");
    fs::write(
        &configuration,
        format!(
            "daemon off;\nuser root;\nworker_processes 1;\npid {here}/nginx.pid;\nerror_log stderr notice;\n\
             events {{}}\nhttp {{\n  access_log off;\n  client_body_temp_path {here}/body;\n  \
             proxy_temp_path {here}/proxy;\n  fastcgi_temp_path {here}/fastcgi;\n  uwsgi_temp_path {here}/uwsgi;\n  \
             scgi_temp_path {here}/scgi;\n  server {{\n    listen 80;\n    listen [::]:80;\n    \
             root /usr/share/nginx/html;\n    index index.html;\n  }}\n}}\n"
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
        let images = Images { agnhost: "/bin/our-agnhost".into(), coredns: "/bin/coredns".into() };
        images.command(container, folder.path())
    }

    #[test]
    fn images_are_known_by_their_last_name() {
        for image in ["nginx", "nginx:1.25-alpine", "docker.io/library/nginx@sha256:00"] {
            assert_eq!(name(image), "nginx");
        }
        assert_eq!(name("localhost:5000/e2e/agnhost:2.53"), "agnhost");
    }

    #[test]
    fn commands_and_arguments_are_joined_as_the_runtime_does() {
        let agnhost =
            command(&json!({"image": "e2e/agnhost:2", "args": ["netexec", "--http-port=80"]})).unwrap();
        assert_eq!(agnhost, ["/bin/our-agnhost", "netexec", "--http-port=80"]);
        let busybox =
            command(&json!({"image": "busybox:1.36", "command": ["sleep"], "args": ["60"]})).unwrap();
        assert_eq!(busybox, ["/usr/bin/busybox", "sleep", "60"]);
        let replaced = command(&json!({"image": "nginx", "command": ["true"]})).unwrap();
        assert_eq!(replaced, ["true"]);
        let unknown = command(&json!({"image": "example.com/some/thing:1"}));
        assert!(matches!(unknown, Err(ImageError::Unknown(why)) if why.contains("example.com/some/thing:1")));
    }
}
