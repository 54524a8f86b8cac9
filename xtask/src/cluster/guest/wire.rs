//! The wire: how commands are run in a guest, as `nsenter` runs them on the other nodes.
//!
//! ```text
//! here  -> a line: PATH and the words, quoted for a shell; then the command's input
//! guest -> the command's output and errors; then three digits, its exit code
//! ```
//! One connection for each command, by a network card of its own. In the guest that card is in a network
//! namespace where nothing else is, and both ends have link-local addresses, which nobody forwards: neither
//! pods nor other nodes reach it.

use std::env;
use std::ffi::{OsStr, OsString};
use std::fs;
use std::io::{self, Read, Write};
use std::net::{Ipv6Addr, Shutdown, SocketAddrV6, TcpStream};
use std::os::unix::ffi::OsStrExt as _;
use std::process;
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result};

use crate::cluster::names::{Node, WIRE_6};
use crate::failure::Failure;

/// Where the guest listens.
pub(crate) const PORT: u16 = 7;
const PATIENCE: Duration = Duration::from_secs(3);
/// Digits of an exit code.
const DIGITS: usize = 3;

/// Runs in the guest for each connection. NSENTER is util-linux': a shell of busybox would take a program of its
/// own for the command where it has one of that name, and so would its nsenter. What the command left unread is
/// read at the end: closing a connection over it would take back what we have written and nobody has read yet.
pub(crate) const SERVER: &str = r#"#!/bin/busybox sh
IFS= read -r words
exec 2>&1
echo 0 >/sys/fs/cgroup/host/cgroup.procs
eval "set -- $words"
export HOME=/root PATH="$1"
shift
cd /
NSENTER --net=/proc/1/ns/net -- "$@"
printf %03d $?
exec timeout 1 cat >/dev/null
"#;

/// Runs a command in the guest and ends as it does. This process must be in the control plane's namespace.
pub(crate) fn run(node: Node, words: &[OsString]) -> Result<()> {
    let stream = connect(node)?;
    let mut line = quoted(&env::var_os("PATH").unwrap_or_default());
    for word in words {
        line.push(b' ');
        line.extend(quoted(word));
    }
    line.push(b'\n');
    (&stream)
        .write_all(&line)
        .context("cannot send the command")?;
    let input = stream.try_clone().context("cannot share the connection")?;
    // It may be reading when the command ends, and ends with us then.
    thread::spawn(move || {
        let _ = io::copy(&mut io::stdin(), &mut &input);
        let _ = input.shutdown(Shutdown::Write);
    });
    let code = receive(&stream, &mut io::stdout())
        .context("cannot pass on what the command writes")?
        .ok_or_else(|| {
            Failure::new(
                format!("cannot follow a command on {}", node.name()),
                "the connection ended before the command did",
                "see whether the guest lives: the end of its console's log says so",
            )
        })?;
    // As with a command that we become, its exit code is ours.
    process::exit(code)
}

fn connect(node: Node) -> Result<TcpStream> {
    let list =
        fs::read_to_string("/proc/self/net/if_inet6").context("cannot read /proc/net/if_inet6")?;
    let scope = scope(&list, &node.wire())
        .with_context(|| format!("{} is not here: this is another namespace", node.wire()))?;
    let [_, there] = WIRE_6;
    let address: Ipv6Addr = there.parse().context("it is an address")?;
    let address = SocketAddrV6::new(address, PORT, 0, scope);
    TcpStream::connect_timeout(&address.into(), PATIENCE)
        .with_context(|| format!("{} does not answer", node.name()))
}

/// The number of an interface, as a list of addresses has it.
fn scope(list: &str, interface: &str) -> Option<u32> {
    list.lines()
        .map(|line| line.split_whitespace().collect::<Vec<_>>())
        .find(|words| words.last() == Some(&interface))
        .and_then(|words| u32::from_str_radix(words[1], 16).ok())
}

/// Passes on everything but the last digits, and returns those.
fn receive(mut from: impl Read, to: &mut impl Write) -> io::Result<Option<i32>> {
    let mut held = Vec::new();
    let mut buffer = vec![0; 1 << 16];
    loop {
        let length = match from.read(&mut buffer) {
            Ok(0) => break,
            Ok(length) => length,
            Err(error) => match error.kind() {
                io::ErrorKind::Interrupted => continue,
                // There was more input than the command wanted, a second long.
                io::ErrorKind::ConnectionReset => break,
                _ => return Err(error),
            },
        };
        held.extend(&buffer[..length]);
        let done = held.len().saturating_sub(DIGITS);
        to.write_all(&held[..done])?;
        to.flush()?;
        held.drain(..done);
    }
    let digits = held.len() == DIGITS && held.iter().all(u8::is_ascii_digit);
    let code = digits.then(|| {
        held.iter()
            .fold(0, |code, digit| code * 10 + i32::from(digit - b'0'))
    });
    if code.is_none() {
        to.write_all(&held)?;
    }
    Ok(code)
}

/// A word on one line of a shell.
fn quoted(word: &OsStr) -> Vec<u8> {
    let mut quoted = vec![b'\''];
    for byte in word.as_bytes() {
        match byte {
            b'\'' => quoted.extend(br"'\''"),
            b'\n' => quoted.extend(br"'$'\n''"),
            other => quoted.push(*other),
        }
    }
    quoted.push(b'\'');
    quoted
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Hands out a few bytes at a time, as a network may.
    struct Trickle<'a>(&'a [u8], usize);

    impl Read for Trickle<'_> {
        fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
            let length = self.1.min(self.0.len());
            let (now, later) = self.0.split_at(length);
            buffer[..length].copy_from_slice(now);
            self.0 = later;
            Ok(length)
        }
    }

    #[test]
    fn the_last_three_digits_are_the_exit_code_and_the_rest_is_output() {
        for step in 1..9 {
            let mut output = Vec::new();
            let code = receive(Trickle(b"5\n0012", step), &mut output).expect("nothing fails");
            assert_eq!((code, &output[..]), (Some(12), &b"5\n0"[..]));
        }
        let mut output = Vec::new();
        let code = receive(Trickle(b"cut o", 2), &mut output).expect("nothing fails");
        assert_eq!((code, &output[..]), (None, &b"cut o"[..]));
    }

    #[test]
    fn a_shell_reads_a_quoted_word_as_it_was() {
        let word = "a 'b' \"c\" $d\n\\e`f`\n";
        let mut line = b"printf %s ".to_vec();
        line.extend(quoted(OsStr::new(word)));
        assert!(!line.contains(&b'\n'));
        let output = process::Command::new("bash")
            .arg("-c")
            .arg(OsStr::from_bytes(&line))
            .output()
            .expect("bash runs");
        assert_eq!(output.stdout, word.as_bytes());
    }

    #[test]
    fn an_interface_has_its_number_in_the_list_of_addresses() {
        let list = "fd78000000000000 04 40 00 80 br0\nfe80000000000000 1b 40 20 80    wire3\n";
        assert_eq!(scope(list, "wire3"), Some(27));
        assert_eq!(scope(list, "wire"), None);
    }
}
