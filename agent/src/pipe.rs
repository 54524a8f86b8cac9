//! Output to somebody who may go away: `portcullis status | head -1` is a success.

use std::io::{self, Write};
use std::os::fd::AsFd;

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

/// A writer behind which a reader that has gone away is no error: what is left to say goes nowhere.
pub struct UnlessClosed<W>(pub W);

impl<W: Write> Write for UnlessClosed<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        swallow(self.0.write(bytes), bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        swallow(self.0.flush(), ())
    }
}

/// Whether nobody reads any more what is written there. For those who write seldom: they would learn it only with their next line.
pub fn is_abandoned(out: impl AsFd) -> bool {
    let mut fds = [PollFd::new(out.as_fd(), PollFlags::empty())];
    let ends = PollFlags::POLLERR | PollFlags::POLLHUP;
    poll(&mut fds, PollTimeout::ZERO).is_ok()
        && fds[0]
            .revents()
            .is_some_and(|events| events.intersects(ends))
}

fn swallow<T>(result: io::Result<T>, done: T) -> io::Result<T> {
    match result {
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(done),
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Broken(io::ErrorKind);

    impl Write for Broken {
        fn write(&mut self, _: &[u8]) -> io::Result<usize> {
            Err(self.0.into())
        }

        fn flush(&mut self) -> io::Result<()> {
            Err(self.0.into())
        }
    }

    #[test]
    fn a_closed_pipe_is_a_success_and_a_full_disk_is_not() {
        let mut closed = UnlessClosed(Broken(io::ErrorKind::BrokenPipe));
        assert!(
            writeln!(closed, "lines")
                .and_then(|()| closed.flush())
                .is_ok()
        );
        let mut full = UnlessClosed(Broken(io::ErrorKind::StorageFull));
        assert!(writeln!(full, "lines").is_err());
    }

    #[test]
    fn a_pipe_is_abandoned_once_its_reader_has_gone() {
        let (reader, writer) = io::pipe().expect("a pipe");
        assert!(!is_abandoned(&writer));
        drop(reader);
        assert!(is_abandoned(&writer));
        let file = std::fs::File::open("/dev/null").expect("is there");
        assert!(!is_abandoned(&file));
    }
}
