//! nginx on the node, with one answer from memory: what a web server costs that checks nothing.

use std::fs;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};

use anyhow::{Context as _, Result};
use portcullis_lab::NetNs;
use portcullis_lab::client;

use crate::scene::{SOON, wait_until};

/// A running nginx. Dropping it ends it.
pub(super) struct Nginx {
    child: Child,
    at: SocketAddr,
    directory: PathBuf,
}

impl Nginx {
    pub(super) fn start(node: &NetNs, at: SocketAddr, body: &str) -> Result<Self> {
        let directory =
            std::env::temp_dir().join(format!("portcullis-nginx-{}", std::process::id()));
        fs::create_dir_all(&directory)?;
        let place = directory.display();
        // As many workers as the responder has threads. `$` would begin a variable, and no document has one.
        let text = format!(
            "daemon off; pid {place}/pid; error_log {place}/error.log; worker_processes 2;\n\
             events {{ worker_connections 1024; }}\n\
             http {{ access_log off; client_body_temp_path {place}; proxy_temp_path {place}; fastcgi_temp_path {place}; uwsgi_temp_path {place}; scgi_temp_path {place};\n\
             server {{ listen {at}; location / {{ default_type application/json; add_header Cache-Control no-store; return 200 '{body}'; }} }} }}\n"
        );
        let path = directory.join("nginx.conf");
        fs::write(&path, text)?;
        let mut command = Command::new("nginx");
        command
            .arg("-c")
            .arg(&path)
            .stdin(Stdio::null())
            .stderr(Stdio::null());
        node.enter(&mut command)?;
        let child = command.spawn().context("starting nginx")?;
        wait_until("nginx answers", SOON, || {
            client::http(node, at, "GET", "/", &[], SOON).is_ok_and(|answer| answer.body == body)
        });
        Ok(Self {
            child,
            at,
            directory,
        })
    }

    pub(super) fn at(&self) -> SocketAddr {
        self.at
    }
}

impl Drop for Nginx {
    fn drop(&mut self) {
        // SIGTERM, so that it ends its workers.
        let pid = nix::unistd::Pid::from_raw(self.child.id() as i32);
        let _ = nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGTERM);
        let _ = self.child.wait();
        let _ = fs::remove_dir_all(&self.directory);
    }
}
