//! The stand-in for STS: `AssumeRole` alone, with keys that say that they are fake, as slow as is wanted, with a list of what it was asked.
//!
//! It checks nothing: whose keys are is seen by the role in their id. Tests that want a judge use moto.

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result};

use crate::netns::NetNs;

/// Longer than any request for a role.
const LONGEST: usize = 64 * 1024;

/// A running one. Dropping it ends it.
#[derive(Debug)]
pub struct Sts {
    shared: Arc<Shared>,
    at: SocketAddr,
}

#[derive(Debug, Default)]
struct Shared {
    delay_micros: AtomicU64,
    asked: Mutex<Vec<String>>,
    ended: AtomicBool,
}

impl Sts {
    /// Serves at an address of a namespace, until dropped.
    pub fn start(namespace: &NetNs, at: SocketAddr) -> Result<Self> {
        let listener = namespace.run(|| {
            let listener = TcpListener::bind(at);
            listener.with_context(|| format!("listening on {at}"))
        })?;
        let at = listener.local_addr()?;
        let shared = Arc::<Shared>::default();
        let serving = Arc::clone(&shared);
        thread::spawn(move || {
            while let Ok((stream, _)) = listener.accept() {
                if serving.ended.load(Ordering::Relaxed) {
                    break;
                }
                let shared = Arc::clone(&serving);
                // Whoever hangs up has what it wanted.
                thread::spawn(move || drop(shared.serve(stream)));
            }
        });
        Ok(Self { shared, at })
    }

    /// Where it is.
    #[must_use]
    pub fn url(&self) -> String {
        format!("http://{}", self.at)
    }

    /// How long it takes from now on.
    pub fn delay(&self, delay: Duration) {
        let micros = delay.as_micros() as u64;
        self.shared.delay_micros.store(micros, Ordering::Relaxed);
    }

    /// The ARNs of the roles it was asked for so far.
    #[must_use]
    pub fn asked(&self) -> Vec<String> {
        let asked = self.shared.asked.lock();
        asked.unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl Drop for Sts {
    fn drop(&mut self) {
        // Seen at the next connection; without one the thread ends with the process.
        self.shared.ended.store(true, Ordering::Relaxed);
    }
}

impl Shared {
    fn serve(&self, mut stream: TcpStream) -> Result<()> {
        stream.set_nodelay(true)?;
        let mut bytes = Vec::new();
        loop {
            let Some(body) = read_request(&mut stream, &mut bytes)? else {
                return Ok(());
            };
            let (role, session) = (field(&body, "RoleArn"), field(&body, "RoleSessionName"));
            self.asked
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .push(role.clone());
            thread::sleep(Duration::from_micros(
                self.delay_micros.load(Ordering::Relaxed),
            ));
            let body = answer(&role, &session);
            let head = format!(
                "HTTP/1.1 200 OK\r\nContent-Type: text/xml\r\nContent-Length: {}\r\n\r\n",
                body.len()
            );
            stream.write_all((head + &body).as_bytes())?;
        }
    }
}

/// The body of the next request; none at the end.
fn read_request(stream: &mut TcpStream, bytes: &mut Vec<u8>) -> Result<Option<String>> {
    let mut room = [0; 4096];
    loop {
        let text = String::from_utf8_lossy(bytes);
        if let Some((head, body)) = text.split_once("\r\n\r\n") {
            let length = head.lines().find_map(|line| {
                let (name, value) = line.split_once(':')?;
                name.eq_ignore_ascii_case("content-length")
                    .then(|| value.trim().parse::<usize>().ok())?
            });
            let length = length.unwrap_or(0);
            if body.len() >= length {
                let found = body[..length].to_owned();
                let taken = head.len() + 4 + length;
                bytes.drain(..taken);
                return Ok(Some(found));
            }
        }
        let read = stream.read(&mut room)?;
        if read == 0 || bytes.len() > LONGEST {
            return Ok(None);
        }
        bytes.extend_from_slice(&room[..read]);
    }
}

/// A field of a form; the characters of ARNs and names are all that is decoded.
fn field(form: &str, name: &str) -> String {
    let value = form.split('&').find_map(|pair| {
        let (key, value) = pair.split_once('=')?;
        (key == name).then_some(value)
    });
    value
        .unwrap_or_default()
        .replace("%3A", ":")
        .replace("%2F", "/")
        .replace("%40", "@")
        .replace("%2B", "+")
        .replace("%3D", "=")
        .replace("%2C", ",")
}

fn answer(role: &str, session: &str) -> String {
    let name = role.rsplit('/').next().unwrap_or(role);
    let account = role.split(':').nth(4).unwrap_or_default();
    let id: String = name
        .chars()
        .filter(char::is_ascii_alphanumeric)
        .map(|letter| letter.to_ascii_uppercase())
        .collect();
    // An hour and more from any day on which this is run.
    format!(
        "<AssumeRoleResponse xmlns=\"https://sts.amazonaws.com/doc/2011-06-15/\"><AssumeRoleResult>\
         <AssumedRoleUser><Arn>arn:aws:sts::{account}:assumed-role/{name}/{session}</Arn><AssumedRoleId>AROALAB:{session}</AssumedRoleId></AssumedRoleUser>\
         <Credentials><AccessKeyId>ASIALAB{id}</AccessKeyId><SecretAccessKey>lab-fake-secret-of-{name}</SecretAccessKey>\
         <SessionToken>lab-fake-session-token-of-{name}</SessionToken><Expiration>2036-01-01T00:00:00Z</Expiration></Credentials>\
         </AssumeRoleResult><ResponseMetadata><RequestId>lab</RequestId></ResponseMetadata></AssumeRoleResponse>"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_name_the_role_that_was_asked_for() {
        let form = "Action=AssumeRole&RoleArn=arn%3Aaws%3Aiam%3A%3A123456789012%3Arole%2Fapp-web&RoleSessionName=shop.web";
        let (role, session) = (field(form, "RoleArn"), field(form, "RoleSessionName"));
        assert_eq!(role, "arn:aws:iam::123456789012:role/app-web");
        let answer = answer(&role, &session);
        assert!(answer.contains("<AccessKeyId>ASIALABAPPWEB</AccessKeyId>"));
        assert!(answer.contains("arn:aws:sts::123456789012:assumed-role/app-web/shop.web"));
    }
}
